package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/images/layout"
)

// exited is a program's end; -1 is a signal's (os.ProcessState.ExitCode).
type exited int

func (e exited) Error() string { return fmt.Sprintf("exit %d", int(e)) }
func (e exited) ExitCode() int { return int(e) }

// TestCheckBelievesOnlyItsEnd: a volume whose check was killed is not mounted.
func TestCheckBelievesOnlyItsEnd(t *testing.T) {
	if _, err := os.Stat("/" + layout.E2fsck); err != nil {
		t.Skipf("no e2fsprogs: %v", err)
	}
	for _, c := range []struct {
		ends []exited // of one run after the other
		ok   bool
	}{
		{[]exited{0}, true}, {[]exited{1}, true}, {[]exited{2}, true}, {[]exited{3}, true},
		{[]exited{-1}, false}, {[]exited{4}, false}, {[]exited{32}, false},
		{[]exited{8, 1}, true}, {[]exited{8, 8}, false}, {[]exited{8, -1}, false},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // the phase's time is over: the check goes on
		runs := 0
		d := &Disk{Path: "/dev/vda", m: Machine{Tell: func(string) {}, Run: func(ctx context.Context, argv []string) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			end := c.ends[runs]
			if runs++; end == 0 {
				return nil
			}
			return fmt.Errorf("%q: %w", argv, end)
		}}}
		if err := d.check(ctx, "/dev/vda4"); (err == nil) != c.ok || runs != len(c.ends) {
			t.Errorf("%v: %v after %d runs", c.ends, err, runs)
		}
	}
}

// TestRestOfAForeignDiskStays: also when another try makes the file systems.
func TestRestOfAForeignDiskStays(t *testing.T) {
	m, dev := machine(t), loopDisk(t, enough)
	var made [][]string
	run := m.Run
	m.Run = func(ctx context.Context, argv []string) error {
		if strings.HasSuffix(argv[0], layout.Mke2fs) {
			made = append(made, argv)
		}
		return run(ctx, argv)
	}
	for _, rest := range []bool{true, false} {
		made, m.Rest = nil, rest
		begin(t, m, dev, Owner{"node-1", fmt.Sprint(rest)}, bundle(t, "system")).Unmount()
		for _, argv := range made {
			if slices.Contains(argv, "nodiscard") != rest {
				t.Errorf("the rest of the disk is to stay: %t, and mke2fs was run as %q", rest, argv)
			}
		}
		if len(made) != 2 {
			t.Errorf("mke2fs ran %d times", len(made))
		}
	}
}

// TestResetOfAFullNode: pods have filled the state volume.
func TestResetOfAFullNode(t *testing.T) {
	m, dev := machine(t), loopDisk(t, enough)
	d := installedOn(t, m, dev, Owner{"node-1", "i-1"}, bundle(t, "system"))
	defer d.Unmount()
	f, err := os.Create(filepath.Join(d.State, "pods"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var s unix.Statfs_t
	for size := int64(1 << 40); size >= 512; size /= 2 {
		if err := unix.Statfs(d.State, &s); err != nil {
			t.Fatal(err)
		}
		end, err := f.Seek(0, 2)
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Fallocate(int(f.Fd()), 0, end, min(size, int64(s.Bavail)*s.Bsize))
	}
	if err := d.KeepMark(Mark{Verb: Reimage, Token: "t"}); err == nil || !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the state volume is not full: %v", err)
	}
	if err := d.KeepMark(Mark{Verb: Reset}); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Mark(); err != nil || got.Verb != Reset {
		t.Errorf("the mark is %+v, %v", got, err)
	}
}
