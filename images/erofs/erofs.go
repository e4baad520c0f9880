// Package erofs writes a rootfs.Tree as an EROFS image: the format of the
// system root and of container image layers.
//
// It does not compress, does not read images back, and does not decide what
// is in the tree.
package erofs

import (
	"fmt"
	"io"
	"io/fs"
	"sort"
	"time"

	goerofs "github.com/erofs/go-erofs"

	"slipway.dev/slipway/images/rootfs"
)

// Write writes the tree to out. Every time in the image is built, so equal
// trees make equal bytes. A file that delivers another number of bytes than
// its entry says is an error that names it.
func Write(out io.WriteSeeker, t *rootfs.Tree, built time.Time, tempDir string) error {
	w := goerofs.Create(out, goerofs.WithBuildTime(uint64(built.Unix()), 0), goerofs.WithTempDir(tempDir))
	if err := t.Walk(func(e rootfs.Entry) error {
		if err := add(w, e, built); err != nil {
			return fmt.Errorf("adding /%s (%s): %w", e.Path, e.Source, err)
		}
		return nil
	}); err != nil {
		return err
	}
	return w.Close()
}

func add(w *goerofs.Writer, e rootfs.Entry, built time.Time) error {
	name := "/" + e.Path
	if e.Path == "." {
		name = "/"
	}
	switch e.Mode.Type() {
	case 0:
		if err := file(w, name, e); err != nil {
			return err
		}
	case fs.ModeDir:
		if err := w.Mkdir(name, e.Mode.Perm()); err != nil {
			return err
		}
	case fs.ModeSymlink:
		if err := w.Symlink(e.Link, name); err != nil {
			return err
		}
	default:
		return fmt.Errorf("type %v has no place in an image", e.Mode.Type())
	}
	if e.Mode.Type() != fs.ModeSymlink {
		if err := w.Chmod(name, e.Mode); err != nil {
			return err
		}
	}
	if err := w.Chown(name, e.UID, e.GID); err != nil {
		return err
	}
	keys := make([]string, 0, len(e.Xattrs))
	for k := range e.Xattrs {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		if err := w.Setxattr(name, k, e.Xattrs[k]); err != nil {
			return err
		}
	}
	return w.Chtimes(name, built, built)
}

func file(w *goerofs.Writer, name string, e rootfs.Entry) error {
	f, err := w.Create(name)
	if err != nil {
		return err
	}
	src, err := e.Open()
	if err != nil {
		return err
	}
	defer src.Close()
	n, err := f.ReadFrom(src)
	if err != nil {
		return err
	}
	if n != e.Size {
		return fmt.Errorf("content has %d bytes, want %d", n, e.Size)
	}
	return f.Close()
}
