package configs

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
)

// Network is network-config: version 2 (netplan), Ethernet only.
type Network struct {
	Version   int                 `json:"version"` // 2
	Ethernets map[string]Ethernet `json:"ethernets"`
	// Warnings names keys that are read but have no effect.
	Warnings []Problem `json:"-"`
}

// Ethernet configures the interfaces that match, or, without a match, the
// interface that has the entry's key as its name.
type Ethernet struct {
	Match         Match          `json:"match,omitzero"`
	SetName       string         `json:"set-name,omitempty"`
	DHCP4         bool           `json:"dhcp4,omitempty"`
	DHCP4Override DHCPOverrides  `json:"dhcp4-overrides,omitzero"`
	Addresses     []netip.Prefix `json:"addresses,omitempty"`
	Gateway4      netip.Addr     `json:"gateway4,omitzero"`
	Routes        []Route        `json:"routes,omitempty"`
	Nameservers   Nameservers    `json:"nameservers,omitzero"`
	MTU           int            `json:"mtu,omitempty"`
	Optional      bool           `json:"optional,omitempty"` // the boot does not wait for it
}

// Match selects interfaces; all given properties must fit.
type Match struct {
	MACAddress MAC    `json:"macaddress,omitempty"`
	Name       string `json:"name,omitempty"`   // glob
	Driver     List   `json:"driver,omitempty"` // globs, any of them
}

// MAC is an Ethernet address in lower case with colons.
type MAC string

// DHCPOverrides says which parts of a DHCP answer are used; nil is true.
type DHCPOverrides struct {
	UseDNS    *bool  `json:"use-dns,omitempty"`
	UseRoutes *bool  `json:"use-routes,omitempty"`
	Hostname  string `json:"hostname,omitempty"` // sent to the server
}

// Route is one static route.
type Route struct {
	To     Destination `json:"to"`
	Via    netip.Addr  `json:"via"`
	Metric int         `json:"metric,omitempty"`
}

// Destination is a prefix, in YAML also "default".
type Destination struct{ netip.Prefix }

// Nameservers are DNS servers and search domains.
type Nameservers struct {
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Search    []string     `json:"search,omitempty"`
}

// ParseNetworkConfig reads network-config strictly and checks it; the content
// may stand below a key "network" as in netplan's own files. An error is a
// Problems with everything found.
func ParseNetworkConfig(name string, data []byte) (*Network, error) {
	d := newDocument(name, data)
	if !d.read() {
		return nil, d.err()
	}
	var n Network
	root := d.root()
	out := any(&n)
	if m, ok := d.value.(map[string]any); ok && m["network"] != nil {
		root = root.key("network")
		out = &struct {
			Network *Network `json:"network"`
		}{&n}
	}
	if !d.decode(out) {
		return nil, d.err()
	}
	n.check(root)
	if err := d.err(); err != nil {
		return nil, err
	}
	n.Warnings = flat(d.warnings)
	return &n, nil
}

func (Network) notes() map[string]note {
	return join(
		each(note{text: "not supported yet: slipway knows ethernets only"}, "bonds", "bridges", "dummy-devices", "modems",
			"nm-devices", "openvswitch", "tunnels", "virtual-ethernets", "vlans", "vrfs", "wifis"),
		each(note{warning: true, text: "has no effect: slipway configures the network itself"}, "renderer"),
		each(note{text: "cloud-init's version 1 is not supported", hint: "write netplan's version 2: version, ethernets"}, "config"),
	)
}

func (Ethernet) notes() map[string]note {
	return each(unsupported(), "accept-ra", "activation-mode", "auth", "critical", "dhcp-identifier", "dhcp6",
		"dhcp6-overrides", "gateway6", "generic-receive-offload", "generic-segmentation-offload", "ignore-carrier",
		"ipv6-address-generation", "ipv6-address-token", "ipv6-mtu", "ipv6-privacy", "large-receive-offload", "link-local",
		"macaddress", "optional-addresses", "ra-overrides", "receive-checksum-offload", "routing-policy",
		"tcp-segmentation-offload", "tcp6-segmentation-offload", "transmit-checksum-offload", "virtual-function-count",
		"wakeonlan")
}

func (DHCPOverrides) notes() map[string]note {
	return each(unsupported(), "route-metric", "send-hostname", "use-domains", "use-hostname", "use-mtu", "use-ntp")
}

func (Route) notes() map[string]note {
	return each(unsupported(), "advertised-receive-window", "congestion-window", "from", "mtu", "on-link", "scope", "table", "type")
}

func (n *Network) check(a at) {
	switch {
	case !a.key("version").set():
		a.key("version").missing().Hint = "write version: 2"
	case n.Version != 2:
		a.key("version").errorf("version %d is not supported, only 2 (netplan)", n.Version)
	}
	macs := map[MAC]string{}
	names := map[string]string{}
	for _, id := range slices.Sorted(maps.Keys(n.Ethernets)) {
		e := n.Ethernets[id]
		here := a.key("ethernets").key(id)
		e.check(here, id)
		n.Ethernets[id] = e
		if mac := e.Match.MACAddress; mac != "" {
			if other, ok := macs[mac]; ok {
				here.key("match").key("macaddress").errorf("%q is already matched by %q", mac, other)
			}
			macs[mac] = id
		}
		if e.SetName != "" {
			if other, ok := names[e.SetName]; ok {
				here.key("set-name").errorf("%q is already the name of %q", e.SetName, other)
			}
			names[e.SetName] = id
		}
	}
}

func (e *Ethernet) check(a at, id string) {
	matching := a.key("match").set()
	if !matching {
		// Linux: IFNAMSIZ is 16 with the closing NUL.
		a.may(id, interfaceName)
	}
	if matching && e.Match.MACAddress == "" && e.Match.Name == "" && len(e.Match.Driver) == 0 {
		a.key("match").errorf("empty: it would match every interface").Hint = "give macaddress, name or driver"
	}
	a.key("set-name").may(e.SetName, interfaceName)
	if e.SetName != "" && !matching {
		a.key("set-name").errorf("needs match")
	}
	// RFC 791: every link carries 68 bytes; 65535 is the longest packet.
	if a.key("mtu").set() && (e.MTU < 68 || e.MTU > 65535) {
		a.key("mtu").errorf("want 68 to 65535 bytes, got %d", e.MTU)
	}
	for i, p := range e.Addresses {
		a.key("addresses").item(i).hostAddress(p)
		if j := slices.Index(e.Addresses, p); j < i {
			a.key("addresses").item(i).errorf("%s is already in addresses[%d]", p, j)
		}
	}
	if g := e.Gateway4; g.IsValid() {
		if !g.Is4() {
			a.key("gateway4").errorf("%s is not an IPv4 address", g)
		} else if !e.reaches(g) {
			a.key("gateway4").errorf("%s is in no subnet of addresses", g)
		}
	}
	for i := range e.Routes {
		e.checkRoute(a.key("routes").item(i), &e.Routes[i])
	}
	for i, s := range e.Nameservers.Search {
		a.key("nameservers").key("search").item(i).must(s, func(s string) error { return dnsName(s, 253) })
	}
	a.key("dhcp4-overrides").key("hostname").may(e.DHCP4Override.Hostname, func(s string) error { return dnsName(s, 253) })
	if a.key("dhcp4-overrides").set() && !e.DHCP4 {
		a.key("dhcp4-overrides").errorf("needs dhcp4: true")
	}
}

func (e *Ethernet) checkRoute(a at, r *Route) {
	switch {
	case !r.To.IsValid():
		a.key("to").missing()
	case !r.Via.IsValid():
		a.key("via").missing()
	default:
		if a.key("to").text() == "default" && r.Via.Is6() {
			r.To.Prefix = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		a.key("to").subnet(r.To.Prefix)
		if r.To.Addr().Is4() != r.Via.Is4() {
			a.key("via").errorf("%s and %s are of different IP versions", r.Via, r.To)
		}
		if r.Via.Is4() && !e.DHCP4 && !e.reaches(r.Via) {
			a.key("via").errorf("%s is in no subnet of addresses", r.Via)
		}
	}
	if r.Metric < 0 {
		a.key("metric").errorf("want 0 or more, got %d", r.Metric)
	}
}

// reaches reports whether an address is on the link by the static addresses.
func (e *Ethernet) reaches(ip netip.Addr) bool {
	return slices.ContainsFunc(e.Addresses, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// hostAddress checks that a prefix can be the address of one interface.
func (a at) hostAddress(p netip.Prefix) {
	ip := p.Addr()
	if ip.IsMulticast() || ip.IsUnspecified() || ip.IsLoopback() {
		a.errorf("%s is not the address of an interface", p)
	} else if ip.Is4() && p.Bits() < 31 && p.Masked() == p {
		a.errorf("%s is a whole subnet, not an address in it", p)
	}
}

func interfaceName(s string) error {
	if len(s) < 16 && matches(`[A-Za-z0-9][A-Za-z0-9_.-]*`, s) {
		return nil
	}
	return fmt.Errorf("%q is not the name of an interface: want 1 to 15 of the characters a-z A-Z 0-9 _ . -", s)
}

// UnmarshalText reads six bytes of hex with : or - between them.
func (m *MAC) UnmarshalText(b []byte) error {
	hw, err := net.ParseMAC(string(b))
	if err != nil || len(hw) != 6 {
		return fmt.Errorf("%q is not an Ethernet address, such as %q", b, "52:54:00:12:34:56")
	}
	*m = MAC(hw.String())
	return nil
}

// UnmarshalText reads a prefix or "default", which is 0.0.0.0/0 until the
// gateway says otherwise.
func (t *Destination) UnmarshalText(b []byte) error {
	if string(b) == "default" {
		t.Prefix = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		return nil
	}
	p, err := netip.ParsePrefix(string(b))
	if err != nil {
		return fmt.Errorf("want default or a subnet such as %q, got %q", "192.0.2.0/24", b)
	}
	t.Prefix = p
	return nil
}
