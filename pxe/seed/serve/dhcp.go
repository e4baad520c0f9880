package serve

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/pxe"
)

// leaseTime is short enough that a wrong lease is gone after lunch, and long
// enough that nodes outlive a seed that is switched off for the night's rest of
// an installation: they renew at half of it.
const leaseTime = 12 * time.Hour

// Mode is what the seed answers on the LAN.
type Mode string

// The modes.
const (
	Full    Mode = "full"    // addresses and boot files
	Proxy   Mode = "proxy"   // boot files, beside another DHCP server
	Off     Mode = "off"     // nothing: the site's own server names the seed
	Yielded Mode = "yielded" // full until another server appeared
)

// mode decides what may be answered: it listens before it speaks. text says why.
func mode(ctx context.Context, w Wire, spec configs.SeedDHCP, conns pxe.Conns) (m Mode, text string, foreign []pxe.Foreign, err error) {
	switch spec.Mode {
	case configs.DHCPOff:
		return Off, "spec.seed.dhcp.mode is off: the site's DHCP server has to name the seed", nil, nil
	case configs.DHCPProxy:
		return Proxy, "spec.seed.dhcp.mode is proxy: boot files only, never an address", nil, nil
	}
	if conns.Client == nil {
		return Proxy, "port 68 belongs to this system's DHCP client, so other servers cannot be heard: boot files only", nil, nil
	}
	foreign, err = pxe.Probe(ctx, conns.Client, w.MAC, w.Addr.Addr(), pxe.ProbeTime, pxe.ARPTable(w.Name))
	switch {
	case err != nil:
		return "", "", nil, fmt.Errorf("listening for DHCP servers on %s: %w", w.Name, err)
	case len(foreign) > 0:
		return Proxy, fmt.Sprintf("DHCP server %s gives addresses here: boot files only", foreign[0]), foreign, nil
	case !spec.Subnet.IsValid():
		return Proxy, fmt.Sprintf("no DHCP server answered within %.0f s and spec.seed.dhcp.subnet is not set: nobody gives addresses here", pxe.ProbeTime.Seconds()), nil, nil
	}
	return Full, fmt.Sprintf("no DHCP server answered within %.0f s: addresses of %s are given by this seed", pxe.ProbeTime.Seconds(), spec.Subnet), nil, nil
}

// network is the subnet that the full server owns, from cluster.yaml.
func network(w Wire, spec configs.SeedDHCP) (pxe.Network, error) {
	self := w.Addr.Addr()
	if !spec.Subnet.Contains(self) {
		return pxe.Network{}, hinted(fmt.Sprintf("give the interface an address of the subnet: ip address add %s dev %s, or correct spec.seed.dhcp.subnet", netip.PrefixFrom(spec.Subnet.Masked().Addr().Next(), spec.Subnet.Bits()), w.Name),
			"spec.seed.dhcp.subnet %s: the seed's address on %s is %s", spec.Subnet, w.Name, w.Addr)
	}
	n := pxe.Network{Server: self, Subnet: spec.Subnet.Masked(), First: spec.First, Last: spec.Last, Router: spec.Router, DNS: spec.DNS,
		NTP: []netip.Addr{self}, LeaseTime: leaseTime}
	if !n.Router.IsValid() {
		n.Router = self // kubeadm and kubelet want a default route; it leads nowhere
	}
	if !n.First.IsValid() || !n.Last.IsValid() {
		first, last := upperHalf(n.Subnet)
		n.First, n.Last = widest(first, last, append([]netip.Addr{self, n.Router}, n.DNS...))
	}
	if n.First.Compare(self) <= 0 && self.Compare(n.Last) <= 0 {
		return pxe.Network{}, hinted("set spec.seed.dhcp.first and last to a range without it", "the seed's address %s is inside the range %s to %s that it gives out", self, n.First, n.Last)
	}
	return n, nil
}

// upperHalf is the default range: the upper half of a subnet without its
// broadcast address, at most 65,536 addresses.
func upperHalf(p netip.Prefix) (first, last netip.Addr) {
	a := p.Masked().Addr().As4()
	base := binary.BigEndian.Uint32(a[:])
	size := uint64(1) << (32 - p.Bits())
	at := func(off uint64) netip.Addr {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], base+uint32(off))
		return netip.AddrFrom4(b)
	}
	return at(size - min(size/2, 1<<16)), at(cmp.Or(size-2, 1))
}

// widest is the largest part of a range that holds none of some addresses: sites
// like to have their router at the upper end.
func widest(first, last netip.Addr, but []netip.Addr) (from, to netip.Addr) {
	size := func(a, b netip.Addr) int64 {
		x, y := a.As4(), b.As4()
		return int64(binary.BigEndian.Uint32(y[:])) - int64(binary.BigEndian.Uint32(x[:])) + 1
	}
	from, to = first, last
	best, start := int64(0), first
	but = slices.DeleteFunc(slices.Clone(but), func(a netip.Addr) bool { return !a.Is4() || a.Less(first) || last.Less(a) })
	slices.SortFunc(but, netip.Addr.Compare)
	for _, a := range append(but, last.Next()) {
		if n := size(start, a.Prev()); n > best {
			best, from, to = n, start, a.Prev()
		}
		start = a.Next()
	}
	return from, to
}
