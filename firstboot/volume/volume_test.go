package volume

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/disk"
	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
)

func image(t *testing.T, size int64, sector diskfs.SectorSize, fs filesystem.Type, label string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image")
	d, err := diskfs.Create(name, size, sector)
	if err != nil {
		t.Fatal(err)
	}
	f, err := d.CreateFilesystem(disk.FilesystemSpec{Partition: 0, FSType: fs, VolumeLabel: label})
	if err != nil {
		t.Fatal(err)
	}
	w, err := f.OpenFile("user-data", os.O_CREATE|os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("#cloud-config\n")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if iso, ok := f.(*iso9660.FileSystem); ok {
		if err := iso.Finalize(iso9660.FinalizeOptions{RockRidge: true, VolumeIdentifier: label}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestProbe(t *testing.T) {
	for _, c := range []struct {
		name string
		path func(t *testing.T) string
		want Info
	}{
		{"iso9660", func(t *testing.T) string { return image(t, 4<<20, 2048, filesystem.TypeISO9660, "SLIPWAY") }, Info{"iso9660", "SLIPWAY"}},
		{"iso9660 in lower case", func(t *testing.T) string { return image(t, 4<<20, 2048, filesystem.TypeISO9660, "cidata") }, Info{"iso9660", "cidata"}},
		{"FAT32", func(t *testing.T) string { return image(t, 64<<20, 512, filesystem.TypeFat32, "CIDATA") }, Info{"vfat", "CIDATA"}},
		{"zeroes", func(t *testing.T) string { return zeroes(t, 1<<20) }, Info{}},
		{"too small", func(t *testing.T) string { return zeroes(t, 100) }, Info{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ProbeFile(c.path(t))
			if err != nil || got != c.want {
				t.Errorf("got %+v, %v, want %+v", got, err, c.want)
			}
		})
	}
}

func zeroes(t *testing.T, n int64) string {
	name := filepath.Join(t.TempDir(), "zero")
	if err := os.WriteFile(name, make([]byte, n), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestFAT16 has the label in the root directory only, as Windows writes it.
func TestFAT16(t *testing.T) {
	b := make([]byte, 64<<10)
	copy(b, []byte{0xeb, 0x3c, 0x90})
	copy(b[11:], []byte{0x00, 0x02, 4, 1, 0, 2, 0x00, 0x02}) // 512-byte sectors, 4 a cluster, 1 reserved, 2 FATs, 512 root entries
	copy(b[22:], []byte{4, 0})                               // sectors a FAT
	copy(b[43:], "NO NAME    FAT16   ")
	b[510], b[511] = 0x55, 0xaa
	got, err := Probe(bytes.NewReader(b))
	if err != nil || got != (Info{"vfat", ""}) {
		t.Errorf("without a label: %+v, %v", got, err)
	}
	dir := b[(1+2*4)*512:]
	copy(dir, "LONGNAM ENT\x0f")        // part of a long name
	copy(dir[32:], "\xe5ELETED   \x08") // deleted
	copy(dir[64:], "CIDATA     \x08")
	if got, err = Probe(bytes.NewReader(b)); err != nil || got != (Info{"vfat", "CIDATA"}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestList(t *testing.T) {
	sys := t.TempDir()
	for name, size := range map[string]string{"sda": "2048", "sda1": "1024", "sr0": "0", "loop0": "8", "vda": "4096"} {
		dir := filepath.Join(sys, "class/block", name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		files := map[string]string{"size": size + "\n"}
		if strings.HasSuffix(name, "1") {
			files["partition"] = "1\n"
		}
		for f, c := range files {
			if err := os.WriteFile(filepath.Join(dir, f), []byte(c), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := List(sys, "/dev")
	if err != nil || len(got) != 3 || got[0].Name != "sda" || got[1].Path != "/dev/vda" || got[2].Name != "sda1" || got[0].Size != 1<<20 || got[2].Disk {
		t.Errorf("got %+v, %v", got, err)
	}
}
