package console

import (
	"fmt"
	"slices"
	"sync"
)

// queue is how many writes a console may be behind, because it is slow or
// somebody is logged in there: neither may hold up a node, nor fill its memory.
const queue = 512

// line is what waits for one console. A screen is drawn whole: only the newest
// picture waits. Of a serial line's messages that are too many the newest go,
// since the first lines of a failing boot say more than the last; but the oldest
// go while somebody is logged in, who wants to know afterwards how things stand.
// In place of what went comes a message that says how many.
type line struct {
	serial bool
	mu     sync.Mutex
	more   sync.Cond
	wait   []item
	gap    gap // after the last of wait
	held   bool
	closed bool
}

// item is one write and what is missing before it.
type item struct {
	text   []byte
	before gap
}

type gap struct {
	n    int
	held bool // somebody was logged in
}

func (g gap) and(o gap) gap { return gap{g.n + o.n, g.held || o.held} }

func (g gap) text() []byte {
	why := "this line is slower than the node"
	if g.held {
		why = "somebody was logged in here"
	}
	return fmt.Appendf(nil, "           | %d messages were not shown, %s: they are in `slipway events`\r\n", g.n, why)
}

func newLine(serial bool) *line {
	l := &line{serial: serial}
	l.more.L = &l.mu
	return l
}

// put never waits. b is kept, not copied.
func (l *line) put(b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	switch {
	case !l.serial:
		l.wait = nil
	case len(l.wait) < queue:
	case l.held:
		gone := l.wait[0].before.and(gap{1, true})
		l.wait = slices.Delete(l.wait, 0, 1)
		l.wait[0].before = l.wait[0].before.and(gone)
	default:
		l.gap.n++
		return
	}
	l.wait = append(l.wait, item{b, l.gap})
	l.gap = gap{}
	l.more.Signal()
}

// miss counts what never came here.
func (l *line) miss(n int) {
	l.mu.Lock()
	l.gap.n += n
	l.mu.Unlock()
}

// hold says whether somebody is logged in.
func (l *line) hold(on bool) {
	l.mu.Lock()
	l.held = on
	l.mu.Unlock()
}

// forget drops what waits: a screen is about to be drawn anew.
func (l *line) forget() {
	l.mu.Lock()
	l.wait = nil
	l.mu.Unlock()
}

// ready waits until there is something to take; it is false when there will
// never be.
func (l *line) ready() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.wait) == 0 && l.gap.n == 0 && !l.closed {
		l.more.Wait()
	}
	return len(l.wait) > 0 || l.gap.n > 0
}

// take is the next write, nil if there is none.
func (l *line) take() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	g, text := l.gap, []byte(nil)
	if len(l.wait) > 0 {
		g, text = l.wait[0].before, l.wait[0].text
		l.wait = slices.Delete(l.wait, 0, 1)
	} else {
		l.gap = gap{}
	}
	if g.n == 0 || !l.serial {
		return text
	}
	return append(g.text(), text...)
}

// close ends ready once everything was taken.
func (l *line) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.more.Broadcast()
}
