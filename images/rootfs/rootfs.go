// Package rootfs is the one tree that packages, built programs and overlays
// add to, and that every writer (EROFS, cpio, tar) walks.
//
// It knows no on-disk format and reads no file itself: content is a function.
package rootfs

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
)

// Entry is one name of the tree.
type Entry struct {
	Path   string      // clean, slash-separated, no leading slash: "usr/bin/kubelet"; "." is the root
	Mode   fs.FileMode // type bits of io/fs, permissions, setuid/setgid/sticky
	UID    int
	GID    int
	Size   int64  // bytes, regular files only
	Link   string // symlink target, verbatim
	Xattrs map[string]string
	Source string // who added it, for people: "deb kubelet_1.37", "overlay"
	// Open gives the content of a regular file; callers close it. It may be
	// called more than once and from several goroutines.
	Open func() (io.ReadCloser, error)
}

// Tree is a set of entries with unique paths. The zero value is not ready; use New.
type Tree struct{ entries map[string]*Entry }

// New returns a tree that holds only its root directory (0755 root:root).
func New() *Tree {
	t := &Tree{entries: map[string]*Entry{}}
	t.entries["."] = &Entry{Path: ".", Mode: fs.ModeDir | 0o755, Source: "rootfs"}
	return t
}

// Add puts an entry into the tree. A second directory at the same path is
// merged (the first one's mode stays); anything else that is already there is
// a conflict whose error names both sources.
func (t *Tree) Add(e Entry) error {
	p, err := t.resolve(e.Path)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Source, err)
	}
	e.Path = p
	if old, ok := t.entries[p]; ok {
		if old.Mode.IsDir() && e.Mode.IsDir() {
			return nil
		}
		return fmt.Errorf("%s: /%s is already there from %s", e.Source, p, old.Source)
	}
	if err := t.parents(p, e.Source); err != nil {
		return err
	}
	t.entries[p] = &e
	return nil
}

// Set puts an entry into the tree in place of whatever had its path.
func (t *Tree) Set(e Entry) error {
	p, err := t.resolve(e.Path)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Source, err)
	}
	if old, ok := t.entries[p]; ok && old.Mode.IsDir() != e.Mode.IsDir() {
		return fmt.Errorf("%s: /%s is a directory on one side only (other: %s)", e.Source, p, old.Source)
	}
	delete(t.entries, p)
	e.Path = p
	if err := t.parents(p, e.Source); err != nil {
		return err
	}
	t.entries[p] = &e
	return nil
}

// Remove takes a path and all below it out of the tree; a path that is not there is no error.
func (t *Tree) Remove(name string) {
	p := Clean(name)
	for k := range t.entries {
		if k == p || strings.HasPrefix(k, p+"/") {
			delete(t.entries, k)
		}
	}
}

// File adds a regular file with the given content, owned by root.
func (t *Tree) File(name string, mode fs.FileMode, content []byte, source string) error {
	return t.Set(Entry{Path: name, Mode: mode.Perm(), Size: int64(len(content)), Source: source,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }})
}

// Dir adds a directory owned by root.
func (t *Tree) Dir(name string, mode fs.FileMode, source string) error {
	return t.Set(Entry{Path: name, Mode: fs.ModeDir | mode, Source: source})
}

// Symlink adds a symbolic link.
func (t *Tree) Symlink(name, target, source string) error {
	return t.Set(Entry{Path: name, Mode: fs.ModeSymlink | 0o777, Link: target, Source: source})
}

// Get returns the entry at a path after following directory symlinks of the
// tree in all but the last element (usr-merge: "lib/x" is found at "usr/lib/x").
func (t *Tree) Get(name string) (Entry, bool) {
	p, err := t.resolve(name)
	if err != nil {
		return Entry{}, false
	}
	e, ok := t.entries[p]
	if !ok {
		return Entry{}, false
	}
	return *e, true
}

// Len is the number of entries, the root included.
func (t *Tree) Len() int { return len(t.entries) }

// Walk calls f for every entry sorted by path, parents before children.
func (t *Tree) Walk(f func(Entry) error) error {
	names := make([]string, 0, len(t.entries))
	for k := range t.entries {
		names = append(names, k)
	}
	sort.Slice(names, func(i, j int) bool { return less(names[i], names[j]) })
	for _, n := range names {
		if err := f(*t.entries[n]); err != nil {
			return err
		}
	}
	return nil
}

// less orders paths element by element, so that a directory comes right before its children.
func less(a, b string) bool {
	if a == "." || b == "." {
		return a == "." && b != "."
	}
	return strings.ReplaceAll(a, "/", "\x00") < strings.ReplaceAll(b, "/", "\x00")
}

// Clean turns any absolute or relative spelling into the tree's: "usr/bin/x".
func Clean(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

// resolve cleans a path and follows directory symlinks in its parents, so that
// /bin/x from one package and /usr/bin/x from another meet (usr-merge).
func (t *Tree) resolve(name string) (string, error) {
	p := Clean(name)
	if p == "" {
		return ".", nil
	}
	for _, el := range strings.Split(name, "/") {
		if el == ".." {
			return "", fmt.Errorf("path %q climbs out with %q", name, "..")
		}
	}
	parts := strings.Split(p, "/")
	cur := ""
	for hops := 0; len(parts) > 1; {
		next := path.Join(cur, parts[0])
		e, ok := t.entries[next]
		if !ok || e.Mode.Type() != fs.ModeSymlink {
			cur, parts = next, parts[1:]
			continue
		}
		if hops++; hops > 16 {
			return "", fmt.Errorf("path %q: too many symlinks", name)
		}
		target := e.Link
		if !path.IsAbs(target) {
			target = path.Join("/", cur, target)
		}
		parts = append(strings.Split(Clean(target), "/"), parts[1:]...)
		cur = ""
	}
	return path.Join(cur, parts[0]), nil
}

func (t *Tree) parents(p, source string) error {
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		e, ok := t.entries[d]
		if !ok {
			t.entries[d] = &Entry{Path: d, Mode: fs.ModeDir | 0o755, Source: source}
			continue
		}
		if !e.Mode.IsDir() {
			return fmt.Errorf("%s: parent /%s of /%s is not a directory (from %s)", source, d, p, e.Source)
		}
	}
	return nil
}
