package bootdisk

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"
)

// ErrNone says that a disk has no table of this package.
var ErrNone = errors.New("not a slipway disk")

// Entry is what a slot holds: sizes in bytes and the kernel command line.
type Entry struct {
	Kernel, Initramfs int64
	Cmdline           string
}

// Found is what a disk says.
type Found struct {
	Disk *Disk // to plan further writes with; Format wants one that was planned
	// Table is whether both copies of the partition table are there and equal.
	Table bool
	// Default is the slot that UEFI loaders take first, BIOSDefault that of BIOS
	// loaders, "" where there are none. They differ after a power cut in Default.
	Default, BIOSDefault Slot
	// Slots has the slots that are whole in all structures of all loaders.
	Slots map[Slot]Entry
	// Active is whether firmware would start the loaders.
	Active bool
}

// Boot is the slot that loaders end up with, "" when there is none. A machine
// uses one of the two defaults: which of them is not written on the disk.
func (f *Found) Boot() Slot {
	for _, s := range []Slot{f.Default, f.Default.Other()} {
		if _, ok := f.Slots[s]; ok {
			return s
		}
	}
	return ""
}

// Read reads a disk, in any state. It is ErrNone when the disk has neither a
// table nor a backup table of this package.
func Read(r io.ReaderAt, g Geometry) (*Found, error) {
	if g.Sector != 512 && g.Sector != 4096 {
		return nil, fmt.Errorf("sectors of %d bytes, want 512 or 4096", g.Sector)
	}
	d := reader{r}
	first, err := d.table(g, 1)
	last := g.Size/int64(g.Sector) - 1
	if first != nil { // the disk may have grown since
		last = first.geometry.Size/int64(g.Sector) - 1
	}
	second, err2 := d.table(g, last)
	f := &Found{Disk: first, Slots: map[Slot]Entry{}}
	switch {
	case first == nil && second == nil && errors.Is(err, ErrNone):
		return nil, err2
	case first == nil && second == nil:
		return nil, err
	case first == nil:
		f.Disk = second
	case second != nil:
		f.Table = first.equal(second)
	}
	return f, d.content(f)
}

// reader reads pieces of a disk.
type reader struct{ r io.ReaderAt }

// at reads n bytes. What is beyond the end of the disk reads as zero: a disk that
// is cut short is a torn one.
func (r reader) at(at int64, n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := r.r.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading %d bytes at byte %d: %w", n, at, err)
	}
	return b, nil
}

// table reads the header in a sector, and its entries; ErrNone when they are no
// table or not of this package.
func (r reader) table(g Geometry, at int64) (*Disk, error) {
	sector := int64(g.Sector)
	if at < 1 || at > 1<<62/sector {
		return nil, ErrNone
	}
	h, err := r.at(at*sector, 92)
	if err != nil {
		return nil, err
	}
	sum := le.Uint32(h[16:])
	clear(h[16:20])
	if !bytes.HasPrefix(h, []byte("EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")) || crc32.ChecksumIEEE(h) != sum ||
		le.Uint32(h[80:]) != gptEntries || le.Uint32(h[84:]) != gptEntrySize || le.Uint64(h[24:]) != uint64(at) {
		return nil, ErrNone
	}
	end, entriesAt := max(le.Uint64(h[24:]), le.Uint64(h[32:])), le.Uint64(h[72:])
	if end > 1<<62/uint64(sector) || entriesAt > end {
		return nil, ErrNone
	}
	entries, err := r.at(int64(entriesAt)*sector, tableSize)
	if err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(entries) != le.Uint32(h[88:]) {
		return nil, ErrNone
	}
	d := &Disk{geometry: Geometry{Size: int64(end+1) * sector, Sector: g.Sector}, id: GUID(h[56:72]).disk()}
	if err := d.parse(entries); err != nil {
		return nil, err
	}
	return d, nil
}

// parse reads the entries of a table; ErrNone when the partitions are not those
// that Plan makes.
func (d *Disk) parse(entries []byte) error {
	for n := 1; n <= gptEntries; n++ {
		e := entries[(n-1)*gptEntrySize:][:gptEntrySize]
		kind := GUID(e[:16]).disk()
		if kind == (GUID{}) {
			continue
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		end := uint64(d.geometry.Size / int64(d.geometry.Sector))
		if first > last || last >= end {
			return ErrNone
		}
		var name []uint16
		for at := 56; at < gptEntrySize && (e[at] != 0 || e[at+1] != 0); at += 2 {
			name = append(name, le.Uint16(e[at:]))
		}
		sector := int64(d.geometry.Sector)
		d.partitions = append(d.partitions, Partition{n, string(utf16.Decode(name)), kind, GUID(e[16:32]).disk(), int64(first) * sector, int64(last-first+1) * sector})
	}
	bios := d.number(1)
	d.bios = bios.Name == NameBIOS && d.geometry.Sector == 512
	esp, store, state := d.ESP(), d.Store(), d.State()
	if esp.Name != NameESP || esp.Type != typeESP || esp.First != espAt || esp.Size != espSize || store.Name != NameStore || state.Name != NameState ||
		d.bios && (bios.First != biosAt || bios.Size != espAt-biosAt) {
		return ErrNone
	}
	return nil
}

func (d *Disk) equal(o *Disk) bool {
	return d.geometry == o.geometry && d.id == o.id && bytes.Equal(d.entries(), o.entries())
}

// content reads the defaults, the slots and whether the disk starts.
func (r reader) content(f *Found) error {
	d := f.Disk
	grub, err := r.at(clusterAt(defaultCluster), defaultSize)
	if err != nil {
		return err
	}
	iso, err := r.at(isoDefault*isoSector, defaultSize)
	if err != nil {
		return err
	}
	f.Default = A // as grub.cfg and isolinux.cfg say without a file that says otherwise
	if bytes.Equal(grub, grubDefault(B)) {
		f.Default = B
	}
	if d.bios {
		f.BIOSDefault = A
		if bytes.Equal(iso, isolinuxDefault(B)) {
			f.BIOSDefault = B
		}
	}
	for _, s := range []Slot{A, B} {
		e, err := r.slot(d, s)
		if err != nil {
			return err
		}
		if e != nil {
			f.Slots[s] = *e
		}
	}
	f.Active, err = r.active(d)
	return err
}

// active is whether firmware finds the loaders.
func (r reader) active(d *Disk) (bool, error) {
	fat, err := r.at(espAt, 512)
	if err != nil || !bytes.Equal(fat, d.bootSector()) {
		return false, err
	}
	if !d.bios {
		return true, nil
	}
	mbr, err := r.at(0, 512)
	if err != nil {
		return false, err
	}
	pvd, err := r.at(biosAt, isoSector)
	if err != nil {
		return false, err
	}
	want := d.mbr(mbr[:mbrCode])
	copy(want[458:], mbr[458:462]) // the disk may have grown
	return bytes.Equal(mbr, want) && bytes.Equal(pvd, isoDescriptor()), nil
}

// slot reads a slot as its directory describes it and compares all its
// structures with those that Fill would write; nil when they differ.
func (r reader) slot(d *Disk, s Slot) (*Entry, error) {
	dir, err := r.at(slotAt(s), 160)
	if err != nil {
		return nil, err
	}
	size := func(n int) int64 { return int64(le.Uint32(dir[32*n+28:])) }
	config, e := size(2), &Entry{Kernel: size(3), Initramfs: size(4)}
	if config == 0 || config > cluster {
		return nil, nil
	}
	text, err := r.at(slotAt(s)+cluster, int(config))
	if err != nil {
		return nil, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	e.Cmdline = strings.TrimPrefix(line, grubMark)
	want, err := d.Fill(s, e.Kernel, e.Initramfs, e.Cmdline)
	if err != nil {
		return nil, nil // a torn slot: nothing that Fill writes
	}
	for _, w := range want {
		got, err := r.at(w.At, len(w.Data))
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(got, w.Data) {
			return nil, nil
		}
	}
	return e, nil
}
