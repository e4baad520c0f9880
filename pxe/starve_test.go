package pxe

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestStarvation: 65,536 made-up machines ask and request as fast as they can.
// Nodes of the site get their leases before, amid and after.
func TestStarvation(t *testing.T) {
	n := network()
	n.First, n.Last = at(100), at(163) // 64 addresses
	reserved, listed, leased := MAC{0x52, 0x54, 0, 0, 0, 0x99}, MAC{0x52, 0x54, 0, 0, 1, 0}, MAC{0x52, 0x54, 0, 0, 2, 0}
	for _, pace := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond} {
		b := newBench(t, n)
		b.boots[listed] = Boot{Known: true}
		before := b.lease(leased)
		answered, bound := 0, map[netip.Addr]bool{}
		for i := range 65536 {
			b.now += pace
			m := macN(i)
			if a := b.ask(m); a.IsValid() {
				answered++
				if got := b.Handle(selecting(m, a)); offered(got).IsValid() {
					bound[a] = true
				}
			}
			if i%9973 == 0 {
				b.now += 10 * time.Second // a machine does not ask all the time
				if a := b.lease(reserved); a != at(10) {
					t.Fatalf("pace %s, %d: the reserved node got %s", pace, i, a)
				}
				if a := b.lease(listed); !a.IsValid() {
					t.Fatalf("pace %s, %d: the known node got nothing", pace, i)
				}
				q := packet(leased, dhcpv4.MessageTypeRequest, nil)
				q.ClientIPAddr = before.AsSlice()
				if a := offered(b.Handle(q)); a != before {
					t.Fatalf("pace %s, %d: the leased node could not renew: %s", pace, i, a)
				}
			}
		}
		if len(b.limit.strangers) > bucketsKept || len(b.limit.known) > bucketsKept {
			t.Errorf("pace %s: %d and %d buckets", pace, len(b.limit.strangers), len(b.limit.known))
		}
		if len(bound) > b.pool.strangersMay() {
			t.Errorf("pace %s: strangers bound %d of 64", pace, len(bound))
		}
		t.Logf("pace %s: %d of 65536 strangers were offered an address, %d addresses bound", pace, answered, len(bound))
	}
}

func TestNewNodesAfterStarvation(t *testing.T) {
	b := newBench(t, network()) // eight addresses
	for i := range 64 {
		b.lease(macN(i))
	}
	for i := range 2 { // a quarter
		m := macN(1000 + i)
		b.boots[m] = Boot{Known: true}
		if !b.lease(m).IsValid() {
			t.Errorf("known node %d got nothing", i)
		}
	}
	if b.lease(macN(2000)).IsValid() {
		t.Error("a stranger got an address kept for the site")
	}
}

func TestRateLimits(t *testing.T) {
	l := newLimiter()
	count := func(known bool, now time.Duration, n int, mac func(int) MAC) (passed int) {
		for i := range n {
			if l.allow(mac(i), known, now) {
				passed++
			}
		}
		return passed
	}
	one := func(int) MAC { return mac1 }
	for _, c := range []struct {
		name  string
		known bool
		now   time.Duration
		mac   func(int) MAC
		want  int
	}{
		{"one stranger", false, 0, one, macBurst},
		{"the same again", false, 0, one, 0},
		{"a second later", false, time.Second, one, macRate},
		{"the clock going back", false, 0, one, 0},
		{"all strangers", false, time.Second, macN, strangerBurst - macRate},
		{"known meanwhile", true, time.Second, macN, 5000},
		{"strangers two seconds later", false, 3 * time.Second, macN, 2 * strangerRate},
	} {
		if got := count(c.known, c.now, 5000, c.mac); got != c.want {
			t.Errorf("%s: %d of 5000 passed, want %d", c.name, got, c.want)
		}
	}
	if len(l.strangers) > bucketsKept {
		t.Errorf("%d strangers remembered", len(l.strangers))
	}
}

// TestPoolInvariant: whatever is asked, an address is one machine's.
func TestPoolInvariant(t *testing.T) {
	p := newPool(at(100), 16)
	for n, op := 0, uint32(1); n < 20000; n++ {
		op = op*1664525 + 1013904223
		m, now := macN(int(op>>8%24)), time.Duration(n)*time.Second/4
		a := p.addr(int(op >> 20 % 16))
		switch op >> 28 {
		case 0:
			p.free(m, a, now)
		case 1:
			p.decline(m, a, now)
		case 2, 3, 4:
			if p.owns(m, a) {
				p.bind(m, a, false, now+30*time.Second)
			}
		default:
			if got, _, ok := p.hold(m, a, op>>27&1 == 1, now); ok && !p.owns(m, got) {
				t.Fatalf("%d: %s was told %s and does not own it", n, m, got)
			}
		}
		if err := p.consistent(); err != nil {
			t.Fatalf("%d: %v", n, err)
		}
	}
}

func (p *pool) consistent() error {
	owners := map[MAC]int{}
	for i, s := range p.slots {
		if s.mac == (MAC{}) {
			continue
		}
		if j, twice := owners[s.mac]; twice {
			return fmt.Errorf("%s is in slots %d and %d", s.mac, i, j)
		}
		owners[s.mac] = i
		if j, ok := p.byMAC[s.mac]; !ok || i != j {
			return fmt.Errorf("slot %d is %s's, the index says %d %v", i, s.mac, j, ok)
		}
	}
	if len(owners) != len(p.byMAC) {
		return fmt.Errorf("%d slots in use, %d in the index", len(owners), len(p.byMAC))
	}
	return nil
}
