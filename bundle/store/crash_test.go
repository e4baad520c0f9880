package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"slipway.dev/slipway/bundle/lock"
)

// putter is the directory in which this test program, started once more, puts
// blobs until it is killed.
const putter = "SLIPWAY_STORE_PUTTER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(putter); dir != "" {
		fmt.Fprintln(os.Stderr, putForEver(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// putForEver says "ready" once and then puts one blob of random size after another.
func putForEver(dir string) error {
	s, err := New(dir)
	if err != nil {
		return err
	}
	r := rand.NewChaCha8(seedOf(uint64(os.Getpid()), uint64(time.Now().UnixNano())))
	fmt.Println("ready")
	for n := uint64(0); ; n++ {
		size := int64(r.Uint64() % (1 << 20))
		if _, _, err := s.Put(context.Background(), io.LimitReader(r, size), ""); err != nil {
			return err
		}
	}
}

func seedOf(a, b uint64) (seed [32]byte) {
	binary.LittleEndian.PutUint64(seed[:], a)
	binary.LittleEndian.PutUint64(seed[8:], b)
	return seed
}

// TestKilledPutsLeaveNoHalfBlob: 200 times kill -9 at a random moment; whatever
// has a blob's name has the blob's content.
func TestKilledPutsLeaveNoHalfBlob(t *testing.T) {
	const times = 200
	dir := t.TempDir()
	checked := map[string]bool{}
	r := rand.New(rand.NewPCG(1, 2))
	for range times {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), putter+"="+dir)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
			t.Fatalf("%v: %s", err, stderr.String())
		}
		time.Sleep(time.Duration(r.IntN(12_000)) * time.Microsecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if stderr.Len() > 0 {
			t.Fatal(stderr.String())
		}
		verifyNew(t, dir, checked)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".put-*"))
	if err != nil || len(left) == 0 || len(checked) == 0 {
		t.Errorf("%d blobs and %d unfinished files: the kills have missed what they were for, %v", len(checked), len(left), err)
	}
	t.Logf("%d kills: %d whole blobs, %d unfinished files under no blob's name", times, len(checked), len(left))
	clearsAbandoned(t, dir, left)
}

func verifyNew(t *testing.T, dir string, checked map[string]bool) {
	t.Helper()
	s := &Store{dir: dir}
	names, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if checked[n.Name()] {
			continue
		}
		checked[n.Name()] = true
		if err := s.Verify(lock.Digest(n.Name())); err != nil {
			t.Errorf("blob %s: %v", n.Name(), err)
		}
	}
}

// clearsAbandoned: the next day they are gone, and one of today is not.
func clearsAbandoned(t *testing.T, dir string, left []string) {
	t.Helper()
	if len(left) < 2 {
		return
	}
	for _, name := range left[1:] {
		old := time.Now().Add(-25 * time.Hour)
		if err := os.Chtimes(name, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := New(dir); err != nil {
		t.Fatal(err)
	}
	now, err := filepath.Glob(filepath.Join(dir, ".put-*"))
	if err != nil || len(now) != 1 || now[0] != left[0] {
		t.Errorf("left after a day: %v, %v; want %s", now, err, left[0])
	}
}

// failing gives n bytes and then an error, as a download or a disk does.
type failing struct {
	n   int
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	if f.n == 0 {
		return 0, f.err
	}
	n := min(f.n, len(p))
	f.n -= n
	return n, nil
}

func TestPutKeepsNothingOfAFailure(t *testing.T) {
	gone := errors.New("line is down")
	for name, c := range map[string]struct {
		put  func(s *Store) error
		want string
	}{
		"reader": {func(s *Store) error {
			_, _, err := s.Put(context.Background(), &failing{3 << 20, gone}, "")
			return err
		}, "line is down"},
		"reader at once": {func(s *Store) error { _, _, err := s.Put(context.Background(), &failing{0, gone}, ""); return err }, "line is down"},
		"cut short": {func(s *Store) error {
			_, _, err := s.Put(context.Background(), strings.NewReader("hell"), lock.SumBytes([]byte("hello")))
			return err
		}, "digest mismatch: got " + string(lock.SumBytes([]byte("hell"))) + " (4 bytes), want " + string(lock.SumBytes([]byte("hello")))},
		"writer": {func(s *Store) error {
			_, _, err := s.PutFunc("", func(f *os.File) error { _, _ = f.WriteString("half"); return syscall.ENOSPC })
			return err
		}, "no space left on device"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := New(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.put(s); err == nil || err.Error() != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
			wantNothing(t, dir)
		})
	}
}

// TestPutOnAFullDisk: the store is on a file system of 1 MiB.
func TestPutOnAFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mounting a small tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = s.Put(context.Background(), bytes.NewReader(make([]byte, 2<<20)), "")
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
	wantNothing(t, dir)
	if _, _, err := s.Put(context.Background(), bytes.NewReader(make([]byte, 512<<10)), ""); err != nil {
		t.Errorf("half a megabyte after that: %v", err)
	}
}

func wantNothing(t *testing.T, dir string) {
	t.Helper()
	for _, pattern := range []string{".put-*", "blobs/sha256/*"} {
		if left, err := filepath.Glob(filepath.Join(dir, pattern)); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}
