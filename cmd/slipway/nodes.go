package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/operator"
	"slipway.dev/slipway/pxe/seed/operator/table"
)

// nodeState is where the seed of a node that is one keeps its state.
const nodeState = "/var/lib/slipway/seed"

// stateDir is where this user's seed keeps its state unless --state says
// otherwise: on a node that is the seed, nodeState; elsewhere $XDG_STATE_HOME/slipway/seed (XDG base directory specification
// 0.8), or below the user's configuration on systems that do not know it.
func stateDir() (string, error) {
	if st, err := os.Stat(nodeState); err == nil && st.IsDir() && os.Geteuid() == 0 {
		return nodeState, nil
	}
	base := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(base) { // the specification: relative ones are to be ignored
		home, err := os.UserHomeDir()
		if err == nil && runtime.GOOS != "windows" && runtime.GOOS != "darwin" {
			base = filepath.Join(home, ".local", "state")
		} else if base, err = os.UserConfigDir(); err != nil {
			return "", err
		}
	}
	return filepath.Join(base, "slipway", "seed"), nil
}

// seedFlags find the seed.
type seedFlags struct{ dir string }

func (f *seedFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dir, "state", "", "directory of the seed's state (default: slipway/seed below the user's state directory)")
}

// stateOr returns the directory given, or stateDir.
func (f *seedFlags) stateOr() (string, error) {
	if f.dir != "" {
		return f.dir, nil
	}
	dir, err := stateDir()
	if err != nil {
		return "", usageError{fmt.Errorf("%w (or give --state DIR)", err)}
	}
	return dir, nil
}

// client asks the seed; the caller closes it.
func (f *seedFlags) client() (*operator.Client, error) {
	dir, err := f.stateOr()
	if err != nil {
		return nil, err
	}
	return operator.NewClient(dir), nil
}

// display is how a live table is shown on an output.
func display(w io.Writer) table.Options {
	o := table.Options{Zone: time.Local}
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return o
	}
	o.Size = func() (int, int) {
		width, height, err := term.GetSize(int(f.Fd()))
		if err != nil || width == 0 {
			return 80, 24
		}
		return width, height
	}
	o.Colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	o.ASCII = runtime.GOOS != "windows" && !unicodeLocale()
	return o
}

// unicodeLocale reads the locale as setlocale(3) does.
func unicodeLocale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(os.Getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return runtime.GOOS == "darwin"
}

func (a *app) nodesCommand() *cobra.Command {
	var f seedFlags
	var w waiting
	var watch bool
	cmd := &cobra.Command{
		Use:   "nodes [REF]...",
		Short: "Show the machines that the seed sees, and wait for them",
		Long: `Nodes shows every machine with its state, its code and where it is on the way
from power-on to Ready, and below what stands still and why. REF is a MAC, a node
name or a code. --wait STATE returns when all machines have come that far, those
turned away left out; it fails at once when one is held, and names what is missing
when --timeout has passed.`,
		Example: `  slipway nodes
  slipway nodes --watch
  slipway nodes --wait ready --count 5 --timeout 45m
  slipway nodes cp-1 -o json`,
		RunE: func(cmd *cobra.Command, refs []string) error {
			if err := w.check(); err != nil {
				return err
			}
			if watch && a.output == "json" {
				return usageError{errors.New("--watch draws; for programs there is: slipway events --follow -o json")}
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			defer c.Close()
			load := only(c, refs)
			if !watch && w.state == "" {
				return a.nodesOnce(cmd.Context(), load)
			}
			return a.nodesWatch(cmd.Context(), load, w, watch)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&watch, "watch", false, "draw again until interrupted, or until --wait is satisfied")
	cmd.Flags().StringVar(&w.state, "wait", "", "return when all machines are waiting, approved, taken or ready")
	cmd.Flags().IntVar(&w.count, "count", 1, "with --wait: that many machines at least")
	cmd.Flags().DurationVar(&w.timeout, "timeout", 0, "with --wait: give up after this time (0: never)")
	return cmd
}

// only narrows what is loaded to some machines.
func only(c *operator.Client, refs []string) table.Load {
	all := table.From(c)
	if len(refs) == 0 {
		return all
	}
	return func(ctx context.Context, after uint64) (table.Snapshot, error) {
		s, err := all(ctx, after)
		if err != nil {
			return s, err
		}
		ids := map[string]bool{}
		for _, ref := range refs {
			m, _, err := find(ctx, c, ref)
			if err != nil {
				return s, err
			}
			ids[m.ID] = true
		}
		s.Machines = slices.DeleteFunc(s.Machines, func(m seed.Machine) bool { return !ids[m.ID] })
		s.Steps = slices.DeleteFunc(s.Steps, func(st seed.Step) bool { return !ids[st.Machine] })
		return s, nil
	}
}

func (a *app) nodesOnce(ctx context.Context, load table.Load) error {
	s, err := load(ctx, 0)
	if err != nil {
		return err
	}
	return a.show(s.Machines, func() { a.table(s) })
}

// table prints a snapshot as wide as the terminal, and in full elsewhere.
func (a *app) table(s table.Snapshot) {
	o := display(a.out)
	sc := table.Screen{Width: 160, Colour: o.Colour, ASCII: o.ASCII && o.Size != nil}
	if o.Size != nil {
		sc.Width, _ = o.Size()
	}
	fmt.Fprint(a.out, sc.Render(s.Status, s.Machines, time.Now()))
}

func (a *app) nodesWatch(ctx context.Context, load table.Load, w waiting, watch bool) error {
	waitCtx := ctx
	if w.timeout > 0 {
		var cancel context.CancelFunc
		waitCtx, cancel = context.WithTimeout(ctx, w.timeout)
		defer cancel()
	}
	out, o := a.out, display(a.out)
	if !watch {
		out, o.Size = io.Discard, nil
	}
	live := table.NewLive(out, o)
	var last table.Snapshot
	err := live.Run(waitCtx, load, func(s table.Snapshot) (bool, error) {
		last = s
		return w.enough(s)
	})
	if e := live.Close(); err == nil {
		err = e
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return fmt.Errorf("%v have passed: %s", w.timeout, w.missing(last))
	case err != nil || watch:
		return err
	}
	return a.show(last.Machines, func() { a.table(last) })
}

// waiting is what --wait asks for.
type waiting struct {
	state   string
	count   int
	timeout time.Duration
}

// way is the states in the order of a machine's life.
func way() []seed.State {
	return []seed.State{seed.Seen, seed.Waiting, seed.Approved, seed.Taken, seed.Ready}
}

func (w waiting) check() error {
	if w.state != "" && slices.Index(way(), seed.State(w.state)) < 1 {
		return usageError{fmt.Errorf("--wait %q: want waiting, approved, taken or ready", w.state)}
	}
	if w.state == "" && w.timeout != 0 {
		return usageError{errors.New("--timeout belongs to --wait")}
	}
	return nil
}

// enough says whether all machines have come as far as --wait asks; the error
// is the first that will not.
func (w waiting) enough(s table.Snapshot) (bool, error) {
	if w.state == "" {
		return false, nil
	}
	for _, m := range s.Machines {
		if m.State == seed.Held {
			return false, standsStill(m)
		}
	}
	there, short := w.progress(s)
	return there >= max(1, w.count) && len(short) == 0, nil
}

// progress is how many machines are there, and the names of those that are not.
func (w waiting) progress(s table.Snapshot) (there int, short []string) {
	for _, m := range s.Machines {
		switch {
		case m.State == seed.Rejected:
		case slices.Index(way(), m.State) >= slices.Index(way(), seed.State(w.state)):
			there++
		default:
			short = append(short, fmt.Sprintf("%s is %s (%s)", operator.Name(m), m.State, m.Step.Stage))
		}
	}
	return there, short
}

func (w waiting) missing(s table.Snapshot) string {
	there, short := w.progress(s)
	return table.Clean(strings.Join(append([]string{fmt.Sprintf("%d of at least %d are %s", there, max(1, w.count), w.state)}, short...), ", "))
}

// still is an error with its next step.
type still struct{ text, hint string }

func (e still) Error() string { return e.text }
func (e still) Hint() string  { return e.hint }

func standsStill(m seed.Machine) error {
	text, hint := m.Step.Text+" ("+m.Step.Code+")", m.Step.Hint
	if v := m.Verdict; v != nil {
		text, hint = v.Text+" ("+v.Code+")", v.Hint
	}
	return still{table.Clean(operator.Name(m) + " is held: " + text), table.Clean(hint)}
}

func (a *app) statusCommand() *cobra.Command {
	var f seedFlags
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show the seed as a whole",
		Example: "  slipway status\n  slipway status -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			defer c.Close()
			s, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(s, func() { printStatus(a.out, s, time.Now()) })
		},
	}
	f.register(cmd)
	return cmd
}

func printStatus(w io.Writer, s seed.Status, now time.Time) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-10s %s\n", name, table.Clean(fmt.Sprintf(format, args...)))
	}
	line("cluster", "%s", s.Cluster)
	if s.Bundle != "" {
		line("bundle", "%s %v", s.Bundle, s.Arch)
	}
	if s.Address.IsValid() {
		line("address", "%s", s.Address)
	}
	if s.DHCP != "" {
		line("dhcp", "%s", s.DHCP)
	}
	for _, foreign := range s.Foreign {
		line("", "another server: %s", foreign)
	}
	line("approve", "%s", s.Approve)
	if left := s.Armed.Sub(now); left > 0 {
		line("armed", "for another %s", left.Round(time.Second))
	}
	line("trust", "%s", s.Trust)
	line("pin", "%s", s.Pin)
	if s.API != "" {
		line("api", "%s", s.API)
	}
	line("machines", "%d, %d of %d nodes are ready", s.Machines, s.ReadyOf[0], s.ReadyOf[1])
	line("started", "%s", s.Started.Local().Format(time.DateTime))
	if v := s.Verdict; v != nil {
		line("verdict", "%s (%s)", v.Text, v.Code)
		line("next", "%s", v.Hint)
	}
}

func (a *app) eventsCommand() *cobra.Command {
	var f seedFlags
	var follow bool
	cmd := &cobra.Command{
		Use:   "events [REF]...",
		Short: "Print what has happened, step by step",
		Long: `Events prints the timelines of all machines, or of those named, as one line for
each step; with -o json as one object a line.`,
		Example: "  slipway events\n  slipway events --follow cp-1\n  slipway events -o json | jq .",
		RunE: func(cmd *cobra.Command, refs []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			defer c.Close()
			return a.events(cmd.Context(), c, refs, follow)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&follow, "follow", false, "go on until interrupted")
	return cmd
}

func (a *app) events(ctx context.Context, c *operator.Client, refs []string, follow bool) error {
	wanted, names := map[string]bool{}, map[string]string{"": "seed"}
	for _, ref := range refs {
		m, _, err := find(ctx, c, ref)
		if err != nil {
			return err
		}
		wanted[m.ID] = true
	}
	learn := func() error {
		all, err := c.Machines(ctx)
		for _, m := range all {
			names[m.ID] = operator.Name(m)
		}
		return err
	}
	if err := learn(); err != nil {
		return err
	}
	out := json.NewEncoder(a.out)
	return c.Events(ctx, 0, follow, func(s seed.Step) error {
		if len(wanted) > 0 && !wanted[s.Machine] {
			return nil
		}
		if a.output == "json" {
			return out.Encode(s)
		}
		if name := names[s.Machine]; name == "" || name == s.Machine { // it may have a name by now
			if err := learn(); err != nil {
				return err
			}
		}
		s.Time = s.Time.Local()
		_, err := fmt.Fprintln(a.out, table.Line(s, names[s.Machine]))
		return err
	})
}
