package enrol

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"slipway.dev/slipway/configs/handoff"
)

// What is kept while nobody takes it: the newest events. PID 1 never waits for
// the seed, and never grows because it is away.
const (
	keepEvents = 600
	keepBytes  = 512 << 10
	paceEvents = time.Second
)

// Sink keeps a node's newest events until the seed has them. Use NewSink.
type Sink struct {
	mu    sync.Mutex
	lines [][]byte
	size  int
	gone  int // lines that were dropped or taken from the front, ever
	fresh chan struct{}
}

// NewSink returns an empty sink.
func NewSink() *Sink { return &Sink{fresh: make(chan struct{}, 1)} }

// Add keeps an event. It never blocks.
func (s *Sink) Add(e handoff.Event) {
	l := e.Line()
	if len(l) > handoff.MaxEvents {
		return
	}
	s.mu.Lock()
	s.lines = append(s.lines, l)
	s.size += len(l)
	for len(s.lines) > keepEvents || s.size > keepBytes {
		s.drop(1)
	}
	s.mu.Unlock()
	select {
	case s.fresh <- struct{}{}:
	default:
	}
}

func (s *Sink) drop(n int) {
	for _, l := range s.lines[:n] {
		s.size -= len(l)
	}
	s.lines, s.gone = s.lines[n:], s.gone+n
}

// batch is the oldest lines, as many as one request may hold, and the count
// that took wants.
func (s *Sink) batch() ([]byte, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b bytes.Buffer
	n := 0
	for ; n < len(s.lines) && b.Len()+len(s.lines[n]) <= handoff.MaxEvents; n++ {
		b.Write(s.lines[n])
	}
	return b.Bytes(), s.gone + n
}

// took forgets the lines of a batch; some may have been dropped meanwhile.
func (s *Sink) took(until int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := until - s.gone; n > 0 {
		s.drop(n)
	}
}

// Events posts what the sink has, and will have, until ctx ends.
func (c *Client) Events(ctx context.Context, s *Sink) {
	pause := paceEvents
	for ctx.Err() == nil {
		body, until := s.batch()
		if len(body) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-s.fresh:
			}
			continue
		}
		_, err := c.send(ctx, http.MethodPost, handoff.PathEvents, "application/x-ndjson", body)
		switch r, _ := errors.AsType[*refused](err); {
		case err == nil:
			s.took(until)
			pause = paceEvents
		case r != nil && (r.status == http.StatusBadRequest || r.status == http.StatusRequestEntityTooLarge):
			s.took(until) // it would be refused for ever
		default: // away, restarting, or this node is not introduced yet
			pause = min(2*pause, mostPause)
		}
		if sleep(ctx, pause) != nil {
			return
		}
	}
}
