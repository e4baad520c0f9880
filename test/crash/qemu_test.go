package crash

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestQEMURecording drives QEMU's own block layer, no guest: what it records is
// what this package reads.
func TestQEMURecording(t *testing.T) {
	tool, err := exec.LookPath("qemu-io")
	if err != nil {
		t.Skipf("qemu-io is not installed (Debian package qemu-utils): %v", err)
	}
	dir := t.TempDir()
	disk, path := filepath.Join(dir, "disk.img"), filepath.Join(dir, "log")
	for name, size := range map[string]int64{disk: diskSize, path: 0} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, size); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"-t", "writeback", "--image-opts",
		"driver=blklogwrites,file.driver=file,file.filename=" + disk + ",file.discard=unmap,log.driver=file,log.filename=" + path}
	for _, c := range []string{"write -P 2 64k 64k", "flush", "write -P 7 0 512", "flush", "discard 512k 64k", "write -z 768k 4k", "write -P 3 8k 4k"} {
		args = append(args, "-c", c)
	}
	if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-io: %v\n%s", err, out)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	l, err := Parse(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	// qemu-io flushes once more when it ends.
	if len(l.Epochs) != 4 || l.Epochs[0] != (Epoch{0, 1}) || l.Epochs[1] != (Epoch{2, 3}) || l.Epochs[2] != (Epoch{4, 7}) || l.Beyond != 0 {
		t.Errorf("epochs %v of entries %+v", l.Epochs, l.Entries)
	}
	report, err := l.Run(t.Context(), nil, diskSize, l.Points(400, 1), judgeCommit(512), io.Discard)
	if err != nil || len(report.Bricked()) > 0 {
		t.Errorf("%v\n%s", err, report)
	}
	want, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, diskSize)
	if _, err := l.Image(nil, diskSize, Point{Epoch: 3, Kind: Boundary, Discards: Zeros}).ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("after everything the image is not the disk: %v", err)
	}
}
