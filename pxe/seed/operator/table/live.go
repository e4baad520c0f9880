package table

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/operator"
)

// Snapshot is a seed at one moment, and the steps since the one before.
type Snapshot struct {
	Status   seed.Status
	Machines []seed.Machine
	Steps    []seed.Step
}

// Load asks for a snapshot with the steps after a sequence number.
type Load func(ctx context.Context, after uint64) (Snapshot, error)

// Of asks a seed in this process.
func Of(d interface {
	Status() seed.Status
	Machines() []seed.Machine
	Steps(after uint64) (steps []seed.Step, changed <-chan struct{})
}) Load {
	return func(_ context.Context, after uint64) (Snapshot, error) {
		steps, _ := d.Steps(after)
		return Snapshot{d.Status(), d.Machines(), steps}, nil
	}
}

// From asks a seed over its socket.
func From(c *operator.Client) Load {
	return func(ctx context.Context, after uint64) (s Snapshot, err error) {
		if err = c.Events(ctx, after, false, func(st seed.Step) error { s.Steps = append(s.Steps, st); return nil }); err != nil {
			return s, err
		}
		if s.Status, err = c.Status(ctx); err != nil {
			return s, err
		}
		s.Machines, err = c.Machines(ctx)
		return s, err
	}
}

// Options say what the output is.
type Options struct {
	// Size of the terminal in cells; nil: it is none, and steps are printed as lines.
	Size   func() (width, height int)
	Colour bool
	ASCII  bool
	Clock  func() time.Time // nil: time.Now
	Zone   *time.Location   // of the lines' times; nil: as the steps have them
	Every  time.Duration    // between drawings; 0: half a second
	After  uint64           // lines begin after this step
}

// Live draws on one output. Its methods may be called at the same time; Write
// puts lines above the table, so that a log does not tear it.
type Live struct {
	o       Options
	mu      sync.Mutex
	out     io.Writer
	drawn   []string // lines of the table as it stands
	size    [2]int
	pending []byte // an unfinished line of Write
	rates   map[string][]sample
	hidden  bool
}

type sample struct {
	at   time.Time
	done int64
}

// NewLive draws nothing yet.
func NewLive(out io.Writer, o Options) *Live {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Every == 0 {
		o.Every = 500 * time.Millisecond
	}
	return &Live{o: o, out: out, rates: map[string][]sample{}}
}

// Run draws until ctx ends, until load has an error, or until done says that it
// is enough (nil: never). The last table stays; call Close after it.
func (l *Live) Run(ctx context.Context, load Load, done func(Snapshot) (bool, error)) error {
	tick := time.NewTicker(l.o.Every)
	defer tick.Stop()
	for after := l.o.After; ; {
		s, err := load(ctx, after)
		if err != nil {
			return err
		}
		if n := len(s.Steps); n > 0 {
			after = s.Steps[n-1].Seq
		}
		if err := l.Show(s); err != nil {
			return err
		}
		if done != nil {
			if enough, err := done(s); enough || err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Show draws a snapshot: the table, or its steps as lines.
func (l *Live) Show(s Snapshot) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.o.Size == nil {
		return l.lines(s)
	}
	now := l.o.Clock()
	for _, m := range s.Machines {
		l.sample(m, now)
	}
	width, height := l.o.Size()
	sc := Screen{Width: max(1, width-1), Height: max(4, height-1), Colour: l.o.Colour, ASCII: l.o.ASCII, Rate: l.rate}
	next := strings.Split(strings.TrimSuffix(sc.Render(s.Status, s.Machines, now), "\n"), "\n")
	var b bytes.Buffer
	begin(&b, &l.hidden)
	if resized := [2]int{width, height}; l.size != resized {
		if l.drawn != nil { // the terminal has broken the old lines anew: their number is not known
			b.WriteString("\x1b[H\x1b[2J")
		}
		l.drawn, l.size = nil, resized
	}
	redraw(&b, l.drawn, next)
	l.drawn = next
	b.WriteString(endSync)
	_, err := l.out.Write(b.Bytes())
	return err
}

// Sequences: mode 2026 lets a terminal that knows it show a drawing at once;
// others ignore it. Mode 25 is the cursor's visibility (DEC STD 070).
const (
	beginSync  = "\x1b[?2026h"
	endSync    = "\x1b[?2026l"
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
)

func begin(b *bytes.Buffer, hidden *bool) {
	b.WriteString(beginSync)
	if !*hidden {
		b.WriteString(hideCursor)
		*hidden = true
	}
}

// redraw changes the lines that differ; the cursor stands below the last one
// before and after.
func redraw(b *bytes.Buffer, old, next []string) {
	if len(old) > 0 {
		fmt.Fprintf(b, "\r\x1b[%dA", len(old))
	}
	for i, line := range next {
		if i >= len(old) || old[i] != line {
			b.WriteString(line + "\x1b[K")
		}
		b.WriteString("\r\n")
	}
	if len(old) > len(next) {
		b.WriteString("\x1b[J")
	}
}

func (l *Live) lines(s Snapshot) error {
	names := map[string]string{"": "seed"}
	for _, m := range s.Machines {
		names[m.ID] = operator.Name(m)
	}
	var b bytes.Buffer
	for _, st := range s.Steps {
		name, ok := names[st.Machine]
		if !ok {
			name = st.Machine
		}
		if l.o.Zone != nil {
			st.Time = st.Time.In(l.o.Zone)
		}
		b.WriteString(Line(st, name) + "\n")
	}
	_, err := l.out.Write(b.Bytes())
	return err
}

// window is over how long a rate is taken.
const window = 4 * time.Second

func (l *Live) sample(m seed.Machine, now time.Time) {
	all := l.rates[m.ID]
	if n := len(all); n > 0 && all[n-1].done > m.Done {
		all = nil
	}
	all = append(all, sample{now, m.Done})
	for len(all) > 2 && now.Sub(all[1].at) >= window {
		all = all[1:]
	}
	l.rates[m.ID] = all
}

func (l *Live) rate(id string) float64 {
	all := l.rates[id]
	if len(all) < 2 {
		return 0
	}
	first, last := all[0], all[len(all)-1]
	if t := last.at.Sub(first.at).Seconds(); t > 0.9 {
		return float64(last.done-first.done) / t
	}
	return 0
}

// Write puts whole lines above the table; the rest of an unfinished line waits.
func (l *Live) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.o.Size == nil {
		return l.out.Write(p)
	}
	l.pending = append(l.pending, p...)
	end := bytes.LastIndexByte(l.pending, '\n') + 1
	if end == 0 {
		return len(p), nil
	}
	err := l.above(l.pending[:end])
	l.pending = append([]byte(nil), l.pending[end:]...)
	return len(p), err
}

func (l *Live) above(text []byte) error {
	var b bytes.Buffer
	begin(&b, &l.hidden)
	if len(l.drawn) > 0 {
		fmt.Fprintf(&b, "\r\x1b[%dA", len(l.drawn))
	}
	b.WriteString("\x1b[J")
	b.Write(bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")))
	redraw(&b, nil, l.drawn)
	b.WriteString(endSync)
	_, err := l.out.Write(b.Bytes())
	return err
}

// Close leaves the last table where it is and gives the cursor back.
func (l *Live) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b bytes.Buffer
	if len(l.pending) > 0 && l.o.Size != nil {
		if err := l.above(append(l.pending, '\n')); err != nil {
			return err
		}
		l.pending = nil
	}
	if l.hidden {
		b.WriteString(showCursor)
	}
	l.hidden = false
	_, err := l.out.Write(b.Bytes())
	return err
}
