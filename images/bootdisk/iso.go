package bootdisk

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// The ISO 9660 volume that isolinux reads (ECMA-119). Its sectors are 2048 bytes
// from the start of the disk; every structure that changes has 4 KiB of its own.
const (
	isoSector = 2048
	// VolumeID is the volume's identifier. It is not that of a medium with a bundle.
	VolumeID = "SLIPWAYBOOT"

	pathTableL    = 18
	pathTableM    = 19
	isoRoot       = 20
	isoLinux      = 21
	isoConfig     = 22
	isoSlotA      = 24 // directory, then configuration
	isoSlotB      = 26
	isoDefault    = 28
	isoLoaders    = 32
	isolinuxAt    = isoLoaders * isoSector
	isoEnd        = espAt / isoSector
	infoTableEnd  = 64 // isolinux.bin's boot information table is bytes 8 to 63
	isoPathTable  = 10 + 10 + 10 + 16
	isoVolumeSize = (espAt + espSize) / isoSector
)

func isoSlot(s Slot) int64 {
	if s == B {
		return isoSlotB
	}
	return isoSlotA
}

func both16(b []byte, n uint16) {
	le.PutUint16(b, n)
	binary.BigEndian.PutUint16(b[2:], n)
}

func both32(b []byte, n uint32) {
	le.PutUint32(b, n)
	binary.BigEndian.PutUint32(b[4:], n)
}

// isoDate is 1 January 1980 in a directory record (ECMA-119 9.1.5): nothing on
// the volume has a date, and zero is no day.
const isoDate = "\x50\x01\x01\x00\x00\x00\x00"

// record is a directory record (ECMA-119 9.1).
func record(id string, start, size int64, flags byte) []byte {
	b := make([]byte, 33+len(id)+(len(id)+1)%2)
	b[0] = byte(len(b))
	both32(b[2:], uint32(start))
	both32(b[10:], uint32(size))
	copy(b[18:], isoDate)
	b[25] = flags
	both16(b[28:], 1)
	b[32] = byte(len(id))
	copy(b[33:], id)
	return b
}

const isoDir = 0x02

func isoDirectory(self int64, records ...[]byte) []byte {
	out := append(record("\x00", self, isoSector, isoDir), record("\x01", isoRoot, isoSector, isoDir)...)
	for _, r := range records {
		out = append(out, r...)
	}
	return out
}

// isoBlock is a sector of the volume with these bytes.
func isoBlock(n int64, data []byte) Write {
	out := make([]byte, isoSector)
	copy(out, data)
	return Write{n * isoSector, out}
}

// isoSlotDirectory is a slot's directory in the ISO; without a kernel it is empty.
func (d *Disk) isoSlotDirectory(s Slot, config, kernel, initramfs int64) []byte {
	n := isoSlot(s)
	if kernel == 0 {
		return isoDirectory(n)
	}
	k, i := d.Area(s)
	return isoDirectory(n, record("INITRD.IMG;1", i.At/isoSector, initramfs, 0), record("SLOT.CFG;1", n+1, config, 0), record("VMLINUZ;1", k.At/isoSector, kernel, 0))
}

// formatISO is the volume with isolinux and no slot.
func (d *Disk) formatISO(image, library []byte) ([]Write, error) {
	lib := int64(isoLoaders) + sectors(len(image))
	if end := lib + sectors(len(library)); end > isoEnd || len(image) < infoTableEnd {
		return nil, fmt.Errorf("isolinux.bin has %d bytes and ldlinux.c32 %d, want at most %d together", len(image), len(library), (isoEnd-isoLoaders-1)*isoSector)
	}
	out := []Write{
		isoBlock(pathTableL, isoPaths(le)), isoBlock(pathTableM, isoPaths(binary.BigEndian)),
		isoBlock(isoRoot, isoDirectory(isoRoot, record("A", isoSlotA, isoSector, isoDir), record("B", isoSlotB, isoSector, isoDir), record("ISOLINUX", isoLinux, isoSector, isoDir))),
		isoBlock(isoLinux, isoDirectory(isoLinux, record("DEFAULT.CFG;1", isoDefault, defaultSize, 0), record("ISOLINUX.BIN;1", isoLoaders, int64(len(image)), 0),
			record("ISOLINUX.CFG;1", isoConfig, int64(len(isolinuxConfig)), 0), record("LDLINUX.C32;1", lib, int64(len(library)), 0))),
		isoBlock(isoConfig, []byte(isolinuxConfig)), isoBlock(isoDefault, isolinuxDefault(A)),
		d.whole(isolinuxAt, infoTable(image)), d.whole(lib*isoSector, library),
	}
	for _, s := range []Slot{A, B} {
		out = append(out, isoBlock(isoSlot(s), isoDirectory(isoSlot(s))))
	}
	return append(out, isoBlock(17, []byte("\xffCD001\x01")), isoBlock(16, isoDescriptor())), nil
}

func sectors(n int) int64 { return (int64(n) + isoSector - 1) / isoSector }

// isoPaths is the path table (ECMA-119 9.4).
func isoPaths(order binary.ByteOrder) []byte {
	var out []byte
	for _, p := range []struct {
		id string
		at uint32
	}{{"\x00", isoRoot}, {"A", isoSlotA}, {"B", isoSlotB}, {"ISOLINUX", isoLinux}} {
		b := make([]byte, 8+len(p.id)+len(p.id)%2)
		b[0] = byte(len(p.id))
		order.PutUint32(b[2:], p.at)
		order.PutUint16(b[6:], 1)
		copy(b[8:], p.id)
		out = append(out, b...)
	}
	return out
}

// isoDescriptor is the primary volume descriptor (ECMA-119 8.4).
func isoDescriptor() []byte {
	p := make([]byte, isoSector)
	copy(p, "\x01CD001\x01")
	copy(p[8:], strings.Repeat(" ", 32))
	copy(p[40:], fmt.Sprintf("%-32s", VolumeID))
	both32(p[80:], isoVolumeSize)
	both16(p[120:], 1)
	both16(p[124:], 1)
	both16(p[128:], isoSector)
	both32(p[132:], isoPathTable)
	le.PutUint32(p[140:], pathTableL)
	binary.BigEndian.PutUint32(p[148:], pathTableM)
	copy(p[156:], record("\x00", isoRoot, isoSector, isoDir))
	copy(p[190:], strings.Repeat(" ", 813-190))
	for _, at := range []int{813, 830, 847, 864} { // no dates
		copy(p[at:], "0000000000000000\x00")
	}
	p[881] = 1
	return p
}

// infoTable fills in isolinux's boot information table (syslinux
// doc/isolinux.txt): where the volume descriptor and the image are, and the sum
// of the image's words after the table.
func infoTable(image []byte) []byte {
	out := append([]byte(nil), image...)
	clear(out[8:infoTableEnd])
	le.PutUint32(out[8:], 16)
	le.PutUint32(out[12:], isoLoaders)
	le.PutUint32(out[16:], uint32(len(image)))
	var sum uint32
	for i := infoTableEnd; i < len(out); i += 4 {
		var w [4]byte
		copy(w[:], out[i:])
		sum += le.Uint32(w[:])
	}
	le.PutUint32(out[20:], sum)
	return out
}
