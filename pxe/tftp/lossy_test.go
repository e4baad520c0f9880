package tftp

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	pin "github.com/pin/tftp/v3"
)

// Every byte arrives, in order, whatever the wire does.
func TestLossyWire(t *testing.T) {
	want := content(64<<10 + 17)
	for _, f := range []faults{
		{},
		{loss: 0.10},
		{loss: 0.30},
		{double: 0.5},
		{swap: 0.3},
		{loss: 0.10, double: 0.2, swap: 0.2},
	} {
		for _, window := range []int{1, 4, 16} {
			t.Run(fmt.Sprintf("loss %v double %v swap %v window %d", f.loss, f.double, f.swap, window), func(t *testing.T) {
				t.Parallel()
				s := start(t, &Server{
					Files:  lookup(map[string][]byte{"f": want}),
					Limits: Limits{Wait: 8 * time.Millisecond, Idle: time.Second, PerIP: 100},
				})
				p := newProxy(t, s.addr, f, uint64(window))
				got, err := fetch(p.addr, "f", 1024, window, 20*time.Millisecond)
				if err != nil || !bytes.Equal(got.data, want) || got.window != window {
					t.Fatalf("%d bytes of %d, window %d, %v", len(got.data), len(want), got.window, err)
				}
				// A client that leaves after its last ACK was lost looks stalled.
				e := s.next(t)
				for e.Outcome == Aborted {
					e = s.next(t) // a copy of the request, answered with error 5
				}
				if e.Outcome != Sent && (e.Outcome != Stalled || f.loss+f.swap == 0) {
					t.Errorf("event %+v", e)
				}
			})
		}
	}
}

// The same with a client that is not ours.
func TestLossyWirePin(t *testing.T) {
	want := content(40_000)
	for _, f := range []faults{{loss: 0.10}, {loss: 0.30}, {loss: 0.1, double: 0.3}} {
		t.Run(fmt.Sprintf("loss %v double %v", f.loss, f.double), func(t *testing.T) {
			t.Parallel()
			s := start(t, &Server{
				Files:  lookup(map[string][]byte{"f": want}),
				Limits: Limits{Wait: 8 * time.Millisecond, Idle: time.Second, PerIP: 100},
			})
			p := newProxy(t, s.addr, f, 3)
			c, err := pin.NewClient(p.addr)
			if err != nil {
				t.Fatal(err)
			}
			c.SetBlockSize(1024)
			c.SetTimeout(20 * time.Millisecond)
			c.SetRetries(50)
			c.SetBackoff(func(int) time.Duration { return time.Millisecond })
			w, err := c.Receive("f", "octet")
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if _, err := w.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%d bytes of %d, %v", got.Len(), len(want), err)
			}
		})
	}
}

// Block numbers are 16 bits; at 16 bytes a block this file passes them twice.
func TestBlockNumbersWrap(t *testing.T) {
	want := content(16*(2<<16) + 5)
	s := start(t, &Server{Files: lookup(map[string][]byte{"big": want})})
	for _, window := range []int{8, 64} {
		got, err := fetch(s.addr, "big", 16, window, time.Second)
		if err != nil || !bytes.Equal(got.data, want) {
			t.Fatalf("window %d: %d bytes of %d, %v", window, len(got.data), len(want), err)
		}
		if e := s.next(t); e.Outcome != Sent || e.Bytes != int64(len(want)) || e.Resent > 64*8 {
			t.Errorf("window %d: event %+v", window, e)
		}
	}
}

func TestManyClients(t *testing.T) {
	want := content(300_000)
	s := start(t, &Server{Files: lookup(map[string][]byte{"f": want}), Limits: Limits{PerIP: 64}})
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			got, err := fetch(s.addr, "f", 1468, 1+i%8, time.Second)
			if err != nil || !bytes.Equal(got.data, want) {
				t.Errorf("client %d: %d bytes, %v", i, len(got.data), err)
			}
		})
	}
	all.Wait()
}
