package tftp

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"
)

// errAgain ends a transfer whose client began another from the same port.
var errAgain = errors.New("the client began again")

// errEvicted ends an unproven transfer when every slot is taken.
var errEvicted = errors.New("never acknowledged, and its slot was needed")

// slots counts transfers. A slot is unproven until the first ACK; only then is
// its source address known to be true.
type slots struct {
	mu     sync.Mutex
	all    map[*slot]bool
	perIP  map[netip.Addr]int
	proven map[netip.AddrPort]*slot
	asking map[string]*slot // unproven, by client and request
}

type slot struct {
	client netip.AddrPort
	key    string // of asking
	since  time.Time
	cancel context.CancelCauseFunc
}

// evictAfter is how long an unproven slot is safe from eviction: a live client
// acknowledges in milliseconds.
const evictAfter = time.Second

// take reserves a slot. It returns ok false and the slot that already answers
// when the datagram is a copy of a request not yet acknowledged (the client
// retransmits, the transfer does too), and ok false and nil when a limit is
// reached: the client asks again by itself.
func (s *slots) take(client netip.AddrPort, raw string, lim Limits, cancel context.CancelCauseFunc) (got *slot, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[*slot]bool{}
		s.perIP = map[netip.Addr]int{}
		s.proven = map[netip.AddrPort]*slot{}
		s.asking = map[string]*slot{}
	}
	key := client.String() + " " + raw
	if same := s.asking[key]; same != nil {
		return same, false
	}
	if s.perIP[client.Addr()] >= lim.PerIP {
		return nil, false
	}
	if len(s.all) >= lim.Transfers && !s.evict() {
		return nil, false
	}
	got = &slot{client: client, key: key, since: time.Now(), cancel: cancel}
	s.all[got] = true
	s.perIP[client.Addr()]++
	s.asking[key] = got
	return got, true
}

// evict drops the oldest unproven slot, so that requests with forged addresses
// cannot keep real machines out for Limits.Idle.
func (s *slots) evict() bool {
	var oldest *slot
	for _, c := range s.asking {
		if oldest == nil || c.since.Before(oldest.since) {
			oldest = c
		}
	}
	if oldest == nil || time.Since(oldest.since) < evictAfter {
		return false
	}
	oldest.cancel(errEvicted)
	s.drop(oldest)
	return true
}

// prove records the first ACK. A client that reuses its port has given up what
// it fetched before; a merely duplicated request never gets this far, since the
// client answers its second copy with error 5.
func (s *slots) prove(p *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.all[p] {
		return
	}
	if s.asking[p.key] == p {
		delete(s.asking, p.key)
	}
	if before := s.proven[p.client]; before != nil && before != p {
		before.cancel(errAgain)
	}
	s.proven[p.client] = p
}

func (s *slots) free(p *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(p)
}

func (s *slots) drop(p *slot) {
	if !s.all[p] {
		return
	}
	delete(s.all, p)
	if s.perIP[p.client.Addr()]--; s.perIP[p.client.Addr()] <= 0 {
		delete(s.perIP, p.client.Addr())
	}
	if s.proven[p.client] == p {
		delete(s.proven, p.client)
	}
	if s.asking[p.key] == p {
		delete(s.asking, p.key)
	}
}
