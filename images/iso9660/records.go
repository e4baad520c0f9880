package iso9660

import (
	"encoding/binary"
	"time"
)

var (
	littleEndian = binary.LittleEndian
	bigEndian    = binary.BigEndian
)

// both32 writes a number in both byte orders (ECMA-119 7.3.3).
func both32(b []byte, n uint32) {
	littleEndian.PutUint32(b, n)
	bigEndian.PutUint32(b[4:], n)
}

func both16(b []byte, n uint16) {
	littleEndian.PutUint16(b, n)
	bigEndian.PutUint16(b[2:], n)
}

// recordTime is the seven-byte date of directory records (ECMA-119 9.1.5).
func recordTime(t time.Time) []byte {
	t = t.UTC()
	return []byte{byte(t.Year() - 1900), byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()), 0}
}

// volumeTime is the seventeen-byte date of descriptors (ECMA-119 8.4.26.1).
func volumeTime(t time.Time) []byte {
	return append([]byte(t.UTC().Format("20060102150405")+"00"), 0)
}

const (
	flagDir   = 0x02
	flagMulti = 0x80 // more extents of the same file follow
)

// record is one directory record (ECMA-119 9.1) with its system use area.
func record(id string, start uint32, size uint32, flags byte, t time.Time, use []byte) []byte {
	n := 33 + len(id)
	if len(id)%2 == 0 {
		n++
	}
	b := make([]byte, n, n+len(use)+1)
	both32(b[2:], start)
	both32(b[10:], size)
	copy(b[18:], recordTime(t))
	b[25] = flags
	both16(b[28:], 1)
	b[32] = byte(len(id))
	copy(b[33:], id)
	b = append(b, use...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	b[0] = byte(len(b))
	return b
}

// posix is the PX entry (RRIP 1.10 section 4.1.1).
func posix(mode uint32, links uint32) []byte {
	b := make([]byte, 36)
	copy(b, "PX")
	b[2], b[3] = 36, 1
	both32(b[4:], mode)
	both32(b[12:], links)
	return b
}

// realName is the NM entry (RRIP 1.10 section 4.1.4).
func realName(name string) []byte {
	return append([]byte{'N', 'M', byte(5 + len(name)), 1, 0}, name...)
}

// announce starts the system use areas of a volume: SP says that they are
// there, ER that they are Rock Ridge (SUSP 1.12 sections 5.3 and 5.5).
func announce() []byte {
	const id = "RRIP_1991A"
	out := []byte{'S', 'P', 7, 1, 0xbe, 0xef, 0}
	out = append(out, 'E', 'R', byte(8+len(id)), 1, byte(len(id)), 0, 0, 1)
	return append(out, id...)
}

const (
	modeDir  = 0o040555
	modeFile = 0o100000
)

// records are all records of a directory, in order: itself, its parent, its
// children; a file of several extents has a record for each.
func (im *Image) records(d *node) [][]byte {
	t := im.volume.Time
	use := posix(modeDir, 2)
	if d == im.root {
		use = append(announce(), use...)
	}
	out := [][]byte{
		record("\x00", d.start, uint32(d.size), flagDir, t, use),
		record("\x01", d.parent.start, uint32(d.parent.size), flagDir, t, posix(modeDir, 2)),
	}
	for _, c := range d.children {
		if c.isDir() {
			out = append(out, record(c.iso, c.start, uint32(c.size), flagDir, t, append(posix(modeDir, 2), realName(c.name)...)))
			continue
		}
		use := append(posix(modeFile|uint32(c.file.Mode.Perm()), 1), realName(c.name)...)
		start, left := c.start, c.size
		for left > maxExtent {
			out = append(out, record(c.iso+";1", start, maxExtent, flagMulti, t, use))
			start += maxExtent / sector
			left -= maxExtent
		}
		out = append(out, record(c.iso+";1", start, uint32(left), 0, t, use))
	}
	return out
}

// pack lays records out so that none crosses a sector (ECMA-119 6.8.1.1).
func pack(recs [][]byte) []byte {
	var out []byte
	for _, r := range recs {
		if room := sector - len(out)%sector; len(r) > room {
			out = append(out, make([]byte, room)...)
		}
		out = append(out, r...)
	}
	if rest := len(out) % sector; rest > 0 {
		out = append(out, make([]byte, sector-rest)...)
	}
	return out
}

func (im *Image) directory(d *node) []byte { return pack(im.records(d)) }

// directorySize needs no extents: the sizes of records do not depend on them.
func directorySize(d *node) int {
	im := &Image{root: d}
	if d.parent != d {
		im.root = nil
	}
	return len(im.directory(d))
}

func pathRecordSize(d *node) int {
	n := max(1, len(d.iso))
	return 8 + n + n%2
}

// pathTable lists all directories (ECMA-119 9.4).
func (im *Image) pathTable(order binary.ByteOrder) []byte {
	var out []byte
	for _, d := range im.dirs {
		id := d.iso
		if d == im.root {
			id = "\x00"
		}
		b := make([]byte, pathRecordSize(d))
		b[0] = byte(len(id))
		order.PutUint32(b[2:], d.start)
		order.PutUint16(b[6:], d.parent.number)
		copy(b[8:], id)
		out = append(out, b...)
	}
	return out
}

// descriptors are the primary descriptor, the El Torito boot record, which has
// to be in sector 17, and the terminator (ECMA-119 8.4, El Torito 1.0 figure 7).
func (im *Image) descriptors() []byte {
	out := make([]byte, 3*sector)
	p := out[:sector]
	copy(p, "\x01CD001\x01")
	copy(p[8:], fixed("", 32))
	copy(p[40:], fixed(im.volume.ID, 32))
	both32(p[80:], im.sectors)
	both16(p[120:], 1)
	both16(p[124:], 1)
	both16(p[128:], sector)
	both32(p[132:], uint32(im.table))
	littleEndian.PutUint32(p[140:], im.tableL)
	bigEndian.PutUint32(p[148:], im.tableM)
	copy(p[156:], record("\x00", im.root.start, uint32(im.root.size), flagDir, im.volume.Time, nil))
	copy(p[190:], fixed("", 128*4))
	copy(p[446:], fixed("SLIPWAY", 128))
	copy(p[702:], fixed("", 37*3))
	copy(p[813:], volumeTime(im.volume.Time))
	copy(p[830:], volumeTime(im.volume.Time))
	for _, at := range []int{847, 864} { // no expiry, effective at once
		copy(p[at:], "0000000000000000\x00")
	}
	p[881] = 1
	b := out[sector : 2*sector]
	copy(b, "\x00CD001\x01EL TORITO SPECIFICATION")
	littleEndian.PutUint32(b[71:], im.catalog)
	copy(out[2*sector:], "\xffCD001\x01")
	return out
}
