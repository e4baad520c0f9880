package netconf

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"slipway.dev/slipway/configs"
)

// Address is what an interface got.
type Address struct {
	Interface   string
	MAC         string
	Prefix      netip.Prefix // address with its prefix length
	Gateway     netip.Addr   // of the default route; invalid: none
	Metric      int          // of the default route
	Routes      []configs.Route
	Nameservers []netip.Addr
	Search      []string
	NTP         []netip.Addr // DHCP option 42
	Hostname    string       // DHCP option 12
	DHCP        bool
	MTU         int // bytes, of the interface; 0: left alone
}

// Static is what an interface with fixed addresses gets.
func Static(name, mac string, e configs.Interface) []Address {
	var all []Address
	for i, p := range e.Addresses {
		a := Address{Interface: name, MAC: mac, Prefix: p, MTU: e.MTU}
		if i == 0 {
			a.Nameservers, a.Search = e.Nameservers.Addresses, e.Nameservers.Search
		}
		all = append(all, a)
	}
	for i := range all {
		is4 := all[i].Prefix.Addr().Is4()
		if first(all, is4) != i {
			continue
		}
		all[i].take(e, func(v4 bool) bool { return v4 == is4 || i == 0 && first(all, v4) < 0 && (!v4 || !e.DHCP4) })
	}
	return all
}

// first is the first address of an IP version, -1 without one.
func first(all []Address, is4 bool) int {
	return slices.IndexFunc(all, func(a Address) bool { return a.Prefix.Addr().Is4() == is4 })
}

// take adds the gateways and routes of the config that mine says belong to
// this address. The first default route of the address's own IP version is its
// gateway; routes of other tables are none.
func (a *Address) take(e configs.Interface, mine func(is4 bool) bool) {
	is4 := a.Prefix.Addr().Is4()
	for _, g := range []netip.Addr{e.Gateway4, e.Gateway6} {
		if g.IsValid() && g.Is4() == is4 {
			a.Gateway, a.Metric = g, 0
		}
	}
	for _, r := range e.Routes {
		v4 := r.To.Addr().Is4()
		plain := r.To.Bits() == 0 && r.Via.IsValid() && r.Table == 0 && r.MTU == 0 && !r.From.IsValid() && (r.Type == "" || r.Type == "unicast")
		switch {
		case !mine(v4):
		case plain && v4 == is4 && (!a.Gateway.IsValid() || a.DHCP):
			a.Gateway, a.Metric = r.Via, r.Metric
		default:
			a.Routes = append(a.Routes, r)
		}
	}
}

// lease adds what the config says about a lease.
func (a *Address) lease(e configs.Interface) {
	if !slices.ContainsFunc(e.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
		none := len(e.Addresses) == 0
		a.take(e, func(is4 bool) bool { return is4 || none })
	}
	if len(e.Addresses) == 0 {
		a.Nameservers = append(slices.Clone(e.Nameservers.Addresses), a.Nameservers...)
		a.Search = append(slices.Clone(e.Nameservers.Search), a.Search...)
	}
}

func (a Address) String() string {
	s := fmt.Sprintf("%s (%s) has %s", a.Interface, a.MAC, a.Prefix)
	if a.DHCP {
		s += " by DHCP"
	}
	if a.Gateway.IsValid() {
		s += ", gateway " + a.Gateway.String()
	}
	return s
}

// Resolv renders resolv.conf(5). Without any name server it names the node
// itself: nothing answers there, which is quick, while CoreDNS does not start
// on an empty file and would find itself at a loopback address.
func Resolv(all []Address) []byte {
	var b strings.Builder
	var servers, search []string
	for _, a := range all {
		for _, s := range a.Nameservers {
			if !slices.Contains(servers, s.String()) {
				servers = append(servers, s.String())
			}
		}
		for _, s := range a.Search {
			if !slices.Contains(search, s) {
				search = append(search, s)
			}
		}
	}
	if len(servers) == 0 && len(all) > 0 {
		servers = []string{all[0].Prefix.Addr().String()}
	}
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	for _, s := range servers[:min(3, len(servers))] { // MAXNS of the C library
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	return []byte(b.String())
}
