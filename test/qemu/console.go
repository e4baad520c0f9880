package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"

	"slipway.dev/slipway/configs/handoff"
)

// tailLines is how much of a console an error shows.
const tailLines = 40

// errConsoleEnded is why a Wait ends when nothing more can come.
var errConsoleEnded = errors.New("console ended")

// Console keeps everything a machine printed: as bytes, as lines, and the
// events among the lines. It is an io.Writer for what comes from the machine
// and never blocks it. The zero value is ready.
type Console struct {
	// Tolerate is Machine.Tolerate. Log gets a raw copy; nil keeps none.
	Tolerate func(handoff.Event) bool
	Log      io.Writer

	mu       sync.Mutex
	raw      []byte
	partial  []byte // of the last line, without its end
	lines    []string
	events   []handoff.Event
	broken   []error
	logErr   error
	panicked error
	ended    error
	mark     int           // events before it belong to an earlier boot
	markLn   int           // the same for lines
	changed  chan struct{} // closed and replaced whenever something was added
}

// control matches what firmware and boot menus draw with: CSI sequences of
// ECMA-48 and single-character escapes.
var control = regexp.MustCompile(`\x1b\[[0-9;?=]*[ -/]*[@-~]|\x1b[@-Z\\^_78=>]|[\x00-\x08\x0b-\x1a\x7f]`)

// Write takes output of the machine. It never fails.
func (c *Console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Log != nil && c.logErr == nil {
		_, c.logErr = c.Log.Write(b)
	}
	c.raw = append(c.raw, b...)
	rest := b
	for {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		c.line(append(c.partial, rest[:i]...))
		c.partial, rest = nil, rest[i+1:]
	}
	c.partial = append(c.partial, rest...)
	c.wake()
	return len(b), nil
}

// line takes one line without its newline.
func (c *Console) line(b []byte) {
	text := clean(b)
	c.lines = append(c.lines, text)
	if strings.Contains(text, "Kernel panic - not syncing") { // kernel/panic.c; the machine hangs from here on
		c.panicked = &PanicError{Line: text}
	}
	e, ok, err := handoff.ParseLine([]byte(text))
	switch {
	case err != nil:
		c.broken = append(c.broken, err)
	case ok:
		c.events = append(c.events, e)
	}
}

func clean(b []byte) string {
	return strings.TrimRight(control.ReplaceAllString(strings.ReplaceAll(string(b), "\r", ""), ""), " ")
}

// wake wants c.mu held.
func (c *Console) wake() {
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// next is closed at the following change; wants c.mu held.
func (c *Console) next() <-chan struct{} {
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return c.changed
}

// End says that nothing more will come, and why (nil: the machine went off).
func (c *Console) End(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		c.ended = errConsoleEnded
		if why != nil {
			c.ended = fmt.Errorf("%w: %w", errConsoleEnded, why)
		}
	}
	c.wake()
}

// PanicError is a kernel that has stopped.
type PanicError struct{ Line string }

func (e *PanicError) Error() string { return e.Line }

// StaleTranslation introduces what qemutest says of a failed test one of whose
// machines met it: see Console.Stale.
const StaleTranslation = "the emulator ran a stale translation"

// Stale is the line with which a kernel says that it ran into a breakpoint of its
// own, "" without one. Linux patches its code while it runs, with int3 in the
// first byte meanwhile (arch/x86/kernel/alternative.c, text_poke_bp_batch), and a
// processor of QEMU 7.2's TCG may keep a translation that it made of that moment:
// the oops shows the patched code, and an int3 that is not there. Only machines of
// two processors and more meet it, more on a busy host.
func (c *Console) Stale() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.lines, func(l string) bool { return strings.Contains(l, "Oops: int3") })
	if i < 0 {
		return ""
	}
	return c.lines[i]
}

// Forget makes later Waits look only at what comes from now on: call it right
// before a reset. An unfinished line counts as finished.
func (c *Console) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.partial) > 0 {
		c.line(c.partial)
		c.partial = nil
	}
	c.mark, c.markLn, c.panicked = len(c.events), len(c.lines), nil
}

// Bytes is the whole output so far.
func (c *Console) Bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.raw)
}

// Lines are the complete lines so far, without line ends and escape sequences.
func (c *Console) Lines() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lines)
}

// Events are the events so far.
func (c *Console) Events() []handoff.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}

// Broken are lines that began like an event but could not be read: usually the
// kernel printed into the middle.
func (c *Console) Broken() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.broken)
}

// Tail is the last n lines, with the unfinished one, for an error message.
func (c *Console) Tail(n int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := slices.Clone(c.lines)
	if p := clean(c.partial); p != "" {
		l = append(l, p)
	}
	return strings.Join(l[max(0, len(l)-n):], "\n")
}

// Subscribe calls f with each event, those of the past first, until ctx ends or
// the console does. It returns at once; f is called from one goroutine, and
// done is closed after its last call.
func (c *Console) Subscribe(ctx context.Context, f func(handoff.Event)) (done <-chan struct{}) {
	end := make(chan struct{})
	go func() {
		defer close(end)
		for n := 0; ; {
			c.mu.Lock()
			news, changed, ended := c.events[n:len(c.events):len(c.events)], c.next(), c.ended
			c.mu.Unlock()
			for _, e := range news {
				f(e)
			}
			n += len(news)
			if ended != nil {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}()
	return end
}

// Wait returns the first event since Forget that match accepts, also one of the past.
// A failed event that is neither accepted nor tolerated, a kernel panic, the
// end of the console and the end of ctx are errors that show the last lines.
func (c *Console) Wait(ctx context.Context, match func(handoff.Event) bool) (handoff.Event, error) {
	var got handoff.Event
	n := -1
	err := c.wait(ctx, func() (bool, error) {
		if c.panicked != nil {
			return false, c.panicked
		}
		for n = max(n, c.mark); n < len(c.events); n++ {
			e := c.events[n]
			if match(e) {
				got = e
				return true, nil
			}
			if e.State == handoff.Failed && (c.Tolerate == nil || !c.Tolerate(e)) {
				return false, &FailedError{Event: e}
			}
		}
		return false, nil
	})
	return got, err
}

// WaitLine returns the first line since Forget that contains text, also one
// that is not finished yet, such as a prompt.
func (c *Console) WaitLine(ctx context.Context, text string) (string, error) {
	var got string
	n := -1
	err := c.wait(ctx, func() (bool, error) {
		for n = max(n, c.markLn); n < len(c.lines); n++ {
			if strings.Contains(c.lines[n], text) {
				got = c.lines[n]
				return true, nil
			}
		}
		got = clean(c.partial)
		return strings.Contains(got, text), nil
	})
	if err != nil {
		return "", fmt.Errorf("waiting for %q: %w", text, err)
	}
	return got, nil
}

// FailedError is a step that the machine reported as failed.
type FailedError struct{ Event handoff.Event }

func (e *FailedError) Error() string {
	s := fmt.Sprintf("phase %q", e.Event.Phase)
	if e.Event.Step != "" {
		s += fmt.Sprintf(" step %q", e.Event.Step)
	}
	s += " failed"
	if e.Event.Code != "" {
		s += " (" + e.Event.Code + ")"
	}
	if e.Event.Text != "" {
		s += ": " + e.Event.Text
	}
	if e.Event.Hint != "" {
		s += " [" + e.Event.Hint + "]"
	}
	return s
}

// wait calls look, with c.mu held, at every change until it is content.
func (c *Console) wait(ctx context.Context, look func() (bool, error)) error {
	for {
		c.mu.Lock()
		ok, err := look()
		changed, ended := c.next(), c.ended
		c.mu.Unlock()
		if ok {
			return nil
		}
		if err == nil {
			err = ended
		}
		if err == nil {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
		}
		return fmt.Errorf("%w; last lines of the console:\n%s", err, indent(c.Tail(tailLines)))
	}
}

func indent(s string) string {
	if s == "" {
		return "    (nothing was printed)"
	}
	return "    " + strings.ReplaceAll(s, "\n", "\n    ")
}
