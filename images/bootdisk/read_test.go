package bootdisk

import (
	"errors"
	"testing"
)

func TestReadSaysWhatWasWritten(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.String(), func(t *testing.T) {
			m := newImage(t, k.plan(t))
			if _, err := Read(m.f, m.disk.geometry); !errors.Is(err, ErrNone) {
				t.Fatalf("an empty disk: %v", err)
			}
			m.format()
			if f := m.read(); f.Boot() != "" || f.Active || !f.Table || f.Disk.ID() != testID || len(f.Slots) != 0 {
				t.Fatalf("after Format: %+v", f)
			}
			a := Entry{100, 5000, "console=ttyS0 ds=nocloud;s=https://x/ quiet"}
			m.fill(A, noise(1, 100), noise(2, 5000), a.Cmdline)
			m.write(m.disk.Activate()...)
			if f := m.read(); f.Boot() != A || !f.Active || f.Slots[A] != a || len(f.Slots) != 1 {
				t.Fatalf("with slot a: %+v", f)
			}
			b := Entry{kernelSize, 4097, ""}
			m.fill(B, noise(3, kernelSize), noise(4, 4097), b.Cmdline)
			m.write(m.disk.Default(B)...)
			f := m.read()
			if f.Boot() != B || f.Slots[A] != a || f.Slots[B] != b || f.BIOSDefault != map[bool]Slot{true: B, false: ""}[m.disk.bios] {
				t.Fatalf("with slot b: %+v", f)
			}
			for i, p := range m.disk.Partitions() {
				if got := f.Disk.Partitions()[i]; got != p {
					t.Errorf("partition %+v, want %+v", got, p)
				}
			}
			m.write(f.Disk.Clear(B)...)
			if f := m.read(); f.Boot() != A || f.Default != B || len(f.Slots) != 1 {
				t.Fatalf("slot b cleared: %+v", f)
			}
			m.write(m.disk.Table()...)
			if f := m.read(); f.Active {
				t.Error("still active after Table")
			}
		})
	}
}

// A disk with one damaged table is read by the other one.
func TestReadTakesEitherTable(t *testing.T) {
	m := newImage(t, kind{"amd64", 512}.plan(t))
	table := m.disk.Table()
	for _, n := range []int{len(table) - 4, len(table) - 1} { // the two sides
		m.write(table...)
		bad := table[n]
		bad.Data = make([]byte, len(bad.Data))
		m.write(bad)
		if f := m.read(); f.Table || f.Disk.ID() != testID || f.Disk.State() != m.disk.State() {
			t.Errorf("%+v", f)
		}
	}
}
