package bootdisk

import (
	"encoding/binary"
	"hash/crc32"
	"unicode/utf16"
)

var le = binary.LittleEndian

const (
	gptEntries   = 128
	gptEntrySize = 128
	tableSize    = gptEntries * gptEntrySize
	mbrCode      = 432 // bytes of isohdpfx.bin before the address of isolinux.bin
)

// Table is the partition table, and the end of whatever made the disk start
// before: the MBR sends a BIOS on to the next device, and the volumes that loaders
// read are not there, nor is that of an ISO that somebody wrote to this disk.
// The backup comes first, so that one of the two tables is whole at any time.
func (d *Disk) Table() []Write {
	sector := int64(d.geometry.Sector)
	last := d.geometry.Size/sector - 1
	in := tableSize / sector
	entries := d.entries()
	out := []Write{d.whole(0, d.mbr(nil)), d.whole(espAt, make([]byte, sector)), {biosAt, make([]byte, espAt-biosAt)}}
	return append(out,
		Write{(last - in) * sector, entries}, d.whole(last*sector, d.header(last, 1, last-in, entries)),
		Write{2 * sector, entries}, d.whole(sector, d.header(1, last, 2, entries)))
}

// Deactivate undoes Activate: firmware passes over the disk, and nothing else on
// it changes. A power cut in between leaves it startable for one kind of firmware.
func (d *Disk) Deactivate() []Write {
	out := []Write{d.whole(espAt, make([]byte, d.geometry.Sector))}
	if d.bios {
		out = append(out, d.whole(0, d.mbr(nil)))
	}
	return out
}

// Spare is a place within the EFI system partition that nothing else uses and
// that lasts when the disk is divided anew: among the FAT's reserved sectors.
func Spare() Extent { return Extent{2 * mib, 16 * kib} }

// mbr is the first sector. The table protects the GPT (UEFI 2.10 section 5.2.3);
// with code it has a second entry, active, of no type and one sector: some BIOSes
// do not start a disk without one. Without, it passes; see Pass.
func (d *Disk) mbr(code []byte) []byte {
	b := make([]byte, 512)
	copy(b[440:444], d.id[:4])
	copy(b[446:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff})
	le.PutUint32(b[454:], 1)
	le.PutUint32(b[458:], uint32(min(d.geometry.Size/int64(d.geometry.Sector)-1, 1<<32-1)))
	b[510], b[511] = 0x55, 0xaa
	if code == nil {
		copy(b[:mbrCode], Pass("no finished installation on this disk"))
	} else {
		copy(b[:mbrCode], code)
		// isohdpfx.bin finds isolinux.bin by its address in 512-byte sectors.
		le.PutUint64(b[mbrCode:], isolinuxAt/512)
		b[462] = 0x80
		le.PutUint32(b[474:], 1)
	}
	return b
}

// entries are those of all partitions (UEFI 2.10 section 5.3.3).
func (d *Disk) entries() []byte {
	out := make([]byte, tableSize)
	sector := int64(d.geometry.Sector)
	for _, p := range d.partitions {
		e := out[(p.Number-1)*gptEntrySize:]
		kind, id := p.Type.disk(), p.ID.disk()
		copy(e, kind[:])
		copy(e[16:], id[:])
		le.PutUint64(e[32:], uint64(p.First/sector))
		le.PutUint64(e[40:], uint64((p.First+p.Size)/sector-1))
		for i, c := range utf16.Encode([]rune(p.Name)) {
			le.PutUint16(e[56+2*i:], c)
		}
	}
	return out
}

// header is the header at one end of the disk (UEFI 2.10 section 5.3.2).
func (d *Disk) header(self, other, table int64, entries []byte) []byte {
	sector := int64(d.geometry.Sector)
	in := tableSize / sector
	h := make([]byte, 92)
	copy(h, "EFI PART\x00\x00\x01\x00")
	le.PutUint32(h[12:], 92)
	le.PutUint64(h[24:], uint64(self))
	le.PutUint64(h[32:], uint64(other))
	le.PutUint64(h[40:], uint64(2+in))
	le.PutUint64(h[48:], uint64(d.geometry.Size/sector-2-in))
	id := d.id.disk()
	copy(h[56:], id[:])
	le.PutUint64(h[72:], uint64(table))
	le.PutUint32(h[80:], gptEntries)
	le.PutUint32(h[84:], gptEntrySize)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	return h
}
