package undo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/disks"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/images/layout"
)

// keeper is a seed in memory. What it says of each stage is the test's.
type keeper struct {
	body []byte
	id   string // that it has saved
	wait int
	say  func(handoff.Wiping) (undo bool, err error)
	said []handoff.WipeStage
}

func (k *keeper) Save(_ context.Context, body []byte) (handoff.Window, error) {
	head, _, _, err := Unpack(body)
	if err != nil {
		return handoff.Window{}, err
	}
	if !head.Begun || k.id == "" {
		k.body, k.id = body, head.ID
	}
	return handoff.Window{ID: k.id, Wait: k.wait}, nil
}

func (k *keeper) Wiping(ctx context.Context, q handoff.Wiping) (handoff.Window, error) {
	k.said = append(k.said, q.Stage)
	undo, err := k.say(q)
	if q.Stage == handoff.WipeWaits && !undo && err == nil {
		<-ctx.Done()
		return handoff.Window{}, ctx.Err()
	}
	return handoff.Window{ID: k.id, Undo: undo}, err
}

func (k *keeper) Saved(context.Context, string) ([]byte, error) { return k.body, nil }

const size = 12 << 30

// run runs a program of the test's host.
func run(t *testing.T, argv ...string) {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		t.Skipf("this host has no %s: %v", argv[0], err)
	}
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v: %s", argv, err, out)
	}
}

// image is a file of 12 GiB that stands for a disk, and its sectors in use.
func image(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, size)); err != nil {
		t.Fatal(err)
	}
	return name
}

func put(t *testing.T, name string, at int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, at); err != nil {
		t.Fatal(err)
	}
}

// mkfs makes a file system as large as its place on the disk and copies it there.
func mkfs(t *testing.T, disk string, at, n int64, argv ...string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "volume")
	if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, n)); err != nil {
		t.Fatal(err)
	}
	run(t, append(argv, name)...)
	run(t, "dd", "if="+name, "of="+disk, "bs=1M", fmt.Sprintf("seek=%d", at>>20), "conv=notrunc,sparse", "status=none")
}

// old are disks that somebody would miss.
func old() map[string]func(t *testing.T) string {
	noise := func(n int) []byte {
		b := make([]byte, n)
		r := rand.NewChaCha8([32]byte{7})
		_, _ = r.Read(b)
		return b
	}
	return map[string]func(*testing.T) string{
		"gpt with ext4 and LVM": func(t *testing.T) string {
			disk := image(t)
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "precious"), noise(3<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sfdisk", "-q", disk)
			cmd.Stdin = strings.NewReader("label: gpt\nstart=2048, size=524288\nstart=526336, size=8388608\n")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("sfdisk: %v: %s", err, out)
			}
			mkfs(t, disk, 1<<20, 256<<20, "mke2fs", "-q", "-F", "-t", "ext4", "-d", dir)
			put(t, disk, 526336*512+512, append([]byte("LABELONE\x01\x00\x00\x00\x00\x00\x00\x00"), noise(1<<20)...))
			return disk
		},
		"mbr with vfat": func(t *testing.T) string {
			disk := image(t)
			cmd := exec.Command("sfdisk", "-q", disk)
			cmd.Stdin = strings.NewReader("label: dos\nstart=2048, size=524288, type=c\n")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("sfdisk: %v: %s", err, out)
			}
			mkfs(t, disk, 1<<20, 256<<20, "mkfs.vfat", "-n", "PHOTOS")
			return disk
		},
		"noise all over": func(t *testing.T) string {
			disk := image(t)
			for at := int64(0); at < size; at += 128 << 20 {
				put(t, disk, at, noise(96<<10))
			}
			put(t, disk, size-2<<20, noise(2<<20))
			return disk
		},
	}
}

// digest is of a whole disk; holes are skipped, they are told by where they end.
func digest(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, zero, b := sha256.New(), make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); at < size; {
		from, err := f.Seek(at, 3) // SEEK_DATA
		if err != nil {
			break
		}
		at = from >> 20 << 20
		if _, err := f.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if !bytes.Equal(b, zero) { // data that is zero is a hole
			fmt.Fprintf(h, "%d ", at)
			h.Write(b)
		}
		at += 1 << 20
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func loaders() map[string][]byte {
	out := map[string][]byte{}
	for _, n := range []string{"shimx64.efi", "grubx64.efi", "mmx64.efi", "isohdpfx.bin", "isolinux.bin", "ldlinux.c32"} {
		out[n] = bytes.Repeat([]byte(n), 100)
	}
	return out
}

var errMke2fs = errors.New("mke2fs was started")

// begin installs on a file with a guard, up to mke2fs.
func begin(t *testing.T, disk string, g *Guard, own bool) error {
	t.Helper()
	if _, err := os.Stat("/" + layout.Mke2fs); err != nil {
		t.Skipf("no e2fsprogs: %v", err)
	}
	m := install.Machine{Sys: "/sys", Dev: "/dev", Mounts: t.TempDir(), Arch: arch.AMD64, Load: func(string) error { return nil }, Tell: func(s string) { t.Log(s) },
		Partition: func(context.Context, string, bootdisk.Partition) (string, error) { return "/dev/null", nil },
		Run:       func(context.Context, []string) error { return errMke2fs },
		Note:      []byte("node-1"), Save: g.Save, Large: g.Large}
	if own {
		m.Save = nil
	}
	_, err := install.Begin(t.Context(), m, disk, install.Owner{Node: "node-1", Instance: "i"}, 1<<20, loaders())
	return err
}

func guard(t *testing.T, k *keeper, disk string) *Guard {
	return New(k, disks.Disk{Name: "disk", Path: disk, Size: size, Sector: 512, Serial: "S1", Holds: []disks.Holding{{Where: "whole disk", What: "data"}}}, "worker-1", func(s string) { t.Log(s) })
}

func code(err error) string {
	if f, ok := errors.AsType[*report.Failure](err); ok {
		return f.Code
	}
	return fmt.Sprint(err)
}

// TestUndo: wherever the operator stops it before file systems are made, every
// byte of the disk is as it was found.
func TestUndo(t *testing.T) {
	for name, make := range old() {
		for _, stop := range []handoff.WipeStage{handoff.WipeWaits, handoff.WipeTables, handoff.WipeLarge} {
			if stop != handoff.WipeLarge && name != "mbr with vfat" {
				continue // what is on it does not matter before anything is written
			}
			t.Run(name+", stopped at "+string(stop), func(t *testing.T) {
				disk := make(t)
				before := digest(t, disk)
				changed := ""
				k := &keeper{wait: 1, say: func(q handoff.Wiping) (bool, error) {
					if q.Stage == stop {
						changed = digest(t, disk)
					}
					return q.Stage == stop, nil
				}}
				g := guard(t, k, disk)
				if err := begin(t, disk, g, false); code(err) != "SW-UNDO-DONE" || code(g.Over()) != code(err) {
					t.Fatalf("got %v, over %v", err, g.Over())
				}
				if wrote := changed != before; wrote != (stop == handoff.WipeLarge) {
					t.Errorf("at %s the disk was written: %t", stop, wrote)
				}
				if after := digest(t, disk); after != before {
					t.Errorf("the disk is another: %s, was %s", after, before)
				}
				if last := k.said[len(k.said)-1]; last != handoff.WipeUndone {
					t.Errorf("said %q", k.said)
				}
			})
		}
	}
}

// TestUndoAfterAPowerCut: the machine knows from the note that it began, and what
// it needs is at the seed. The power goes once more while the disk is restored.
func TestUndoAfterAPowerCut(t *testing.T) {
	disk := old()["gpt with ext4 and LVM"](t)
	before := digest(t, disk)
	k := &keeper{say: func(q handoff.Wiping) (bool, error) {
		if q.Stage == handoff.WipeLarge {
			return false, errors.New("the power went")
		}
		return false, nil
	}}
	if err := begin(t, disk, guard(t, k, disk), false); err == nil || install.Noted(disk) == nil {
		t.Fatalf("got %v", err)
	}
	saved := k.id
	// A start whose key the seed does not know any more is given consent again, and
	// must not save what is left in place of what was there.
	g := guard(t, k, disk)
	if err := begin(t, disk, g, false); err == nil || k.id != saved {
		t.Fatalf("got %v, saved as %s, before as %s", err, k.id, saved)
	}
	_, at, data, err := Unpack(k.body)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range at { // half of it was written back when the power went
		if old := data[:e.Size]; i%2 == 1 {
			put(t, disk, e.At, old)
		}
		data = data[e.Size:]
	}
	if install.Noted(disk) == nil {
		t.Fatal("the places with the note are not meant to be among them")
	}
	k.say = func(q handoff.Wiping) (bool, error) { return q.Stage == handoff.WipeAgain, nil }
	g = guard(t, k, disk)
	if err := g.Again(t.Context()); code(err) != "SW-UNDO-DONE" {
		t.Fatalf("got %v", err)
	}
	if after := digest(t, disk); after != before {
		t.Errorf("the disk is another: %s, was %s", after, before)
	}
	if install.Noted(disk) != nil {
		t.Error("the note is still there")
	}
}

// TestNoUndoAfterLarge: once the seed let it go on, file systems are made.
func TestNoUndoAfterLarge(t *testing.T) {
	disk := old()["noise all over"](t)
	k := &keeper{say: func(handoff.Wiping) (bool, error) { return false, nil }}
	if err := begin(t, disk, guard(t, k, disk), false); !errors.Is(err, errMke2fs) {
		t.Fatalf("got %v", err)
	}
	if fmt.Sprint(k.said) != "[tables large]" {
		t.Errorf("said %q", k.said)
	}
	head, at, data, err := Unpack(k.body)
	if err != nil || head.Disk.Serial != "S1" || head.Disk.Size != size || int64(len(data)) != total(at) {
		t.Errorf("%+v, %d bytes of %d places, %v", head, len(data), len(at), err)
	}
	t.Logf("saved %d kB of %d places, packed %d kB", len(data)/1000, len(at), len(k.body)/1000)
}

func TestHoldsWithoutASeed(t *testing.T) {
	disk := old()["noise all over"](t)
	before := digest(t, disk)
	k := &keeper{say: func(q handoff.Wiping) (bool, error) { return false, fmt.Errorf("no seed at %s", q.Stage) }}
	if err := begin(t, disk, guard(t, k, disk), false); err == nil || digest(t, disk) != before {
		t.Errorf("got %v; the disk has changed: %t", err, digest(t, disk) != before)
	}
}

func TestUnpackRefuses(t *testing.T) {
	good, err := Pack(handoff.Saved{ID: "a"}, bytes.NewReader(make([]byte, 4096)), []bootdisk.Extent{{At: 0, Size: 512}, {At: 1024, Size: 512}})
	if err != nil {
		t.Fatal(err)
	}
	if _, at, data, err := Unpack(good); err != nil || len(at) != 2 || len(data) != 1024 {
		t.Fatalf("%v, %d bytes, %v", at, len(data), err)
	}
	for want, raw := range map[string][]byte{
		"does not begin with a line": good[:20],
		"digest mismatch":            append(bytes.Clone(good), 0),
		"no saved beginning":         []byte("hello\nworld"),
		"format 2":                   bytes.Replace(good, []byte(`"format":1`), []byte(`"format":2`), 1),
		"a place of 512 bytes at 0":  bytes.Replace(good, []byte(`"at":1024`), []byte(`"at":0`), 1),
		"1024 bytes, want 1536":      bytes.Replace(good, []byte(`"size":512}]`), []byte(`"size":1024}]`), 1),
	} {
		if _, _, _, err := Unpack(raw); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
