package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Children is the only way this program makes processes. It tells apart those
// that it started, which os/exec waits for, and those that PID 1 adopted,
// which Reap waits for. Without that a wait for any child would steal the exit
// status from os/exec.
type Children struct {
	mu    sync.Mutex
	owned map[int]bool
	wake  chan struct{} // a child was started
}

// NewChildren returns an empty set.
func NewChildren() *Children {
	return &Children{owned: map[int]bool{}, wake: make(chan struct{}, 1)}
}

// Start starts cmd. Its output must be files or nil: a pipe copied by os/exec
// would keep Wait from returning while a grandchild holds it. Wait must follow.
func (c *Children) Start(cmd *exec.Cmd) error {
	for _, w := range []io.Writer{cmd.Stdout, cmd.Stderr} {
		if _, ok := w.(*os.File); w != nil && !ok {
			return fmt.Errorf("starting %q: output is a %T, want a file", cmd.Path, w)
		}
	}
	c.mu.Lock() // Reap must not see the process before it is owned.
	defer c.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	c.owned[cmd.Process.Pid] = true
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return nil
}

// Wait is cmd.Wait for a command that Start started.
func (c *Children) Wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	c.mu.Lock()
	delete(c.owned, cmd.Process.Pid)
	c.mu.Unlock()
	return err
}

// Run runs a short program to its end. Each line it writes goes to line as it
// comes; an error names the program and holds its last lines.
func (c *Children) Run(ctx context.Context, cmd *exec.Cmd, line func(string)) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	if err = c.Start(cmd); err != nil {
		w.Close()
		return fmt.Errorf("%s: %w", cmd.Path, err)
	}
	w.Close()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	tail := newRing(10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines(r, func(s string) {
			tail.add(s)
			if line != nil {
				line(s)
			}
		})
	}()
	err = c.Wait(cmd)
	// A grandchild may keep the pipe open for ever.
	_ = r.SetReadDeadline(time.Now().Add(time.Second))
	<-done
	if err = errors.Join(ctx.Err(), err); err != nil {
		return &ExitError{Program: cmd.Path, Err: err, Tail: tail.lines()}
	}
	return nil
}

// ExitError is a program that did not end well.
type ExitError struct {
	Program string
	Err     error
	Tail    []string // its last lines
}

func (e *ExitError) Error() string {
	s := fmt.Sprintf("%s: %v", e.Program, e.Err)
	if n := len(e.Tail); n > 0 {
		s += ": " + strings.TrimSpace(e.Tail[n-1])
	}
	return s
}

func (e *ExitError) Unwrap() error { return e.Err }

// Reap collects adopted processes until ctx ends. One goroutine of PID 1 runs it.
func (c *Children) Reap(ctx context.Context, log *slog.Logger) {
	runtime.LockOSThread() // it sits in waitid
	defer runtime.UnlockOSThread()
	for ctx.Err() == nil {
		pid, err := peek()
		switch {
		case err == unix.ECHILD:
			select {
			case <-ctx.Done():
			case <-c.wake:
			case <-time.After(time.Second): // an orphan may come without a start
			}
		case err != nil:
			continue // EINTR
		default:
			c.collect(pid, log)
		}
	}
}

func (c *Children) collect(pid int, log *slog.Logger) {
	c.mu.Lock()
	own := c.owned[pid]
	if !own {
		var ws unix.WaitStatus
		_, _ = unix.Wait4(pid, &ws, unix.WNOHANG, nil)
		log.Debug("reaped", "pid", pid, "status", int(ws))
	}
	c.mu.Unlock()
	if own { // its owner is in Wait and about to collect it
		time.Sleep(2 * time.Millisecond)
	}
}

// peek waits until some child has ended and leaves it as it is.
func peek() (pid int, err error) {
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		return 0, err
	}
	// siginfo_t on 64-bit Linux: three ints, 4 bytes of padding, then si_pid
	// (include/uapi/asm-generic/siginfo.h). x/sys has no field for it.
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), 16))), nil
}

// lines calls f for each line of r, cut at 4 KiB, until r ends.
func lines(r io.Reader, f func(string)) {
	const most = 4096
	var rest []byte
	buf := make([]byte, 8192)
	for {
		n, err := r.Read(buf)
		for chunk := buf[:n]; len(chunk) > 0; {
			i := bytes.IndexByte(chunk[:min(len(chunk), most-len(rest))], '\n')
			take := i + 1
			if i < 0 {
				take = min(len(chunk), most-len(rest))
			}
			rest = append(rest, chunk[:take]...)
			chunk = chunk[take:]
			if i >= 0 || len(rest) == most {
				f(strings.TrimRight(string(rest), "\r\n"))
				rest = rest[:0]
			}
		}
		if err != nil {
			if len(rest) > 0 {
				f(string(rest))
			}
			return
		}
	}
}
