package ext4

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// File is what a name stands for.
type File struct {
	Mode   fs.FileMode // type and permissions
	Size   int64       // bytes
	Links  int
	Inode  uint32
	Target string // of a symbolic link

	fs      *FS
	extents []extent
}

// Range is a piece of a file: At is its place in the file, Disk in the file
// system; -1 for a hole, which reads as zeros.
type Range struct{ At, Disk, Len int64 }

// Lookup finds a file by its path from the root; fs.ErrNotExist when there is
// none. Symbolic links are not followed.
func (f *FS) Lookup(name string) (*File, error) {
	dir, err := f.file(2)
	if err != nil {
		return nil, err
	}
	for _, part := range strings.Split(path.Clean("/" + name)[1:], "/") {
		if part == "" {
			return dir, nil
		}
		entries, err := dir.ReadDir()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		n, ok := entries[part]
		if !ok {
			return nil, &fs.PathError{Op: "lookup", Path: name, Err: fs.ErrNotExist}
		}
		if dir, err = f.file(n); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return dir, nil
}

// ReadFile reads a whole file; it refuses one of more than 64 MiB.
func (f *FS) ReadFile(name string) ([]byte, error) {
	file, err := f.Lookup(name)
	if err != nil {
		return nil, err
	}
	if !file.Mode.IsRegular() || file.Size > 64<<20 {
		return nil, fmt.Errorf("%s: %s of %d bytes", name, file.Mode, file.Size)
	}
	b := make([]byte, file.Size)
	if _, err := io.ReadFull(file.Reader(), b); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

// Walk calls a function for everything below the root, by path.
func (f *FS) Walk(each func(name string, file *File) error) error {
	root, err := f.file(2)
	if err != nil {
		return err
	}
	return f.walk("", root, each, 64)
}

func (f *FS) walk(name string, file *File, each func(string, *File) error, deepest int) error {
	if err := each(name, file); err != nil || !file.Mode.IsDir() {
		return err
	}
	if deepest == 0 {
		return fmt.Errorf("%s: too deep", name)
	}
	entries, err := file.ReadDir()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for part, n := range entries {
		below, err := f.file(n)
		if err != nil {
			return fmt.Errorf("%s: %w", path.Join(name, part), err)
		}
		if err := f.walk(path.Join(name, part), below, each, deepest-1); err != nil {
			return err
		}
	}
	return nil
}

// file reads an inode that a directory names.
func (f *FS) file(n uint32) (*File, error) {
	i, err := f.inode(n)
	if err != nil {
		return nil, err
	}
	if i.links() == 0 {
		return nil, fmt.Errorf("inode %d has a name, but no link", n)
	}
	out := &File{Mode: fs.FileMode(i.mode() & 0o777), Size: i.size(), Links: int(i.links()), Inode: n, fs: f}
	switch i.mode() & typeMask {
	case typeDir:
		out.Mode |= fs.ModeDir
	case typeRegular:
	case typeSymlink:
		out.Mode |= fs.ModeSymlink
		if out.Size < 60 {
			out.Target = string(i.b[0x28:][:out.Size])
			return out, nil
		}
	default:
		out.Mode |= fs.ModeIrregular
		return out, nil
	}
	out.extents, err = f.extents(i)
	if err == nil && out.Mode&fs.ModeSymlink != 0 && out.Size <= 4096 {
		b, err := io.ReadAll(out.Reader())
		out.Target = string(b)
		return out, err
	}
	return out, err
}

// ReadDir reads a directory's names, without "." and "..".
func (d *File) ReadDir() (map[string]uint32, error) {
	if !d.Mode.IsDir() {
		return nil, fmt.Errorf("inode %d is no directory", d.Inode)
	}
	out := map[string]uint32{}
	for _, e := range d.extents {
		for n := range e.length {
			if int64(e.logical+n)*d.fs.blockSize >= d.Size {
				break
			}
			b, err := d.fs.block(e.physical + n)
			if err != nil {
				return nil, err
			}
			if err := entries(b, out); err != nil {
				return nil, fmt.Errorf("inode %d: block %d: %w", d.Inode, e.physical+n, err)
			}
		}
	}
	return out, nil
}

// entries reads a block of a directory. Those of an index (dir_index) look like
// one unused entry.
func entries(b []byte, into map[string]uint32) error {
	for at := 0; at+8 <= len(b); {
		n, size, name := le.Uint32(b[at:]), int(le.Uint16(b[at+4:])), int(b[at+6])
		if size < 8 || at+size > len(b) || 8+name > size {
			return fmt.Errorf("entry at %d: %d bytes, name of %d", at, size, name)
		}
		if s := string(b[at+8 : at+8+name]); n != 0 && s != "." && s != ".." {
			into[s] = n
		}
		at += size
	}
	return nil
}

// Ranges are a file's pieces in order. ok is false when a piece's content is in
// the journal: what lies at its place is not what is read.
func (d *File) Ranges() (ranges []Range, ok bool) {
	ok = true
	bs, at := d.fs.blockSize, int64(0)
	for _, e := range d.extents {
		from, to := int64(e.logical)*bs, min(int64(e.logical+e.length)*bs, d.Size)
		if to <= from {
			continue
		}
		if from > at {
			ranges = append(ranges, Range{at, -1, from - at})
		}
		r := Range{from, int64(e.physical) * bs, to - from}
		if e.unwritten {
			r.Disk = -1
		}
		for n := range e.length {
			if _, replaced := d.fs.replaced[e.physical+n]; replaced && !e.unwritten {
				ok = false
			}
		}
		ranges, at = append(ranges, r), to
	}
	if at < d.Size {
		ranges = append(ranges, Range{at, -1, d.Size - at})
	}
	return ranges, ok
}

// Reader reads a file from its start.
func (d *File) Reader() io.Reader { return &reader{file: d} }

type reader struct {
	file *File
	at   int64
}

func (r *reader) Read(b []byte) (int, error) {
	d, bs := r.file, r.file.fs.blockSize
	if r.at >= d.Size {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), d.Size-r.at)]
	for _, e := range d.extents {
		from, to := int64(e.logical)*bs, int64(e.logical+e.length)*bs
		if r.at < from { // a hole before this extent
			b = b[:min(int64(len(b)), from-r.at)]
			break
		}
		if r.at >= to {
			continue
		}
		b = b[:min(int64(len(b)), to-r.at)]
		if e.unwritten {
			break
		}
		return r.fill(b, int64(e.physical)*bs+r.at-from)
	}
	clear(b)
	r.at += int64(len(b))
	return len(b), nil
}

// fill reads as much as lies in one piece: up to the next block that the
// journal replaces.
func (r *reader) fill(b []byte, disk int64) (int, error) {
	f, bs := r.file.fs, r.file.fs.blockSize
	first := uint64(disk / bs)
	if _, replaced := f.replaced[first]; replaced {
		block, err := f.block(first)
		n := copy(b, block[disk%bs:])
		r.at += int64(n)
		return n, err
	}
	end := first + 1
	for int64(end)*bs < disk+int64(len(b)) {
		if _, replaced := f.replaced[end]; replaced {
			break
		}
		end++
	}
	n, err := f.r.ReadAt(b[:min(int64(len(b)), int64(end)*bs-disk)], disk)
	r.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}
