package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"slipway.dev/slipway/bundle"
)

// progress shows long steps: one line that is drawn again on a terminal, and
// a line at the start, every ten seconds, and at the end elsewhere.
type progress struct {
	mu    sync.Mutex
	w     io.Writer
	tty   bool
	start time.Time
	last  time.Time
	name  string
	begin time.Time
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, tty: ok && term.IsTerminal(int(f.Fd())), start: time.Now()}
}

// Step reports that work on name stands at done of total bytes (total 0: not
// known; bundle.CountPackages: done counts packages). A new name ends the step before.
func (p *progress) Step(name string, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	fresh := name != p.name
	if fresh {
		p.finish(now)
		p.name, p.begin, p.last = name, now, time.Time{}
	}
	every := 10 * time.Second
	if p.tty {
		every = 200 * time.Millisecond
	}
	if !fresh && now.Sub(p.last) < every {
		return
	}
	p.last = now
	line := fmt.Sprintf("%6.1fs  %s", now.Sub(p.start).Seconds(), name)
	if total == bundle.CountPackages && done > 0 {
		line += fmt.Sprintf("  %d packages", done)
	}
	if total > 0 {
		line += fmt.Sprintf("  %s of %s", size(done), size(total))
		if s := now.Sub(p.begin).Seconds(); s > 0.5 {
			line += fmt.Sprintf("  %s/s", size(int64(float64(done)/s)))
		}
	}
	if p.tty {
		fmt.Fprintf(p.w, "\r\x1b[K%s", line)
	} else {
		fmt.Fprintln(p.w, line)
	}
}

// Done ends the last step.
func (p *progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish(time.Now())
	p.name = ""
}

func (p *progress) finish(now time.Time) {
	if p.name == "" {
		return
	}
	if p.tty {
		fmt.Fprintf(p.w, "\r\x1b[K%6.1fs  %s  done in %.1fs\n", now.Sub(p.start).Seconds(), p.name, now.Sub(p.begin).Seconds())
	} else if now.Sub(p.begin) > time.Second {
		fmt.Fprintf(p.w, "%6.1fs  %s: done in %.1fs\n", now.Sub(p.start).Seconds(), p.name, now.Sub(p.begin).Seconds())
	}
}

// size renders bytes for people: "84.1 MB" (powers of ten).
func size(n int64) string {
	f := float64(n)
	for _, u := range []string{"B", "kB", "MB"} {
		if f < 1000 {
			if u == "B" {
				return fmt.Sprintf("%.0f B", f)
			}
			return fmt.Sprintf("%.1f %s", f, u)
		}
		f /= 1000
	}
	return fmt.Sprintf("%.2f GB", f)
}
