package bootdisk

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"slipway.dev/slipway/images/isofs"
)

// memory is a disk in memory that remembers which 4 KiB blocks were read.
type memory struct {
	base   *memory // what is below, nil for zeros
	blocks map[int64][]byte
	read   map[int64]bool // nil: not remembered
}

const memoryBlock = 4096

func (m *memory) ReadAt(b []byte, at int64) (int, error) {
	for i := 0; i < len(b); {
		n, in := (at+int64(i))/memoryBlock, int((at+int64(i))%memoryBlock)
		if m.read != nil {
			m.read[n] = true
		}
		piece := b[i:min(len(b), i+memoryBlock-in)]
		clear(piece)
		if old := m.block(n); old != nil {
			copy(piece, old[in:])
		}
		i += len(piece)
	}
	if at+int64(len(b)) > testSize {
		return 0, io.EOF
	}
	return len(b), nil
}

func (m *memory) write(ws ...Write) {
	for _, w := range ws {
		for i := 0; i < len(w.Data); {
			n, in := (w.At+int64(i))/memoryBlock, int((w.At+int64(i))%memoryBlock)
			if m.blocks[n] == nil {
				m.blocks[n] = make([]byte, memoryBlock)
				if m.base != nil {
					copy(m.blocks[n], m.base.block(n))
				}
			}
			i += copy(m.blocks[n][in:], w.Data[i:])
		}
	}
}

// block is what a block holds, nil for zeros.
func (m *memory) block(n int64) []byte {
	for ; m != nil; m = m.base {
		if b := m.blocks[n]; b != nil {
			return b
		}
	}
	return nil
}

// clone is a disk with the same content, as long as m does not change.
func (m *memory) clone() *memory { return &memory{base: m, blocks: map[int64][]byte{}} }

// version is what a slot holds, made from a number.
type version uint64

func (v version) kernel() []byte    { return noise(uint64(v), 30_000+int(v)*4096) }
func (v version) initramfs() []byte { return noise(uint64(v)+100, 50_000-int(v)*4096) }
func (v version) entry() Entry {
	return Entry{int64(len(v.kernel())), int64(len(v.initramfs())), fmt.Sprintf("version=%d %s", v, strings.Repeat("x ", 20*int(v)))}
}

// data is the writes of the content, fill those of what describes it.
func (v version) data(d *Disk, s Slot) []Write {
	k, i := d.Area(s)
	return []Write{d.whole(k.At, v.kernel()), d.whole(i.At, v.initramfs())}
}

func (v version) fill(t testing.TB, d *Disk, s Slot) []Write {
	e := v.entry()
	ws, err := d.Fill(s, e.Kernel, e.Initramfs, e.Cmdline)
	return join(t, ws, err)
}

// installed is a disk with version 1 in a, 2 in b, default a, that starts.
func installed(t testing.TB, d *Disk) *memory {
	m := &memory{blocks: map[int64][]byte{}}
	m.write(d.Table()...)
	ws, err := d.Format(testLoaders(d.arch))
	m.write(join(t, ws, err)...)
	for i, s := range []Slot{A, B} {
		v := version(i + 1)
		m.write(v.data(d, s)...)
		m.write(v.fill(t, d, s)...)
	}
	m.write(d.Activate()...)
	return m
}

// fat reads a file as GRUB does: directory by directory, cluster by cluster.
func (m *memory) fat(copyNumber int64, name string) ([]byte, error) {
	next := func(n int64) int64 {
		var e [4]byte
		m.ReadAt(e[:], fatAt+copyNumber*fatSize+4*n)
		return int64(le.Uint32(e[:]) & endOfChain)
	}
	follow := func(n int64) (out []byte) {
		for ; n >= 2 && n < clusters && len(out) < 64*mib; n = next(n) {
			b := make([]byte, cluster)
			m.ReadAt(b, clusterAt(n))
			out = append(out, b...)
		}
		return out
	}
	at, size := int64(rootCluster), int64(0)
	for _, part := range strings.Split(name, "/") {
		dir, found := follow(at), false
		for ; len(dir) >= 32 && dir[0] != 0 && !found; dir = dir[32:] {
			if bytes.Equal(dir[:11], entry(part, 0, 0, 0)[:11]) && dir[11] != attrLabel {
				at, size, found = int64(le.Uint16(dir[20:]))<<16|int64(le.Uint16(dir[26:])), int64(le.Uint32(dir[28:])), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no %q in %q", part, name)
		}
	}
	out := follow(at)
	if int64(len(out)) < size || int64(len(out))-size >= cluster {
		return nil, fmt.Errorf("%s: %d bytes in clusters, size %d", name, len(out), size)
	}
	return out[:size], nil
}

// loads checks that loaders of both kinds find a version in a slot.
func (m *memory) loads(d *Disk, s Slot, v version) error {
	upper := strings.ToUpper(string(s))
	for name, want := range map[string][]byte{"VMLINUZ": v.kernel(), "INITRD.IMG": v.initramfs(), "GRUB.CFG": []byte(grubSlot(s, v.entry().Cmdline))} {
		for c := range int64(2) {
			if got, err := m.fat(c, upper+"/"+name); err != nil || !bytes.Equal(got, want) {
				return fmt.Errorf("FAT %d: %s of slot %s is not version %d: %d bytes, %v", c, name, s, v, len(got), err)
			}
		}
	}
	if !d.bios {
		return nil
	}
	im, err := isofs.Read(m, testSize)
	if err != nil {
		return err
	}
	for name, want := range map[string][]byte{"vmlinuz": v.kernel(), "initrd.img": v.initramfs(), "slot.cfg": []byte(isolinuxSlot(s, v.entry().Cmdline))} {
		f, ok := im.Files[string(s)+"/"+name]
		got := make([]byte, f.Size)
		if m.ReadAt(got, f.At); !ok || !bytes.Equal(got, want) {
			return fmt.Errorf("ISO: %s of slot %s is not version %d", name, s, v)
		}
	}
	return nil
}

func blocksOf(ws []Write) map[int64]bool {
	out := map[int64]bool{}
	for _, w := range ws {
		for at := w.At / memoryBlock; at <= (w.At+int64(len(w.Data))-1)/memoryBlock; at++ {
			out[at] = true
		}
	}
	return out
}

// needs are the blocks that firmware and loaders read to start a slot, but for
// the two files that name the default.
func needs(t *testing.T, d *Disk, m *memory, s Slot) map[int64]bool {
	t.Helper()
	m.read = map[int64]bool{}
	defer func() { m.read = nil }()
	efi, dir := strings.ToUpper(d.arch.EFI()), strings.ToUpper(string(s))
	for _, name := range []string{"EFI/BOOT/BOOT" + efi + ".EFI", "EFI/BOOT/GRUB" + efi + ".EFI", "EFI/BOOT/MM" + efi + ".EFI", "EFI/DEBIAN/GRUB.CFG", dir + "/GRUB.CFG", dir + "/VMLINUZ", dir + "/INITRD.IMG"} {
		for c := range int64(2) {
			if _, err := m.fat(c, name); err != nil {
				t.Fatal(err)
			}
		}
	}
	out := m.read
	for n := range blocksOf(append(d.Table(), d.Activate()...)) {
		if n*memoryBlock < biosAt || n*memoryBlock >= espAt { // Table empties what is between
			out[n] = true
		}
	}
	if !d.bios {
		return out
	}
	im, err := isofs.Read(&memory{blocks: m.blocks}, testSize)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range im.Files {
		if strings.HasPrefix(name, string(s)+"/") || strings.HasPrefix(name, "isolinux/") && name != "isolinux/default.cfg" {
			for n := f.At / memoryBlock; n <= (f.At+f.Size-1)/memoryBlock; n++ {
				out[n] = true
			}
		}
	}
	for _, n := range []int64{16, 17, pathTableL, pathTableM, isoRoot, isoLinux, isoSlot(s)} {
		out[n*isoSector/memoryBlock] = true
	}
	return out
}

// Writing one slot, or the default, touches no block that the other slot needs.
func TestSlotsShareNothing(t *testing.T) {
	for _, k := range kinds {
		d := k.plan(t)
		m := installed(t, d)
		for _, s := range []Slot{A, B} {
			need := needs(t, d, m, s.Other())
			full, err := d.Fill(s, kernelSize, initramfsSize, strings.Repeat("x", maxCmdline))
			writes := append(join(t, full, err), d.Clear(s)...)
			writes = append(writes, d.Default(s)...)
			touched := blocksOf(writes)
			kernel, initramfs := d.Area(s)
			for _, e := range []Extent{kernel, initramfs} {
				for at := e.At; at < e.At+e.Size; at += memoryBlock {
					touched[at/memoryBlock] = true
				}
			}
			for n := range touched {
				if need[n] {
					t.Errorf("%v: writing slot %s touches byte %d, which slot %s needs", k, s, n*memoryBlock, s.Other())
				}
			}
			if ws := d.Default(s); len(ws) != map[bool]int{true: 2, false: 1}[d.bios] || len(ws[0].Data) != k.sector {
				t.Errorf("%v: the default is %d writes", k, len(ws))
			}
		}
	}
}

// split makes writes of one sector each.
func split(d *Disk, ws []Write) []Write {
	var out []Write
	for _, w := range ws {
		for at := 0; at < len(w.Data); at += d.geometry.Sector {
			out = append(out, Write{w.At + int64(at), w.Data[at : at+d.geometry.Sector]})
		}
	}
	return out
}

// TestPowerCuts replaces version 2 in slot b by version 3 and makes it the
// default. After every prefix of the sectors written, and after random sets of
// them, the loaders find what they should.
func TestPowerCuts(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.String(), func(t *testing.T) {
			d := k.plan(t)
			m := installed(t, d)
			now := map[Slot]version{A: 1, B: 2}
			lists := [][]Write{d.Clear(B), version(3).data(d, B), version(3).fill(t, d, B), d.Default(B)}
			random := rand.New(rand.NewPCG(1, 2))
			for step, list := range lists {
				if step == 2 {
					now[B] = 3
				}
				check := func(c *memory) {
					t.Helper()
					if err := c.agrees(d, now, step == 3); err != nil {
						t.Fatalf("step %d: %v", step, err)
					}
				}
				sectors := split(d, list)
				for range 40 {
					c := m.clone()
					for _, w := range sectors {
						if random.IntN(2) == 0 {
							c.write(w)
						}
					}
					check(c)
				}
				for i, w := range sectors {
					m.write(w)
					if i < 20 || i%16 == 0 || i > len(sectors)-20 {
						check(m)
					}
				}
			}
			if f, err := Read(m, d.geometry); err != nil || f.Boot() != B || f.Slots[B] != version(3).entry() || f.Slots[A] != version(1).entry() {
				t.Errorf("%+v, %v", f, err)
			}
		})
	}
}

// agrees checks that what Read says is true, and that there is always a slot to boot.
func (m *memory) agrees(d *Disk, now map[Slot]version, switching bool) error {
	f, err := Read(m, d.geometry)
	if err != nil {
		return err
	}
	if !f.Active || !f.Table {
		return fmt.Errorf("active %v, table %v", f.Active, f.Table)
	}
	if s := f.Boot(); s != A && (s != B || !switching) {
		return fmt.Errorf("starts slot %q", s)
	}
	if s := f.BIOSDefault; d.bios && s != A && (s != B || !switching) {
		return fmt.Errorf("starts slot %q on BIOS", s)
	}
	for s, e := range f.Slots {
		if e != now[s].entry() {
			return fmt.Errorf("slot %s: %+v", s, e)
		}
		if err := m.loads(d, s, now[s]); err != nil {
			return err
		}
	}
	if _, ok := f.Slots[A]; !ok {
		return fmt.Errorf("slot a is gone")
	}
	return nil
}
