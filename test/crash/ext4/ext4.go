// Package ext4 reads an ext4 file system as a kernel would that mounts it after
// a power cut: it replays the journal in memory first. It is fast enough to ask
// thousands of images for a file, which mounting each is not.
//
// It never writes, and it is no fsck: of the metadata it checks the superblock's,
// the journal's and the inodes' checksums, and refuses features that slipway's
// own mke2fs does not set.
//
// Source: Documentation/filesystems/ext4 of the kernel, and fs/jbd2/recovery.c
// for what ends a log.
package ext4

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

var le = binary.LittleEndian

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc is CRC-32C as ext4 uses it: seeded, and not inverted at the end.
func crc(seed uint32, b []byte) uint32 { return ^crc32.Update(^seed, castagnoli, b) }

const allOnes = ^uint32(0)

// Features of s_feature_*.
const (
	compatJournal    = 0x4
	compatFastCommit = 0x400

	incompatFiletype = 0x2
	incompatRecover  = 0x4
	incompatExtents  = 0x40
	incompat64       = 0x80
	incompatFlexBG   = 0x200
	incompatCsumSeed = 0x2000
	incompatKnown    = incompatFiletype | incompatRecover | incompatExtents | incompat64 | incompatFlexBG | incompatCsumSeed

	roCompatMetadataCsum = 0x400
)

// FS is an opened file system.
type FS struct {
	// Label and UUID are the superblock's.
	Label string
	UUID  [16]byte
	// Replayed is how many transactions the journal held.
	Replayed int

	r         io.ReaderAt
	super     [1024]byte
	blockSize int64
	blocks    uint64
	csumSeed  uint32
	replaced  map[uint64]replacement // blocks whose content is in the journal
}

// replacement is where in the file system's blocks the replayed content lies.
type replacement struct {
	block   uint64
	escaped bool // its first four bytes are the journal's magic
}

// Open reads the superblock and the journal of a file system that begins at
// r's byte 0.
func Open(r io.ReaderAt) (*FS, error) {
	f := &FS{r: r}
	if err := f.readSuper(); err != nil {
		return nil, fmt.Errorf("ext4: superblock: %w", err)
	}
	if f.compat()&compatJournal == 0 {
		return f, nil
	}
	if err := f.replay(); err != nil {
		return nil, fmt.Errorf("ext4: journal: %w", err)
	}
	if err := f.readSuper(); err != nil {
		return nil, fmt.Errorf("ext4: superblock after replay: %w", err)
	}
	return f, nil
}

// OpenInPlace is Open without the journal: what is in its place on the disk, as who
// mounts it with noload sees it.
func OpenInPlace(r io.ReaderAt) (*FS, error) {
	f := &FS{r: r}
	if err := f.readSuper(); err != nil {
		return nil, fmt.Errorf("ext4: superblock: %w", err)
	}
	return f, nil
}

func (f *FS) compat() uint32   { return le.Uint32(f.super[0x5c:]) }
func (f *FS) incompat() uint32 { return le.Uint32(f.super[0x60:]) }
func (f *FS) checked() bool    { return le.Uint32(f.super[0x64:])&roCompatMetadataCsum != 0 }

// readSuper reads the superblock at byte 1024, from the journal if it is there.
func (f *FS) readSuper() error {
	if f.replaced == nil {
		if _, err := f.r.ReadAt(f.super[:], 1024); err != nil {
			return err
		}
	} else {
		block, at := uint64(1024/f.blockSize), 1024%f.blockSize
		b, err := f.block(block)
		if err != nil {
			return err
		}
		copy(f.super[:], b[at:])
	}
	s := f.super[:]
	if m := le.Uint16(s[0x38:]); m != 0xef53 {
		return fmt.Errorf("magic %#x, want 0xef53", m)
	}
	if sum := le.Uint32(s[0x3fc:]); f.checked() && crc(allOnes, s[:0x3fc]) != sum {
		return fmt.Errorf("checksum %#x, want %#x", crc(allOnes, s[:0x3fc]), sum)
	}
	if unknown := f.incompat() &^ incompatKnown; unknown != 0 {
		return fmt.Errorf("incompatible features %#x are not known here", unknown)
	}
	if f.compat()&compatFastCommit != 0 {
		return fmt.Errorf("fast commits are not known here")
	}
	shift := le.Uint32(s[0x18:])
	if shift > 2 {
		return fmt.Errorf("blocks of 2^%d bytes", 10+shift)
	}
	f.blockSize = 1024 << shift
	f.blocks = uint64(le.Uint32(s[0x4:]))
	if f.incompat()&incompat64 != 0 {
		f.blocks |= uint64(le.Uint32(s[0x150:])) << 32
	}
	copy(f.UUID[:], s[0x68:])
	f.Label = string(bytes.TrimRight(s[0x78:0x88], "\x00"))
	f.csumSeed = crc(allOnes, f.UUID[:])
	if f.incompat()&incompatCsumSeed != 0 {
		f.csumSeed = le.Uint32(s[0x270:])
	}
	if le.Uint32(s[0x28:]) == 0 || le.Uint32(s[0x20:]) == 0 || f.inodeSize() < 128 || f.inodeSize() > f.blockSize {
		return fmt.Errorf("groups of %d blocks and %d inodes of %d bytes", le.Uint32(s[0x20:]), le.Uint32(s[0x28:]), f.inodeSize())
	}
	return nil
}

func (f *FS) inodeSize() int64 { return int64(le.Uint16(f.super[0x58:])) }

// raw reads a block as it lies on the disk.
func (f *FS) raw(n uint64) ([]byte, error) {
	if n >= f.blocks {
		return nil, fmt.Errorf("block %d of %d", n, f.blocks)
	}
	b := make([]byte, f.blockSize)
	if _, err := f.r.ReadAt(b, int64(n)*f.blockSize); err != nil {
		return nil, fmt.Errorf("block %d: %w", n, err)
	}
	return b, nil
}

// block reads a block as it is after replay.
func (f *FS) block(n uint64) ([]byte, error) {
	r, ok := f.replaced[n]
	if !ok {
		return f.raw(n)
	}
	b, err := f.raw(r.block)
	if err == nil && r.escaped {
		be.PutUint32(b, journalMagic)
	}
	return b, err
}

// inode is an inode's 128 bytes or more.
type inode struct {
	number uint32
	b      []byte
}

func (i inode) mode() uint16  { return le.Uint16(i.b) }
func (i inode) links() uint16 { return le.Uint16(i.b[0x1a:]) }
func (i inode) flags() uint32 { return le.Uint32(i.b[0x20:]) }
func (i inode) size() int64 {
	return int64(uint64(le.Uint32(i.b[0x4:])) | uint64(le.Uint32(i.b[0x6c:]))<<32)
}

const (
	typeMask    = 0xf000
	typeDir     = 0x4000
	typeRegular = 0x8000
	typeSymlink = 0xa000

	flagExtents = 0x80000
)

// inode reads an inode and checks its checksum.
func (f *FS) inode(n uint32) (inode, error) {
	perGroup := le.Uint32(f.super[0x28:])
	if n == 0 || n > le.Uint32(f.super[0:]) {
		return inode{}, fmt.Errorf("inode %d of %d", n, le.Uint32(f.super[0:]))
	}
	descSize := int64(32)
	if f.incompat()&incompat64 != 0 {
		descSize = max(int64(le.Uint16(f.super[0xfe:])), 32)
	}
	at := int64((n-1)/perGroup) * descSize
	table, err := f.block(uint64(le.Uint32(f.super[0x14:])) + 1 + uint64(at/f.blockSize))
	if err != nil {
		return inode{}, fmt.Errorf("group descriptors: %w", err)
	}
	desc := table[at%f.blockSize:]
	first := uint64(le.Uint32(desc[0x8:]))
	if descSize >= 64 {
		first |= uint64(le.Uint32(desc[0x28:])) << 32
	}
	at = int64((n-1)%perGroup) * f.inodeSize()
	b, err := f.block(first + uint64(at/f.blockSize))
	if err != nil {
		return inode{}, fmt.Errorf("inode %d: %w", n, err)
	}
	i := inode{n, b[at%f.blockSize:][:f.inodeSize()]}
	return i, f.checkInode(i)
}

func (f *FS) checkInode(i inode) error {
	if !f.checked() || bytes.Count(i.b, []byte{0}) == len(i.b) { // never used
		return nil
	}
	var n [4]byte
	le.PutUint32(n[:], i.number)
	b := bytes.Clone(i.b)
	want := uint32(le.Uint16(b[0x7c:]))
	clear(b[0x7c:0x7e])
	high := len(b) > 0x84 && le.Uint16(b[0x80:]) >= 4
	if high {
		want |= uint32(le.Uint16(b[0x82:])) << 16
		clear(b[0x82:0x84])
	}
	got := crc(crc(crc(f.csumSeed, n[:]), b[0x64:0x68]), b)
	if !high {
		got &= 0xffff
	}
	if got != want {
		return fmt.Errorf("inode %d: checksum %#x, want %#x", i.number, got, want)
	}
	return nil
}

// extent is a run of a file's blocks; Unwritten ones read as zeros.
type extent struct {
	logical   uint64
	length    uint64
	physical  uint64
	unwritten bool
}

// extents of an inode, by their place in the file.
func (f *FS) extents(i inode) ([]extent, error) {
	if i.flags()&flagExtents == 0 {
		return nil, fmt.Errorf("inode %d has no extents (flags %#x)", i.number, i.flags())
	}
	return f.walkExtents(i.b[0x28:0x28+60], 5)
}

func (f *FS) walkExtents(node []byte, deepest uint16) (out []extent, err error) {
	magic, count, depth := le.Uint16(node), int(le.Uint16(node[2:])), le.Uint16(node[6:])
	if magic != 0xf30a || depth > deepest || 12*(count+1) > len(node) {
		return nil, fmt.Errorf("extent node: magic %#x, %d entries, depth %d", magic, count, depth)
	}
	for k := range count {
		e := node[12*(k+1):][:12]
		if depth == 0 {
			x := extent{logical: uint64(le.Uint32(e)), length: uint64(le.Uint16(e[4:])), physical: uint64(le.Uint16(e[6:]))<<32 | uint64(le.Uint32(e[8:]))}
			if x.length > 1<<15 {
				x.length, x.unwritten = x.length-1<<15, true
			}
			if x.physical+x.length > f.blocks {
				return nil, fmt.Errorf("extent of %d blocks at %d of %d", x.length, x.physical, f.blocks)
			}
			out = append(out, x)
			continue
		}
		if depth > deepest || deepest == 0 {
			return nil, fmt.Errorf("extent tree too deep")
		}
		b, err := f.block(uint64(le.Uint16(e[8:]))<<32 | uint64(le.Uint32(e[4:])))
		if err != nil {
			return nil, err
		}
		below, err := f.walkExtents(b, depth-1)
		if err != nil {
			return nil, err
		}
		out = append(out, below...)
	}
	return out, nil
}
