package ntp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// Requests a second from one source and how many at once: a client sends four to
// eight when it starts and one in 64 s later; several may share an address.
const (
	rate, burst               = 2, 32
	strangerRate, strangerMax = 64, 512 // of all that find no place in the table
	sourcesKept               = 4096
)

// Counters is what was asked, since the start.
type Counters struct {
	Answered int64 `json:"answered"`
	Ignored  int64 `json:"ignored"` // no request of ours: another mode, version or size
	Limited  int64 `json:"limited"` // too many from one source
	Panics   int64 `json:"panics"`  // a bug of ours; the packet was dropped
	Errors   int64 `json:"errors"`  // of the socket
}

// Server answers on one socket. Set Source before Serve.
type Server struct {
	Source Source

	answered, ignored, limited, panics, errors atomic.Int64
}

// Counters returns what was asked so far.
func (s *Server) Counters() Counters {
	return Counters{s.answered.Load(), s.ignored.Load(), s.limited.Load(), s.panics.Load(), s.errors.Load()}
}

// Serve answers until ctx ends (nil) or the socket is closed under it. The
// socket is the caller's; it should be bound to the address that clients ask,
// or a machine with several answers from another one.
func (s *Server) Serve(ctx context.Context, conn net.PacketConn) error {
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	l := newLimiter()
	buf := make([]byte, 2*size) // what is longer is cut and still too long
	began := time.Now()
	for {
		n, from, err := conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("ntp: %w", err)
		}
		if err != nil { // an interface that went down comes back
			s.errors.Add(1)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		received := s.Source.now()
		if !l.allow(source(from), time.Since(began)) {
			s.limited.Add(1)
			continue
		}
		s.reply(conn, from, buf[:n], received)
	}
}

func (s *Server) reply(conn net.PacketConn, to net.Addr, request []byte, received time.Time) {
	defer func() {
		if recover() != nil {
			s.panics.Add(1)
		}
	}()
	a := s.Source.Answer(request, received)
	if a == nil {
		s.ignored.Add(1)
		return
	}
	if _, err := conn.WriteTo(a, to); err != nil {
		s.errors.Add(1)
		return
	}
	s.answered.Add(1)
}

// source is what a rate is kept for: an IPv4 address, or an IPv6 network of a
// host that may choose the rest itself.
func source(a net.Addr) netip.Prefix {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := u.AddrPort().Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

type bucket struct {
	tokens float64
	at     time.Duration
}

func (b *bucket) take(now time.Duration, rate, most float64) bool {
	b.tokens = min(most, b.tokens+rate*max(0, now-b.at).Seconds())
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// limiter holds every source to its rate. One goroutine uses it.
type limiter struct {
	of     map[netip.Prefix]*bucket
	others bucket
	swept  time.Duration
}

func newLimiter() *limiter {
	return &limiter{of: map[netip.Prefix]*bucket{}, others: bucket{tokens: strangerMax}}
}

func (l *limiter) allow(p netip.Prefix, now time.Duration) bool {
	b := l.of[p]
	if b == nil {
		if len(l.of) >= sourcesKept && !l.room(now) {
			return l.others.take(now, strangerRate, strangerMax)
		}
		b = &bucket{tokens: burst, at: now}
		l.of[p] = b
	}
	return b.take(now, rate, burst)
}

// room forgets sources whose bucket is full again, at most once a second.
func (l *limiter) room(now time.Duration) bool {
	if now-l.swept >= time.Second {
		l.swept = now
		for p, b := range l.of {
			if b.tokens+rate*(now-b.at).Seconds() >= burst {
				delete(l.of, p)
			}
		}
	}
	return len(l.of) < sourcesKept
}
