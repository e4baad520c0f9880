package tftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Files finds what a client asked for: a reader, its size in bytes and whether
// the name is known. It is a lookup in a fixed set, never a path; name has lost
// one leading slash and holds no backslash, no dot-dot and only printable
// ASCII. Readers are shared by transfers and are not closed.
type Files func(name string) (io.ReaderAt, int64, bool)

// Limits bound what clients can take. A zero field means its default.
type Limits struct {
	Transfers int           // at one time, all clients; 256
	PerIP     int           // at one time, one address; 8
	Block     int           // largest blksize in bytes; 65464
	Window    int           // largest windowsize in blocks; 64, which is also its cap
	InFlight  int           // bytes sent and not acknowledged; 128 KiB, under Linux' usual receive buffer
	Wait      time.Duration // before the first retransmission, then doubled up to 8 times; 1 s
	Idle      time.Duration // without progress until the slot is free; 30 s
}

func (l Limits) orDefaults() Limits {
	def := func(v *int, d, most int) {
		if *v <= 0 {
			*v = d
		}
		*v = min(*v, most)
	}
	def(&l.Transfers, 256, 1<<16)
	def(&l.PerIP, 8, 1<<16)
	def(&l.Block, maxBlock, maxBlock)
	l.Block = max(l.Block, minBlock)
	def(&l.Window, 64, 64)
	def(&l.InFlight, 128<<10, 1<<30)
	if l.Wait <= 0 {
		l.Wait = time.Second
	}
	if l.Idle <= 0 {
		l.Idle = 30 * time.Second
	}
	return l
}

// Server answers read requests. Only Files is required. A Server may serve
// several connections at once; they share its limits.
type Server struct {
	Files  Files
	Events func(Event)  // called once per finished request, from many goroutines
	Log    *slog.Logger // nil: silent
	Limits Limits
	// Listen opens the port of one transfer. Nil: a UDP port the kernel
	// chooses, on the address of the connection that brought the request. On
	// a wildcard address the answer's source address is the kernel's choice;
	// a server with several addresses in one subnet binds to one of them.
	Listen func() (net.PacketConn, error)

	slots  slots
	counts struct{ panics, malformed, busy atomic.Uint64 }
}

// Counters are totals since the server was made.
type Counters struct {
	Panics    uint64 // recovered while serving; any at all is our defect
	Malformed uint64 // datagrams that were no request
	Busy      uint64 // requests dropped because of Limits
}

// Counters returns the totals.
func (s *Server) Counters() Counters {
	return Counters{s.counts.panics.Load(), s.counts.malformed.Load(), s.counts.busy.Load()}
}

// readErrors in a row end Serve. Single ones are survivable: Windows reports a
// client's ICMP port-unreachable as an error of our next read.
const readErrors = 100

// Serve answers requests that arrive on pc until ctx ends, then closes pc,
// waits for its transfers to tell their clients, and returns nil.
func (s *Server) Serve(ctx context.Context, pc net.PacketConn) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { pc.Close() })
	defer stop()
	lim := s.Limits.orDefaults()
	buf := make([]byte, maxRequest+1)
	for bad := 0; ; {
		n, from, err := pc.ReadFrom(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if bad++; bad >= readErrors || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("tftp: reading requests on %v: %w", pc.LocalAddr(), err)
			}
			sleep(ctx, time.Duration(bad)*time.Millisecond)
			continue
		}
		bad = 0
		raw := string(buf[:n])
		if rest := s.accept(ctx, pc, from, raw, lim); rest != nil {
			running.Go(rest)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// accept judges one datagram and returns what remains to be done for it, nil
// when nothing does. A slot is taken here, before any goroutine lives.
func (s *Server) accept(ctx context.Context, pc net.PacketConn, from net.Addr, raw string, lim Limits) (rest func()) {
	defer s.recovered(addrPort(from), "request")
	start := time.Now()
	if !addrPort(from).IsValid() {
		s.counts.malformed.Add(1)
		return nil
	}
	req, no, ok := parseRequest([]byte(raw))
	if !ok {
		s.counts.malformed.Add(1)
		if no != nil {
			s.refuse(pc, from, no)
			s.report(Event{Client: addrPort(from), Name: req.raw, Outcome: Refused, Err: no})
		}
		return nil
	}
	tctx, cancel := context.WithCancelCause(ctx)
	slot, got := s.slots.take(addrPort(from), raw, lim, cancel)
	if !got {
		cancel(nil)
		if slot == nil {
			s.counts.busy.Add(1)
		}
		return nil
	}
	return func() {
		defer cancel(nil)
		defer s.slots.free(slot) // also after a panic
		defer s.recovered(slot.client, req.name)
		e := s.serve(tctx, pc, from, req, slot, lim)
		s.slots.free(slot)
		e.Client, e.Name, e.Duration = slot.client, req.name, time.Since(start)
		s.report(e)
	}
}

// serve runs one accepted request to its end.
func (s *Server) serve(ctx context.Context, pc net.PacketConn, from net.Addr, req request, slot *slot, lim Limits) Event {
	file, size, ok := s.Files(req.name)
	if !ok {
		no := &refusal{codeNotFound, "no such file"}
		s.slots.free(slot) // first: GRUB asks for the next name as soon as it reads this
		s.refuse(pc, from, no)
		if optional(req.name) {
			return Event{Outcome: Optional}
		}
		return Event{Outcome: Missing, Err: no}
	}
	conn, err := s.listen(pc)
	if err != nil {
		s.slots.free(slot)
		s.refuse(pc, from, &refusal{codeUndefined, "no port for the transfer"})
		return Event{Outcome: Failed, Size: size, Err: fmt.Errorf("opening a port: %w", err)}
	}
	defer conn.Close()
	t := &transfer{
		terms: agree(req.options, size, lim), conn: conn, peer: from, client: slot.client,
		file: file, size: size, idle: lim.Idle, asked: req.options,
		proven: func() { s.slots.prove(slot) },
	}
	return t.run(ctx)
}

func (s *Server) listen(pc net.PacketConn) (net.PacketConn, error) {
	if s.Listen != nil {
		return s.Listen()
	}
	host := ""
	if a := addrPort(pc.LocalAddr()); a.IsValid() {
		host = a.Addr().String()
	}
	return net.ListenPacket("udp", net.JoinHostPort(host, "0"))
}

// refuse answers from the port the request came to: it costs no port, and
// clients do not know the transfer's yet. A lost one is asked for again.
func (s *Server) refuse(pc net.PacketConn, to net.Addr, no *refusal) {
	if _, err := pc.WriteTo(no.packet(), to); err != nil {
		s.log().Debug("tftp refusal not sent", "client", to.String(), "err", err)
	}
}

// recovered ends a panic at the packet that caused it.
func (s *Server) recovered(client netip.AddrPort, name string) {
	if p := recover(); p != nil {
		s.log().Error("tftp panic", "client", client.String(), "name", name, "panic", fmt.Sprint(p))
		s.counts.panics.Add(1)
	}
}

func (s *Server) report(e Event) {
	s.log().LogAttrs(context.Background(), e.level(), "tftp", e.attrs()...)
	if s.Events != nil {
		s.Events(e)
	}
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// addrPort is the address in comparable form, IPv4 as IPv4 also on a dual-stack
// socket; invalid when a is not an IP address and port.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	if u, ok := a.(*net.UDPAddr); ok {
		ap = u.AddrPort()
	} else if a != nil {
		ap, _ = netip.ParseAddrPort(a.String())
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
