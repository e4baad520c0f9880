package pxe

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Lease is one address given to one machine.
type Lease struct {
	MAC  MAC
	Addr netip.Addr
	For  time.Duration // what is left of it
}

// Leases keeps given addresses. The server reads it once at start and writes
// before it answers, so an implementation on disk must have synced when Put
// returns. Wall clocks of seeds are not to be trusted: an implementation that
// cannot tell how long it was away returns the whole of For.
type Leases interface {
	// All returns the leases that still run.
	All() ([]Lease, error)
	// Put records a lease, replacing what the address or the MAC had before.
	Put(Lease) error
	// Drop forgets the lease of an address; one that is not there is no error.
	Drop(netip.Addr) error
}

// Memory is Leases for one run, by the monotonic clock.
type Memory struct {
	mu     sync.Mutex
	leases map[netip.Addr]Lease
	taken  map[netip.Addr]time.Time
}

// NewMemory holds no lease.
func NewMemory() *Memory {
	return &Memory{leases: map[netip.Addr]Lease{}, taken: map[netip.Addr]time.Time{}}
}

// All returns the running leases by address.
func (m *Memory) All() ([]Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Lease
	for a, l := range m.leases {
		if l.For -= time.Since(m.taken[a]); l.For > 0 {
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	return all, nil
}

// Put records a lease.
func (m *Memory) Put(l Lease) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for a, old := range m.leases {
		if old.MAC == l.MAC {
			delete(m.leases, a)
			delete(m.taken, a)
		}
	}
	m.leases[l.Addr], m.taken[l.Addr] = l, time.Now()
	return nil
}

// Drop forgets a lease.
func (m *Memory) Drop(a netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.leases, a)
	delete(m.taken, a)
	return nil
}

const (
	offerHold   = 10 * time.Second
	declineHold = 5 * time.Minute
)

type slotState uint8

const (
	slotFree     slotState = iota // mac is who had it last, zero if nobody
	slotOffered                   // until
	slotBound                     // until
	slotDeclined                  // until, nobody's
)

type slot struct {
	mac   MAC
	until time.Duration // on the server's monotonic clock
	state slotState
	known bool
}

func (s *slot) live(now time.Duration) bool { return s.state != slotFree && now < s.until }

// pool is the dynamic range: one slot an address. A MAC is in at most one slot,
// and an expired slot stays with its last MAC until another needs it.
type pool struct {
	first netip.Addr
	slots []slot
	byMAC map[MAC]int
}

func newPool(first netip.Addr, size int) *pool {
	return &pool{first: first, slots: make([]slot, size), byMAC: map[MAC]int{}}
}

func number(a netip.Addr) uint32 { b := a.As4(); return binary.BigEndian.Uint32(b[:]) }

func (p *pool) addr(i int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], number(p.first)+uint32(i))
	return netip.AddrFrom4(b)
}

// index is -1 for addresses outside the range.
func (p *pool) index(a netip.Addr) int {
	if !a.Is4() || number(a) < number(p.first) || int64(number(a))-int64(number(p.first)) >= int64(len(p.slots)) {
		return -1
	}
	return int(number(a) - number(p.first))
}

// strangersMay is what machines nobody knows can hold together: a quarter of
// the range stays for those of this site.
func (p *pool) strangersMay() int { return len(p.slots) - len(p.slots)/4 }

// hold finds the address for a MAC and keeps it for the length of an offer.
// fresh says that the MAC did not hold it already.
func (p *pool) hold(m MAC, want netip.Addr, known bool, now time.Duration) (a netip.Addr, fresh, ok bool) {
	i, had := p.byMAC[m]
	if !had || !p.slots[i].live(now) {
		if had && p.room(known, now) {
			// It expired and nobody took it: the same again.
		} else if i = p.choose(m, want, known, now); i < 0 {
			return netip.Addr{}, false, false
		}
		fresh = true
	}
	s := p.take(i, m, known)
	if fresh {
		s.state = slotOffered
	}
	if s.state == slotOffered {
		s.until = now + offerHold
	}
	return p.addr(i), fresh, true
}

// take moves a MAC into a slot, out of any other and the slot's last MAC out.
func (p *pool) take(i int, m MAC, known bool) *slot {
	s := &p.slots[i]
	if old, ok := p.byMAC[m]; ok && old != i {
		p.slots[old] = slot{}
	}
	if s.mac != m {
		delete(p.byMAC, s.mac)
		*s = slot{mac: m}
	}
	p.byMAC[m], s.known = i, known
	return s
}

// room says whether strangers may hold one more.
func (p *pool) room(known bool, now time.Duration) bool {
	if known {
		return true
	}
	n := 0
	for i := range p.slots {
		if s := &p.slots[i]; s.live(now) && s.state != slotDeclined && !s.known {
			n++
		}
	}
	return n < p.strangersMay()
}

// choose prefers the address asked for, then one never given starting at a
// place the MAC decides (so that a lost lease file hands out the same ones),
// then the one expired longest. -1 if the range is used up.
func (p *pool) choose(m MAC, want netip.Addr, known bool, now time.Duration) int {
	if !p.room(known, now) {
		return -1
	}
	if i := p.index(want); i >= 0 && !p.slots[i].live(now) {
		return i
	}
	h := fnv.New32a()
	h.Write(m[:])
	start, best := int(h.Sum32()%uint32(len(p.slots))), -1
	for n := range p.slots {
		i := (start + n) % len(p.slots)
		s := &p.slots[i]
		if s.live(now) {
			continue
		}
		if s.mac == (MAC{}) {
			return i
		}
		if best < 0 || s.until < p.slots[best].until {
			best = i
		}
	}
	return best
}

// owns says whether an address is this MAC's to confirm.
func (p *pool) owns(m MAC, a netip.Addr) bool {
	i, ok := p.byMAC[m]
	return ok && i == p.index(a)
}

// bind confirms an address that owns or hold gave to the MAC.
func (p *pool) bind(m MAC, a netip.Addr, known bool, until time.Duration) {
	s := p.take(p.index(a), m, known)
	s.state, s.until = slotBound, until
}

// free ends a hold or a lease; the MAC is remembered.
func (p *pool) free(m MAC, a netip.Addr, now time.Duration) {
	if p.owns(m, a) {
		s := &p.slots[p.index(a)]
		s.state, s.until = slotFree, now
	}
}

// decline takes an address out of use because somebody else answers at it. At
// most a quarter of the range is out; the one out longest comes back first.
func (p *pool) decline(m MAC, a netip.Addr, now time.Duration) {
	if !p.owns(m, a) {
		return
	}
	delete(p.byMAC, m)
	i := p.index(a)
	p.slots[i] = slot{state: slotDeclined, until: now + declineHold}
	out, oldest := 0, i
	for n := range p.slots {
		if s := &p.slots[n]; s.state == slotDeclined && s.live(now) {
			out++
			if s.until < p.slots[oldest].until {
				oldest = n
			}
		}
	}
	if out > len(p.slots)/4 {
		p.slots[oldest] = slot{}
	}
}
