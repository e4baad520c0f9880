// Package volume finds block devices and reads what file system and label they
// carry, straight from their first sectors.
//
// It mounts nothing and knows three formats: ISO 9660, FAT and ext4.
package volume

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// Info is what a device carries.
type Info struct {
	FSType string // as mount(2) takes it: "iso9660", "vfat", "ext4"; "" is none of them
	Label  string // without padding
}

// Device is a block device.
type Device struct {
	Name string // "sr0"
	Path string // "/dev/sr0"
	Size int64  // bytes
	Disk bool   // a whole disk, not a partition
}

// List lists the block devices that can be media, whole disks first, below
// sys (/sys) and dev (/dev).
func List(sys, dev string) ([]Device, error) {
	entries, err := os.ReadDir(filepath.Join(sys, "class/block"))
	if err != nil {
		return nil, fmt.Errorf("block devices: %w", err)
	}
	var out []Device
	for _, e := range entries {
		n := e.Name()
		if strings.HasPrefix(n, "loop") || strings.HasPrefix(n, "ram") || strings.HasPrefix(n, "zram") {
			continue
		}
		dir := filepath.Join(sys, "class/block", n)
		raw, err := os.ReadFile(filepath.Join(dir, "size"))
		if err != nil {
			continue
		}
		sectors, _ := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		if sectors == 0 {
			continue // a drive without a disc
		}
		_, err = os.Stat(filepath.Join(dir, "partition"))
		// sysfs counts in 512 bytes whatever the device's own sectors are.
		out = append(out, Device{Name: n, Path: filepath.Join(dev, n), Size: sectors * 512, Disk: err != nil})
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Disk && !out[j].Disk })
	return out, nil
}

// ProbeFile probes a device or an image by path.
func ProbeFile(path string) (Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	return Probe(f)
}

// Probe looks for a primary volume descriptor, then for a FAT boot sector, then
// for an ext4 superblock. A device that is too small for any carries none.
func Probe(r io.ReaderAt) (Info, error) {
	pvd := make([]byte, 2048)
	if _, err := r.ReadAt(pvd, 16*2048); err == nil {
		// ECMA-119 8.4: type 1, "CD001", version 1; volume identifier at 40.
		if pvd[0] == 1 && string(pvd[1:6]) == "CD001" {
			return Info{FSType: "iso9660", Label: trim(pvd[40:72])}, nil
		}
	} else if err != io.EOF {
		return Info{}, fmt.Errorf("reading the volume descriptor: %w", err)
	}
	boot := make([]byte, 512)
	if _, err := r.ReadAt(boot, 0); err != nil {
		return Info{}, nil //nolint:nilerr // nothing this small is a medium
	}
	if info := fat(r, boot); info.FSType != "" {
		return info, nil
	}
	return ext4(r), nil
}

// ext4 reads the superblock (kernel Documentation/filesystems/ext4/super.rst):
// at byte 1024, the magic at 0x38 of it, the volume name at 0x78. ext2 and ext3
// have the same and are mounted by the same driver.
func ext4(r io.ReaderAt) Info {
	super := make([]byte, 1024)
	if _, err := r.ReadAt(super, 1024); err != nil || binary.LittleEndian.Uint16(super[0x38:]) != 0xef53 {
		return Info{}
	}
	return Info{FSType: "ext4", Label: trim(super[0x78:0x88])}
}

func trim(b []byte) string { return strings.TrimRight(string(b), " \x00") }

// fat reads a FAT volume's label: from the root directory, which is what
// Windows and dosfslabel change, else from the boot sector. Offsets are from
// Microsoft's FAT specification 1.03, sections 3 and 6.
func fat(r io.ReaderAt, b []byte) Info {
	le := binary.LittleEndian
	sector, cluster, fats := int64(le.Uint16(b[11:])), int64(b[13]), int64(b[16])
	ok := b[510] == 0x55 && b[511] == 0xaa && (b[0] == 0xeb || b[0] == 0xe9) &&
		sector >= 512 && sector <= 4096 && sector&(sector-1) == 0 && cluster > 0 && cluster&(cluster-1) == 0 && (fats == 1 || fats == 2)
	if !ok {
		return Info{}
	}
	reserved, rootEntries := int64(le.Uint16(b[14:])), int64(le.Uint16(b[17:]))
	fatSize := int64(le.Uint16(b[22:]))
	label := b[43:54]
	var dir []byte
	if fatSize == 0 { // FAT32: the root directory is a cluster chain; the label is in its first cluster in practice
		fatSize = int64(le.Uint32(b[36:]))
		label = b[71:82]
		start := (reserved + fats*fatSize + (int64(le.Uint32(b[44:]))-2)*cluster) * sector
		dir = readDir(r, start, sector*cluster)
	} else {
		dir = readDir(r, (reserved+fats*fatSize)*sector, rootEntries*32)
	}
	if l, ok := dirLabel(dir); ok {
		return Info{FSType: "vfat", Label: l}
	}
	if bytes.Equal(label, []byte("NO NAME    ")) {
		label = nil
	}
	return Info{FSType: "vfat", Label: trim(label)}
}

func readDir(r io.ReaderAt, at, n int64) []byte {
	if at <= 0 || n <= 0 || n > 1<<20 {
		return nil
	}
	b := make([]byte, n)
	got, _ := r.ReadAt(b, at)
	return b[:got]
}

// dirLabel finds the entry with the attribute ATTR_VOLUME_ID alone (a long
// name has it with three others).
func dirLabel(dir []byte) (string, bool) {
	for ; len(dir) >= 32 && dir[0] != 0; dir = dir[32:] {
		if attr := dir[11]; dir[0] != 0xe5 && attr&0x3f != 0x0f && attr&0x08 != 0 {
			return trim(dir[:11]), true
		}
	}
	return "", false
}
