package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
)

type events struct {
	mu   sync.Mutex
	all  []handoff.Event
	more chan struct{}
}

func newEvents() *events { return &events{more: make(chan struct{}, 1000)} }

func (e *events) add(ev handoff.Event) {
	e.mu.Lock()
	e.all = append(e.all, ev)
	e.mu.Unlock()
	e.more <- struct{}{}
}

// until waits for n events of a state.
func (e *events) until(t *testing.T, s handoff.State, n int) []handoff.Event {
	t.Helper()
	for {
		var got []handoff.Event
		e.mu.Lock()
		for _, x := range e.all {
			if x.State == s {
				got = append(got, x)
			}
		}
		e.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-e.more:
		case <-t.Context().Done():
			t.Fatal("no more events")
		}
	}
}

func supervisor(t *testing.T) (*Supervisor, *events, string) {
	ev := newEvents()
	dir := t.TempDir()
	s := New(NewChildren(), Dirs{Log: dir}, ev.add)
	t.Cleanup(func() { s.StopAll(5 * time.Second) })
	return s, ev, dir
}

func TestDelay(t *testing.T) {
	var got []time.Duration
	for n := 1; n <= 8; n++ {
		got = append(got, delay(n)/time.Second)
	}
	if want := []time.Duration{0, 1, 2, 4, 8, 15, 15, 15}; !slices.Equal(got, want) {
		t.Errorf("got %d, want %d", got, want)
	}
}

func TestServiceThatEndsIsStartedAgain(t *testing.T) {
	s, ev, dir := supervisor(t)
	if err := s.Add(t.Context(), Service{Name: "short", Argv: []string{"/bin/sh", "-c", "echo one; echo two >&2; exit 3"}}); err != nil {
		t.Fatal(err)
	}
	ev.until(t, handoff.Started, 2) // the first restart comes at once
	failed := ev.until(t, handoff.Failed, 1)[0]
	if failed.Step != "short" || failed.Code != "SW-SERVICE-EXIT" || !strings.Contains(failed.Text, "exit status 3") {
		t.Errorf("got %+v", failed)
	}
	if got := failed.Data["lines"].([]string); !slices.Contains(got, "one") || !slices.Contains(got, "two") {
		t.Errorf("lines %q", got)
	}
	s.Stop("short", time.Second)
	raw, err := os.ReadFile(filepath.Join(dir, "short.log"))
	if err != nil || !strings.HasPrefix(string(raw), "one\ntwo\n") {
		t.Errorf("log %q, %v", raw, err)
	}
	if err := s.Up(t.Context(), "missing"); err == nil {
		t.Error("an unknown service is up")
	}
}

// TestRestart: what was asked for is no failure, and waits for nothing.
func TestRestart(t *testing.T) {
	s, ev, _ := supervisor(t)
	if err := s.Add(t.Context(), Service{Name: "sleep", Argv: []string{"/bin/sleep", "1000"}}); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 3; n++ {
		ev.until(t, handoff.Started, n)
		if err := s.Restart("sleep"); err != nil {
			t.Fatal(err)
		}
	}
	ev.until(t, handoff.Started, 4)
	ev.mu.Lock()
	defer ev.mu.Unlock()
	for _, e := range ev.all {
		if e.State == handoff.Failed {
			t.Errorf("%+v", e)
		}
	}
	if err := s.Restart("other"); err == nil {
		t.Error("an unknown service starts again")
	}
}

func TestReadyWhenAndStop(t *testing.T) {
	s, ev, dir := supervisor(t)
	gate, ready := filepath.Join(dir, "gate"), make(chan struct{})
	err := s.Add(t.Context(), Service{Name: "sleep", Argv: []string{"/bin/sleep", "1000"},
		When:  func() bool { _, err := os.Stat(gate); return err == nil },
		Ready: func(ctx context.Context) error { <-ready; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if pid := s.Services()[0].PID; pid != 0 {
		t.Errorf("runs before When: pid %d", pid)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ev.until(t, handoff.Started, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Up(ctx, "sleep"); !errors.Is(err, context.Canceled) && err == nil {
		t.Errorf("up before Ready: %v", err)
	}
	close(ready)
	if err := s.Up(t.Context(), "sleep"); err != nil {
		t.Fatal(err)
	}
	pid := s.Services()[0].PID
	s.StopAll(10 * time.Second)
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("pid %d after StopAll: %v", pid, err)
	}
	if err := s.Add(t.Context(), Service{Name: "sleep", Argv: []string{"/bin/true"}}); err == nil {
		t.Error("a second service of the name was accepted")
	}
}

func TestStopKillsWhatIgnoresSIGTERM(t *testing.T) {
	s, _, _ := supervisor(t)
	if err := s.Add(t.Context(), Service{Name: "deaf", Argv: []string{"/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.01; done"}}); err != nil {
		t.Fatal(err)
	}
	for len(s.Tail("deaf")) == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	pid := s.Services()[0].PID
	s.Stop("deaf", 50*time.Millisecond)
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("pid %d is still there: %v", pid, err)
	}
}

func TestMissingProgramIsAnEvent(t *testing.T) {
	s, ev, _ := supervisor(t)
	if err := s.Add(t.Context(), Service{Name: "none", Argv: []string{"/nonexistent/program"}}); err != nil {
		t.Fatal(err)
	}
	if got := ev.until(t, handoff.Failed, 1)[0].Text; !strings.Contains(got, "/nonexistent/program") {
		t.Errorf("got %q", got)
	}
}

func TestRun(t *testing.T) {
	c := NewChildren()
	var got []string
	if err := c.Run(t.Context(), exec.Command("/bin/sh", "-c", "echo a; printf b"), func(s string) { got = append(got, s) }); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %q, %v", got, err)
	}
	err := c.Run(t.Context(), exec.Command("/bin/sh", "-c", "echo why; exit 7"), nil)
	if e, ok := errors.AsType[*ExitError](err); !ok || !slices.Equal(e.Tail, []string{"why"}) || err.Error() != "/bin/sh: exit status 7: why" {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = c.Run(ctx, exec.Command("/bin/sh", "-c", "echo up; exec sleep 1000"), func(string) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := c.Start(&exec.Cmd{Path: "/bin/true", Stdout: &strings.Builder{}}); err == nil {
		t.Error("a pipe was accepted")
	}
}

// TestReapLeavesOwnChildren runs a reaper of this process's orphans beside
// commands whose exit status matters. PR_SET_CHILD_SUBREAPER makes this
// process adopt, as PID 1 does.
func TestReapLeavesOwnChildren(t *testing.T) {
	const subreaper = 36 // prctl(2)
	if _, _, e := syscall.Syscall(syscall.SYS_PRCTL, subreaper, 1, 0); e != 0 {
		t.Fatalf("prctl: %v", e)
	}
	t.Cleanup(func() { _, _, _ = syscall.Syscall(syscall.SYS_PRCTL, subreaper, 0, 0) })
	c := NewChildren()
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() { c.Reap(ctx, slog.New(slog.DiscardHandler)); close(stopped) }()
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			// Each leaves an orphan that ends a moment later.
			err := c.Run(t.Context(), exec.Command("/bin/sh", "-c", fmt.Sprintf("(sleep 0.05; exit 1) >/dev/null 2>&1 & exit %d", i)), nil)
			e, _ := errors.AsType[*exec.ExitError](err)
			if (i == 0) != (err == nil) || (i > 0 && (e == nil || e.ExitCode() != i)) {
				t.Errorf("command %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	for { // until there is no child of any kind left
		if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err == syscall.ECHILD {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	<-stopped
}

func TestRingAndLines(t *testing.T) {
	r := newRing(3)
	lines(strings.NewReader("1\r\n2\n3\n4\n"+strings.Repeat("x", 5000)), r.add)
	got := r.lines()
	if len(got) != 3 || got[0] != "4" || len(got[1])+len(got[2]) != 5000 {
		t.Errorf("got %d lines, first %q", len(got), got[0])
	}
}

// TestInto starts a command in a group of its own below the first cgroup v2
// hierarchy of this machine.
func TestInto(t *testing.T) {
	raw, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	top := ""
	for l := range strings.Lines(string(raw)) {
		if f := strings.Fields(l); top == "" && len(f) > 2 && f[2] == "cgroup2" {
			top = f[1]
		}
	}
	dir := filepath.Join(top, fmt.Sprintf("slipway-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); top == "" || err != nil {
		t.Skipf("no control group (version 2) can be made here, in %q: %v", top, err)
	}
	defer func() {
		if err := os.Remove(dir); err != nil {
			t.Errorf("the group is not left empty: %v", err)
		}
	}()
	for range 2 { // the second finds the group there
		cmd := exec.Command("/bin/cat", "/proc/self/cgroup")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		group, err := Into(cmd, dir)
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.Output()
		group.Close()
		if err != nil || !strings.Contains(string(out), "/"+filepath.Base(dir)+"\n") {
			t.Errorf("in %q: %v", out, err)
		}
	}
	cmd := exec.Command("/bin/true")
	if _, err := Into(cmd, filepath.Join(dir, "cgroup.procs", "x")); err == nil {
		t.Error("a group below a file")
	}
}
