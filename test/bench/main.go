// Command bench measures the builder, and the seed's servers, against the tools
// people use for the same step, by turns on the same machine, and prints ratios
// with processor time and peak memory. It writes them as JSON, too.
//
// It asserts nothing about speed, prints goals only as ratios, and knows no
// absolute one: a busy machine changes both sides. What runs on virtual machines
// is measured by the scenarios.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	w := &work{}
	flag.StringVar(&w.file, "f", "configs/examples/bundle.yaml", "the bundle")
	flag.StringVar(&w.lock, "lock", "out/test/slipway.lock", "its lock")
	flag.StringVar(&w.cache, "cache", "", "slipway's cache, filled")
	flag.StringVar(&w.dir, "work", "", "directory for results that are thrown away")
	file := flag.String("json", "out/bench.json", "where the figures go")
	step := flag.String("step", "", "run one side of one measurement: for bench itself")
	wire := flag.Bool("wire", false, "only the seed's servers, which need no bundle")
	match := flag.String("match", "", "only those of the seed's servers that this regular expression matches")
	medium := flag.String("medium", "", "what the step serves or installs")
	disk := flag.String("disk", "", "what the step installs on")
	flag.StringVar(&w.netboot, "netboot", "out/test/plain/example-amd64-netboot", "the bundle, built: what is installed")
	flag.StringVar(&w.next, "next", "out/test/next/example-amd64-netboot", "the bundle with one package less, built: what a node is upgraded to")
	// Small for a server: the peer that copies all of it takes longer in proportion.
	flag.Int64Var(&w.gib, "disk-gib", 30, "size of the disk that nodes are put on, GiB; all of it has to be free here")
	installer := flag.Bool("install", false, "only the installer")
	full := flag.Bool("full", false, "also the cold build, which compiles Kubernetes: a quarter of an hour")
	flag.Parse()
	var err error
	if w.match, err = regexp.Compile(*match); err != nil {
		return err
	}
	switch *step {
	case "":
	case "serve":
		return serveMedium(ctx, *medium)
	case "install":
		return w.install(ctx, *medium, *disk)
	case "upgrade":
		return w.upgrade(ctx, *medium, *disk)
	default:
		return w.step(ctx, *step)
	}
	if w.cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return err
		}
		w.cache = dir + "/slipway"
	}
	if w.dir == "" {
		if w.dir, err = os.MkdirTemp("", "slipway-bench-*"); err != nil {
			return err
		}
		defer os.RemoveAll(w.dir)
	}
	var all []*comparison
	if !*wire {
		if all, err = w.measureInstall(ctx); err != nil || *installer {
			return err
		}
		more, err := w.measure(ctx, *full)
		if err != nil {
			return err
		}
		all = append(all, more...)
	}
	out := report{}
	if out.Comparisons, out.Pulls, err = w.measureWire(ctx); err != nil {
		return err
	}
	out.Comparisons = append(all, out.Comparisons...)
	raw, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(*file, append(raw, '\n'), 0o644)
}

// report is the JSON file.
type report struct {
	Comparisons []*comparison `json:"comparisons"`
	Pulls       *pulls        `json:"pulls,omitempty"`
}

// usage is what one run took.
type usage struct {
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpuSeconds"` // of the process and its children
	Peak    int64   `json:"peakBytes"`  // resident memory of the largest process
	Moved   int64   `json:"movedBytes,omitempty"`
}

// side is one way to do a step.
type side struct {
	Name string  `json:"name"`
	Runs []usage `json:"runs"`
	argv []string
	do   func(context.Context) (usage, error) // instead of argv
	prep func() error                         // before each run, not measured
	// moved counts the bytes that a run wrote, or those it was sent where its name says so.
	moved func() (int64, error)
}

// comparison is one step with both ways.
type comparison struct {
	What   string  `json:"what"`
	Ours   side    `json:"ours"`
	Peer   side    `json:"peer"`
	Faster float64 `json:"timesFaster"`     // median of the peer's seconds over ours
	Bytes  int64   `json:"bytes,omitempty"` // that each run moves
	Goal   float64 `json:"goal,omitempty"`  // what Faster should be
}

// alternate runs both ways by turns, each as a process of its own.
func (c *comparison) alternate(ctx context.Context, n int) error {
	for range n {
		for _, s := range []*side{&c.Ours, &c.Peer} {
			if s.prep != nil {
				if err := s.prep(); err != nil {
					return fmt.Errorf("%s: %s: %w", c.What, s.Name, err)
				}
			}
			do := s.do
			if do == nil {
				do = func(ctx context.Context) (usage, error) { return timed(ctx, s.argv) }
			}
			u, err := do(ctx)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", c.What, s.Name, err)
			}
			if s.moved != nil {
				if u.Moved, err = s.moved(); err != nil {
					return fmt.Errorf("%s: %s: %w", c.What, s.Name, err)
				}
			}
			s.Runs = append(s.Runs, u)
		}
	}
	c.Faster = median(c.Peer.Runs).Seconds / median(c.Ours.Runs).Seconds
	goal := ""
	if c.Goal > 0 {
		goal = fmt.Sprintf(" (goal %.1f)", c.Goal)
	}
	fmt.Printf("%s: %.2f times as fast%s\n", c.What, c.Faster, goal)
	for _, s := range []side{c.Ours, c.Peer} {
		m := median(s.Runs)
		rate := ""
		if c.Bytes > 0 {
			rate = fmt.Sprintf("%7.1f MB/s ", float64(c.Bytes)/1e6/m.Seconds)
		}
		moved := ""
		if m.Moved > 0 {
			moved = fmt.Sprintf(", moved %.1f MB", float64(m.Moved)/1e6)
		}
		fmt.Printf("  %-34s %s%7.2f s  %7.2f s of CPU  %6.0f MB  (median of %d)%s\n", s.Name, rate, m.Seconds, m.CPU, float64(m.Peak)/1e6, len(s.Runs), moved)
	}
	if a, b := median(c.Peer.Runs).Moved, median(c.Ours.Runs).Moved; a > 0 && b > 0 {
		fmt.Printf("  %.1f times fewer bytes\n", float64(a)/float64(b))
	}
	return nil
}

func median(all []usage) usage {
	s := slices.Clone(all)
	slices.SortFunc(s, func(a, b usage) int { return int((a.Seconds - b.Seconds) * 1e6) })
	return s[len(s)/2]
}

func timed(ctx context.Context, argv []string) (usage, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var text strings.Builder
	cmd.Stdout, cmd.Stderr = &text, &text
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		return usage{}, fmt.Errorf("%s: %w\n%s", argv[0], err, text.String())
	}
	u := usage{Seconds: time.Since(begin).Seconds(), CPU: (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()}
	if r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.Peak = r.Maxrss << 10 // KiB on Linux (getrusage(2))
	}
	return u, nil
}
