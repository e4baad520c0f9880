// Package status shows people on a node what PID 1 has reported: phases,
// services, events and logs, from the files it keeps.
//
// It asks PID 1 nothing and changes nothing: it works when all else hangs.
package status

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/logfile"
)

// Node is where the files are.
type Node struct {
	Events string // file of JSON lines: /run/slipway/events.jsonl
	Logs   string // directory of <service>.log
}

// ErrUsage is a command line that means nothing.
var ErrUsage = errors.New("usage: slipway status | events [-f] [-o json] | logs [SERVICE [-f]] | upgrade [URL] | reset | seed VERB... | --help")

// Operator returns the arguments for the operator's slipway, when a command line
// is not the node's: every verb but the node's own, and those too after "seed",
// as in "slipway seed status".
func Operator(args []string) (rest []string, ok bool) {
	if len(args) > 0 && args[0] == "seed" {
		return args[1:], true
	}
	return args, len(args) > 0 && !slices.Contains([]string{"status", "events", "logs"}, args[0])
}

// Run executes one command line of the node's `slipway`.
func (n Node) Run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return ErrUsage
	}
	follow := slices.Contains(args, "-f")
	rest := slices.DeleteFunc(slices.Clone(args[1:]), func(a string) bool { return a == "-f" })
	switch {
	case args[0] == "status" && len(rest) == 0 && !follow:
		all, err := n.read()
		if err != nil {
			return err
		}
		return Table(out, all)
	case args[0] == "events" && (len(rest) == 0 || slices.Equal(rest, []string{"-o", "json"})):
		return n.events(ctx, follow, func(e handoff.Event, l []byte) error { return event(out, e, l, len(rest) > 0) })
	case args[0] == "logs" && len(rest) == 0 && !follow:
		return n.list(out)
	case args[0] == "logs" && len(rest) == 1:
		return n.log(ctx, rest[0], follow, out)
	}
	return ErrUsage
}

func event(out io.Writer, e handoff.Event, line []byte, asJSON bool) error {
	if asJSON {
		_, err := out.Write(line)
		return err
	}
	_, err := fmt.Fprintf(out, "%8.2f  %-8s %-28s %s\n", e.Uptime, e.State, join(e.Phase, e.Step), strings.ReplaceAll(e.Text, "\n", "\n"+strings.Repeat(" ", 48)))
	if err == nil && e.Hint != "" {
		_, err = fmt.Fprintf(out, "%48s%s  next: %s\n", "", e.Code, e.Hint)
	}
	return err
}

func join(phase, step string) string {
	if step == "" {
		return phase
	}
	return phase + "/" + step
}

// events hands over every event once, those of the older file first (package
// report says what a new one repeats).
func (n Node) events(ctx context.Context, follow bool, each func(handoff.Event, []byte) error) error {
	now, older, err := n.open()
	if err != nil {
		return err
	}
	seen := 0
	once := func(l []byte) error {
		e, ok, err := handoff.ParseLine(l)
		if !ok || err != nil || e.Seq > 0 && e.Seq <= seen {
			return nil // cut off by a full disk, and the next one is whole; or had before
		}
		seen = e.Seq
		return each(e, l)
	}
	if older != nil {
		if err := lines(ctx, older, "", once); err != nil {
			now.Close()
			return err
		}
	}
	name := ""
	if follow {
		name = n.Events
	}
	return lines(ctx, now, name, once)
}

// open opens the file of events and the one before it, if there is one. When the
// first became the second meanwhile, it looks again.
func (n Node) open() (now, older *os.File, err error) {
	for {
		if now, err = os.Open(n.Events); err != nil {
			return nil, nil, err
		}
		if older, err = os.Open(logfile.Older(n.Events)); errors.Is(err, fs.ErrNotExist) {
			return now, nil, nil
		} else if err != nil {
			now.Close()
			return nil, nil, err
		}
		a, err1 := now.Stat()
		b, err2 := older.Stat()
		if err := errors.Join(err1, err2); err != nil || !os.SameFile(a, b) {
			return now, older, err
		}
		now.Close()
		older.Close()
	}
}

func (n Node) read() (all []handoff.Event, err error) {
	err = n.events(context.Background(), false, func(e handoff.Event, _ []byte) error { all = append(all, e); return nil })
	return all, err
}

// Table shows the state of each phase and of each service, and what failed last.
func Table(out io.Writer, all []handoff.Event) error {
	var order []string
	phases, services := map[string]handoff.Event{}, map[string]handoff.Event{}
	var failure *handoff.Event
	for i, e := range all {
		switch {
		case e.Step == "":
			if _, ok := phases[e.Phase]; !ok {
				order = append(order, e.Phase)
			}
			phases[e.Phase] = e
		case e.Phase == "services" && e.State != handoff.Running:
			services[e.Step] = e
		}
		if e.State == handoff.Failed {
			failure = &all[i]
		} else if failure != nil && e.Phase == failure.Phase && e.Step == failure.Step && e.State == handoff.Done {
			failure = nil
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, p := range order {
		e := phases[p]
		fmt.Fprintf(w, "%s\t%s\t%.1f s\t%s\n", p, e.State, e.Uptime, first(e.Text))
	}
	names := make([]string, 0, len(services))
	for s := range services {
		names = append(names, s)
	}
	slices.Sort(names)
	for _, s := range names {
		e := services[s]
		fmt.Fprintf(w, "  %s\t%s\t%.1f s\t%s\n", s, e.State, e.Uptime, first(e.Text))
	}
	if err := w.Flush(); err != nil || failure == nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\nlast failure, %s at %.1f s: %s\n  %s\n  next: %s\n", join(failure.Phase, failure.Step), failure.Uptime, failure.Code, failure.Text, failure.Hint)
	return err
}

func first(s string) string { s, _, _ = strings.Cut(s, "\n"); return s }

func (n Node) list(out io.Writer) error {
	all, err := filepath.Glob(filepath.Join(n.Logs, "*.log"))
	for _, f := range all {
		fmt.Fprintln(out, strings.TrimSuffix(filepath.Base(f), ".log"))
	}
	return err
}

func (n Node) log(ctx context.Context, name string, follow bool, out io.Writer) error {
	if name != filepath.Base(name) {
		return fmt.Errorf("service %q: want a name, see `slipway logs`", name)
	}
	name = filepath.Join(n.Logs, name+".log")
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("service %q has no log; `slipway logs` lists those that have", strings.TrimSuffix(filepath.Base(name), ".log"))
	} else if err != nil {
		return err
	}
	if !follow {
		name = ""
	}
	return lines(ctx, f, name, func(l []byte) error { _, err := out.Write(l); return err })
}

// lines hands over each line of a file and closes it. With a name it follows:
// what comes later too, until ctx ends, and when another file has got the name,
// the rest of this one and then that.
func lines(ctx context.Context, f *os.File, name string, each func([]byte) error) error {
	defer func() { f.Close() }()
	r := bufio.NewReader(f)
	var part []byte
	var next *os.File
	for {
		l, err := r.ReadBytes('\n')
		part = append(part, l...)
		switch {
		case err == nil:
			if err := each(part); err != nil {
				return err
			}
			part = nil
			continue
		case next != nil: // the end of what was renamed
			f.Close()
			f, r, part, next = next, bufio.NewReader(next), nil, nil
			continue
		case name == "" || !errors.Is(err, io.EOF):
			if len(part) > 0 {
				return errors.Join(each(part), noEOF(err))
			}
			return noEOF(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(300 * time.Millisecond):
		}
		next, _ = rotated(name, f)
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func rotated(name string, old *os.File) (*os.File, bool) {
	a, err1 := old.Stat()
	b, err2 := os.Stat(name)
	if err1 != nil || err2 != nil || os.SameFile(a, b) {
		return nil, false
	}
	f, err := os.Open(name)
	return f, err == nil
}
