package pxe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

type datagram struct {
	b    []byte
	addr netip.AddrPort
}

// wire is a PacketConn without a network: in is what arrives, out what was sent.
type wire struct {
	in, out chan datagram
	closed  chan struct{}

	mu     sync.Mutex
	expiry chan struct{}
	timer  *time.Timer
}

func newWire() *wire {
	return &wire{in: make(chan datagram, 64), out: make(chan datagram, 64), closed: make(chan struct{}), expiry: make(chan struct{})}
}

func (w *wire) ReadFrom(b []byte) (int, net.Addr, error) {
	w.mu.Lock()
	expiry := w.expiry
	w.mu.Unlock()
	select {
	case d := <-w.in:
		return copy(b, d.b), net.UDPAddrFromAddrPort(d.addr), nil
	case <-w.closed:
		return 0, nil, net.ErrClosed
	case <-expiry:
		return 0, nil, os.ErrDeadlineExceeded
	}
}

func (w *wire) WriteTo(b []byte, a net.Addr) (int, error) {
	w.out <- datagram{slices.Clone(b), addrPort(a)}
	return len(b), nil
}

// SetReadDeadline wakes a reader only when the time is past or passes.
func (w *wire) SetReadDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
		w.expiry = make(chan struct{})
	}
	if !t.IsZero() {
		expiry := w.expiry
		w.timer = time.AfterFunc(time.Until(t), func() { close(expiry) })
	}
	return nil
}

func (w *wire) Close() error                     { close(w.closed); return nil }
func (w *wire) LocalAddr() net.Addr              { return &net.UDPAddr{} }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// running is a server over three wires.
type running struct {
	*Server
	t               *testing.T
	c67, c4011, c68 *wire
	events          chan Event
	foreign         chan Foreign
	stop            context.CancelFunc
	done            chan error
}

func run(t *testing.T, full bool, decide Decide, set ...func(*Server)) *running {
	t.Helper()
	r := &running{t: t, c67: newWire(), c4011: newWire(), c68: newWire(), events: make(chan Event, 64), foreign: make(chan Foreign, 64), done: make(chan error, 1)}
	r.Server = &Server{Proxy: NewProxy(serverAddr, decide), Self: MAC{2, 0, 0, 0, 0, 1}, Event: func(e Event) { r.events <- e }, Foreign: func(f Foreign) { r.foreign <- f }}
	if full {
		var err error
		if r.Full, err = NewDHCP(network(), NewMemory(), decide); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range set {
		f(r.Server)
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() { r.done <- r.Serve(ctx, Conns{DHCP: r.c67, Boot: r.c4011, Client: r.c68}) }()
	t.Cleanup(r.stop)
	return r
}

func (r *running) send(w *wire, b []byte, from string) {
	w.in <- datagram{b, netip.MustParseAddrPort(from)}
}

func (r *running) sent(w *wire) (*dhcpv4.DHCPv4, netip.AddrPort) {
	r.t.Helper()
	select {
	case d := <-w.out:
		p, err := parse(d.b)
		if err != nil {
			r.t.Fatal(err)
		}
		return p, d.addr
	case <-time.After(time.Minute):
		r.t.Fatal("nothing was sent")
	}
	return nil, netip.AddrPort{}
}

// settled waits for one event of this step.
func (r *running) settled(s Step) Event {
	r.t.Helper()
	for {
		select {
		case e := <-r.events:
			if e.Step == s {
				return e
			}
		case <-time.After(time.Minute):
			r.t.Fatalf("no event %s", s)
		}
	}
}

func offerOf(id netip.Addr, yours netip.Addr, t dhcpv4.MessageType) []byte {
	p := reply(packet(mac1, dhcpv4.MessageTypeDiscover, nil), t, id)
	p.YourIPAddr = yours.AsSlice()
	return p.ToBytes()
}

func always(Machine) Boot { return Boot{File: "f.efi", URL: "http://h/f.efi"} }

func TestServe(t *testing.T) {
	r := run(t, true, always)
	discover := packet(mac1, dhcpv4.MessageTypeDiscover, nil).ToBytes()
	r.send(r.c67, discover, "0.0.0.0:68")
	p, to := r.sent(r.c67)
	if p.MessageType() != dhcpv4.MessageTypeOffer || to != broadcast {
		t.Errorf("got %v to %s", p, to)
	}
	r.settled(StepOffer)
	boot := packet(mac1, dhcpv4.MessageTypeRequest, map[uint8]string{60: "PXEClient:Arch:00007", 93: arch93(7)})
	r.send(r.c4011, boot.ToBytes(), "10.77.0.9:4011")
	if p, to := r.sent(r.c4011); p.MessageType() != dhcpv4.MessageTypeAck || to.String() != "10.77.0.9:4011" {
		t.Errorf("4011: got %v to %s", p, to)
	}
	r.stop()
	if err := <-r.done; err != nil {
		t.Error(err)
	}
}

func TestServeEndsWithASocket(t *testing.T) {
	r := run(t, true, always)
	r.c4011.Close()
	if err := <-r.done; !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), "port 4011") {
		t.Errorf("got %v", err)
	}
}

func TestBadPackets(t *testing.T) {
	r := run(t, true, func(m Machine) Boot {
		if m.Hostname == "bug" {
			panic("a bug")
		}
		return Boot{}
	})
	whole := packet(mac1, dhcpv4.MessageTypeDiscover, nil).ToBytes()
	for _, b := range [][]byte{nil, whole[:239], make([]byte, 300), make([]byte, maxPacket+1), append(whole[:240:240], 12, 200, 1)} {
		r.send(r.c67, b, "0.0.0.0:68")
	}
	r.send(r.c67, packet(mac1, dhcpv4.MessageTypeDiscover, map[uint8]string{12: "bug"}).ToBytes(), "0.0.0.0:68")
	self := packet(r.Self, dhcpv4.MessageTypeDiscover, nil).ToBytes()
	r.send(r.c67, self, "0.0.0.0:68")
	r.send(r.c67, whole, "0.0.0.0:68")
	if p, _ := r.sent(r.c67); MAC(p.ClientHWAddr) != mac1 {
		t.Errorf("our own probe was answered: %v", p)
	}
	r.stop()
	<-r.done
	if got, want := r.Counters(), (Counters{Malformed: 5, Panics: 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestYields(t *testing.T) {
	for name, c := range map[string]struct {
		b    []byte
		want bool
	}{
		"a foreign OFFER":              {offerOf(otherAddr, at(50), dhcpv4.MessageTypeOffer), true},
		"a foreign ACK":                {offerOf(otherAddr, at(50), dhcpv4.MessageTypeAck), true},
		"our own OFFER":                {offerOf(serverAddr, at(100), dhcpv4.MessageTypeOffer), false},
		"another proxy's OFFER":        {offerOf(otherAddr, netip.IPv4Unspecified(), dhcpv4.MessageTypeOffer), false},
		"an ACK to INFORM":             {offerOf(otherAddr, netip.IPv4Unspecified(), dhcpv4.MessageTypeAck), false},
		"a NAK":                        {offerOf(otherAddr, netip.IPv4Unspecified(), dhcpv4.MessageTypeNak), false},
		"a client naming it":           {packet(mac1, dhcpv4.MessageTypeRequest, map[uint8]string{54: raw(otherAddr)}).ToBytes(), false},
		"a client's packet as a reply": {packet(mac1, dhcpv4.MessageTypeOffer, map[uint8]string{54: raw(otherAddr)}).ToBytes(), false},
	} {
		r := run(t, true, always)
		r.send(r.c68, c.b, "10.77.0.254:67")
		r.send(r.c68, c.b, "10.77.0.254:67")
		if c.want {
			if f := <-r.foreign; f.ID != otherAddr || f.From != otherAddr {
				t.Errorf("%s: got %s", name, f)
			}
			if e := r.settled(StepForeign); !strings.Contains(e.Text, "10.77.0.254") || !strings.Contains(e.Text, "leasing stopped") {
				t.Errorf("%s: %s", name, e)
			}
		} else {
			r.send(r.c67, packet(mac1, dhcpv4.MessageTypeDiscover, nil).ToBytes(), "0.0.0.0:68")
			r.sent(r.c67)
		}
		if r.Yielded() != c.want {
			t.Errorf("%s: yielded %v", name, r.Yielded())
		}
		r.stop()
		<-r.done
		if len(r.foreign) != 0 {
			t.Errorf("%s: told twice or wrongly", name)
		}
	}
}

func TestYieldedMeansProxy(t *testing.T) {
	r := run(t, true, always)
	r.send(r.c68, offerOf(otherAddr, at(50), dhcpv4.MessageTypeOffer), "10.77.0.254:67")
	<-r.foreign
	r.send(r.c67, packet(mac1, dhcpv4.MessageTypeDiscover, nil).ToBytes(), "0.0.0.0:68")
	renew := packet(mac1, dhcpv4.MessageTypeRequest, nil)
	renew.ClientIPAddr = at(100).AsSlice()
	r.send(r.c67, renew.ToBytes(), "10.77.0.100:68")
	r.send(r.c67, packet(macN(2), dhcpv4.MessageTypeDiscover, map[uint8]string{60: "PXEClient:Arch:00007", 93: arch93(7)}).ToBytes(), "0.0.0.0:68")
	p, _ := r.sent(r.c67)
	if MAC(p.ClientHWAddr) != macN(2) || field4(p.YourIPAddr).IsValid() {
		t.Errorf("got %v", p)
	}
	r.stop()
	<-r.done
	if len(r.c67.out) != 0 {
		t.Error("an ordinary client was answered after a foreign server appeared")
	}
}

// TestHintProbes: a client that names another server makes us look for it, when
// we lease, or when we would like to know who does.
func TestHintProbes(t *testing.T) {
	for _, full := range []bool{true, false} {
		r := run(t, full, always, func(s *Server) { s.Seek = !full })
		r.send(r.c67, packet(mac1, dhcpv4.MessageTypeRequest, map[uint8]string{54: raw(otherAddr), 50: raw(at(50))}).ToBytes(), "0.0.0.0:68")
		p, to := r.sent(r.c68)
		if p.MessageType() != dhcpv4.MessageTypeDiscover || to.String() != "255.255.255.255:67" || MAC(p.ClientHWAddr) != r.Self || !p.IsBroadcast() {
			t.Errorf("got %v to %s", p, to)
		}
		if r.Yielded() {
			t.Error("a client's word was enough")
		}
		r.send(r.c68, offerOf(otherAddr, at(50), dhcpv4.MessageTypeOffer), "10.77.0.254:67")
		if f := <-r.foreign; f.ID != otherAddr {
			t.Errorf("got %s", f)
		}
		r.stop()
		<-r.done
	}
}

func TestProbe(t *testing.T) {
	w := newWire()
	third := at(253)
	w.in <- datagram{offerOf(otherAddr, at(50), dhcpv4.MessageTypeOffer), netip.AddrPortFrom(otherAddr, 67)}
	w.in <- datagram{offerOf(otherAddr, at(51), dhcpv4.MessageTypeOffer), netip.AddrPortFrom(otherAddr, 67)}
	w.in <- datagram{offerOf(third, at(51), dhcpv4.MessageTypeOffer), netip.AddrPortFrom(at(252), 67)}
	w.in <- datagram{offerOf(serverAddr, at(51), dhcpv4.MessageTypeOffer), netip.AddrPortFrom(serverAddr, 67)}
	w.in <- datagram{offerOf(at(251), netip.IPv4Unspecified(), dhcpv4.MessageTypeOffer), netip.AddrPortFrom(at(251), 67)}
	w.in <- datagram{[]byte("junk"), netip.AddrPortFrom(otherAddr, 67)}
	who := func(a netip.Addr) MAC { return macN(int(a.As4()[3])) }
	got, err := Probe(t.Context(), w, MAC{2, 0, 0, 0, 0, 1}, serverAddr, 1200*time.Millisecond, who)
	if err != nil {
		t.Fatal(err)
	}
	want := []Foreign{{third, at(252), macN(252)}, {otherAddr, otherAddr, macN(254)}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if len(w.out) != 2 {
		t.Errorf("%d DISCOVERs in 1.2 s, want 2", len(w.out))
	}
}

// TestAnotherBootServer: a second seed beside a DHCP server takes no address
// away, and nobody knows from whom a machine will boot.
func TestAnotherBootServer(t *testing.T) {
	r := run(t, true, always)
	for _, id := range []netip.Addr{serverAddr, otherAddr, otherAddr} {
		p := packet(mac1, dhcpv4.MessageTypeOffer, map[uint8]string{54: raw(id), 60: "PXEClient"})
		p.OpCode = dhcpv4.OpcodeBootReply
		r.send(r.c68, p.ToBytes(), id.String()+":67")
	}
	if e := r.settled(StepForeign); !strings.Contains(e.Text, "boot server 10.77.0.254") {
		t.Errorf("got %s", e)
	}
	r.send(r.c67, packet(mac1, dhcpv4.MessageTypeDiscover, nil).ToBytes(), "0.0.0.0:68")
	if p, _ := r.sent(r.c67); !field4(p.YourIPAddr).IsValid() {
		t.Errorf("leasing stopped: %v", p)
	}
	r.stop()
	<-r.done
	if r.Yielded() || len(r.foreign) != 0 {
		t.Error("yielded to a server that leases nothing")
	}
	for len(r.events) > 0 {
		if e := <-r.events; e.Step == StepForeign {
			t.Errorf("told again: %s", e)
		}
	}
}
