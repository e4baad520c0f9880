package oci

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/erofs/go-erofs"
)

// tree shows sorted entries to the EROFS writer as a file system. Files open
// when their first byte is read: the writer opens everything before it reads
// anything, which would need one descriptor per file.
type tree struct {
	stopped  func() error // why reading must stop, nil to go on
	nodes    map[string]*node
	children map[string][]fs.DirEntry
}

type node struct {
	e    Entry
	stat *erofs.Stat
}

func newTree(ctx context.Context, sorted []Entry) *tree {
	t := &tree{stopped: ctx.Err, nodes: make(map[string]*node, len(sorted)), children: map[string][]fs.DirEntry{}}
	for _, e := range sorted {
		n := &node{e: e, stat: &erofs.Stat{UID: uint32(e.UID), GID: uint32(e.GID),
			Mtime: uint64(Epoch().Unix()), Nlink: 1, Xattrs: e.Xattrs}}
		if e.Mode.IsDir() {
			n.stat.Nlink = 2
		}
		t.nodes[e.Path] = n
		if e.Path == "." {
			continue
		}
		dir := path.Dir(e.Path)
		t.children[dir] = append(t.children[dir], fs.FileInfoToDirEntry(n))
		if e.Mode.IsDir() {
			t.nodes[dir].stat.Nlink++ // the child's ".."
		}
	}
	return t
}

func (t *tree) find(op, name string) (*node, error) {
	if n, ok := t.nodes[name]; ok {
		return n, nil
	}
	return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

// Open implements fs.FS.
func (t *tree) Open(name string) (fs.File, error) {
	n, err := t.find("open", name)
	if err != nil {
		return nil, err
	}
	return &lazyFile{stopped: t.stopped, n: n, left: n.e.Size}, nil
}

// Stat implements fs.StatFS.
func (t *tree) Stat(name string) (fs.FileInfo, error) { return t.find("stat", name) }

// ReadDir implements fs.ReadDirFS.
func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) { return t.children[name], nil }

// ReadLink gives the writer symlink targets.
func (t *tree) ReadLink(name string) (string, error) {
	n, err := t.find("readlink", name)
	if err != nil {
		return "", err
	}
	return n.e.Link, nil
}

func (n *node) Name() string       { return path.Base(n.e.Path) }
func (n *node) Size() int64        { return n.e.Size }
func (n *node) ModTime() time.Time { return Epoch() }
func (n *node) IsDir() bool        { return n.e.Mode.IsDir() }
func (n *node) Sys() any           { return n.stat }
func (n *node) Mode() fs.FileMode {
	if n.e.Mode.Type() == fs.ModeSymlink {
		return fs.ModeSymlink | 0o777
	}
	return n.e.Mode & (fs.ModeType | kept)
}

type lazyFile struct {
	stopped func() error
	n       *node
	r       io.ReadCloser
	left    int64
}

func (f *lazyFile) Stat() (fs.FileInfo, error) { return f.n, nil }

func (f *lazyFile) Read(p []byte) (int, error) {
	if err := f.stopped(); err != nil {
		return 0, err
	}
	if f.r == nil {
		r, err := f.n.e.Open()
		if err != nil {
			return 0, err
		}
		f.r = r
	}
	n, err := f.r.Read(p)
	f.left -= int64(n)
	if err == io.EOF && f.left > 0 {
		return n, fmt.Errorf("content of /%s ends %d bytes early", f.n.e.Path, f.left)
	}
	return n, err
}

func (f *lazyFile) Close() error {
	if f.r == nil {
		return nil
	}
	return f.r.Close()
}

// ReadErofs lists the entries of an EROFS image; contents are read from r when opened.
func ReadErofs(r io.ReaderAt) ([]Entry, error) {
	img, err := erofs.Open(r)
	if err != nil {
		return nil, err
	}
	links, _ := img.(interface{ ReadLink(string) (string, error) })
	var out []Entry
	err = fs.WalkDir(img, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*erofs.Stat)
		if !ok {
			return fmt.Errorf("/%s: no EROFS attributes", name)
		}
		// FileInfo.Mode comes from the directory's type byte and lacks setuid; Stat has the inode's.
		e := Entry{Path: name, Mode: st.Mode, UID: int(st.UID), GID: int(st.GID), Xattrs: st.Xattrs}
		switch {
		case e.Mode.IsRegular():
			e.Size = info.Size()
			e.Open = func() (io.ReadCloser, error) { return img.Open(name) }
		case e.Mode.Type() == fs.ModeSymlink && links != nil:
			if e.Link, err = links.ReadLink(name); err != nil {
				return err
			}
		}
		out = append(out, e)
		return nil
	})
	return out, err
}
