package iso9660

import (
	"encoding/binary"
	"hash/crc32"
	"unicode/utf16"
)

const (
	mbrCode      = 432 // bytes of isohdpfx.bin before the address of isolinux.bin
	infoTableEnd = 64  // isolinux.bin's boot information table is bytes 8 to 63
	gptEntries   = 128
	gptEntrySize = 128
	gptTable     = gptEntries * gptEntrySize
	gptBackup    = gptTable + diskSector
)

// bootCatalog lists the boot images (El Torito 1.0 section 2).
func (im *Image) bootCatalog() []byte {
	out := make([]byte, catalogSize)
	b := im.volume.Boot
	v := out[:32]
	v[0] = 1
	if b.BIOS == nil {
		v[1] = 0xef
	}
	copy(v[4:], "SLIPWAY")
	v[30], v[31] = 0x55, 0xaa
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += littleEndian.Uint16(v[i:])
	}
	littleEndian.PutUint16(v[28:], -sum)
	efiSectors := uint16(len(b.EFI) / diskSector)
	switch {
	case b.BIOS != nil:
		// Four 512-byte sectors are loaded; isolinux loads the rest of itself.
		entry(out[32:], im.bios().start, 4)
		if len(b.EFI) > 0 {
			h := out[64:]
			h[0], h[1], h[2] = 0x91, 0xef, 1 // last section header, EFI, one entry
			entry(out[96:], im.efi, efiSectors)
		}
	case len(b.EFI) > 0:
		entry(out[32:], im.efi, efiSectors)
	}
	return out
}

func entry(b []byte, start uint32, count uint16) {
	b[0] = 0x88 // bootable, no emulation
	littleEndian.PutUint16(b[6:], count)
	littleEndian.PutUint32(b[8:], start)
}

func (im *Image) bios() *node {
	for _, f := range im.files {
		if f.file.Path == im.volume.Boot.BIOS.Path {
			return f
		}
	}
	return nil
}

// infoTable fills in isolinux's boot information table (syslinux doc/isolinux.txt
// and mkisofs -boot-info-table): where the volume descriptor and the image are,
// and the sum of the image's words after the table.
func infoTable(image []byte, start uint32) []byte {
	out := append([]byte(nil), image...)
	clear(out[8:infoTableEnd])
	littleEndian.PutUint32(out[8:], systemArea)
	littleEndian.PutUint32(out[12:], start)
	littleEndian.PutUint32(out[16:], uint32(len(image)))
	var sum uint32
	for i := infoTableEnd; i < len(out); i += 4 {
		var w [4]byte
		copy(w[:], out[i:])
		sum += littleEndian.Uint32(w[:])
	}
	littleEndian.PutUint32(out[20:], sum)
	return out
}

// systemArea is the MBR and the primary GPT. Without boot images it is empty.
func (im *Image) systemArea() []byte {
	out := make([]byte, systemArea*sector)
	b := im.volume.Boot
	if b.BIOS != nil {
		copy(out, b.BIOS.MBR[:mbrCode])
		// isohdpfx.bin finds isolinux.bin by its address in 512-byte sectors.
		littleEndian.PutUint64(out[mbrCode:], uint64(im.bios().start)*4)
		copy(out[440:], im.guid[28:32])
	}
	if len(b.EFI) > 0 {
		im.protective(out[446:510])
		copy(out[diskSector:], im.gptHeader(1, uint64(im.sectors)*4-1, 2))
		copy(out[2*diskSector:], im.gptPartitions())
	}
	if b.BIOS != nil || len(b.EFI) > 0 {
		out[510], out[511] = 0x55, 0xaa
	}
	return out
}

// protective is the partition table that guards the GPT (UEFI 2.10 section
// 5.2.3) and a second, active entry of no type and one sector: some BIOSes do
// not start a disk without an active partition.
func (im *Image) protective(b []byte) {
	last := min(uint64(im.sectors)*4-1, 1<<32-1)
	copy(b, []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff})
	littleEndian.PutUint32(b[8:], 1)
	littleEndian.PutUint32(b[12:], uint32(last))
	b[16] = 0x80
	littleEndian.PutUint32(b[28:], 1)
}

// espType is the type of an EFI system partition, C12A7328-F81F-11D2-BA4B-00A0C93EC93B.
var espType = [16]byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}

func (im *Image) gptPartitions() []byte {
	out := make([]byte, gptTable)
	copy(out, espType[:])
	copy(out[16:], version4(im.guid[16:32]))
	first := uint64(im.efi) * 4
	binary.LittleEndian.PutUint64(out[32:], first)
	binary.LittleEndian.PutUint64(out[40:], first+uint64(len(im.volume.Boot.EFI)/diskSector)-1)
	for i, c := range utf16.Encode([]rune("EFI system")) {
		binary.LittleEndian.PutUint16(out[56+2*i:], c)
	}
	return out
}

// gptHeader is the header at one end of the disk (UEFI 2.10 section 5.3.2).
func (im *Image) gptHeader(self, other, table uint64) []byte {
	h := make([]byte, diskSector)
	copy(h, "EFI PART\x00\x00\x01\x00")
	littleEndian.PutUint32(h[12:], 92)
	littleEndian.PutUint64(h[24:], self)
	littleEndian.PutUint64(h[32:], other)
	littleEndian.PutUint64(h[40:], 2+gptTable/diskSector)
	littleEndian.PutUint64(h[48:], uint64(im.sectors)*4-2-gptTable/diskSector)
	copy(h[56:], version4(im.guid[:16]))
	littleEndian.PutUint64(h[72:], table)
	littleEndian.PutUint32(h[80:], gptEntries)
	littleEndian.PutUint32(h[84:], gptEntrySize)
	littleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(im.gptPartitions()))
	littleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	return h
}

// backup fills the last sectors: the table, then the header in the very last one.
func (im *Image) backup() []byte {
	out := make([]byte, int(sectors(gptBackup))*sector)
	if len(im.volume.Boot.EFI) == 0 {
		return out
	}
	last := uint64(im.sectors)*4 - 1
	copy(out[len(out)-gptBackup:], im.gptPartitions())
	copy(out[len(out)-diskSector:], im.gptHeader(last, 1, last-gptTable/diskSector))
	return out
}

// version4 marks sixteen bytes as a random GUID (RFC 9562 section 5.4).
func version4(b []byte) []byte {
	out := append([]byte(nil), b...)
	out[7] = out[7]&0x0f | 0x40
	out[8] = out[8]&0x3f | 0x80
	return out
}
