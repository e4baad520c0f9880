// Package control is how a program on a node asks PID 1 for something: one line
// of JSON over a Unix socket that only root may use, answered with events until
// the end.
//
// It does not know the verbs, and decides nothing.
package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/report"
)

// Path is where PID 1 of a node listens.
const Path = "/run/slipway/control.sock"

// Limits of a conversation.
const (
	maxRequest  = 64 << 10         // bytes
	requestTime = 10 * time.Second // until the request is there
	eventTime   = 5 * time.Second  // until an event is taken; then nobody reads
)

// phase is that of the last event of a conversation, which says how it ended.
const phase = "control"

// Request is what is asked.
type Request struct {
	Verb string   `json:"verb"`
	Args []string `json:"args,omitempty"`
}

// Handler does what was asked and tells how it goes on. What was begun goes on
// when the one who asked goes away.
type Handler func(ctx context.Context, r Request, tell func(handoff.Event)) error

// Serve answers until ctx ends, one request at a time: another is refused
// meanwhile. The socket's mode is 0600, and whoever connects must be of the same
// user.
func Serve(ctx context.Context, path string, do Handler) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	var busy sync.Mutex
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		all.Go(func() {
			defer c.Close()
			serve(ctx, c.(*net.UnixConn), &busy, do)
		})
	}
}

// serve is one conversation.
func serve(ctx context.Context, c *net.UnixConn, busy *sync.Mutex, do Handler) {
	var one sync.Mutex // handlers tell from several goroutines
	tell := func(e handoff.Event) {
		one.Lock()
		defer one.Unlock()
		_ = c.SetWriteDeadline(time.Now().Add(eventTime))
		_, _ = c.Write(e.Line()) // whoever asked may have gone
	}
	verb, err := "", sameUser(c)
	if err == nil {
		var r Request
		if r, err = receive(c); err == nil {
			verb = r.Verb
			err = alone(ctx, busy, r, tell, do)
		}
	}
	tell(last(verb, err))
}

// last is the event that ends a conversation.
func last(verb string, err error) handoff.Event {
	e := handoff.Event{Phase: phase, Step: verb, State: handoff.Done}
	if err != nil {
		e.State, e.Text = handoff.Failed, err.Error()
		if f, ok := errors.AsType[*report.Failure](err); ok {
			e.Code, e.Hint = f.Code, f.Hint
		}
	}
	return e
}

// alone runs the handler unless another request is being followed. A panic of it
// is an error: PID 1 must not end.
func alone(ctx context.Context, busy *sync.Mutex, r Request, tell func(handoff.Event), do Handler) (err error) {
	if !busy.TryLock() {
		return report.Fail("SW-CONTROL-BUSY", "wait until it has ended: slipway events -f", errors.New("something else that was asked for is under way"))
	}
	defer busy.Unlock()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("internal error: %v", p)
		}
	}()
	return do(ctx, r, tell)
}

func receive(c net.Conn) (Request, error) {
	var r Request
	if err := c.SetReadDeadline(time.Now().Add(requestTime)); err != nil {
		return r, err
	}
	line, err := bufio.NewReader(io.LimitReader(c, maxRequest)).ReadBytes('\n')
	if err != nil {
		return r, fmt.Errorf("reading the request: %w", err)
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("request: %w", err)
	}
	return r, nil
}

// sameUser: the socket gets its mode a moment after it exists (unix(7), SO_PEERCRED).
func sameUser(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var who *unix.Ucred
	var bad error
	if err := raw.Control(func(fd uintptr) { who, bad = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if bad == nil && int(who.Uid) != os.Geteuid() {
		bad = fmt.Errorf("user %d may ask for nothing here", who.Uid)
	}
	return bad
}

// Ask sends a request and prints what is told until it has ended. Its error is
// the handler's, with the next step.
func Ask(ctx context.Context, path string, r Request, out io.Writer) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("only root may ask for %q", r.Verb)
	}
	if err != nil {
		return fmt.Errorf("asking PID 1 of this node at %s: %w", filepath.Base(path), err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if _, err := c.Write(append(raw, '\n')); err != nil {
		return err
	}
	for in := bufio.NewReader(c); ; {
		line, err := in.ReadBytes('\n')
		if ctx.Err() != nil {
			return fmt.Errorf("not waiting for the end: %w; it goes on: slipway events -f", ctx.Err())
		}
		if err != nil {
			return fmt.Errorf("PID 1 did not say how %q ended: %w", r.Verb, err)
		}
		e, ok, err := handoff.ParseLine(line)
		if err != nil {
			return err
		}
		switch {
		case !ok:
		case e.Phase != phase:
			show(out, e)
		case e.State == handoff.Failed:
			return ended(e)
		case e.State == handoff.Done:
			return nil
		}
	}
}

func show(out io.Writer, e handoff.Event) {
	text := e.Text
	if e.Step != "" {
		text = e.Step + ": " + text
	}
	if e.State == handoff.Failed {
		text = strings.TrimSpace("failed " + e.Code + " " + text)
	}
	fmt.Fprintln(out, text)
	if e.Hint != "" {
		fmt.Fprintln(out, "  next: "+e.Hint)
	}
}

func ended(e handoff.Event) error {
	err := errors.New(e.Text)
	if e.Code != "" {
		err = fmt.Errorf("%s %w", e.Code, err)
	}
	if e.Hint != "" {
		err = fmt.Errorf("%w\n  next: %s", err, e.Hint)
	}
	return err
}
