package bootdisk

import (
	"errors"
	"hash/crc32"
	"testing"
)

// FuzzRead lays bytes over a table, a slot's directory and configuration, and
// the default, and mends the table's sums so that they are looked at.
func FuzzRead(f *testing.F) {
	disks := map[bool]*memory{}
	for large, k := range map[bool]kind{false: {"amd64", 512}, true: {"amd64", 4096}} {
		disks[large] = installed(f, k.plan(f))
	}
	entry := version(1).entry()
	dir, config := make([]byte, 160), make([]byte, 400)
	disks[false].ReadAt(dir, slotB)
	disks[false].ReadAt(config, slotB+cluster)
	f.Add([]byte{}, uint16(0), dir, config, grubDefault(B), false)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint16(32), dir[:32], []byte("# \xff\n"), isolinuxDefault(B), false)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, uint16(tableSize+72), []byte{}, []byte{}, []byte{}, true)
	f.Fuzz(func(t *testing.T, patch []byte, at uint16, dir, config, first []byte, large bool) {
		sector := int64(512)
		if large {
			sector = 4096
		}
		m := disks[large].clone()
		table, header := make([]byte, tableSize), make([]byte, 92)
		m.ReadAt(table, 2*sector)
		m.ReadAt(header, sector)
		both := append(table, header...)
		if int(at) < len(both) {
			copy(both[at:], patch)
		}
		table, header = both[:tableSize], both[tableSize:]
		le.PutUint32(header[88:], crc32.ChecksumIEEE(table))
		clear(header[16:20])
		le.PutUint32(header[16:], crc32.ChecksumIEEE(header))
		m.write(Write{2 * sector, table}, Write{sector, header}, Write{slotB, dir}, Write{slotB + cluster, config}, Write{clusterAt(defaultCluster), first}, Write{isoDefault * isoSector, first})
		found, err := Read(m, Geometry{testSize, int(sector)})
		if err != nil {
			if !errors.Is(err, ErrNone) {
				t.Fatal(err)
			}
			return
		}
		if found.Boot() != A && found.Boot() != B || found.Slots[A] != entry {
			t.Fatalf("%+v", found)
		}
		if e, ok := found.Slots[B]; ok {
			if _, err := found.Disk.Fill(B, e.Kernel, e.Initramfs, e.Cmdline); err != nil {
				t.Fatal(err)
			}
		}
		found.Disk.Table()
	})
}
