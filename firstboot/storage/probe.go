package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Found is what a device or partition holds.
type Found struct {
	Kind  string // "ext4", "xfs", "vfat", "swap", ...; "" is nothing at all, "data" something unknown
	Label string
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

// edge is how much at both ends of a device has to be zero for it to count as
// empty: every format that blkid(8) knows leaves a mark within it.
const edge = 1 << 20

// probe looks for the formats that slipway makes and for those that are most
// likely to hold somebody's data. Offsets are those of the kernel's headers
// named beside them.
func probe(r io.ReaderAt, size int64) (Found, error) {
	head := make([]byte, min(edge, size))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return Found{}, err
	}
	at := func(off int, magic string) bool {
		return off+len(magic) <= len(head) && string(head[off:off+len(magic)]) == magic
	}
	text := func(off, n int) string {
		s, _, _ := strings.Cut(string(head[off:off+n]), "\x00")
		return strings.TrimRight(s, " ")
	}
	page := os.Getpagesize()
	switch {
	case at(0x438, "\x53\xef"): // fs/ext4/ext4.h: s_magic, s_feature_compat, s_feature_incompat, s_volume_name
		return Found{extKind(head[0x400:]), text(0x478, 16)}, nil
	case at(0, "XFSB"): // fs/xfs/libxfs/xfs_format.h: sb_fname
		return Found{"xfs", text(108, 12)}, nil
	case at(page-10, "SWAPSPACE2"): // include/linux/swap.h: union swap_header
		return Found{"swap", text(1024+12+16, 16)}, nil
	case at(0x10040, "_BHRfS_M"):
		return Found{"btrfs", text(0x1012b, 256)}, nil
	case at(0, "LUKS\xba\xbe"):
		return Found{Kind: "LUKS"}, nil
	case at(512, "LABELONE"), at(0, "LABELONE"):
		return Found{Kind: "LVM"}, nil
	case at(0x8001, "CD001"):
		return Found{"iso9660", text(0x8028, 32)}, nil
	case at(4096, "\xfc\x4e\x2b\xa9"), at(0, "\xfc\x4e\x2b\xa9"):
		return Found{Kind: "RAID"}, nil
	case at(510, "\x55\xaa") && (at(54, "FAT") || at(82, "FAT")): // Microsoft's FAT specification 1.03, section 3
		off := 43
		if at(82, "FAT") {
			off = 71
		}
		label := text(off, 11)
		if label == "NO NAME" {
			label = ""
		}
		return Found{"vfat", label}, nil
	case at(512, "EFI PART"), at(4096, "EFI PART"):
		return Found{Kind: "a partition table (gpt)"}, nil
	case at(510, "\x55\xaa"):
		return Found{Kind: "a partition table (mbr)"}, nil
	}
	return rest(r, head, size)
}

// rest tells an empty device from one that holds something unknown.
func rest(r io.ReaderAt, head []byte, size int64) (Found, error) {
	tail := make([]byte, min(edge, size))
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return Found{}, err
	}
	if zero(head) && zero(tail) {
		return Found{}, nil
	}
	return Found{Kind: "data"}, nil
}

// extKind tells the three apart as libblkid does: by the journal, and by
// features that only ext4 has.
func extKind(sb []byte) string {
	compat, incompat := binary.LittleEndian.Uint32(sb[92:]), binary.LittleEndian.Uint32(sb[96:])
	switch {
	case incompat&^0x16 != 0: // more than filetype, recover and meta_bg: extents, 64bit, ...
		return "ext4"
	case compat&0x4 != 0:
		return "ext3"
	}
	return "ext2"
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// disk is an open block device, or an image of one.
type disk struct {
	*os.File
	size   int64
	sector int64
}

func openDisk(path string, write bool) (*disk, error) {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR | unix.O_EXCL // the kernel refuses it for a device that is mounted
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	d := &disk{File: f, sector: 512}
	if d.size, err = f.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err == nil {
		d.sector = int64(n)
	}
	return d, nil
}

// look probes a device by its path.
func look(path string) (Found, error) {
	d, err := openDisk(path, false)
	if err != nil {
		return Found{}, err
	}
	defer d.Close()
	f, err := probe(d, d.size)
	if err != nil {
		return f, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}
