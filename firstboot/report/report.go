// Package report turns what happens on a node into events and puts them on the
// consoles: a dashboard on screens; on serial lines a line for people and a
// line of JSON for machines.
//
// It decides nothing and stores nothing but a copy of the events in a file.
package report

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs/handoff"
)

// Failure is an error with what an operator needs: a stable code, the next
// step, and the last lines of the program that ended.
type Failure struct {
	Code string // "SW-STORE-DIGEST"
	Hint string
	Tail []string
	Err  error
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// Fail makes a Failure of err; nil stays nil.
func Fail(code, hint string, err error) error {
	if err == nil {
		return nil
	}
	return &Failure{Code: code, Hint: hint, Err: err}
}

// Writer receives one event as it looks on a screen and on a serial line.
type Writer interface{ Write(screen, serial []byte) }

// Reporter numbers events and writes them. Use New.
type Reporter struct {
	out    Writer
	uptime func() float64
	json   bool
	mu     sync.Mutex
	seq    int
	phase  string
	file   *journal
	also   func(handoff.Event)
	screen dashboard
}

// New returns a reporter. With json false serial lines get text only.
func New(out Writer, json bool, uptime func() float64) *Reporter {
	return &Reporter{out: out, json: json, uptime: uptime}
}

// KeepIn also appends every event as JSON to a file, which gets an older one
// beside it (logfile.Older) when it reaches 4 MiB.
func (r *Reporter) KeepIn(path string) error { return r.keepIn(path, maxEvents) }

func (r *Reporter) keepIn(path string, max int64) error {
	f, err := newJournal(path, max)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.file = f
	r.mu.Unlock()
	return nil
}

// Also hands every event on, in order; nil ends that. The function must not wait
// for anything.
func (r *Reporter) Also(f func(handoff.Event)) {
	r.mu.Lock()
	r.also = f
	r.mu.Unlock()
}

// Enter names the phase of events that have none.
func (r *Reporter) Enter(phase string) {
	r.mu.Lock()
	r.phase = phase
	r.mu.Unlock()
}

// Emit numbers, stamps and writes an event.
func (r *Reporter) Emit(e handoff.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	e.Seq, e.Uptime = r.seq, float64(int64(r.uptime()*1000))/1000
	if e.Phase == "" {
		e.Phase = r.phase
	}
	text, line := []byte(Text(e)), e.Line()
	serial := text
	if r.json {
		serial = append(append([]byte{}, text...), strings.ReplaceAll(string(line), "\n", "\r\n")...)
	}
	r.screen.add(e)
	r.out.Write([]byte(r.screen.render()), serial)
	if r.file != nil {
		r.file.add(e, line)
	}
	if r.also != nil {
		r.also(e)
	}
}

// Notice keeps lines at the bottom of every screen, and writes them to serial
// lines once.
func (r *Reporter) Notice(lines []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.screen.notice = lines
	r.out.Write([]byte(r.screen.render()), []byte(strings.Join(lines, "\r\n")+"\r\n"))
}

// Error emits a failed event for err in a phase, with code, hint and lines
// when err is a Failure.
func (r *Reporter) Error(phase, step string, err error, data map[string]any) {
	e := handoff.Event{Phase: phase, Step: step, State: handoff.Failed, Code: "SW-INTERNAL", Text: err.Error(), Data: data,
		Hint: "this is a fault of slipway itself: report it with this screen"}
	if f, ok := errors.AsType[*Failure](err); ok {
		e.Code, e.Hint = f.Code, f.Hint
		if len(f.Tail) > 0 {
			if e.Data == nil {
				e.Data = map[string]any{}
			}
			e.Data["lines"] = f.Tail
		}
	}
	r.Emit(e)
}

// Text is an event for people; lines end in CR LF, because a raw terminal does
// not go to the first column by itself.
func Text(e handoff.Event) string {
	var b strings.Builder
	name := e.Phase
	if e.Step != "" {
		name += "/" + e.Step
	}
	mark := map[handoff.State]string{handoff.Done: "ok  ", handoff.Failed: "FAIL", handoff.Skipped: "skip"}[e.State]
	if mark == "" {
		mark = "..  "
	}
	fmt.Fprintf(&b, "[%8.2f] %s %-12s %s", e.Uptime, mark, name, strings.Join(texts(e.Text), "\r\n           | "))
	if s, ok := e.Data["seconds"].(float64); ok && e.State == handoff.Done {
		fmt.Fprintf(&b, " (%.1f s)", s)
	}
	b.WriteString("\r\n")
	if c := code(e); c != "" {
		b.WriteString("\r\n           " + strings.Join(letters(c), "\r\n           ") + "\r\n\r\n")
	}
	if e.State != handoff.Failed && e.Code == "" {
		return b.String()
	}
	if e.Code != "" {
		fmt.Fprintf(&b, "           code: %s\r\n", e.Code)
	}
	if l, ok := e.Data["lines"].([]string); ok {
		for _, s := range l {
			fmt.Fprintf(&b, "           | %s\r\n", printable(s))
		}
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, "           next: %s\r\n", e.Hint)
	}
	return b.String()
}

// texts splits a text of several lines.
func texts(s string) []string {
	l := strings.Split(strings.TrimRight(s, "\n"), "\n")
	for i := range l {
		l[i] = printable(l[i])
	}
	return l
}

// printable keeps a child's output from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
}

// Uptime counts seconds since the kernel started, before /proc is there too.
func Uptime() func() float64 {
	return func() float64 {
		var t unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // exists since 2.6.39
		return float64(t.Sec) + float64(t.Nsec)/1e9
	}
}

// JSON says whether serial lines get JSON.
func (r *Reporter) JSON(on bool) {
	r.mu.Lock()
	r.json = on
	r.mu.Unlock()
}
