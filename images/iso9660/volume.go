// Package iso9660 writes hybrid ISO images: ECMA-119 with Rock Ridge names, El
// Torito entries for BIOS and UEFI, and an MBR and GPT so that the same bytes
// boot as a CD and as a disk.
//
// It does not read images, writes no Joliet, no symlinks and no UDF, and knows
// nothing about loaders beyond where firmware wants them. Everything is placed
// by Plan before the first byte; Write only streams.
package iso9660

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
)

const (
	sector      = 2048           // logical block
	diskSector  = 512            // of MBR and GPT
	systemArea  = 16             // sectors before the volume descriptors
	maxExtent   = 1<<32 - sector // bytes; a larger file has several extents (ECMA-119 6.5.1)
	maxDepth    = 8              // directory levels, the root counted (ECMA-119 6.8.2.1)
	catalogSize = sector
)

// File is a regular file of the volume.
type File struct {
	Path string // clean, relative, slash-separated
	Mode fs.FileMode
	Size int64 // bytes
	Open func() (io.ReadCloser, error)
}

// Boot says how firmware finds its way in. The zero value boots nothing.
type Boot struct {
	BIOS *BIOS
	// EFI is a FAT image that becomes the EFI system partition, less than 32
	// MiB: El Torito counts its 512-byte sectors in 16 bits.
	EFI []byte
}

// BIOS is isolinux and the MBR code that starts it from a disk.
type BIOS struct {
	Path  string // where isolinux.bin is in the volume
	Image []byte // isolinux.bin; its boot information table is filled in
	MBR   []byte // isohdpfx.bin, of which 432 bytes are code
}

// Volume is what an image is made of.
type Volume struct {
	ID    string    // at most 32 characters A-Z 0-9 _ (ECMA-119 8.4.9)
	Time  time.Time // of everything in the image
	Files []File
	Boot  Boot
}

// Image is a planned image.
type Image struct {
	volume  Volume
	root    *node
	dirs    []*node // in path table order
	files   []*node // in order of their extents
	catalog uint32  // sector
	efi     uint32  // sector
	tableL  uint32
	tableM  uint32
	table   int // bytes of a path table
	sectors uint32
	guid    [32]byte
}

// node is a directory or file with its place.
type node struct {
	name     string // real name
	iso      string // identifier, without ";1"
	parent   *node
	children []*node // directories, sorted by identifier
	number   uint16  // directory number of the path table
	file     *File
	start    uint32 // first sector
	size     int64
}

func (n *node) isDir() bool { return n.file == nil }

// Plan places everything. It reads no file content.
func Plan(v Volume) (*Image, error) {
	if err := v.check(); err != nil {
		return nil, err
	}
	im := &Image{volume: v, root: &node{}}
	im.root.parent = im.root
	for i := range v.Files {
		if err := im.add(&v.Files[i]); err != nil {
			return nil, err
		}
	}
	if err := im.identify(im.root, 1); err != nil {
		return nil, err
	}
	if err := im.place(); err != nil {
		return nil, err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %d\n", v.ID, v.Time.Unix())
	for _, f := range im.files {
		fmt.Fprintf(h, "%s %d %d\n", f.file.Path, f.start, f.size)
	}
	copy(im.guid[:], h.Sum(nil))
	return im, nil
}

func (v *Volume) check() error {
	if len(v.ID) == 0 || len(v.ID) > 32 || strings.Trim(v.ID, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
		return fmt.Errorf("volume identifier %q: want 1 to 32 of A-Z 0-9 _", v.ID)
	}
	if len(v.Boot.EFI) >= 32<<20 || len(v.Boot.EFI)%diskSector != 0 {
		return fmt.Errorf("EFI image: %d bytes, want less than 32 MiB in whole sectors", len(v.Boot.EFI))
	}
	if b := v.Boot.BIOS; b != nil {
		if len(b.MBR) < mbrCode {
			return fmt.Errorf("MBR code: %d bytes, want at least %d", len(b.MBR), mbrCode)
		}
		if len(b.Image) < infoTableEnd {
			return fmt.Errorf("BIOS boot image %q: %d bytes are too few", b.Path, len(b.Image))
		}
		v.Files = append(v.Files[:len(v.Files):len(v.Files)], File{Path: b.Path, Mode: 0o444, Size: int64(len(b.Image))})
	}
	return nil
}

func (im *Image) add(f *File) error {
	if f.Path == "" || path.Clean("/"+f.Path) != "/"+f.Path {
		return fmt.Errorf("path %q is not clean and relative", f.Path)
	}
	if f.Size < 0 {
		return fmt.Errorf("%s: size %d", f.Path, f.Size)
	}
	parts := strings.Split(f.Path, "/")
	dir := im.root
	for i, p := range parts {
		child := dir.find(p)
		last := i == len(parts)-1
		switch {
		case child != nil && (last || !child.isDir()):
			return fmt.Errorf("%s: %q is there twice", f.Path, strings.Join(parts[:i+1], "/"))
		case child == nil:
			child = &node{name: p, parent: dir}
			if last {
				child.file, child.size = f, f.Size
			}
			dir.children = append(dir.children, child)
		}
		dir = child
	}
	return nil
}

func (n *node) find(name string) *node {
	for _, c := range n.children {
		if c.name == name {
			return c
		}
	}
	return nil
}

// place gives every structure its sectors: descriptors, path tables,
// directories, the boot catalog, the EFI image, then the files.
func (im *Image) place() error {
	im.number()
	at := uint32(systemArea + 3)
	for _, d := range im.dirs {
		im.table += pathRecordSize(d)
	}
	im.tableL, at = at, at+sectors(int64(im.table))
	im.tableM, at = at, at+sectors(int64(im.table))
	for _, d := range im.dirs {
		d.size = int64(directorySize(d))
		d.start, at = at, at+sectors(d.size)
	}
	im.catalog, at = at, at+sectors(catalogSize)
	im.efi, at = at, at+sectors(int64(len(im.volume.Boot.EFI)))
	total := int64(at)
	for _, f := range im.files {
		f.start = uint32(total)
		total += (f.size + sector - 1) / sector
		if total > 1<<32-64 {
			return fmt.Errorf("%s does not fit: an ISO holds 8 TiB", f.file.Path)
		}
	}
	im.sectors = uint32(total) + sectors(gptBackup)
	return nil
}

// number lists the directories breadth first, which is the path table's order
// (ECMA-119 6.9.1), and the files directory by directory.
func (im *Image) number() {
	im.dirs = []*node{im.root}
	for i := 0; i < len(im.dirs); i++ {
		im.dirs[i].number = uint16(i + 1)
		for _, c := range im.dirs[i].children {
			if c.isDir() {
				im.dirs = append(im.dirs, c)
			} else {
				im.files = append(im.files, c)
			}
		}
	}
}

func sectors(n int64) uint32 { return uint32((n + sector - 1) / sector) }

// Size of the image in bytes.
func (im *Image) Size() int64 { return int64(im.sectors) * sector }

// Print writes the place of every directory and file, for people and tests.
func (im *Image) Print(w io.Writer) error {
	for _, n := range append(append([]*node(nil), im.dirs...), im.files...) {
		if _, err := fmt.Fprintf(w, "%8d %12d /%s (%s)\n", n.start, n.size, n.path(), n.iso); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%8d sectors\n", im.sectors)
	return err
}

func (n *node) path() string {
	if n.parent == n {
		return ""
	}
	return path.Join(n.parent.path(), n.name)
}

// Write streams the image from start to end. progress, when not nil, is told
// the bytes written so far. A file that delivers more or fewer bytes than it
// promised is an error that names it.
func (im *Image) Write(ctx context.Context, w io.Writer, progress func(int64)) error {
	s := &stream{ctx: ctx, w: w, progress: progress, buf: make([]byte, 1<<20)}
	s.bytes(im.head())
	s.padTo(im.efi)
	s.bytes(im.volume.Boot.EFI)
	for _, f := range im.files {
		s.padTo(f.start)
		if b := im.volume.Boot.BIOS; b != nil && f.file.Path == b.Path {
			s.bytes(infoTable(b.Image, f.start))
			continue
		}
		s.file(f)
	}
	s.padTo(im.sectors - sectors(gptBackup))
	s.bytes(im.backup())
	return s.err
}

// head is everything before the EFI image: small, so it is made in memory.
func (im *Image) head() []byte {
	out := make([]byte, int(im.efi)*sector)
	copy(out, im.systemArea())
	copy(out[systemArea*sector:], im.descriptors())
	copy(out[int(im.tableL)*sector:], im.pathTable(littleEndian))
	copy(out[int(im.tableM)*sector:], im.pathTable(bigEndian))
	for _, d := range im.dirs {
		copy(out[int(d.start)*sector:], im.directory(d))
	}
	copy(out[int(im.catalog)*sector:], im.bootCatalog())
	return out
}

// stream writes sequentially and keeps the first error.
type stream struct {
	ctx      context.Context
	w        io.Writer
	progress func(int64)
	buf      []byte
	at       int64
	err      error
}

func (s *stream) bytes(b []byte) {
	if s.err != nil {
		return
	}
	n, err := s.w.Write(b)
	s.at += int64(n)
	s.err = err
}

func (s *stream) padTo(sec uint32) {
	for gap := int64(sec)*sector - s.at; gap > 0 && s.err == nil; gap = int64(sec)*sector - s.at {
		s.bytes(make([]byte, min(gap, 1<<20)))
	}
	if want := int64(sec) * sector; s.err == nil && s.at != want {
		s.err = fmt.Errorf("internal error: at byte %d, planned %d", s.at, want)
	}
}

func (s *stream) file(n *node) {
	if s.err != nil {
		return
	}
	if s.err = s.ctx.Err(); s.err != nil {
		return
	}
	f, err := n.file.Open()
	if err != nil {
		s.err = fmt.Errorf("adding /%s: %w", n.path(), err)
		return
	}
	defer f.Close()
	begin := s.at
	_, err = io.CopyBuffer(struct{ io.Writer }{s}, io.LimitReader(f, n.size), s.buf)
	switch {
	case err != nil:
		s.err = fmt.Errorf("adding /%s: %w", n.path(), err)
	case s.at-begin != n.size:
		s.err = fmt.Errorf("adding /%s: content has %d bytes, want %d", n.path(), s.at-begin, n.size)
	default:
		switch extra, err := f.Read(make([]byte, 1)); {
		case extra > 0:
			s.err = fmt.Errorf("adding /%s: content has more than %d bytes", n.path(), n.size)
		case err != nil && !errors.Is(err, io.EOF): // a reader that verifies says so at its end
			s.err = fmt.Errorf("adding /%s: %w", n.path(), err)
		}
	}
}

// Write lets io.CopyBuffer write into the stream.
func (s *stream) Write(b []byte) (int, error) {
	s.bytes(b)
	if s.progress != nil {
		s.progress(s.at)
	}
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	return len(b), s.err
}

// fixed returns s padded with spaces to n bytes.
func fixed(s string, n int) []byte {
	out := bytes.Repeat([]byte{' '}, n)
	copy(out, s)
	return out
}
