package bootdisk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway.dev/slipway/configs/arch"
)

var testID = NewGUID([16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16})

// kind is a disk that slipway starts from.
type kind struct {
	arch   arch.Arch
	sector int
}

func (k kind) String() string { return fmt.Sprintf("%s-%d", k.arch, k.sector) }

var kinds = []kind{{arch.AMD64, 512}, {arch.AMD64, 4096}, {arch.ARM64, 512}, {arch.ARM64, 4096}}

const testSize = 16 * gib

func (k kind) plan(t testing.TB) *Disk {
	t.Helper()
	d, err := Plan(k.arch, Geometry{testSize, k.sector}, testID, gib)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func testLoaders(a arch.Arch) map[string][]byte {
	efi := a.EFI()
	return map[string][]byte{"shim" + efi + ".efi": noise(1, 950_001), "grub" + efi + ".efi": noise(2, 2_600_000), "mm" + efi + ".efi": noise(3, 4096),
		mbrName: noise(4, 432), isolinuxName: noise(5, 38_912), libraryName: noise(6, 122_308)}
}

func join(t testing.TB, ws []Write, err error) []Write {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return ws
}

// image is a sparse file that a disk's writes go to.
type image struct {
	t    testing.TB
	disk *Disk
	f    *os.File
	esp  *os.File // what is written into the EFI system partition, once more
}

func newImage(t testing.TB, d *Disk) *image {
	t.Helper()
	m := &image{t: t, disk: d}
	for name, f := range map[string]**os.File{"disk.img": &m.f, "esp.img": &m.esp} {
		var err error
		if *f, err = os.Create(filepath.Join(t.TempDir(), name)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*f).Close() })
	}
	if err := errors.Join(m.f.Truncate(d.geometry.Size), m.esp.Truncate(espSize)); err != nil {
		t.Fatal(err)
	}
	return m
}

// write writes, and fails the test where a write is not whole sectors inside the disk.
func (m *image) write(ws ...Write) {
	m.t.Helper()
	for _, w := range ws {
		s := int64(m.disk.geometry.Sector)
		if w.At%s != 0 || len(w.Data) == 0 || int64(len(w.Data))%s != 0 || w.At < 0 || w.At+int64(len(w.Data)) > m.disk.geometry.Size {
			m.t.Fatalf("a write of %d bytes at byte %d", len(w.Data), w.At)
		}
		_, err := m.f.WriteAt(w.Data, w.At)
		if p := m.disk.ESP(); err == nil && w.At >= p.First && w.At < p.First+p.Size {
			_, err = m.esp.WriteAt(w.Data, w.At-p.First)
		}
		if err != nil {
			m.t.Fatal(err)
		}
	}
}

// fill puts content into a slot as an installer does.
func (m *image) fill(s Slot, kernel, initramfs []byte, cmdline string) {
	m.t.Helper()
	m.write(m.disk.Clear(s)...)
	k, i := m.disk.Area(s)
	m.write(m.disk.whole(k.At, kernel), m.disk.whole(i.At, initramfs))
	ws, err := m.disk.Fill(s, int64(len(kernel)), int64(len(initramfs)), cmdline)
	m.write(join(m.t, ws, err)...)
}

func (m *image) format() {
	m.t.Helper()
	m.write(m.disk.Table()...)
	ws, err := m.disk.Format(testLoaders(m.disk.arch))
	m.write(join(m.t, ws, err)...)
}

func (m *image) read() *Found {
	m.t.Helper()
	f, err := Read(m.f, m.disk.geometry)
	if err != nil {
		m.t.Fatal(err)
	}
	return f
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		kind
		size, content int64
		want          string
	}{
		{kind{arch.AMD64, 512}, 16 * gib, gib, "1 SLIPWAY-BIOS 32768+1015808 2 SLIPWAY-ESP 1048576+536870912 3 SLIPWAY-STORE 537919488+3758096384 4 SLIPWAY-STATE 4296015872+12882804736"},
		{kind{arch.AMD64, 4096}, 16 * gib, gib, "2 SLIPWAY-ESP 1048576+536870912 3 SLIPWAY-STORE 537919488+3758096384 4 SLIPWAY-STATE 4296015872+12882804736"},
		{kind{arch.ARM64, 512}, 1000 * gib, gib, "2 SLIPWAY-ESP 1048576+536870912 3 SLIPWAY-STORE 537919488+68719476736 4 SLIPWAY-STATE 69257396224+1004483379200"},
		{kind{arch.AMD64, 512}, 8 * gib, 2 * gib, "the disk has 8192 MiB, want at least 10754 MiB"},
		{kind{arch.AMD64, 512}, 0, 0, "the disk has 0 MiB, want at least 5634 MiB"},
		{kind{arch.AMD64, 520}, 8 * gib, 0, "sectors of 520 bytes, want 512 or 4096"},
	} {
		d, err := Plan(c.arch, Geometry{c.size, c.sector}, testID, c.content)
		if err != nil {
			if err.Error() != c.want {
				t.Errorf("%v of %d: %v", c.kind, c.size, err)
			}
			continue
		}
		var got []string
		for _, p := range d.Partitions() {
			got = append(got, fmt.Sprintf("%d %s %d+%d", p.Number, p.Name, p.First, p.Size))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%v of %d:\ngot  %s\nwant %s", c.kind, c.size, s, c.want)
		}
	}
}

// The size that a refusal asks for is enough.
func TestTooSmallSaysWhatIsEnough(t *testing.T) {
	for _, k := range kinds {
		var small *TooSmallError
		if _, err := Plan(k.arch, Geometry{gib, k.sector}, testID, 3*gib+1); !errors.As(err, &small) {
			t.Fatal(err)
		}
		if _, err := Plan(k.arch, Geometry{small.Need, k.sector}, testID, 3*gib+1); err != nil {
			t.Errorf("%v: %v", k, err)
		}
	}
}

func TestFormatAndFillRefuse(t *testing.T) {
	d := kind{arch.AMD64, 512}.plan(t)
	if _, err := d.Format(nil); err == nil || !strings.Contains(err.Error(), `no loader "shimx64.efi"`) || !strings.Contains(err.Error(), `no loader "isolinux.bin"`) {
		t.Errorf("got %v", err)
	}
	big := testLoaders(arch.AMD64)
	big["grubx64.efi"], big[libraryName] = make([]byte, 30*mib), make([]byte, mib)
	if _, err := d.Format(big); err == nil || !strings.Contains(err.Error(), "loaders for UEFI of ") {
		t.Errorf("got %v", err)
	}
	big["grubx64.efi"] = []byte{1}
	if _, err := d.Format(big); err == nil || !strings.HasPrefix(err.Error(), "isolinux.bin has 38912 bytes and ldlinux.c32 1048576") {
		t.Errorf("got %v", err)
	}
	for want, c := range map[string]struct {
		slot              Slot
		kernel, initramfs int64
		cmdline           string
	}{
		`slot "c", want "a" or "b"`:                         {"c", 1, 1, ""},
		"kernel of 67108865 bytes, want 1 to 67108864":      {A, kernelSize + 1, 1, ""},
		"initramfs of 0 bytes, want 1 to 167772160":         {A, 1, 0, ""},
		"command line of 1901 bytes, want at most 1900":     {A, 1, 1, strings.Repeat("x", 1901)},
		`command line: '"' at byte 2 is nothing that`:       {A, 1, 1, `a="b"`},
		`command line: '\n' at byte 1 is nothing that`:      {A, 1, 1, "a\nb"},
		"command line of 1899 bytes is too long when it is": {A, 1, 1, strings.Repeat("; ", 949) + ";"},
	} {
		if _, err := d.Fill(c.slot, c.kernel, c.initramfs, c.cmdline); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
