package disks

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Found is a format found on a device or in a partition.
type Found struct {
	Kind  string // "ext4", "xfs", "vfat", "swap", "LVM physical volume", ...; "" is nothing at all
	Label string // name of file system, pool, array or volume group
}

func (f Found) String() string {
	switch {
	case f.Kind == "":
		return "nothing"
	case f.Label != "":
		return fmt.Sprintf("%s %q", f.Kind, f.Label)
	}
	return f.Kind
}

// unknown is what is not zero and has no mark of its own.
const unknown = "unknown data"

// Edge is how much at both ends of a device has to be zero for it to count as
// empty, in bytes: nearly every format leaves a mark within it.
const Edge = 1 << 20

// mark is what a format has at a place of its own.
type mark struct {
	kind  string
	off   int64
	magic string
	label [2]int // offset in the device and length; none: no label, or not one at a fixed place
}

// marks are told by their magic alone, all offsets from the start. Places and
// values are those of the headers named, or of the format's own documentation.
func marks() []mark {
	return []mark{
		{"xfs", 0, "XFSB", [2]int{108, 12}},                  // fs/xfs/libxfs/xfs_format.h: sb_fname
		{"btrfs", 0x10040, "_BHRfS_M", [2]int{0x1012b, 256}}, // fs/btrfs: superblock at 64 KiB
		{"f2fs", 0x400, "\x10\x20\xf5\xf2", [2]int{}},        // include/uapi/linux/magic.h; so are the next
		{"jfs", 0x8000, "JFS1", [2]int{}},
		{"reiserfs", 0x10034, "ReIsEr", [2]int{}},
		{"nilfs2", 0x406, "\x34\x34", [2]int{}},
		{"gfs2", 0x10000, "\x01\x16\x19\x70", [2]int{}},
		{"ocfs2", 0x2000, "OCFSV2", [2]int{}},
		{"squashfs", 0, "hsqs", [2]int{}},
		{"erofs", 0x400, "\xe2\xe1\xf5\xe0", [2]int{}},
		{"hfs+", 0x400, "H+\x00\x04", [2]int{}}, // Apple TN1150
		{"apfs", 32, "NXSB", [2]int{}},          // Apple File System Reference: nx_magic
		{"ntfs", 3, "NTFS    ", [2]int{}},       // boot sector's OEM name, as the next three
		{"exfat", 3, "EXFAT   ", [2]int{}},
		{"BitLocker volume", 3, "-FVE-FS-", [2]int{}},
		{"refs", 3, "ReFS\x00\x00\x00\x00", [2]int{}},
		{"iso9660", 0x8001, "CD001", [2]int{0x8028, 32}},                                                   // ECMA-119 8.4
		{"udf", 0x8001, "BEA01", [2]int{}},                                                                 // ECMA-167 2/9.2
		{"LUKS", 0, "LUKS\xba\xbe", [2]int{24, 48}},                                                        // LUKS2 on-disk format 1.1: label; zeros in LUKS1
		{"LUKS", 0x4000, "SKUL\xba\xbe", [2]int{}},                                                         // LUKS2: the second header, for the smallest size of one
		{"bcache", 0x1018, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", [2]int{}},   // bcache.h: superblock at 4 KiB
		{"bcachefs", 0x1018, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", [2]int{}}, // bcachefs_format.h
		{"VMFS", 0x100000, "\x0d\xd0\x01\xc0", [2]int{}},                                                   // blkid's vmfs.c: the volume at 1 MiB
		{"VMFS", 0x200000, "\x5e\xf1\xab\x2f", [2]int{}},                                                   // the file system at 2 MiB
		{"Ceph OSD", 0, "bluestore block device\n", [2]int{}},
		{"Oracle ASM disk", 32, "ORCLDISK", [2]int{40, 24}},
		{"VDO volume", 0, "dmvdo001", [2]int{}},
		{"DRBD", 0, "drbd", [2]int{}},
		{"Windows dynamic disk", 6 * 512, "PRIVHEAD", [2]int{}},
		{"Stratis pool member", 528, "!Stra0tis\x86\xff\x02^\x41rh", [2]int{}},
	}
}

// device is what is probed, with both ends of it in memory.
type device struct {
	io.ReaderAt
	size       int64
	head, tail []byte
}

// at reads n bytes, nil if the device does not reach so far.
func (d *device) at(off int64, n int) ([]byte, error) {
	if off < 0 || off > d.size-int64(n) {
		return nil, nil
	}
	end := off + int64(n)
	switch tail := d.size - int64(len(d.tail)); {
	case end <= int64(len(d.head)):
		return d.head[off:end], nil
	case off >= tail:
		return d.tail[off-tail : end-tail], nil
	}
	b := make([]byte, n)
	_, err := d.ReadAt(b, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b, err
}

// has reports whether the device has bytes at a place.
func (d *device) has(off int64, magic string) (bool, error) {
	b, err := d.at(off, len(magic))
	return b != nil && string(b) == magic, err
}

func (d *device) text(off int64, n int) string {
	b, _ := d.at(off, n)
	s, _, _ := strings.Cut(string(b), "\x00")
	return clean(s)
}

// Probe looks for everything that a device or partition of a size in bytes
// holds: what a mount would take first, then what else left its mark, at last
// unknown data. Nothing found is an empty device.
func Probe(r io.ReaderAt, size int64) ([]Found, error) {
	d := &device{ReaderAt: r, size: size, head: make([]byte, min(Edge, size)), tail: make([]byte, min(Edge, size))}
	if _, err := r.ReadAt(d.head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if _, err := r.ReadAt(d.tail, size-int64(len(d.tail))); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var out []Found
	for _, look := range []func(*device) ([]Found, error){ext, swap, fat, marked, lvm, raid, zfs, tables} {
		found, err := look(d)
		if err != nil {
			return out, err
		}
		out = append(out, found...)
	}
	if len(out) == 0 && !(zero(d.head) && zero(d.tail)) {
		out = []Found{{Kind: unknown}}
	}
	return out, nil
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func marked(d *device) ([]Found, error) {
	var out []Found
	for _, m := range marks() {
		ok, err := d.has(m.off, m.magic)
		if err != nil {
			return out, err
		}
		if ok {
			out = append(out, Found{m.kind, d.text(int64(m.label[0]), m.label[1])})
		}
	}
	return out, nil
}

// ext tells the three apart as libblkid does: by the journal, and by features
// that only ext4 has (fs/ext4/ext4.h: s_magic, s_feature_compat,
// s_feature_incompat, s_volume_name).
func ext(d *device) ([]Found, error) {
	sb, err := d.at(0x400, 0x100)
	if sb == nil || sb[0x38] != 0x53 || sb[0x39] != 0xef {
		return nil, err
	}
	kind := "ext2"
	switch compat, incompat := binary.LittleEndian.Uint32(sb[92:]), binary.LittleEndian.Uint32(sb[96:]); {
	case incompat&0x8 != 0:
		kind = "ext journal"
	case incompat&^0x16 != 0: // more than filetype, recover and meta_bg: extents, 64bit, ...
		kind = "ext4"
	case compat&0x4 != 0:
		kind = "ext3"
	}
	return []Found{{kind, d.text(0x478, 16)}}, nil
}

// swap is at the end of the first page, whose size is the machine's that made
// it (include/linux/swap.h: union swap_header).
func swap(d *device) ([]Found, error) {
	for page := int64(4096); page <= 65536; page *= 2 {
		b, err := d.at(page-10, 10)
		if err != nil {
			return nil, err
		}
		switch string(b) {
		case "SWAPSPACE2", "SWAP-SPACE":
			return []Found{{"swap", d.text(1024+12+16, 16)}}, nil
		case "S1SUSPEND\x00", "S2SUSPEND\x00", "LINHIB0001":
			return []Found{{Kind: "swap of a machine that sleeps"}}, nil
		}
	}
	return nil, nil
}

// fat is Microsoft's FAT specification 1.03, section 3.
func fat(d *device) ([]Found, error) {
	b, err := d.at(0, 512)
	if b == nil || b[510] != 0x55 || b[511] != 0xaa {
		return nil, err
	}
	off := 0
	switch {
	case string(b[82:85]) == "FAT":
		off = 71
	case string(b[54:57]) == "FAT":
		off = 43
	default:
		return nil, nil
	}
	label := strings.TrimRight(d.text(int64(off), 11), " ")
	if label == "NO NAME" {
		label = ""
	}
	return []Found{{"vfat", label}}, nil
}
