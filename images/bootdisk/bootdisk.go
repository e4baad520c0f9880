// Package bootdisk says which bytes make an installed node's disk start, on BIOS
// and UEFI, and which of them change when a new kernel comes: two slots, each
// with its kernel, initramfs and command line, and a default.
//
// The disk has a GPT: partition 1 holds what BIOS loaders read (not on arm64,
// and not on disks of 4096-byte sectors, which BIOS does not start), 2 is the EFI
// system partition, 3 is SLIPWAY-STORE, 4 is SLIPWAY-STATE. The numbers are the
// same on every machine, so that what people and scripts are told is.
//
// BIOS takes the chain that starts the ISO as a disk: code in the MBR, isolinux,
// and an ISO 9660 volume whose system area is the disk's first 32 KiB. Its
// structures are in partition 1; its records of kernels and initramfs point into
// the EFI system partition, at the same bytes that the FAT points at. UEFI takes
// Debian's signed shim and GRUB from the FAT.
//
// Everything has a fixed place. A slot's data, and every sector that describes
// it, is in 4 KiB blocks of its own, which are the physical sectors of most
// disks: writing one slot touches no block that the other needs. What chooses
// the slot is one sector for each kind of firmware, whose directory entry never
// changes. When the chosen slot cannot be loaded, both loaders take the other.
//
// The places are the format: disks that were installed years ago have them. The
// FAT has no room for others' files: Fill gives a slot's clusters out anew.
//
// The package plans and reads; it writes nothing, opens no device, makes no
// ext4, and does not look at a kernel's content. Writes of one list may reach
// the disk in any order: between the lists, and before Default and Activate, the
// caller waits until the disk has them.
package bootdisk

import (
	"crypto/sha256"
	"fmt"

	"slipway.dev/slipway/configs/arch"
)

// Slot is one of the two places for a kernel and what belongs to it.
type Slot string

// The slots.
const (
	A Slot = "a"
	B Slot = "b"
)

// Other is the other slot.
func (s Slot) Other() Slot {
	if s == A {
		return B
	}
	return A
}

// Write is some bytes and where they belong, in bytes from the start of the
// disk. Both are whole sectors.
type Write struct {
	At   int64
	Data []byte
}

// Extent is a run of bytes from the start of the disk.
type Extent struct{ At, Size int64 }

// Geometry is the size of a disk in bytes and of its logical sectors, 512 or 4096.
type Geometry struct {
	Size   int64
	Sector int
}

// Partition is one entry of the table; First and Size are bytes.
type Partition struct {
	Number      int
	Name        string
	Type        GUID
	ID          GUID
	First, Size int64
}

// The names of the partitions, which for the last two are also the labels of
// their file systems.
const (
	NameBIOS  = "SLIPWAY-BIOS"
	NameESP   = "SLIPWAY-ESP"
	NameStore = "SLIPWAY-STORE"
	NameState = "SLIPWAY-STATE"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30

	align    = mib
	biosAt   = 32 * kib // sector 16 of an ISO 9660 volume that begins with the disk
	espAt    = mib
	espSize  = 512 * mib
	storeAt  = espAt + espSize
	minState = 4 * gib
)

// Places of the slots. Each begins where a 4 KiB block of the FAT begins to
// describe it: clusters are 4 KiB and cluster n is at fatZero + n clusters.
const (
	slotMeta      = 4 * mib  // the slot's directory and configuration
	kernelSize    = 64 * mib // Debian's for arm64, which is not compressed, has 36 MiB
	initramfsSize = 160 * mib
	slotSize      = slotMeta + kernelSize + initramfsSize
	slotA         = 32 * mib
	slotB         = slotA + slotSize
)

// Disk is a planned or a read disk.
type Disk struct {
	arch       arch.Arch // "" of a disk that was read
	geometry   Geometry
	id         GUID
	bios       bool
	partitions []Partition
	code       []byte // of the MBR, known after Format
}

// TooSmallError says that a disk cannot hold a node; both are bytes.
type TooSmallError struct{ Have, Need int64 }

func (e *TooSmallError) Error() string {
	return fmt.Sprintf("the disk has %d MiB, want at least %d MiB", e.Have/mib, (e.Need+mib-1)/mib)
}

// Plan divides a disk. content is the bytes of one bundle on a disk: the store
// has room for two and a half of them, so that a new one arrives beside one
// that runs and one to go back to that share most blobs, or for a fifth of the
// disk up to 64 GiB. The state has the rest, at least 4 GiB; a disk without so
// much is a *TooSmallError. id is the disk's GUID, random and new.
func Plan(a arch.Arch, g Geometry, id GUID, content int64) (*Disk, error) {
	if g.Sector != 512 && g.Sector != 4096 {
		return nil, fmt.Errorf("sectors of %d bytes, want 512 or 4096", g.Sector)
	}
	if content < 0 || content > 1<<50 {
		return nil, fmt.Errorf("content of %d bytes", content)
	}
	g.Size -= g.Size % int64(g.Sector)
	store := up(max(content*5/2+gib, min(g.Size/5, 64*gib)))
	end := down(g.Size - tableSize - int64(g.Sector)) // the backup table and header
	if need := storeAt + store + minState; end < need {
		return nil, &TooSmallError{Have: g.Size, Need: need + align}
	}
	d := &Disk{arch: a, geometry: g, id: id, bios: a == arch.AMD64 && g.Sector == 512}
	if d.bios {
		d.add(1, NameBIOS, typeBIOS, biosAt, espAt)
	}
	d.add(2, NameESP, typeESP, espAt, storeAt)
	d.add(3, NameStore, typeLinux, storeAt, storeAt+store)
	d.add(4, NameState, typeLinux, storeAt+store, end)
	return d, nil
}

func up(n int64) int64   { return (n + align - 1) / align * align }
func down(n int64) int64 { return n / align * align }

func (d *Disk) add(number int, name string, kind GUID, first, end int64) {
	sum := sha256.Sum256(fmt.Appendf(d.id[:], " partition %d", number))
	d.partitions = append(d.partitions, Partition{number, name, kind, NewGUID([16]byte(sum[:16])), first, end - first})
}

// ID is the disk's GUID.
func (d *Disk) ID() GUID { return d.id }

// BIOS says whether the disk starts on BIOS too.
func (d *Disk) BIOS() bool { return d.bios }

// Partitions lists the partitions by their numbers.
func (d *Disk) Partitions() []Partition { return append([]Partition(nil), d.partitions...) }

// ESP is the EFI system partition.
func (d *Disk) ESP() Partition { return d.number(2) }

// Store is the partition for blobs.
func (d *Disk) Store() Partition { return d.number(3) }

// State is the partition for everything else that lasts.
func (d *Disk) State() Partition { return d.number(4) }

func (d *Disk) number(n int) Partition {
	for _, p := range d.partitions {
		if p.Number == n {
			return p
		}
	}
	return Partition{}
}

// Area is where a slot's kernel and initramfs belong, and how large they may be.
// Whoever writes them fills the last sector up.
func (d *Disk) Area(s Slot) (kernel, initramfs Extent) {
	at := slotAt(s) + slotMeta
	return Extent{at, kernelSize}, Extent{at + kernelSize, initramfsSize}
}

func slotAt(s Slot) int64 {
	if s == B {
		return slotB
	}
	return slotA
}

// whole pads to whole sectors.
func (d *Disk) whole(at int64, data []byte) Write {
	out := make([]byte, (len(data)+d.geometry.Sector-1)/d.geometry.Sector*d.geometry.Sector)
	copy(out, data)
	return Write{at, out}
}
