package disks

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"

	"slipway.dev/slipway/configs"
)

// Table is the partition table of a disk.
type Table struct {
	Kind  configs.TableType
	GUID  string // of a GPT, in upper case
	Copy  bool   // only the copy of a GPT at the end of the disk is whole
	Bare  bool   // a GPT has no MBR before it that protects it; the kernel takes no notice of it
	Parts []Partition
}

// Partition is one of them; numbers are in sectors.
type Partition struct {
	Number       int // from 1; logical partitions of an MBR from 5
	Start, Count uint64
	Type         string // GPT: upper-case GUID; MBR: two upper-case hex digits
	Name         string // GPT
}

// ReadTable reads the table of a disk of a size and sectors in bytes; ok is
// false without a valid one. A file system's boot sector is none.
func ReadTable(r io.ReaderAt, size, sector int64) (t Table, ok bool) {
	head := make([]byte, 512)
	if _, err := r.ReadAt(head, 0); err != nil {
		return t, false
	}
	signed := head[510] == 0x55 && head[511] == 0xaa
	t, ok = readGPT(r, sector, sector)
	if !ok {
		t, ok = readGPT(r, size/sector*sector-sector, sector)
		t.Copy = ok
	}
	if ok {
		t.Bare = !signed || head[450] != 0xee
		return t, true
	}
	if !signed || head[450] == 0xee || isBoot(head) {
		return t, false
	}
	t.Kind = "mbr"
	for i := range 4 {
		e := head[446+16*i:]
		if e[4] == 0 {
			continue
		}
		if e[0]&0x7f != 0 {
			return t, false // a boot sector's code
		}
		p := entry(e, i+1)
		t.Parts = append(t.Parts, p)
		if p.Type == "05" || p.Type == "0F" || p.Type == "85" {
			t.Parts = append(t.Parts, logical(r, p.Start, sector)...)
		}
	}
	return t, true
}

// isBoot reports whether a sector is that of a file system: FAT, NTFS and exFAT
// end in the same two bytes as an MBR.
func isBoot(b []byte) bool {
	name := string(b[3:11])
	return string(b[54:57]) == "FAT" || string(b[82:85]) == "FAT" || name == "NTFS    " || name == "EXFAT   " || name == "-FVE-FS-"
}

func entry(e []byte, n int) Partition {
	le := binary.LittleEndian
	return Partition{Number: n, Start: uint64(le.Uint32(e[8:])), Count: uint64(le.Uint32(e[12:])), Type: fmt.Sprintf("%02X", e[4])}
}

// logical follows the chain in an extended partition: each link has a
// partition, by its distance from the link, and the next link, by its distance
// from the first.
func logical(r io.ReaderAt, first uint64, sector int64) (out []Partition) {
	b := make([]byte, 512)
	at := first
	for range 128 {
		if _, err := r.ReadAt(b, int64(at)*sector); err != nil || b[510] != 0x55 || b[511] != 0xaa {
			return out
		}
		if b[446+4] != 0 {
			p := entry(b[446:], 5+len(out))
			p.Start += at
			out = append(out, p)
		}
		next := entry(b[462:], 0)
		if b[462+4] == 0 || first+next.Start <= at { // the chain goes forward
			return out
		}
		at = first + next.Start
	}
	return out
}

// readGPT reads the header at a place and its entries (UEFI specification 2.10, 5.3).
func readGPT(r io.ReaderAt, at, sector int64) (t Table, ok bool) {
	le := binary.LittleEndian
	h := make([]byte, 512)
	if _, err := r.ReadAt(h, at); err != nil || string(h[:8]) != "EFI PART" {
		return t, false
	}
	want, size := le.Uint32(h[16:]), le.Uint32(h[12:])
	clear(h[16:20])
	count, width := le.Uint32(h[80:]), le.Uint32(h[84:])
	if size < 92 || size > 512 || crc32.ChecksumIEEE(h[:size]) != want || width < 128 || uint64(count)*uint64(width) > Edge {
		return t, false
	}
	entries := make([]byte, count*width)
	if _, err := r.ReadAt(entries, int64(le.Uint64(h[72:]))*sector); err != nil || crc32.ChecksumIEEE(entries) != le.Uint32(h[88:]) {
		return t, false
	}
	t.Kind, t.GUID = "gpt", guidText(h[56:])
	for i := range int(count) {
		e := entries[i*int(width):]
		if first := le.Uint64(e[32:]); !zero(e[:16]) {
			t.Parts = append(t.Parts, Partition{i + 1, first, le.Uint64(e[40:]) - first + 1, guidText(e), utf16Text(e[56:128])})
		}
	}
	return t, true
}

func guidText(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08X-%04X-%04X-%04X-%012X", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

func utf16Text(b []byte) string {
	var units []uint16
	for ; len(b) > 1; b = b[2:] {
		units = append(units, binary.LittleEndian.Uint16(b))
	}
	s, _, _ := strings.Cut(string(utf16.Decode(units)), "\x00")
	return clean(s)
}

// tables finds partition tables, and what is left of them. Sectors are of 512
// or 4096 bytes, not always those of the drive that the disk is behind now.
func tables(d *device) ([]Found, error) {
	for _, sector := range []int64{512, 4096} {
		if t, ok := ReadTable(d, d.size, sector); ok {
			return []Found{{Kind: fmt.Sprintf("a partition table (%s)", t.Kind)}}, nil
		}
	}
	for _, off := range []int64{512, 4096, d.size - 512, d.size - 4096} {
		if ok, err := d.has(off, "EFI PART"); ok || err != nil {
			return []Found{{Kind: "a damaged partition table (gpt)"}}, err
		}
	}
	b, err := d.at(0, 512)
	if b == nil || b[510] != 0x55 || b[511] != 0xaa || isBoot(b) {
		return nil, err
	}
	if b[450] == 0xee {
		return []Found{{Kind: "a damaged partition table (gpt)"}}, nil
	}
	return []Found{{Kind: "a boot sector"}}, nil
}

// The partitions that only a disk with a node of slipway on it has.
const (
	storeName = "SLIPWAY-STORE"
	stateName = "SLIPWAY-STATE"
)

// Holdings are all that a whole disk holds, with what is in its partitions.
// What was found before an error is returned with it.
func Holdings(r io.ReaderAt, name string, size int64, sector int) ([]Holding, error) {
	var out []Holding
	found, err := Probe(r, size)
	for _, f := range found {
		out = append(out, Holding{Where: whole, What: f.String()})
	}
	if err != nil {
		return out, err
	}
	var t Table
	unit, ok := int64(0), false
	for _, unit = range []int64{int64(sector), 512, 4096} { // perhaps another drive wrote it
		if t, ok = ReadTable(r, size, unit); ok {
			break
		}
	}
	if !ok {
		return out, nil
	}
	own := false
	for _, p := range t.Parts {
		own = own || p.Name == storeName || p.Name == stateName
		if t.Kind == "mbr" && (p.Type == "05" || p.Type == "0F" || p.Type == "85") {
			continue // holds partitions
		}
		where := strings.TrimPrefix(configs.PartitionPath("/dev/"+name, p.Number), "/dev/")
		start, length := int64(p.Start)*unit, int64(p.Count)*unit
		if length <= 0 || start < 0 || start >= size {
			continue
		}
		length = min(length, size-start)
		found, err := Probe(io.NewSectionReader(r, start, length), length)
		for _, f := range found {
			out = append(out, Holding{Where: where, What: f.String()})
		}
		if err != nil {
			out = append(out, Holding{Where: where, What: "what cannot be read: " + err.Error()})
		}
	}
	if own {
		out = append([]Holding{{Where: whole, What: "a node of slipway", Slipway: true, GUID: t.GUID}}, out...)
	}
	return out, nil
}
