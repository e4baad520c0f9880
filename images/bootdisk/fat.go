package bootdisk

import "strings"

// The FAT32 volume of the EFI system partition (Microsoft FAT specification,
// 2005). The reserved sectors put cluster 0's imagined place at 4 MiB, so that a
// cluster's number says its place and 4 KiB of FAT describe 4 MiB of disk.
const (
	cluster  = 4 * kib
	fatZero  = 4 * mib
	fatSize  = 512 * kib
	fatAt    = fatZero + 2*cluster - 2*fatSize
	fatEnd   = espAt + espSize
	clusters = (fatEnd - fatZero) / cluster // numbers 2 to clusters-1

	endOfChain = 0x0fffffff
	mediaFAT   = 0x0ffffff8
	mediaByte  = 0xf8

	infoSector   = 1
	backupSector = 6
)

// Clusters with a fixed use; loaders follow.
const (
	rootCluster = 2 + iota
	efiCluster
	bootCluster
	debianCluster
	grubCluster
	defaultCluster
	loaderCluster
)

func clusterAt(n int64) int64  { return fatZero + n*cluster }
func clusterOf(at int64) int64 { return (at - fatZero) / cluster }

// bootSector is the volume's first sector, without which it is none.
func (d *Disk) bootSector() []byte {
	sector := d.geometry.Sector
	b := make([]byte, 512)
	copy(b, "\xeb\x58\x90SLIPWAY ")
	le.PutUint16(b[11:], uint16(sector))
	b[13] = byte(cluster / sector)
	le.PutUint16(b[14:], uint16((fatAt-espAt)/sector))
	b[16] = 2
	b[21] = mediaByte
	le.PutUint16(b[24:], 63)
	le.PutUint16(b[26:], 255)
	le.PutUint32(b[28:], uint32(espAt/sector))
	le.PutUint32(b[32:], uint32(espSize/sector))
	le.PutUint32(b[36:], uint32(fatSize/sector))
	le.PutUint32(b[44:], rootCluster)
	le.PutUint16(b[48:], infoSector)
	le.PutUint16(b[50:], backupSector)
	b[64], b[66] = 0x80, 0x29
	copy(b[67:71], d.id[:4])
	copy(b[71:], NameESP+"FAT32   ")
	copy(b[90:], "\xcd\x18\xeb\xfe") // BIOS is told to try the next device
	b[510], b[511] = 0x55, 0xaa
	return b
}

// infoBlock counts nothing: a count would be a sector that both slots share.
func infoBlock() []byte {
	b := make([]byte, 512)
	copy(b, "RRaA")
	copy(b[484:], "rrAa")
	le.PutUint32(b[488:], 0xffffffff)
	le.PutUint32(b[492:], 0xffffffff)
	b[510], b[511] = 0x55, 0xaa
	return b
}

// chain marks size bytes from cluster first on in a piece of the FAT that
// begins with cluster base.
func chain(fat []byte, base, first, size int64) {
	n := (size + cluster - 1) / cluster
	for i := range n {
		next := uint32(first + i + 1)
		if i == n-1 {
			next = endOfChain
		}
		le.PutUint32(fat[4*(first+i-base):], next)
	}
}

// entry is one directory entry; name is an 8.3 name.
func entry(name string, attr byte, first int64, size int64) []byte {
	b := make([]byte, 32)
	base, ext, _ := strings.Cut(name, ".")
	if name == "." || name == ".." {
		base, ext = name, ""
	}
	copy(b, "           ")
	copy(b, base)
	copy(b[8:], ext)
	b[11] = attr
	le.PutUint16(b[20:], uint16(first>>16))
	le.PutUint16(b[26:], uint16(first))
	le.PutUint32(b[28:], uint32(size))
	return b
}

const (
	attrLabel   = 0x08
	attrDir     = 0x10
	attrArchive = 0x20
)

// directory is a directory with its two own entries. A parent that is the root
// is cluster 0.
func directory(self, parent int64, entries ...[]byte) []byte {
	out := append(entry(".", attrDir, self, 0), entry("..", attrDir, parent, 0)...)
	for _, e := range entries {
		out = append(out, e...)
	}
	return out
}

// block is a cluster with these bytes.
func block(n int64, data []byte) Write {
	out := make([]byte, cluster)
	copy(out, data)
	return Write{clusterAt(n), out}
}

// formatFAT is the volume without its boot sector, with loaders and no slot.
func (d *Disk) formatFAT(loaders []loader) []Write {
	sector := int64(d.geometry.Sector)
	fat := make([]byte, fatSize)
	le.PutUint32(fat, mediaFAT)
	le.PutUint32(fat[4:], endOfChain)
	for n := int64(rootCluster); n < loaderCluster; n++ {
		chain(fat, 0, n, 1)
	}
	out := []Write{d.whole(espAt, make([]byte, sector))}
	for _, at := range []int64{infoSector, backupSector + infoSector} {
		out = append(out, d.whole(espAt+at*sector, infoBlock()))
	}
	out = append(out, d.whole(espAt+backupSector*sector, d.bootSector()))
	next := int64(loaderCluster)
	var boot [][]byte
	for _, l := range loaders {
		size := int64(len(l.content))
		boot = append(boot, entry(l.name, attrArchive, next, size))
		chain(fat, 0, next, size)
		out = append(out, d.whole(clusterAt(next), l.content))
		next += (size + cluster - 1) / cluster
	}
	root := append(entry(NameESP, attrLabel, 0, 0), entry("EFI", attrDir, efiCluster, 0)...)
	copy(root, NameESP) // a label has no dot
	for _, s := range []Slot{A, B} {
		n := clusterOf(slotAt(s))
		chain(fat, 0, n, 1)
		root = append(root, entry(strings.ToUpper(string(s)), attrDir, n, 0)...)
		out = append(out, block(n, directory(n, 0)))
	}
	out = append(out,
		block(rootCluster, root),
		block(efiCluster, directory(efiCluster, 0, entry("BOOT", attrDir, bootCluster, 0), entry("DEBIAN", attrDir, debianCluster, 0))),
		block(bootCluster, directory(bootCluster, efiCluster, boot...)),
		block(debianCluster, directory(debianCluster, efiCluster,
			entry("GRUB.CFG", attrArchive, grubCluster, int64(len(grubConfig))), entry("DEFAULT.CFG", attrArchive, defaultCluster, defaultSize))),
		block(grubCluster, []byte(grubConfig)), block(defaultCluster, grubDefault(A)))
	return append(out, Write{fatAt + fatSize, fat}, Write{fatAt, fat})
}

// slotFAT is the piece of the FAT that describes a slot, and where it is in each copy.
func slotFAT(s Slot, config, kernel, initramfs int64) (fat []byte, at [2]int64) {
	base := clusterOf(slotAt(s))
	fat = make([]byte, slotSize/cluster*4)
	chain(fat, base, base, 1)
	chain(fat, base, base+1, config)
	first := base + slotMeta/cluster
	chain(fat, base, first, kernel)
	chain(fat, base, first+kernelSize/cluster, initramfs)
	return fat, [2]int64{fatAt + 4*base, fatAt + fatSize + 4*base}
}

// slotDirectory is a slot's directory in the FAT; without a kernel it is empty.
func slotDirectory(s Slot, config, kernel, initramfs int64) []byte {
	base := clusterOf(slotAt(s))
	if kernel == 0 {
		return directory(base, 0)
	}
	first := base + slotMeta/cluster
	return directory(base, 0, entry("GRUB.CFG", attrArchive, base+1, config),
		entry("VMLINUZ", attrArchive, first, kernel), entry("INITRD.IMG", attrArchive, first+kernelSize/cluster, initramfs))
}
