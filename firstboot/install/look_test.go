package install

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// fileDisk is a disk and the file behind it.
func fileDisk(t *testing.T, name string) (dev, file string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: block devices cannot be made")
	}
	file = filepath.Join(t.TempDir(), name)
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDONLY, 0o600)
	if err == nil {
		err = errors.Join(f.Close(), os.Truncate(file, enough))
	}
	if err != nil {
		t.Fatal(err)
	}
	return loop(t, file), file
}

// asItIs is a disk with what another has now, as after a power cut.
func asItIs(t *testing.T, file string) (dev, copied string) {
	t.Helper()
	copied = filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "--sparse=always", file, copied).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	return loop(t, copied), copied
}

// content is the digest of all of a sparse file that is not a hole.
func content(t *testing.T, file string) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	for end := int64(0); ; {
		at, err := f.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return [sha256.Size]byte(h.Sum(nil))
		}
		if err != nil {
			t.Fatal(err)
		}
		if end, err = f.Seek(at, unix.SEEK_HOLE); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(h, io.NewSectionReader(f, at, end-at)); err != nil {
			t.Fatal(err)
		}
	}
}

// synced has the kernel write out what it keeps of a device.
func synced(t *testing.T, dev string) {
	t.Helper()
	f, err := os.OpenFile(dev, os.O_WRONLY, 0)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func lookAt(t *testing.T, m Machine, dev string) (record Record, kept string, err error) {
	t.Helper()
	err = Look(t.Context(), m, Find([]string{dev})[0], func(d *Disk) {
		record = d.Record
		if ok, err := d.Enrolment(&kept); !ok || err != nil {
			t.Errorf("its enrolment: %t, %v", ok, err)
		}
		if err := os.WriteFile(filepath.Join(d.State, "x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("it can be written: %v", err)
		}
	})
	return record, kept, err
}

// A disk that another machine runs from, with a file that was deleted while it was
// open, is not changed by a look: neither its journal nor that file.
func TestLookChangesNothing(t *testing.T) {
	m := machine(t)
	dev, file := fileDisk(t, "disk")
	d := installedOn(t, m, dev, Owner{"node-1", "i-1"}, bundle(t, "system"))
	for _, dir := range []string{d.Store, d.State} {
		f, err := os.Create(filepath.Join(dir, "open"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_, err = f.Write(bytes.Repeat([]byte("x"), 1<<20))
		if err = errors.Join(err, f.Sync(), os.Remove(f.Name()), syncFS(dir)); err != nil {
			t.Fatal(err)
		}
	}
	synced(t, dev)
	live, copied := asItIs(t, file)
	before := content(t, copied)
	record, kept, err := lookAt(t, m, live)
	if err != nil || record != d.Record || kept != "the old key" {
		t.Errorf("seen %+v, %q, %v", record, kept, err)
	}
	if synced(t, live); content(t, copied) != before {
		t.Error("the disk was changed")
	}
	for _, dir := range []string{"store", "state"} {
		if n := mounted(t, filepath.Join(m.Mounts, "look", dir)); n != 0 {
			t.Errorf("the %s is still mounted", dir)
		}
	}
	other := m
	other.Mounts = t.TempDir()
	again, err := Open(t.Context(), other, Find([]string{live})[0])
	if err != nil {
		t.Fatalf("after a look the disk does not open: %v", err)
	}
	again.Unmount()
}

// A power cut right after the enrolment was kept, or a reset ordered, leaves a disk
// that says so without its journal.
func TestLookNeedsNoJournal(t *testing.T) {
	m := machine(t)
	dev, file := fileDisk(t, "disk")
	d := begin(t, m, dev, Owner{"node-1", "i-1"}, bundle(t, "system"))
	if err := d.KeepEnrolment("its key"); err != nil {
		t.Fatal(err)
	}
	check := func(step string) {
		t.Helper()
		cut, _ := asItIs(t, file)
		if record, kept, err := lookAt(t, m, cut); err != nil || record != d.Record || kept != "its key" {
			t.Errorf("%s: seen %+v, %q, %v", step, record, kept, err)
		}
	}
	check("the enrolment was kept")
	if err := d.KeepMark(Mark{Verb: Reset}); err != nil {
		t.Fatal(err)
	}
	check("a reset was ordered")
}

func TestLookRefuses(t *testing.T) {
	m, dev := machine(t), loopDisk(t, enough)
	d := installedOn(t, m, dev, Owner{"node-1", "i-1"}, bundle(t, "system"))
	never := func(*Disk) { t.Error("it looks") }
	enrolment := filepath.Join(d.State, keptFile)
	if err := os.WriteFile(enrolment, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Unmount()
	found := Find([]string{dev})[0]
	if err := Look(t.Context(), m, found, never); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a damaged enrolment: %v", err)
	}
	d, err := Open(t.Context(), m, found)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(enrolment), os.Remove(filepath.Join(d.Store, recordFile))); err != nil {
		t.Fatal(err)
	}
	d.Unmount()
	if err := Look(t.Context(), m, found, never); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a disk that was only begun: %v", err)
	}
	state, err := m.partition(t.Context(), dev, d.plan.State())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(state, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(make([]byte, 4096), 0)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := Look(t.Context(), m, found, never); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no superblock: %v", err)
	}
}
