package bootdisk

import (
	"bytes"
	"testing"
)

// What is in the spare place lasts: no structure of a disk is there.
func TestSpareIsNobodys(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.String(), func(t *testing.T) {
			d := k.plan(t)
			boot, err := d.Format(testLoaders(k.arch))
			if err != nil {
				t.Fatal(err)
			}
			fill, err := d.Fill(A, 1<<20, 1<<20, "quiet")
			if err != nil {
				t.Fatal(err)
			}
			s := Spare()
			for _, list := range [][]Write{d.Table(), boot, d.Clear(A), fill, d.Default(B), d.Activate(), d.Deactivate()} {
				for _, w := range list {
					if w.At < s.At+s.Size && s.At < w.At+int64(len(w.Data)) {
						t.Errorf("%d bytes are written at %d", len(w.Data), w.At)
					}
				}
			}
			if e := d.ESP(); s.At < e.First || s.At+s.Size > fatAt {
				t.Errorf("it is at %+v, not among the reserved sectors", s)
			}
		})
	}
}

func TestDeactivate(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.String(), func(t *testing.T) {
			d := k.plan(t)
			boot, err := d.Format(testLoaders(k.arch))
			if err != nil {
				t.Fatal(err)
			}
			fill, err := d.Fill(A, 1<<20, 1<<20, "quiet")
			if err != nil {
				t.Fatal(err)
			}
			disk := make([]byte, 64*mib)
			put := func(list []Write) {
				for _, w := range list {
					if w.At+int64(len(w.Data)) <= int64(len(disk)) { // the backup table is not looked at
						copy(disk[w.At:], w.Data)
					}
				}
			}
			for _, list := range [][]Write{d.Table(), boot, fill, d.Activate()} {
				put(list)
			}
			look := func() *Found {
				f, err := Read(bytes.NewReader(disk), Geometry{testSize, k.sector})
				if err != nil {
					t.Fatal(err)
				}
				return f
			}
			if f := look(); !f.Active || f.Boot() != A {
				t.Fatalf("before: %+v", f)
			}
			put(look().Disk.Deactivate()) // of a disk that was read
			if f := look(); f.Active || f.Boot() != A || f.Disk.ID() != testID {
				t.Errorf("after: %+v", f)
			}
		})
	}
}
