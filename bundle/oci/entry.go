package oci

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
)

// Entry is one file of a layer.
type Entry struct {
	Path   string      // clean, slash-separated, no leading slash; "." is the root
	Mode   fs.FileMode // directory, regular file or symlink, with permissions, setuid, setgid, sticky
	UID    int
	GID    int
	Size   int64  // bytes, regular files only
	Link   string // symlink target, verbatim
	Xattrs map[string]string
	// Open gives the content of a regular file. It is called twice, from two goroutines.
	Open func() (io.ReadCloser, error)
}

// Dir is a directory owned by root.
func Dir(name string, mode fs.FileMode) Entry {
	return Entry{Path: name, Mode: fs.ModeDir | mode}
}

// File is a regular file owned by root, with its content in memory.
func File(name string, mode fs.FileMode, content []byte) Entry {
	return Entry{Path: name, Mode: mode, Size: int64(len(content)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }}
}

const kept = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// canonical returns the entries in the order of the tar: the root first, then
// by path element by element, so that parents precede their children. Missing
// parent directories are added as 0755 root:root.
func canonical(in []Entry) ([]Entry, error) {
	byPath := map[string]Entry{}
	for _, e := range in {
		if err := e.check(); err != nil {
			return nil, err
		}
		if _, ok := byPath[e.Path]; ok {
			return nil, fmt.Errorf("/%s is there twice", e.Path)
		}
		byPath[e.Path] = e
	}
	for _, e := range in {
		for d := path.Dir(e.Path); ; d = path.Dir(d) {
			p, ok := byPath[d]
			if ok && !p.Mode.IsDir() {
				return nil, fmt.Errorf("/%s: its parent /%s is not a directory", e.Path, d)
			}
			if !ok {
				byPath[d] = Dir(d, 0o755)
			}
			if d == "." {
				break
			}
		}
	}
	if len(in) == 0 {
		byPath["."] = Dir(".", 0o755)
	}
	out := make([]Entry, 0, len(byPath))
	for _, e := range byPath {
		out = append(out, e)
	}
	sort.Slice(out, func(i, j int) bool { return before(out[i].Path, out[j].Path) })
	return out, nil
}

func before(a, b string) bool {
	if a == "." || b == "." {
		return a == "." && b != "."
	}
	return strings.ReplaceAll(a, "/", "\x00") < strings.ReplaceAll(b, "/", "\x00")
}

func (e Entry) check() error {
	if e.Path == "" || path.IsAbs(e.Path) || path.Clean(e.Path) != e.Path || e.Path == ".." || strings.HasPrefix(e.Path, "../") {
		return fmt.Errorf("path %q is not clean and relative", e.Path)
	}
	// containerd reads these names as deletions (OCI image spec, layer.md, Whiteouts).
	if strings.HasPrefix(path.Base(e.Path), ".wh.") {
		return fmt.Errorf("/%s: names beginning with %q mean a deletion", e.Path, ".wh.")
	}
	switch e.Mode.Type() {
	case fs.ModeDir:
	case fs.ModeSymlink:
		if e.Link == "" {
			return fmt.Errorf("/%s: symlink without a target", e.Path)
		}
	case 0:
		if e.Open == nil && e.Size > 0 {
			return fmt.Errorf("/%s: regular file without content", e.Path)
		}
	default:
		return fmt.Errorf("/%s: %s cannot be in a layer (only directories, files and symlinks)", e.Path, e.Mode.Type())
	}
	if e.UID < 0 || e.GID < 0 || e.Size < 0 {
		return fmt.Errorf("/%s: negative owner or size", e.Path)
	}
	return nil
}
