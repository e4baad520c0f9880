package netconf

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"

	"slipway.dev/slipway/configs"
)

// port is one interface on its way to its addresses.
type port struct {
	m      *Manager
	entry  string // of the config; without one the interface's name
	nic    NIC
	e      configs.Interface
	hollow bool // a bridge of no interfaces never has a link
}

// run configures the interface and stays for its leases.
func (p *port) run(ctx context.Context) {
	defer p.m.guard(p.nic.Name)
	p.m.known(p.entry, p.nic)
	for {
		err := set(p.nic.Name, p.e)
		if err == nil {
			break
		}
		p.m.fault(p.entry, p.nic.Name, "SW-NET-DEVICE", "correct the entry in network-config", err)
		if sleep(ctx, 5*time.Second); ctx.Err() != nil {
			return
		}
	}
	if l, err := netlink.LinkByName(p.nic.Name); err == nil && len(l.Attrs().HardwareAddr) == 6 {
		p.nic.MAC = l.Attrs().HardwareAddr.String() // set by the config, or from a bond's first member
	}
	ra := p.e.AcceptRA != nil && *p.e.AcceptRA
	fixed := Static(p.nic.Name, p.nic.MAC, p.e)
	switch {
	case len(fixed) == 0 && !p.e.DHCP4 && !ra:
		p.m.satisfied(p.entry) // it is on, which is all it was to be
	case len(fixed) > 0:
		p.static(ctx, fixed)
	}
	if p.e.DHCP4 {
		p.dhcp(ctx)
	} else if ra && len(fixed) == 0 {
		p.advertised(ctx)
	}
}

// static sets fixed addresses once there is a link to look for other hosts
// that have them.
func (p *port) static(ctx context.Context, all []Address) {
	if p.nic.Name != "lo" && !p.hollow && !p.e.NoCarrier {
		for !carrier(p.nic.Name) {
			p.m.waitsFor(p.entry, "no link", false)
			if sleep(ctx, 200*time.Millisecond); ctx.Err() != nil {
				return
			}
		}
	}
	// All addresses before any route: a route may name one as its source.
	for _, a := range all {
		p.m.waitsFor(p.entry, "looking whether another host has "+a.Prefix.Addr().String(), true)
		for p.taken(ctx, a) {
			p.m.waitsFor(p.entry, a.Prefix.Addr().String()+" is in use by another host", true)
			if sleep(ctx, 10*time.Second); ctx.Err() != nil {
				return
			}
		}
		a.Routes = nil
		p.insist(ctx, func() error { return apply(a) })
		if a.Prefix.Addr().Is6() && p.nic.Name != "lo" {
			p.confirm(ctx, a)
		}
	}
	for _, a := range all {
		p.insist(ctx, func() error { return p.m.got(p.nic, a, nil) })
		p.announce(ctx, a.Prefix.Addr())
	}
	if ctx.Err() == nil {
		p.m.satisfied(p.entry)
	}
}

// insist tries until f does it or ctx ends.
func (p *port) insist(ctx context.Context, f func() error) {
	for ctx.Err() == nil {
		err := f()
		if err == nil {
			return
		}
		p.m.fault(p.entry, p.nic.Name, "SW-NET-APPLY", "correct the address or the routes in network-config; the node tries again", err)
		sleep(ctx, 5*time.Second)
	}
}

// taken probes for an IPv4 address; for IPv6 the kernel does, once it is set.
func (p *port) taken(ctx context.Context, a Address) bool {
	if !a.Prefix.Addr().Is4() || p.nic.Name == "lo" || p.hollow {
		return false
	}
	var other *Conflict
	if err := probe(ctx, p.nic.Name, a.Prefix.Addr(), p.m.o.Probe); errors.As(err, &other) {
		p.m.fault(p.entry, p.nic.Name, "SW-NET-CONFLICT", "give one of the two hosts another address; the node looks again", other)
		return true
	}
	return false
}

// announce stays in the background: nothing waits for it.
func (p *port) announce(ctx context.Context, ip netip.Addr) {
	if ip.Is4() && p.nic.Name != "lo" {
		go announce(ctx, p.nic.Name, ip)
	}
}

// confirm waits for the end of IPv6 duplicate address detection.
func (p *port) confirm(ctx context.Context, a Address) {
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && ctx.Err() == nil; {
		done, err := duplicate(a)
		if err != nil {
			p.m.fault(p.entry, p.nic.Name, "SW-NET-CONFLICT", "give one of the two hosts another address", err)
		}
		if done {
			return
		}
		sleep(ctx, 100*time.Millisecond)
	}
}

// advertised waits for an address of a router's making.
func (p *port) advertised(ctx context.Context) {
	for ctx.Err() == nil {
		if a, ok := advertised(p.nic); ok {
			p.m.adopt(a)
			p.m.satisfied(p.entry)
			return
		}
		p.m.waitsFor(p.entry, "no router advertisement", carrier(p.nic.Name))
		sleep(ctx, 500*time.Millisecond)
	}
}

func (p *port) dhcp(ctx context.Context) {
	var held *Address
	holder{
		servers: client{name: p.nic.Name, e: p.e, hostname: p.m.o.Hostname, timeout: 2 * time.Second, tries: 3},
		link:    func() bool { return carrier(p.nic.Name) },
		losses:  func() int { return p.m.links.lost(p.nic.Name) },
		wait:    func(ctx context.Context, d time.Duration) { p.m.links.wait(ctx, min(d, time.Minute)) }, // a change just before is seen late
		free:    func(ctx context.Context, ip netip.Addr) error { return probe(ctx, p.nic.Name, ip, p.m.o.Probe) },
		got: func(ack *dhcpv4.DHCPv4) error {
			a, err := fromACK(p.nic, ack, p.e)
			if err != nil {
				return err
			}
			fresh := held == nil || held.Prefix != a.Prefix
			if err := p.m.got(p.nic, a, held); err != nil {
				return err
			}
			held = &a
			if fresh {
				p.announce(ctx, a.Prefix.Addr())
			}
			p.m.satisfied(p.entry)
			return nil
		},
		lost: func() {
			if held != nil {
				p.m.lost(p.nic, *held)
				held = nil
			}
		},
		waits: func(what string) { p.m.waitsFor(p.entry, what, what != "no link") },
		fault: func(code, hint string, err error) { p.m.fault(p.entry, p.nic.Name, code, hint, err) },
	}.keep(ctx)
}
