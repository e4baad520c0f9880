package images

import (
	"bytes"
	"fmt"
	"io/fs"

	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/images/rootfs"
)

// settle does to a root full of packages what their maintainer scripts would
// have done, as far as the table in bundle/deb knows.
func settle(t *rootfs.Tree, pkgs []deb.Package) error {
	fixups := deb.Fixups(pkgs, func(p string) bool { _, ok := t.Get(p); return ok })
	for _, f := range fixups {
		if err := applyFixup(t, f); err != nil {
			return fmt.Errorf("in place of the scripts of package %q: %s /%s: %w", f.Package, f.Kind, f.Path, err)
		}
	}
	return accounts(t, fixups)
}

// accounts writes the account files after all other fixups: the masters are
// copied by one of them.
func accounts(t *rootfs.Tree, fixups []deb.Fixup) error {
	passwd, err := content(t, "etc/passwd")
	if err != nil {
		return err
	}
	group, err := content(t, "etc/group")
	if err != nil {
		return err
	}
	files, err := deb.Accounts(string(passwd), string(group), fixups)
	if err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	for _, f := range files {
		if err := put(t, f.Path, fs.FileMode(f.Mode), 0, f.GID, []byte(f.Content), "accounts"); err != nil {
			return err
		}
	}
	return nil
}

func applyFixup(t *rootfs.Tree, f deb.Fixup) error {
	source := "table for " + f.Package
	switch f.Kind {
	case deb.User, deb.Group:
		return nil
	case deb.Mkdir:
		return t.Set(rootfs.Entry{Path: f.Path, Mode: fs.ModeDir | f.Mode, UID: f.UID, GID: f.GID, Source: source})
	case deb.Write:
		return put(t, f.Path, f.Mode, f.UID, f.GID, []byte(f.Content), source)
	case deb.Symlink:
		t.Remove(f.Path)
		return t.Symlink(f.Path, f.From, source)
	case deb.Copy:
		e, ok := t.Get(f.From)
		if !ok || !e.Mode.IsRegular() {
			return fmt.Errorf("/%s is no file of the root", f.From)
		}
		e.Path, e.Mode, e.UID, e.GID, e.Source = f.Path, f.Mode, f.UID, f.GID, source
		return t.Set(e)
	case deb.Concat:
		return concat(t, f, source)
	}
	return fmt.Errorf("kind %q is not known", f.Kind)
}

func concat(t *rootfs.Tree, f deb.Fixup, source string) error {
	var paths []string
	_ = t.Walk(func(e rootfs.Entry) error {
		if e.Mode.IsRegular() {
			paths = append(paths, e.Path)
		}
		return nil
	})
	var all bytes.Buffer
	for _, p := range f.Match(paths) {
		raw, err := content(t, p)
		if err != nil {
			return err
		}
		all.Write(raw)
	}
	return put(t, f.Path, f.Mode, f.UID, f.GID, all.Bytes(), source)
}

func put(t *rootfs.Tree, name string, mode fs.FileMode, uid, gid int, raw []byte, source string) error {
	if err := t.File(name, mode, raw, source); err != nil {
		return err
	}
	e, _ := t.Get(name)
	e.Mode, e.UID, e.GID = mode, uid, gid
	return t.Set(e)
}
