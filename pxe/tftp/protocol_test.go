package tftp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// quick makes retransmission fast; silence long enough to see none is then
// a few multiples of it.
var quick = Limits{Wait: 20 * time.Millisecond, Idle: 400 * time.Millisecond}

// never makes the timer irrelevant: whatever arrives was not a retransmission.
var never = Limits{Wait: time.Minute, Idle: time.Hour}

const rrq = "\x00\x01f\x00octet\x00"

func data(n int, text string) string { return string([]byte{0, opData, byte(n >> 8), byte(n)}) + text }
func ackOf(n int) string             { return string([]byte{0, opAck, byte(n >> 8), byte(n)}) }

// quiet demands that nothing arrives; only the absence needs the delay.
func (p *peer) quiet(t *testing.T) {
	t.Helper()
	if got, ok := p.within(50 * time.Millisecond); ok {
		t.Fatalf("unexpected datagram %.40q", got)
	}
}

func (p *peer) expect(t *testing.T, want string) {
	t.Helper()
	if got := p.recv(t); got != want {
		t.Fatalf("got %.40q (%d bytes), want %.40q", got, len(got), want)
	}
}

// RFC 1123 section 4.2.3.1: a second ACK must not make a second DATA.
func TestDuplicateAckIsIgnored(t *testing.T) {
	block := strings.Repeat("x", 512)
	s := start(t, &Server{Files: lookup(map[string][]byte{"f": []byte(block + block + "end")}), Limits: never})
	c := dial(t, s.addr)
	c.send(rrq)
	c.expect(t, data(1, block))
	for range 5 {
		c.reply(ackOf(1))
	}
	c.expect(t, data(2, block))
	c.reply(ackOf(1))
	c.reply(ackOf(0))
	c.reply(ackOf(3)) // not sent yet
	c.quiet(t)
	c.reply(ackOf(2))
	c.expect(t, data(3, "end"))
	c.reply(ackOf(3))
	if e := s.next(t); e.Outcome != Sent || e.Resent != 0 {
		t.Errorf("event %+v", e)
	}
}

func TestWindow(t *testing.T) {
	s := start(t, &Server{Files: lookup(map[string][]byte{"f": []byte("aaaaaaaabbbbbbbbccccccccddddddddee")}), Limits: never})
	c := dial(t, s.addr)
	c.send(rrq + "blksize\x008\x00windowsize\x003\x00")
	c.expect(t, "\x00\x06blksize\x008\x00windowsize\x003\x00")
	c.quiet(t) // nothing before ACK 0
	c.reply(ackOf(0))
	c.expect(t, data(1, "aaaaaaaa"))
	c.expect(t, data(2, "bbbbbbbb"))
	c.expect(t, data(3, "cccccccc"))
	c.reply(ackOf(1)) // block 2 was lost: go on from there
	c.expect(t, data(2, "bbbbbbbb"))
	c.expect(t, data(3, "cccccccc"))
	c.expect(t, data(4, "dddddddd"))
	c.reply(ackOf(1)) // a copy of the last ACK
	c.quiet(t)
	c.reply(ackOf(4))
	c.expect(t, data(5, "ee"))
	c.reply(ackOf(5))
	if e := s.next(t); e.Outcome != Sent || e.Resent != 2 || e.Bytes != 34 || e.Window != 3 || e.Block != 8 {
		t.Errorf("event %+v", e)
	}
}

// A file that fills its last block is ended by an empty one.
func TestEmptyLastBlock(t *testing.T) {
	block := strings.Repeat("x", 512)
	s := start(t, &Server{Files: lookup(map[string][]byte{"f": []byte(block)}), Limits: never})
	c := dial(t, s.addr)
	c.send(rrq)
	c.expect(t, data(1, block))
	c.reply(ackOf(1))
	c.expect(t, data(2, ""))
	c.reply(ackOf(2))
	if e := s.next(t); e.Outcome != Sent || e.Bytes != 512 {
		t.Errorf("event %+v", e)
	}
}

// OVMF asks for the size, aborts with error 8 and comes back.
func TestSizeProbe(t *testing.T) {
	for _, c := range []struct {
		options, bye string
		want         Outcome
	}{
		{"tsize\x000\x00blksize\x001468\x00windowsize\x004\x00", "\x00\x05\x00\x08User aborted the transfer\x00", Probed},
		{"tsize\x000\x00", "\x00\x05\x00\x00TFTP Aborted\x00", Probed},
		{"tsize\x000\x00", "\x00\x05\x00\x03disk full\x00", Aborted},
		{"blksize\x001468\x00", "\x00\x05\x00\x08no\x00", Aborted},
	} {
		s := start(t, &Server{Files: lookup(map[string][]byte{"f": make([]byte, 5000)}), Limits: never})
		p := dial(t, s.addr)
		p.send(rrq + c.options)
		p.recv(t)
		p.reply(c.bye)
		e := s.next(t)
		if e.Outcome != c.want || e.Quiet() != (c.want == Probed) || (e.Err == nil) != e.Quiet() || e.Size != 5000 || e.Bytes != 0 {
			t.Errorf("%q %q: event %+v, want %v", c.options, c.bye, e, c.want)
		}
	}
}

// One request earns one datagram at a time until its sender has answered, and
// retransmissions thin out and end.
func TestNoAmplification(t *testing.T) {
	s := start(t, &Server{Files: lookup(map[string][]byte{"f": make([]byte, 1<<20)}), Limits: quick})
	c := dial(t, s.addr)
	c.send(rrq + "blksize\x001468\x00windowsize\x0064\x00tsize\x000\x00")
	sent, bytes := 0, 0
	for got, ok := c.within(2 * quick.Idle); ok; got, ok = c.within(2 * quick.Idle) {
		if got[1] == opData {
			t.Fatal("data before the first ACK")
		}
		sent, bytes = sent+1, bytes+len(got)
	}
	// 20, 40, 80, 160, 160 ms of 400: six OACKs at most and the ERROR.
	if sent < 2 || sent > 7 {
		t.Errorf("%d datagrams, %d bytes to a client that never answered", sent, bytes)
	}
	e := s.next(t)
	if e.Outcome != Stalled || !strings.Contains(e.Err.Error(), "no acknowledgement of block 0") {
		t.Errorf("event %+v", e)
	}
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	if len(s.slots.all)+len(s.slots.perIP)+len(s.slots.asking)+len(s.slots.proven) != 0 {
		t.Errorf("slots left: %+v", &s.slots)
	}
}

// A stalled client is given up Idle after its last progress, however it chatters.
func TestIdleFreesTheSlot(t *testing.T) {
	s := start(t, &Server{Files: lookup(map[string][]byte{"f": make([]byte, 2000)}), Limits: quick})
	c := dial(t, s.addr)
	c.send(rrq)
	c.recv(t)
	c.reply(ackOf(1))
	for done := false; !done; {
		select {
		case e := <-s.events:
			if done = true; e.Outcome != Stalled || e.Bytes != 512 || e.Resent == 0 {
				t.Errorf("event %+v", e)
			}
		case <-time.After(10 * time.Millisecond):
			c.reply(ackOf(1))
		}
	}
}

// RFC 1350 section 4: a wrong TID gets error 5, the transfer goes on.
func TestStranger(t *testing.T) {
	s := start(t, &Server{Files: lookup(map[string][]byte{"f": []byte("hello")}), Limits: never})
	c, other := dial(t, s.addr), dial(t, s.addr)
	c.send(rrq)
	c.expect(t, data(1, "hello"))
	other.WriteTo([]byte(ackOf(1)), c.from)
	if got := other.recv(t); !strings.HasPrefix(got, "\x00\x05\x00\x05") {
		t.Errorf("stranger got %q", got)
	}
	other.WriteTo([]byte("\x00\x05\x00\x00die\x00"), c.from)
	other.recv(t)
	c.reply(ackOf(1))
	if e := s.next(t); e.Outcome != Sent {
		t.Errorf("event %+v", e)
	}
}

func TestRepeatedRequest(t *testing.T) {
	s := start(t, &Server{Files: lookup(map[string][]byte{"f": make([]byte, 2000)}), Limits: never})
	c := dial(t, s.addr)
	c.send(rrq)
	c.send(rrq)
	c.recv(t)
	c.quiet(t) // the copy starts nothing
	first := c.from
	c.reply(ackOf(1))
	c.recv(t)
	// The client forgot everything and asks from the same port.
	c.send(rrq)
	if got := c.recv(t); got[:4] != data(1, "") || c.from.String() == first.String() {
		t.Fatalf("got %.10q from %v, first transfer is %v", got, c.from, first)
	}
	c.reply(ackOf(1))
	if e := s.next(t); e.Outcome != Aborted || !errors.Is(e.Err, errAgain) {
		t.Errorf("first transfer: %+v", e)
	}
}

func TestLimits(t *testing.T) {
	lim := never
	lim.PerIP, lim.Transfers = 3, 4
	s := start(t, &Server{Files: lookup(map[string][]byte{"f": make([]byte, 2000)}), Limits: lim})
	var held []*peer
	for range 3 {
		c := dial(t, s.addr)
		c.send(rrq)
		c.recv(t)
		c.reply(ackOf(1))
		c.recv(t)
		held = append(held, c)
	}
	late := dial(t, s.addr)
	late.send(rrq)
	late.quiet(t)
	if n := s.Counters().Busy; n != 1 {
		t.Errorf("%d busy, want 1", n)
	}
	held[0].reply("\x00\x05\x00\x00bye\x00")
	s.next(t)
	late.send(rrq)
	late.recv(t)
}

// Forged requests fill every slot; a live client takes the oldest of them, a
// proven transfer is never taken.
func TestEviction(t *testing.T) {
	var sl slots
	lim := Limits{Transfers: 2, PerIP: 2}.orDefaults()
	cause := map[int]error{}
	take := func(i int) (*slot, bool) {
		return sl.take(addrPort(&net.UDPAddr{IP: net.IPv4(10, 0, 0, byte(i)), Port: 7}), rrq, lim, func(err error) { cause[i] = err })
	}
	a, _ := take(1)
	b, _ := take(2)
	if _, ok := take(3); ok {
		t.Fatal("a fresh request was evicted")
	}
	sl.prove(a)
	a.since, b.since = a.since.Add(-time.Minute), b.since.Add(-2*evictAfter)
	c, ok := take(3)
	if !ok || !errors.Is(cause[2], errEvicted) || cause[1] != nil {
		t.Fatalf("took %v, causes %v", ok, cause)
	}
	sl.free(b)
	sl.free(c)
	sl.free(a)
	if len(sl.all)+len(sl.perIP)+len(sl.asking)+len(sl.proven) != 0 {
		t.Errorf("left over: %+v", &sl)
	}
}

// The end of the server is told to the client, and Serve waits for it.
func TestStop(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var got Event
	s := &Server{Files: lookup(map[string][]byte{"f": make([]byte, 2000)}), Limits: never, Events: func(e Event) { got = e }}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, pc) }()
	c := dial(t, pc.LocalAddr().String())
	c.send(rrq)
	c.recv(t)
	cancel()
	if err := <-done; err != nil || got.Outcome != Stopped {
		t.Errorf("Serve: %v, event %+v", err, got)
	}
	c.expect(t, "\x00\x05\x00\x00transfer ended\x00")
	if _, err := pc.WriteTo(nil, c.LocalAddr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection is open after Serve: %v", err)
	}
}

// Each transfer has a port from Listen.
func TestListenSeam(t *testing.T) {
	opened := 0
	s := start(t, &Server{
		Files:  lookup(map[string][]byte{"f": []byte("x")}),
		Limits: never,
		Listen: func() (net.PacketConn, error) {
			if opened++; opened > 1 {
				return nil, fmt.Errorf("no more")
			}
			return net.ListenPacket("udp", "127.0.0.1:0")
		},
	})
	c := dial(t, s.addr)
	c.send(rrq)
	c.expect(t, data(1, "x"))
	if c.from.String() == s.addr {
		t.Error("answered from the request port")
	}
	c.reply(ackOf(1))
	s.next(t)
	c.send(rrq)
	if got := c.recv(t); !strings.HasPrefix(got, "\x00\x05\x00\x00") {
		t.Errorf("got %q", got)
	}
	if e := s.next(t); e.Outcome != Failed || e.Err.Error() != "opening a port: no more" {
		t.Errorf("event %+v", e)
	}
}

// RFC 2349: the client's timeout replaces ours.
func TestTimeoutOption(t *testing.T) {
	lim := quick
	lim.Idle = 4 * time.Second
	s := start(t, &Server{Files: lookup(map[string][]byte{"f": []byte("x")}), Limits: lim})
	c := dial(t, s.addr)
	c.send(rrq + "timeout\x001\x00")
	c.expect(t, "\x00\x06timeout\x001\x00")
	if _, ok := c.within(200 * time.Millisecond); ok {
		t.Error("retransmitted before the second the client asked for")
	}
	c.expect(t, "\x00\x06timeout\x001\x00")
	c.reply(ackOf(0))
	c.expect(t, data(1, "x"))
	c.reply(ackOf(1))
}
