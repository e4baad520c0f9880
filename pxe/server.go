package pxe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sync/errgroup"
)

const (
	minPacket  = 240  // RFC 2131 section 2: header and magic cookie
	maxPacket  = 1472 // one Ethernet frame; no client sends fragments
	workers    = 32   // packets in hand at once, for conflict probes that take their time
	probeEvery = 30 * time.Second
	probeLeast = 5 * time.Second
)

// Conns are the sockets of one interface, the caller's to open and close.
type Conns struct {
	DHCP   net.PacketConn // port 67
	Boot   net.PacketConn // port 4011
	Client net.PacketConn // port 68, to watch for foreign servers; nil: unwatched
}

// Counters is what was not answered, since the start.
type Counters struct {
	Malformed int64 // not DHCP, too short or too long
	Busy      int64 // all workers taken
	Panics    int64 // a bug of ours; the packet was dropped
	Reads     int64 // read errors, such as an interface that went down
}

// Server runs the handlers over sockets. Set the fields before Serve.
type Server struct {
	Full    *DHCP  // nil: proxy from the start
	Proxy   *Proxy // must be set
	Self    MAC    // of the interface: our own probes are not answered
	Event   func(Event)
	Foreign func(Foreign) // a foreign server appeared; called once a server, after leasing stopped
	Who     Neighbour     // may be nil
	Seek    bool          // look for foreign servers though nothing is leased, until there is one

	yielded atomic.Bool
	probe   chan struct{}

	malformed, busy, panics, reads atomic.Int64
}

// Yielded says that a foreign server was seen and addresses are no longer
// leased. It never turns back.
func (s *Server) Yielded() bool { return s.yielded.Load() }

// Counters returns what was not answered.
func (s *Server) Counters() Counters {
	return Counters{Malformed: s.malformed.Load(), Busy: s.busy.Load(), Panics: s.panics.Load(), Reads: s.reads.Load()}
}

// Serve answers until ctx ends or a socket is closed under it.
func (s *Server) Serve(ctx context.Context, c Conns) error {
	s.probe = make(chan struct{}, 1)
	watcher := NewWatcher(s.Proxy.server, s.yield)
	watcher.boots = s.besides
	g, ctx := errgroup.WithContext(ctx)
	conns := []net.PacketConn{c.DHCP, c.Boot}
	if c.Client != nil {
		conns = append(conns, c.Client)
		g.Go(func() error { return s.ask(ctx, c.Client) })
		g.Go(func() error {
			return s.read(ctx, c.Client, "port 68", func(p *dhcpv4.DHCPv4, from netip.AddrPort) Answer {
				watcher.See(p, from.Addr())
				return Answer{}
			})
		})
	}
	g.Go(func() error {
		return s.read(ctx, c.DHCP, "port 67", func(p *dhcpv4.DHCPv4, from netip.AddrPort) Answer {
			watcher.See(p, from.Addr())
			return s.handle67(p)
		})
	})
	g.Go(func() error { return s.read(ctx, c.Boot, "port 4011", s.Proxy.Handle4011) })
	g.Go(func() error {
		<-ctx.Done()
		for _, c := range conns { // the readers wake and see ctx
			c.SetReadDeadline(time.Unix(1, 0))
		}
		return nil
	})
	return g.Wait()
}

// yield stops leasing at once; what was leased runs out or is renewed by the
// foreign server.
func (s *Server) yield(f Foreign) {
	was := s.yielded.Swap(true)
	if s.Who != nil {
		f.MAC = s.Who(f.From)
	}
	text := "DHCP server " + f.String()
	if s.Full != nil && !was {
		text += ": leasing stopped, boot files only from now on"
	}
	s.tell(Event{Machine: Machine{MAC: f.MAC}, Step: StepForeign, Text: text})
	if s.Foreign != nil {
		s.Foreign(f)
	}
}

// besides tells of another boot server. Nothing else can be done: firmware takes
// whichever answer it likes.
func (s *Server) besides(f Foreign) {
	if s.Who != nil {
		f.MAC = s.Who(f.From)
	}
	s.tell(Event{Machine: Machine{MAC: f.MAC}, Step: StepForeign,
		Text: "boot server " + f.String() + " answers netboot firmware here too, a second seed for instance: machines may boot from it instead"})
}

func (s *Server) tell(e Event) {
	if s.Event != nil {
		s.Event(e)
	}
}

func (s *Server) handle67(p *dhcpv4.DHCPv4) Answer {
	if string(p.ClientHWAddr) == string(s.Self[:]) {
		return Answer{}
	}
	if id := option4(p, dhcpv4.OptionServerIdentifier); p.MessageType() == dhcpv4.MessageTypeRequest && id.IsValid() && id != s.Proxy.server {
		select { // somebody took another server's offer: look for it now
		case s.probe <- struct{}{}:
		default:
		}
	}
	if s.Full == nil || s.yielded.Load() {
		return s.Proxy.Handle67(p)
	}
	a := s.Full.Handle(p)
	if s.yielded.Load() { // a conflict probe was under way meanwhile
		return Answer{}
	}
	return a
}

// ask sends a DISCOVER now and then while we lease, or nobody does; a foreign server's answer
// arrives on port 68.
func (s *Server) ask(ctx context.Context, conn net.PacketConn) error {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-s.probe:
		}
		if s.Full == nil && !s.Seek || s.yielded.Load() || time.Since(last) < probeLeast {
			continue
		}
		last = time.Now()
		q, err := discover(s.Self)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(q.ToBytes(), everyone(serverPort)); err != nil && ctx.Err() == nil {
			s.reads.Add(1) // the wire is down: nobody else is on it either
		}
	}
}

// read hands packets to handle, each in its own goroutine, workers at most.
func (s *Server) read(ctx context.Context, conn net.PacketConn, name string, handle func(*dhcpv4.DHCPv4, netip.AddrPort) Answer) error {
	var packets errgroup.Group
	packets.SetLimit(workers)
	defer packets.Wait()
	buf := make([]byte, maxPacket+1)
	for {
		n, from, err := conn.ReadFrom(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("%s: %w", name, err)
		case err != nil:
			s.reads.Add(1)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		p, err := s.parse(buf[:n])
		if err != nil {
			s.malformed.Add(1)
			continue
		}
		if !packets.TryGo(func() error { s.one(conn, p, addrPort(from), handle); return nil }) {
			s.busy.Add(1)
		}
	}
}

// one packet, whose panic costs nobody else's.
func (s *Server) one(conn net.PacketConn, p *dhcpv4.DHCPv4, from netip.AddrPort, handle func(*dhcpv4.DHCPv4, netip.AddrPort) Answer) {
	defer func() {
		if recover() != nil {
			s.panics.Add(1)
		}
	}()
	a := handle(p, from)
	if a.Packet != nil {
		if _, err := conn.WriteTo(a.Packet.ToBytes(), net.UDPAddrFromAddrPort(a.To)); err != nil {
			m, _ := Observe(p)
			a.note(m, StepIgnored, "sending to %s: %s", a.To, err)
		}
	}
	for _, e := range a.Events {
		s.tell(e)
	}
}

func (s *Server) parse(b []byte) (p *dhcpv4.DHCPv4, err error) {
	defer func() {
		if recover() != nil {
			s.panics.Add(1)
			p, err = nil, errors.New("the parser gave up")
		}
	}()
	return parse(b)
}

// parse reads one datagram.
func parse(b []byte) (*dhcpv4.DHCPv4, error) {
	if len(b) < minPacket || len(b) > maxPacket {
		return nil, fmt.Errorf("datagram of %d bytes, want %d to %d", len(b), minPacket, maxPacket)
	}
	p, err := dhcpv4.FromBytes(b)
	if err != nil {
		return nil, fmt.Errorf("datagram of %d bytes: %w", len(b), err)
	}
	return p, nil
}

func addrPort(a net.Addr) netip.AddrPort {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// Close closes what is open.
func (c Conns) Close() error {
	var errs []error
	for _, conn := range []net.PacketConn{c.DHCP, c.Boot, c.Client} {
		if conn != nil {
			errs = append(errs, conn.Close())
		}
	}
	return errors.Join(errs...)
}
