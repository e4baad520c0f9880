package ext4

import (
	"encoding/binary"
	"fmt"
)

var be = binary.BigEndian

const journalMagic = 0xc03b3998

// Block types of a journal.
const (
	descriptorBlock = 1
	commitBlock     = 2
	superV2         = 4
	revokeBlock     = 5
)

// Features of a journal.
const (
	journalRevoke  = 0x1
	journal64      = 0x2
	journalCsumV3  = 0x10
	journalKnown   = journalRevoke | journal64 | journalCsumV3
	tagEscaped     = 0x1
	tagSameUUID    = 0x2
	tagLast        = 0x8
	journalAtInode = 0xe0 // of the superblock: the journal's inode
)

// journal is the log while it is read.
type journal struct {
	fs       *FS
	blocks   []extent
	first    uint32
	end      uint32 // blocks
	features uint32
	seed     uint32
	revoked  map[uint64]uint32 // block: the last transaction that revoked it
	tags     []tag
}

// tag is a block that a committed transaction replaces.
type tag struct {
	block, at uint64
	escaped   bool
	sequence  uint32
}

// replay fills f.replaced from every committed transaction.
func (f *FS) replay() error {
	f.replaced = map[uint64]replacement{}
	ino, err := f.inode(le.Uint32(f.super[journalAtInode:]))
	if err != nil {
		return err
	}
	j := journal{fs: f, revoked: map[uint64]uint32{}}
	if j.blocks, err = f.extents(ino); err != nil {
		return err
	}
	_, super, err := j.read(0)
	if err != nil {
		return err
	}
	if be.Uint32(super) != journalMagic || be.Uint32(super[4:]) != superV2 {
		return fmt.Errorf("superblock: magic %#x type %d", be.Uint32(super), be.Uint32(super[4:]))
	}
	j.features = be.Uint32(super[0x28:])
	if unknown := j.features &^ journalKnown; unknown != 0 {
		return fmt.Errorf("features %#x are not known here", unknown)
	}
	j.seed = crc(allOnes, super[0x30:0x40])
	if j.csum() {
		want := be.Uint32(super[0xfc:])
		clear(super[0xfc:0x100])
		if got := crc(allOnes, super[:1024]); got != want {
			return fmt.Errorf("superblock: checksum %#x, want %#x", got, want)
		}
	}
	j.end, j.first = be.Uint32(super[0x10:]), be.Uint32(super[0x14:])
	start, sequence := be.Uint32(super[0x1c:]), be.Uint32(super[0x18:])
	// ext4_load_journal wipes a journal whose file system does not ask for it.
	if start == 0 || f.incompat()&incompatRecover == 0 {
		return nil
	}
	if j.first == 0 || j.first >= j.end || start >= j.end {
		return fmt.Errorf("log from block %d, in %d to %d", start, j.first, j.end)
	}
	if f.Replayed, err = j.scan(start, sequence); err != nil {
		return err
	}
	for _, t := range j.tags {
		if last, ok := j.revoked[t.block]; ok && int32(t.sequence-last) <= 0 {
			continue
		}
		f.replaced[t.block] = replacement{t.at, t.escaped}
	}
	return nil
}

func (j *journal) csum() bool { return j.features&journalCsumV3 != 0 }

// read reads a block of the journal and says where on the disk it lies.
func (j *journal) read(n uint32) (uint64, []byte, error) {
	for _, e := range j.blocks {
		if at := uint64(n) - e.logical; uint64(n) >= e.logical && at < e.length {
			b, err := j.fs.raw(e.physical + at)
			return e.physical + at, b, err
		}
	}
	return 0, nil, fmt.Errorf("block %d is not allocated", n)
}

func (j *journal) next(n uint32) uint32 {
	if n++; n >= j.end {
		return j.first
	}
	return n
}

// scan walks the log to the first block that does not continue it, as
// do_one_pass does, and keeps what is committed.
func (j *journal) scan(at, sequence uint32) (transactions int, err error) {
	var tags []tag
	revoked := map[uint64]uint32{}
	for steps := uint32(0); steps < j.end; steps++ {
		_, b, err := j.read(at)
		if err != nil {
			return 0, err
		}
		if be.Uint32(b) != journalMagic || be.Uint32(b[8:]) != sequence {
			break
		}
		at = j.next(at)
		switch be.Uint32(b[4:]) {
		case descriptorBlock:
			if !j.tailRight(b) {
				return transactions, nil // of an earlier round of the log, or torn
			}
			more, next, err := j.descriptor(b, at, sequence)
			if err != nil {
				return 0, err
			}
			tags, at = append(tags, more...), next
			steps += uint32(len(more))
		case revokeBlock:
			if !j.tailRight(b) {
				return transactions, nil
			}
			j.revoke(b, sequence, revoked)
		case commitBlock:
			if !j.commitRight(b) {
				return transactions, nil
			}
			if err := j.checkData(tags); err != nil {
				return 0, err
			}
			j.tags = append(j.tags, tags...)
			for block, s := range revoked {
				j.revoked[block] = s
			}
			tags, revoked = nil, map[uint64]uint32{}
			transactions++
			sequence++
		default:
			return transactions, nil
		}
	}
	return transactions, nil
}

// tailRight checks the checksum at the end of a descriptor or revoke block.
func (j *journal) tailRight(b []byte) bool {
	if !j.csum() {
		return true
	}
	tail := b[len(b)-4:]
	want := be.Uint32(tail)
	clear(tail)
	return crc(j.seed, b) == want
}

// commitRight checks a commit block's checksum (h_chksum[0]).
func (j *journal) commitRight(b []byte) bool {
	if !j.csum() {
		return true
	}
	want := be.Uint32(b[16:])
	clear(b[16:20])
	return crc(j.seed, b) == want
}

// descriptor reads the tags of a block; the data blocks follow it in the log.
func (j *journal) descriptor(b []byte, at, sequence uint32) (tags []tag, next uint32, err error) {
	end := len(b)
	size := 8
	switch {
	case j.csum():
		size, end = 16, end-4
	case j.features&journal64 != 0:
		size = 12
	}
	for p := 12; p+size <= end; {
		t := tag{block: uint64(be.Uint32(b[p:])), sequence: sequence}
		var flags uint32
		if j.csum() {
			flags = be.Uint32(b[p+4:])
		} else {
			flags = uint32(be.Uint16(b[p+6:]))
		}
		if j.features&journal64 != 0 {
			t.block |= uint64(be.Uint32(b[p+8:])) << 32
		}
		t.escaped = flags&tagEscaped != 0
		where, data, err := j.read(at)
		if err != nil {
			return nil, 0, err
		}
		t.at = where
		if j.csum() && !j.dataRight(data, sequence, be.Uint32(b[p+12:])) {
			t.at = badData
		}
		tags, at = append(tags, t), j.next(at)
		if flags&tagLast != 0 {
			break
		}
		p += size
		if flags&tagSameUUID == 0 {
			p += 16
		}
	}
	return tags, at, nil
}

// badData is the place of a block whose checksum is wrong: an error if its
// transaction is committed, nothing if it is not.
const badData = ^uint64(0)

func (j *journal) dataRight(b []byte, sequence, want uint32) bool {
	var s [4]byte
	be.PutUint32(s[:], sequence)
	return crc(crc(j.seed, s[:]), b) == want
}

func (j *journal) checkData(tags []tag) error {
	for _, t := range tags {
		if t.at == badData {
			return fmt.Errorf("transaction %d is committed, but its block %d is wrong", t.sequence, t.block)
		}
	}
	return nil
}

// revoke reads the blocks that earlier transactions must not bring back.
func (j *journal) revoke(b []byte, sequence uint32, into map[uint64]uint32) {
	size := 4
	if j.features&journal64 != 0 {
		size = 8
	}
	used := min(int(be.Uint32(b[12:])), len(b))
	for p := 16; p+size <= used; p += size {
		if size == 8 {
			into[be.Uint64(b[p:])] = sequence
		} else {
			into[uint64(be.Uint32(b[p:]))] = sequence
		}
	}
}
