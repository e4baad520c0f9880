// Package overlay holds the files that slipway lays over the root file system,
// with a manifest of mode and owner, because embedding keeps neither.
//
// It does not hold configuration that a node makes at first boot.
package overlay

import (
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"slipway.dev/slipway/images/rootfs"
)

//go:embed manifest all:root
var files embed.FS

// Apply sets every entry of the manifest in the tree, replacing what packages put there.
func Apply(t *rootfs.Tree) error { return apply(t, files) }

func apply(t *rootfs.Tree, src fs.FS) error {
	text, err := fs.ReadFile(src, "manifest")
	if err != nil {
		return err
	}
	listed := map[string]bool{}
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, err := applyLine(t, src, line)
		if err != nil {
			return fmt.Errorf("overlay/manifest:%d: %w", i+1, err)
		}
		listed[name] = true
	}
	return fs.WalkDir(src, "root", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if name := strings.TrimPrefix(p, "root/"); !listed[name] {
			return fmt.Errorf("overlay/manifest: no line for overlay/root/%s", name)
		}
		return nil
	})
}

func applyLine(t *rootfs.Tree, src fs.FS, line string) (string, error) {
	line, target, isLink := strings.Cut(line, " -> ")
	f := strings.Fields(line)
	if len(f) != 4 {
		return "", fmt.Errorf("want \"path mode uid gid\", got %q", line)
	}
	mode, err1 := strconv.ParseUint(f[1], 8, 12)
	uid, err2 := strconv.Atoi(f[2])
	gid, err3 := strconv.Atoi(f[3])
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			return "", err
		}
	}
	if isLink {
		return f[0], t.Symlink(f[0], strings.TrimSpace(target), "overlay")
	}
	raw, err := fs.ReadFile(src, "root/"+f[0])
	if err != nil {
		return "", err
	}
	if err := t.File(f[0], fs.FileMode(mode), raw, "overlay"); err != nil {
		return "", err
	}
	e, _ := t.Get(f[0])
	e.UID, e.GID = uid, gid
	return f[0], t.Set(e)
}
