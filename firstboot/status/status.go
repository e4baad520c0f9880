// Package status shows people on a node what PID 1 has reported: phases,
// services, events and logs, from the files it keeps.
//
// It asks PID 1 nothing and changes nothing: it works when all else hangs.
package status

import (
	"bufio"
	"bytes"
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
)

// Node is where the files are.
type Node struct {
	Events string // file of JSON lines: /run/slipway/events.jsonl
	Logs   string // directory of <service>.log
}

// ErrUsage is a command line that means nothing.
var ErrUsage = errors.New("usage: slipway status | events [-f] [-o json] | logs [SERVICE [-f]] | seed VERB... | --help")

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
		return n.lines(ctx, n.Events, follow, func(l []byte) error { return event(out, l, len(rest) > 0) })
	case args[0] == "logs" && len(rest) == 0 && !follow:
		return n.list(out)
	case args[0] == "logs" && len(rest) == 1:
		return n.log(ctx, rest[0], follow, out)
	}
	return ErrUsage
}

func event(out io.Writer, line []byte, asJSON bool) error {
	if asJSON {
		_, err := out.Write(line)
		return err
	}
	e, ok, err := handoff.ParseLine(line)
	if !ok || err != nil {
		return nil // cut off by a full disk; the next one is whole
	}
	_, err = fmt.Fprintf(out, "%8.2f  %-8s %-28s %s\n", e.Uptime, e.State, join(e.Phase, e.Step), strings.ReplaceAll(e.Text, "\n", "\n"+strings.Repeat(" ", 48)))
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

func (n Node) read() ([]handoff.Event, error) {
	raw, err := os.ReadFile(n.Events)
	if err != nil {
		return nil, err
	}
	var all []handoff.Event
	for _, l := range bytes.SplitAfter(raw, []byte("\n")) {
		if e, ok, err := handoff.ParseLine(l); ok && err == nil {
			all = append(all, e)
		}
	}
	return all, nil
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
	err := n.lines(ctx, filepath.Join(n.Logs, name+".log"), follow, func(l []byte) error { _, err := out.Write(l); return err })
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("service %q has no log; `slipway logs` lists those that have", name)
	}
	return err
}

// lines hands over each line, and with follow those that come until ctx ends.
// A file that was rotated is opened again.
func (n Node) lines(ctx context.Context, name string, follow bool, each func([]byte) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { f.Close() }()
	r := bufio.NewReader(f)
	var part []byte
	for {
		l, err := r.ReadBytes('\n')
		part = append(part, l...)
		if err == nil {
			if err := each(part); err != nil {
				return err
			}
			part = nil
			continue
		}
		if !follow || !errors.Is(err, io.EOF) {
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
		if next, ok := rotated(name, f); ok {
			f.Close()
			f, r, part = next, bufio.NewReader(next), nil
		}
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
