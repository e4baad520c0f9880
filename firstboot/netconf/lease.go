package netconf

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// servers is the other side of a lease.
type servers interface {
	ask(ctx context.Context, want netip.Addr) (*dhcpv4.DHCPv4, error)
	again(ctx context.Context, ack *dhcpv4.DHCPv4, direct bool) (*dhcpv4.DHCPv4, error)
	decline(ack *dhcpv4.DHCPv4, why string) error
}

// holder gets a lease and keeps it (RFC 2131, 4.4).
type holder struct {
	servers servers
	// link reports whether the interface has a link.
	link func() bool
	// losses counts how often the interface lost its link; wait returns when a
	// link changes, after d at the latest.
	losses func() int
	wait   func(ctx context.Context, d time.Duration)
	// free is nil or a *Conflict; it is asked before an address is taken.
	free func(ctx context.Context, ip netip.Addr) error
	// got takes an answer's address, in place of the one before.
	got func(*dhcpv4.DHCPv4) error
	// lost gives up the address.
	lost func()
	// waits says what is waited for, fault what went wrong.
	waits func(what string)
	fault func(code, hint string, err error)
}

// ending is why a lease is not held any more.
type ending int

const (
	cancelled ending = iota
	refused          // by its server
	over             // with no server in sight
)

// keep asks for a lease until there is one, keeps it, and begins anew when it
// ends, until ctx ends.
//
// A lease that is over because no server answers at all is kept as long as no
// other host has the address: a cluster must not die of a DHCP server that
// left (dhcpcd calls this lastleaseextend). After a refusal the address is
// given up unless another lease comes at once.
func (h holder) keep(ctx context.Context) {
	var held netip.Addr // taken
	why := cancelled    // how the last lease ended
	conflicts := 0
	for ctx.Err() == nil {
		if !h.awaitLink(ctx) {
			return
		}
		h.waits("no answer to DHCP")
		ack, err := h.servers.ask(ctx, held)
		if err != nil {
			held = h.without(ctx, held, why, err)
			sleep(ctx, 2*time.Second+rand.N(time.Second))
			continue
		}
		ip, _ := netip.AddrFromSlice(ack.YourIPAddr.To4())
		if err := h.check(ctx, ip, held); err != nil {
			conflicts++
			h.declined(ctx, ack, err, conflicts)
			continue
		}
		if err := h.got(ack); err != nil {
			h.fault("SW-NET-APPLY", "correct the address or the routes at the DHCP server", err)
			sleep(ctx, 10*time.Second)
			continue
		}
		conflicts, held = 0, ip
		why = h.hold(ctx, ack)
	}
}

func (h holder) awaitLink(ctx context.Context) bool {
	for !h.link() {
		h.waits("no link")
		if sleep(ctx, 200*time.Millisecond); ctx.Err() != nil {
			return false
		}
	}
	return ctx.Err() == nil
}

// without decides about an address held while no server gives a lease.
func (h holder) without(ctx context.Context, held netip.Addr, why ending, err error) netip.Addr {
	if ctx.Err() != nil {
		return held
	}
	if !held.IsValid() {
		h.fault("", "", err)
		return held
	}
	if why == over {
		var other *Conflict
		if c := h.free(ctx, held); !errors.As(c, &other) {
			return held
		}
		h.fault("SW-NET-CONFLICT", "the lease is over and another host took the address", other)
	}
	h.lost()
	return netip.Addr{}
}

// check looks for another host at ip unless it is held already.
func (h holder) check(ctx context.Context, ip, held netip.Addr) error {
	if ip == held {
		return nil
	}
	var other *Conflict
	if err := h.free(ctx, ip); errors.As(err, &other) {
		return other
	}
	return nil // that nothing can be sent was not the question
}

// declined gives an address back and pauses: RFC 2131, 3.1, wants 10 s at
// least. The pause doubles to five minutes, so that a host which answers for
// every address does not take the whole pool from others.
func (h holder) declined(ctx context.Context, ack *dhcpv4.DHCPv4, err error, times int) {
	pause := min(10*time.Second<<min(times-1, 5), 5*time.Minute)
	h.fault("SW-NET-CONFLICT", "give the other host another address or keep the DHCP server's pool clear of it",
		fmt.Errorf("%w; declined, asking again in %v", err, pause))
	if err := h.servers.decline(ack, err.Error()); err != nil {
		h.fault("", "", err)
	}
	sleep(ctx, pause)
}

// hold renews a lease over time and says how it ended.
func (h holder) hold(ctx context.Context, ack *dhcpv4.DHCPv4) ending {
	for {
		began := time.Now()
		t1, t2, end := terms(ack)
		flapped := h.pause(ctx, t1)
		var next *dhcpv4.DHCPv4
		for next == nil {
			passed := time.Since(began)
			if ctx.Err() != nil {
				return cancelled
			}
			if passed >= end {
				h.fault("SW-NET-LEASE-OVER", "bring the DHCP server back; the address is kept as long as no other host has it",
					fmt.Errorf("the lease of %s is over and no server answers", ack.YourIPAddr))
				return over
			}
			// After the link was away the server may be another one.
			answer, err := h.servers.again(ctx, ack, passed < t2 && !flapped)
			if err == nil && answer == nil {
				return refused
			}
			if err == nil {
				next = answer
				break
			}
			left := end - passed
			if passed < t2 {
				left = t2 - passed
			}
			if flapped && passed < t1 {
				left = t1 - passed // not urgent
			}
			// Half of what is left, not more often than each minute (4.4.5).
			flapped = h.pause(ctx, min(max(left/2, time.Minute), left)+rand.N(time.Second))
		}
		if err := h.got(next); err != nil {
			h.fault("SW-NET-APPLY", "correct the address or the routes at the DHCP server", err)
		}
		ack = next
	}
}

// pause waits for d, or until a link that was away is back, and says which.
func (h holder) pause(ctx context.Context, d time.Duration) (flapped bool) {
	before := h.losses()
	for end := time.Now().Add(d); time.Now().Before(end) && ctx.Err() == nil; {
		h.wait(ctx, time.Until(end))
		if h.losses() != before && h.link() {
			return true
		}
	}
	return false
}

// terms are the times of RFC 2131, 4.4.5, from the answer on, in order.
func terms(ack *dhcpv4.DHCPv4) (t1, t2, end time.Duration) {
	end = max(ack.IPAddressLeaseTime(time.Hour), 10*time.Second)
	t1, t2 = ack.IPAddressRenewalTime(end/2), ack.IPAddressRebindingTime(end/8*7)
	if t2 <= 0 || t2 >= end {
		t2 = end / 8 * 7
	}
	if t1 <= 0 || t1 >= t2 {
		t1 = min(end/2, t2/2)
	}
	return t1, t2, end
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
