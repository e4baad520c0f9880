package ext4

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// run runs a program of e2fsprogs or util-linux; a status of 1 is e2fsck's
// "corrected".
func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if e, ok := errors.AsType[*exec.ExitError](err); ok && argv[0] == "e2fsck" && e.ExitCode() == 1 {
		err = nil
	}
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}

func needs(t *testing.T, root bool, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: %v", tool, err)
		}
	}
	if root && os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
}

// memory is a directory in memory if there is one: a thousand fsyncs cost a
// minute on a busy disk.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ext4-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func blank(t *testing.T, size int64, options ...string) string {
	t.Helper()
	img := filepath.Join(memory(t), "fs.img")
	if err := errors.Join(os.WriteFile(img, nil, 0o600), os.Truncate(img, size)); err != nil {
		t.Fatal(err)
	}
	run(t, append(append([]string{"mke2fs", "-q", "-F", "-t", "ext4", "-L", "SLIPWAY-STORE"}, options...), img)...)
	return img
}

// contents are a tree's files by name: a digest, a target, or "dir".
type contents map[string]string

func ofFS(t *testing.T, img string) (contents, *FS) {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	e, err := Open(f)
	if err != nil {
		t.Fatal(err)
	}
	out := contents{}
	err = e.Walk(func(name string, file *File) error {
		out[name] = fmt.Sprintf("%s %d ", file.Mode, file.Links)
		switch {
		case file.Mode.IsRegular():
			h := sha256.New()
			if n, err := io.Copy(h, file.Reader()); err != nil || n != file.Size {
				return fmt.Errorf("%s: %d of %d bytes: %w", name, n, file.Size, err)
			}
			out[name] += fmt.Sprintf("%x", h.Sum(nil))
			ranges, ok := file.Ranges()
			if ok {
				h.Reset()
				for _, r := range ranges {
					b := make([]byte, r.Len)
					if r.Disk >= 0 {
						if _, err := f.ReadAt(b, r.Disk); err != nil {
							return err
						}
					}
					h.Write(b)
				}
				if !strings.HasSuffix(out[name], fmt.Sprintf(" %x", h.Sum(nil))) {
					return fmt.Errorf("%s: its ranges hold something else", name)
				}
			}
		case file.Mode&fs.ModeSymlink != 0:
			out[name] += file.Target
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out, e
}

func ofDir(t *testing.T, dir string) contents {
	t.Helper()
	out := contents{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		if rel == "." {
			rel = ""
		}
		out[rel] = fmt.Sprintf("%s %d ", info.Mode(), links(info))
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(name)
			out[rel] += fmt.Sprintf("%x", sha256.Sum256(b))
			return err
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(name)
			out[rel] += target
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func same(t *testing.T, when string, got, want contents) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s: %q: got %q, want %q", when, name, got[name], want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: %q is not there", when, name)
		}
	}
}

// TestAgainstKernel writes to mounted file systems, takes a copy of the disk
// without unmounting, and compares what is read from the copy with what the
// kernel finds there after its own replay.
func TestAgainstKernel(t *testing.T) {
	needs(t, true, "mke2fs", "mount", "umount", "e2fsck")
	for _, options := range [][]string{nil, {"-b", "1024"}, {"-O", "^metadata_csum"}, {"-O", "^64bit,^metadata_csum"}, {"-O", "metadata_csum_seed", "-m", "0"}} {
		t.Run(fmt.Sprint(options), func(t *testing.T) {
			img := blank(t, 24<<20, options...)
			at := t.TempDir()
			run(t, "mount", "-o", "loop,noatime", img, at)
			defer exec.Command("umount", at).Run()
			rng := rand.New(rand.NewPCG(7, 7))
			replayed := 0
			for step := range 5 {
				churn(t, at, rng, step)
				cut := filepath.Join(memory(t), "cut.img")
				run(t, "cp", "--sparse=always", img, cut)
				got, e := ofFS(t, cut)
				replayed += e.Replayed
				if e.Label != "SLIPWAY-STORE" {
					t.Errorf("label %q", e.Label)
				}
				there := t.TempDir()
				run(t, "mount", "-o", "loop", cut, there)
				want := ofDir(t, there)
				run(t, "umount", there)
				same(t, fmt.Sprintf("step %d, %d replayed", step, e.Replayed), got, want)
				if after, e := ofFS(t, cut); e.Replayed != 0 {
					t.Errorf("step %d: %d transactions left after the kernel's replay", step, e.Replayed)
				} else {
					same(t, "after replay", after, want)
				}
			}
			if replayed < 5 {
				t.Errorf("%d transactions were replayed: the journal was hardly tried", replayed)
			}
		})
	}
}

// churn does what fills a journal: files made, renamed, linked, removed, blocks
// used again for something else (revokes), holes, preallocation, a file of the
// journal's own magic; synced at random.
func churn(t *testing.T, at string, rng *rand.Rand, step int) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	sync := func(f *os.File) {
		if rng.IntN(3) > 0 {
			must(f.Sync())
		}
	}
	if os.Remove(filepath.Join(at, fmt.Sprintf("full%d", step-1))) == nil {
		run(t, "sync", "-f", at) // or its blocks are not free yet
	}
	dir := filepath.Join(at, fmt.Sprintf("d%d", step))
	must(os.MkdirAll(filepath.Join(dir, "deep/er"), 0o755))
	for i := range 90 {
		name := filepath.Join(dir, fmt.Sprintf("file-with-a-long-name-so-that-the-directory-grows-%d", i))
		f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_WRONLY, 0o640)
		must(err)
		b := bytes.Repeat([]byte{byte(rng.IntN(256))}, rng.IntN(40<<10))
		if i%10 == 0 {
			b = bytes.Repeat([]byte{0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 1}, 1024)
		}
		_, err = f.WriteAt(b, int64(rng.IntN(3)*50000))
		must(err)
		if i%20 == 0 {
			run(t, "fallocate", "-l", "200000", name+".new")
		}
		sync(f)
		must(f.Close())
		must(os.Rename(name+".new", name))
		switch rng.IntN(6) {
		case 0:
			must(os.Link(name, filepath.Join(dir, "deep", fmt.Sprint(i))))
		case 1:
			must(os.Remove(name))
		case 2:
			// A long target is a block of its own in the journal; one that begins
			// with the journal's magic is escaped there.
			must(os.Symlink("\xc0\x3b\x39\x98"+strings.Repeat("x", 1+rng.IntN(100)), filepath.Join(dir, "deep/er", fmt.Sprint(i))))
		}
	}
	if step > 0 && step%2 == 0 { // blocks of the journal become data
		gone := filepath.Join(at, "gone")
		must(os.Mkdir(gone, 0o755))
		for i := range 50 {
			must(os.Symlink(strings.Repeat("y", 500), filepath.Join(gone, fmt.Sprint(i))))
		}
		run(t, "sync", "-f", at)
		must(os.RemoveAll(gone))
		must(os.RemoveAll(filepath.Join(at, fmt.Sprintf("d%d", step-1))))
		run(t, "sync", "-f", at)
		f, err := os.Create(filepath.Join(at, fmt.Sprintf("full%d", step)))
		must(err)
		for b := bytes.Repeat([]byte{byte(step)}, 64<<10); err == nil; {
			_, err = f.Write(b)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		must(f.Sync())
		must(f.Close())
		return
	}
	d, err := os.Open(at)
	must(err)
	must(d.Sync())
	must(d.Close())
}

func TestRefuses(t *testing.T) {
	needs(t, false, "mke2fs")
	good, err := os.ReadFile(blank(t, 16<<20))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, want string
		harm       func(b []byte) []byte
	}{
		{"nothing", "superblock: EOF", func(b []byte) []byte { return nil }},
		{"zeros", "magic 0x0, want 0xef53", func(b []byte) []byte { return make([]byte, len(b)) }},
		{"half a superblock", "superblock: checksum", func(b []byte) []byte { b[1024+0x30]++; return b }},
		{"inode", "inode 8: checksum", func(b []byte) []byte {
			table := int(le.Uint32(b[4096+8:])) * int(1024<<le.Uint32(b[1024+0x18:]))
			if le.Uint32(b[1024+0x18:]) == 0 {
				table = int(le.Uint32(b[2048+8:])) * 1024
			}
			b[table+7*256+0x28]++
			return b
		}},
		{"short", "EOF", func(b []byte) []byte { return b[:8192] }},
	} {
		_, err := Open(bytes.NewReader(tt.harm(bytes.Clone(good))))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	e, err := Open(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Lookup("lost+found/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := e.ReadFile("lost+found"); err == nil {
		t.Error("a directory was read as a file")
	}
}
func links(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Nlink) }
