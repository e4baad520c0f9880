package crash

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Outcome is what would become of a machine that starts from an image.
type Outcome string

// The outcomes. All but Bricked are allowed.
const (
	Old     Outcome = "old"     // the system that was there before starts
	New     Outcome = "new"     // the system that was being written starts
	Resumes Outcome = "resumes" // the installer goes on, or begins again, by itself
	Holds   Outcome = "holds"   // the installer stops with a named error
	Bricked Outcome = "BRICKED"
)

// Verdict is an outcome and why: for Holds the error's name, for Bricked what
// is missing.
type Verdict struct {
	Outcome Outcome
	Why     string
}

// Judge says what would become of an image. An error is the judge's own, not
// the image's, and ends a run.
type Judge func(*Image) (Verdict, error)

// Result is a judged point.
type Result struct {
	Point   Point
	Verdict Verdict
}

// Report is a run's results, in the order of its points.
type Report struct {
	Results []Result
	log     *Log
}

// Run judges every point on two workers and writes a line of progress every ten
// seconds.
func (l *Log) Run(ctx context.Context, base io.ReaderAt, size int64, points []Point, judge Judge, progress io.Writer) (*Report, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	results := make([]Result, len(points))
	var next, done atomic.Int64
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(points) {
					return
				}
				v, err := judge(l.Image(base, size, points[i]))
				if err != nil {
					cancel(fmt.Errorf("judging point %s: %w", points[i], err))
					return
				}
				results[i] = Result{points[i], v}
				done.Add(1)
			}
		})
	}
	stop := make(chan struct{})
	var ticker sync.WaitGroup
	ticker.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Second):
				fmt.Fprintf(progress, "crash: %d of %d points judged\n", done.Load(), len(points))
			}
		}
	})
	workers.Wait()
	close(stop)
	ticker.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return &Report{Results: results, log: l}, nil
}

// Bricked are the points that must not be.
func (r *Report) Bricked() []Result {
	var bad []Result
	for _, x := range r.Results {
		if x.Verdict.Outcome == Bricked {
			bad = append(bad, x)
		}
	}
	return bad
}

// Count is how many images had an outcome.
func (r *Report) Count(o Outcome) (n int) {
	for _, x := range r.Results {
		if x.Verdict.Outcome == o {
			n++
		}
	}
	return n
}

// String is a table of counts, outcome by kind of point, the course of the
// boundaries, and the first bricked points.
func (r *Report) String() string {
	outcomes := []Outcome{Old, New, Resumes, Holds, Bricked}
	kinds := map[Kind]map[Outcome]int{}
	total := map[Outcome]int{}
	for _, x := range r.Results {
		if kinds[x.Point.Kind] == nil {
			kinds[x.Point.Kind] = map[Outcome]int{}
		}
		kinds[x.Point.Kind][x.Verdict.Outcome]++
		total[x.Verdict.Outcome]++
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%d requests, %d epochs, %d MiB written, %d points\n%-10s", len(r.log.Entries), len(r.log.Epochs), r.log.Bytes()>>20, len(r.Results), "")
	for _, o := range outcomes {
		fmt.Fprintf(&s, " %8s", o)
	}
	row := func(name string, n map[Outcome]int) {
		fmt.Fprintf(&s, "\n%-10s", name)
		for _, o := range outcomes {
			fmt.Fprintf(&s, " %8d", n[o])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		row(string(k), kinds[k])
	}
	row("all", total)
	s.WriteString("\nboundaries: " + r.course() + "\n")
	for _, x := range r.Results {
		if x.Verdict.Outcome == Holds {
			fmt.Fprintf(&s, "holds: point %s: %s\n", x.Point, x.Verdict.Why)
		}
	}
	for i, x := range r.Bricked() {
		if i == 20 {
			fmt.Fprintf(&s, "and %d more\n", len(r.Bricked())-i)
			break
		}
		fmt.Fprintf(&s, "bricked: point %s: %s\n", x.Point, x.Verdict.Why)
	}
	return s.String()
}

// course is which outcome the flush boundaries had, in time.
func (r *Report) course() string {
	at := map[int]Verdict{}
	for _, x := range r.Results {
		if x.Point.Kind == Boundary {
			at[x.Point.Epoch] = x.Verdict
		}
	}
	var parts []string
	var last Verdict
	for _, e := range slices.Sorted(maps.Keys(at)) {
		if v := at[e]; len(parts) == 0 || v != last {
			parts, last = append(parts, strings.TrimSpace(fmt.Sprintf("from epoch %d %s %s", e, v.Outcome, v.Why))), v
		}
	}
	return strings.Join(parts, ", ")
}
