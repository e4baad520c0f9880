package images

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/rootfs"
)

// addTools carries the programs that make and check a node's file systems
// before it has a system root, with their libraries: 1.6 MB packed. A bundle
// without them builds an image that cannot install to a disk, and says so there.
func addTools(t, system *rootfs.Tree) error {
	for _, p := range []string{layout.Mke2fs, layout.E2fsck} {
		if _, ok := system.Get(p); !ok {
			continue
		}
		if err := addProgram(t, system, p); err != nil {
			return fmt.Errorf("tool /%s: %w", p, err)
		}
	}
	return nil
}

// addProgram carries a program, its loader and all libraries that these need.
// Debian's are in the loader's built-in directories; none has a search path of its own.
func addProgram(t, system *rootfs.Tree, name string) error {
	todo, seen := []string{name}, map[string]bool{}
	for len(todo) > 0 {
		name, todo = todo[0], todo[1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		e, err := carry(t, system, name)
		if err != nil {
			return err
		}
		needs, err := needed(system, e)
		if err != nil {
			return fmt.Errorf("/%s: %w", e.Path, err)
		}
		todo = append(todo, needs...)
	}
	return nil
}

// carry copies an entry and every link on the way to it, and returns the file.
func carry(t, system *rootfs.Tree, name string) (rootfs.Entry, error) {
	for range 16 {
		// A directory on the way may be a link: /lib64, /bin.
		for i := range name {
			e, ok := system.Get(name[:i])
			if name[i] != '/' || !ok || e.Mode.Type() != fs.ModeSymlink {
				continue
			}
			if err := t.Set(e); err != nil {
				return e, err
			}
			name = path.Join(resolve(e), name[i+1:])
			break
		}
		e, ok := system.Get(name)
		if !ok {
			return e, fmt.Errorf("/%s is not in the system root", name)
		}
		if err := t.Set(e); err != nil {
			return e, err
		}
		if e.Mode.Type() != fs.ModeSymlink {
			return e, nil
		}
		name = resolve(e)
	}
	return rootfs.Entry{}, fmt.Errorf("/%s: too many links", name)
}

// resolve is where a link points, as a path of the tree.
func resolve(e rootfs.Entry) string {
	if path.IsAbs(e.Link) {
		return strings.TrimPrefix(path.Clean(e.Link), "/")
	}
	return path.Join(path.Dir(e.Path), e.Link)
}

// libraries is Debian's directory of an architecture (dpkg's ostable).
var libraries = map[elf.Machine]string{elf.EM_X86_64: "usr/lib/x86_64-linux-gnu", elf.EM_AARCH64: "usr/lib/aarch64-linux-gnu"}

// needed are the loader and the libraries of an ELF file.
func needed(system *rootfs.Tree, e rootfs.Entry) ([]string, error) {
	r, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	libs, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, l := range libs {
		at := path.Join(libraries[f.Machine], l)
		if _, ok := system.Get(at); !ok {
			at = path.Join("usr/lib64", l) // the loader itself, where it is not with the others
		}
		out = append(out, at)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			interp, err := io.ReadAll(p.Open())
			if err != nil {
				return nil, err
			}
			out = append(out, strings.TrimPrefix(string(bytes.TrimRight(interp, "\x00")), "/"))
		}
	}
	return out, nil
}
