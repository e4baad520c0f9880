package enrol

import (
	"context"
	"io"
	"log"
	"net/http"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
)

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func wait(t *testing.T, what string, f func() bool) {
	t.Helper()
	for i := 0; i < 1500; i++ {
		if f() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("waited in vain for %s", what)
}

func TestSinkKeepsTheNewest(t *testing.T) {
	s := NewSink()
	for i := range 2 * keepEvents {
		s.Add(handoff.Event{Seq: i + 1, Phase: "x"})
	}
	body, until := s.batch()
	lines := strings.Split(strings.TrimSpace(string(body)), "\n")
	if e, _, _ := handoff.ParseLine([]byte(lines[0])); len(lines) != keepEvents || e.Seq != keepEvents+1 {
		t.Errorf("%d lines from %d, want %d from %d", len(lines), e.Seq, keepEvents, keepEvents+1)
	}
	s.Add(handoff.Event{Seq: 2*keepEvents + 1}) // drops one that is on its way
	s.took(until)
	if body, _ := s.batch(); strings.Count(string(body), "\n") != 1 {
		t.Errorf("left: %q", body)
	}
	s = NewSink()
	for i := range 100 {
		s.Add(handoff.Event{Seq: i + 1, Text: strings.Repeat("x", 20<<10)})
	}
	body, until = s.batch()
	if len(body) > handoff.MaxEvents || s.size > keepBytes || s.gone == 0 {
		t.Errorf("batch of %d bytes, %d kept, %d dropped", len(body), s.size, s.gone)
	}
	s.took(until)
	if rest, _ := s.batch(); len(rest) == 0 || len(rest) > handoff.MaxEvents {
		t.Errorf("second batch of %d bytes", len(rest))
	}
	s.Add(handoff.Event{Text: strings.Repeat("x", handoff.MaxEvents)}) // fits no request
	if s.size > keepBytes {
		t.Errorf("%d bytes kept", s.size)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	auth := newAuthority(t, time.Now())
	s := newSeed(t, auth)
	s.known = false // 401 until the node has introduced itself
	srv := s.serve("127.0.0.1:0")
	n, _ := client(t, srv.URL, "")
	sink := NewSink()
	for i := range 20 {
		sink.Add(handoff.Event{Seq: i + 1, Phase: "kernel"})
	}
	ctx, cancel := context.WithCancel(limited(t))
	ended := make(chan struct{})
	go func() { n.Events(ctx, sink); close(ended) }()
	if _, err := n.Enrol(ctx, handoff.Facts{}); err != nil {
		t.Fatal(err)
	}
	count := func() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.events) }
	wait(t, "20 events", func() bool { return count() == 20 })
	sink.Add(handoff.Event{Seq: 21})
	wait(t, "one more", func() bool { return count() == 21 })
	s.mu.Lock()
	for i, e := range s.events {
		if e.Seq != i+1 {
			t.Errorf("event %d has seq %d", i, e.Seq)
		}
	}
	s.refuse[handoff.PathEvents] = &refused{status: http.StatusBadRequest}
	s.mu.Unlock()
	sink.Add(handoff.Event{Seq: 22})
	wait(t, "that a batch is given up", func() bool { b, _ := sink.batch(); return len(b) == 0 })
	cancel()
	<-ended
}
