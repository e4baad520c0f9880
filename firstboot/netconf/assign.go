package netconf

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"

	"slipway.dev/slipway/configs"
)

// NIC is a network interface with hardware behind it.
type NIC struct {
	Name   string // "eth0"
	MAC    string // lower case with colons
	Driver string // "virtio_net"
}

func (n NIC) String() string { return n.Name + " (" + n.MAC + ")" }

// Assign says which interface gets which configuration. Without a network
// config every interface asks for a lease and none is required. missing names
// the entries, optional ones left out, that no interface fits yet; an entry
// that two fit, or an interface that two entries want, is an error.
func Assign(n *configs.Network, nics []NIC) (got map[string]configs.Ethernet, missing []string, err error) {
	got = map[string]configs.Ethernet{}
	if n == nil {
		for _, c := range nics {
			got[c.Name] = configs.Ethernet{DHCP4: true, Optional: true}
		}
		return got, nil, nil
	}
	by := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(n.Ethernets)) {
		e := n.Ethernets[key]
		found := 0
		for _, c := range nics {
			if !fits(key, e, c) {
				continue
			}
			if other, ok := by[c.Name]; ok {
				return nil, nil, fmt.Errorf("interface %s: both %q and %q of the network config match it", c, other, key)
			}
			if found++; found > 1 && len(e.Addresses) > 0 {
				return nil, nil, fmt.Errorf("network config %q: several interfaces match it and it has fixed addresses", key)
			}
			got[c.Name], by[c.Name] = e, key
		}
		if found == 0 && !e.Optional {
			missing = append(missing, key)
		}
	}
	return got, missing, nil
}

func fits(key string, e configs.Ethernet, c NIC) bool {
	m := e.Match
	if m.MACAddress == "" && m.Name == "" && len(m.Driver) == 0 {
		// A name that slipway gave in an earlier attempt counts too.
		return key == c.Name || (e.SetName != "" && e.SetName == c.Name)
	}
	if m.MACAddress != "" && !strings.EqualFold(string(m.MACAddress), c.MAC) {
		return false
	}
	if m.Name != "" && !matches(m.Name, c.Name) && e.SetName != c.Name {
		return false
	}
	if len(m.Driver) > 0 && !slices.ContainsFunc(m.Driver, func(d string) bool { return matches(d, c.Driver) }) {
		return false
	}
	return true
}

func matches(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return err == nil && ok
}

// Address is what an interface got.
type Address struct {
	Interface   string
	MAC         string
	Prefix      netip.Prefix // address with its prefix length
	Gateway     netip.Addr   // of the default route; invalid: none
	Routes      []configs.Route
	Nameservers []netip.Addr
	Search      []string
	Hostname    string // DHCP option 12
	DHCP        bool
	MTU         int
}

// Static is what an entry with fixed addresses asks for; ok is false without any.
func Static(name, mac string, e configs.Ethernet) (a []Address, ok bool) {
	for i, p := range e.Addresses {
		x := Address{Interface: name, MAC: mac, Prefix: p, MTU: e.MTU}
		if i == 0 {
			x.Gateway, x.Nameservers, x.Search = e.Gateway4, e.Nameservers.Addresses, e.Nameservers.Search
			for _, r := range e.Routes {
				if r.To.Bits() == 0 && r.To.Addr().Is4() && r.Via.IsValid() && r.Metric == 0 {
					x.Gateway = r.Via
				} else {
					x.Routes = append(x.Routes, r)
				}
			}
		}
		a = append(a, x)
	}
	return a, len(a) > 0
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
