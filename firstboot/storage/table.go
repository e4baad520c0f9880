package storage

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"unicode/utf16"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/images/bootdisk"
)

// table is a partition table; numbers are in sectors.
type table struct {
	kind  configs.TableType
	parts []part
}

type part struct {
	start, count uint64
	kind         string // GPT: upper-case GUID; MBR: two upper-case hex digits
}

// align is what partitions begin and end at, in bytes.
const align = 1 << 20

// plan lays partitions out on a disk of a size in bytes.
func plan(d configs.DiskSetup, size, sector int64) (table, error) {
	t := table{kind: d.Table()}
	usable := size/align*align - align
	if t.kind == "gpt" && size-(align+usable) < 5*4096 { // the copy of the table at the end: 33 sectors of 512, or 5 of 4096
		usable -= align
	}
	if usable < align {
		return t, fmt.Errorf("%d bytes are too few for partitions", size)
	}
	if t.kind == "mbr" && (usable+align)/sector > 1<<32-1 {
		return t, fmt.Errorf("a table of type mbr does not reach beyond %d sectors: write table_type: gpt", uint64(1<<32-1))
	}
	done := 0
	for i, p := range d.Layout.Parts {
		from := usable / 100 * int64(done) / align * align
		done += p.Percent
		to := usable / 100 * int64(done) / align * align
		if done == 100 {
			to = usable
		}
		if to <= from {
			return t, fmt.Errorf("layout[%d]: %d percent of %d bytes are less than a partition can be", i, p.Percent, size)
		}
		kind, err := partType(t.kind, p.Type)
		if err != nil {
			return t, fmt.Errorf("layout[%d]: %w", i, err)
		}
		t.parts = append(t.parts, part{uint64((align + from) / sector), uint64((to - from) / sector), kind})
	}
	return t, nil
}

const linuxGUID = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"

// partType reads a type as cloud-init's users write it: hex for MBR, sgdisk's
// code or a GUID (UEFI specification 2.10, table 5.8; Discoverable Partitions
// Specification) for GPT.
func partType(kind configs.TableType, s string) (string, error) {
	s = strings.ToUpper(s)
	if kind == "mbr" {
		if s == "" {
			s = "83"
		}
		n, err := strconv.ParseUint(s, 16, 8)
		return fmt.Sprintf("%02X", n), err
	}
	known := map[string]string{
		"": linuxGUID, "83": linuxGUID, "8300": linuxGUID,
		"82": "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", "8200": "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
		"8E00": "E6D6D379-F507-44C2-A23C-238F2A3DF928", "FD00": "A19D880F-05FC-4D3B-A006-743F0F84911E",
		"EF00": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "0700": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
	}
	if guid, ok := known[s]; ok {
		return guid, nil
	}
	if len(s) != 36 {
		return "", fmt.Errorf("type %q: write its GUID", s)
	}
	return s, nil
}

// region is a piece of a disk as it is to be.
type region struct {
	off  int64
	data []byte
}

// regions render a table, what makes it valid last: a power cut leaves a disk
// whose regions are right or still zero. Nothing in it is random, so that a
// second try writes the same.
func (t table) regions(name string, size, sector int64) []region {
	if t.kind == "mbr" {
		return []region{{0, t.mbr(name, uint64(size/sector))}}
	}
	last := size/sector - 1
	entries := make([]byte, 128*128)
	for i, p := range t.parts {
		e := entries[128*i:]
		copy(e, guidBytes(p.kind))
		copy(e[16:], unique(name, size, i+1))
		binary.LittleEndian.PutUint64(e[32:], p.start)
		binary.LittleEndian.PutUint64(e[40:], p.start+p.count-1)
		for j, u := range utf16.Encode([]rune(fmt.Sprintf("data-%d", i+1))) {
			binary.LittleEndian.PutUint16(e[56+2*j:], u)
		}
	}
	sectors := int64(len(entries)) / sector
	header := func(own, other, at int64) []byte {
		h := make([]byte, sector)
		copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
		le := binary.LittleEndian
		le.PutUint64(h[24:], uint64(own))
		le.PutUint64(h[32:], uint64(other))
		le.PutUint64(h[40:], uint64(2+sectors))
		le.PutUint64(h[48:], uint64(last-sectors-1))
		copy(h[56:], unique(name, size, 0))
		le.PutUint64(h[72:], uint64(at))
		le.PutUint32(h[80:], 128)
		le.PutUint32(h[84:], 128)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	return []region{
		{(last - sectors) * sector, entries}, {last * sector, header(last, 1, last-sectors)},
		{2 * sector, entries}, {sector, header(1, last, 2)}, {0, protective(uint64(last))},
	}
}

// protective is the MBR before a GPT (UEFI specification 2.10, 5.2.3).
func protective(last uint64) []byte {
	b := passing()
	copy(b[446:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0})
	binary.LittleEndian.PutUint32(b[458:], uint32(min(last, 1<<32-1)))
	return b
}

func (t table) mbr(name string, sectors uint64) []byte {
	b := passing()
	copy(b[440:], unique(name, int64(sectors), 0)[:4]) // the disk's signature
	for i, p := range t.parts {
		e := b[446+16*i:]
		kind, _ := strconv.ParseUint(p.kind, 16, 8)
		copy(e[1:], []byte{0xfe, 0xff, 0xff, byte(kind), 0xfe, 0xff, 0xff}) // no use in cylinders
		binary.LittleEndian.PutUint32(e[8:], uint32(p.start))
		binary.LittleEndian.PutUint32(e[12:], uint32(p.count))
	}
	return b
}

// passing is an MBR without partitions, over which a BIOS goes on to the next disk.
func passing() []byte {
	b := make([]byte, 512)
	copy(b, bootdisk.Pass("a disk for data"))
	b[510], b[511] = 0x55, 0xaa
	return b
}

// unique is a GUID that is the same every time (RFC 9562, version 8).
func unique(name string, size int64, i int) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "slipway %s %d %d", name, size, i))
	sum[7], sum[8] = sum[7]&0x0f|0x80, sum[8]&0x3f|0x80
	return sum[:16]
}

// guidBytes is a GUID on disk: the first three fields are little-endian (UEFI
// specification 2.10, appendix A).
func guidBytes(s string) []byte {
	b := make([]byte, 16)
	for i, c := range []int{6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32, 34} {
		n, _ := strconv.ParseUint(s[c:c+2], 16, 8)
		b[i] = byte(n)
	}
	return b
}
