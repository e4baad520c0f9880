package configs

import (
	"fmt"
	"net"
	"net/netip"
)

// Network is network-config version 2 (netplan), or version 1 (cloud-init)
// translated to it.
type Network struct {
	Version   int                 `json:"version"` // 2
	Ethernets map[string]Ethernet `json:"ethernets,omitempty"`
	Bonds     map[string]Bond     `json:"bonds,omitempty"`
	Bridges   map[string]Bridge   `json:"bridges,omitempty"`
	VLANs     map[string]VLAN     `json:"vlans,omitempty"`
	// Warnings names keys that are read but have no effect, and settings that
	// contradict each other.
	Warnings []Problem `json:"-"`
}

// Interface is what every kind of interface can be given.
type Interface struct {
	Addressing
	MTU        int   `json:"mtu,omitempty"`            // bytes; 0: as the kernel or the DHCP server has it
	MACAddress MAC   `json:"macaddress,omitempty"`     // set on the interface
	Optional   bool  `json:"optional,omitempty"`       // the boot does not wait for it
	AcceptRA   *bool `json:"accept-ra,omitempty"`      // IPv6 router advertisements; nil: the kernel's default
	NoCarrier  bool  `json:"ignore-carrier,omitempty"` // fixed addresses are set without a link, too
}

// Addressing says how an interface gets addresses, routes and name servers.
type Addressing struct {
	DHCP4          bool           `json:"dhcp4,omitempty"`
	DHCP4Override  DHCPOverrides  `json:"dhcp4-overrides,omitzero"`
	DHCPIdentifier string         `json:"dhcp-identifier,omitempty"` // "mac": option 61 is the MAC; "": no option 61
	DHCP6          bool           `json:"dhcp6,omitempty"`           // refused when true
	Addresses      []netip.Prefix `json:"addresses,omitempty"`
	Gateway4       netip.Addr     `json:"gateway4,omitzero"`
	Gateway6       netip.Addr     `json:"gateway6,omitzero"`
	Routes         []Route        `json:"routes,omitempty"`
	Nameservers    Nameservers    `json:"nameservers,omitzero"`
}

// Ethernet configures the interfaces that match, or, without a match, the
// interface that has the entry's key as its name.
type Ethernet struct {
	Match   Match  `json:"match,omitzero"`
	SetName string `json:"set-name,omitempty"`
	Interface
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
	UseDNS       *bool  `json:"use-dns,omitempty"`       // option 6
	UseDomains   *bool  `json:"use-domains,omitempty"`   // options 15 and 119
	UseHostname  *bool  `json:"use-hostname,omitempty"`  // option 12
	UseMTU       *bool  `json:"use-mtu,omitempty"`       // option 26
	UseNTP       *bool  `json:"use-ntp,omitempty"`       // option 42
	UseRoutes    *bool  `json:"use-routes,omitempty"`    // options 3 and 121
	RouteMetric  int    `json:"route-metric,omitempty"`  // of the routes the server names
	SendHostname *bool  `json:"send-hostname,omitempty"` // option 12 to the server
	Hostname     string `json:"hostname,omitempty"`      // sent in place of the node's name
}

// Route is one static route.
type Route struct {
	To     Destination `json:"to"`
	Via    netip.Addr  `json:"via,omitzero"`
	From   netip.Addr  `json:"from,omitzero"` // preferred source address
	Metric int         `json:"metric,omitempty"`
	OnLink bool        `json:"on-link,omitempty"` // via is reached without an address in its subnet
	Table  int         `json:"table,omitempty"`   // 0: main
	MTU    int         `json:"mtu,omitempty"`     // bytes
	Type   string      `json:"type,omitempty"`    // unicast (default), blackhole, unreachable, prohibit, throw, local
	Scope  string      `json:"scope,omitempty"`   // global, link, host; default by type and via
}

// Destination is a prefix, in YAML also "default".
type Destination struct{ netip.Prefix }

// Nameservers are DNS servers and search domains.
type Nameservers struct {
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Search    []string     `json:"search,omitempty"`
}

// ParseNetworkConfig reads network-config strictly and checks it; the content
// may stand below a key "network" as in netplan's own files. Version 1 is
// translated to version 2 and then checked as that. An error is a Problems
// with everything found.
func ParseNetworkConfig(name string, data []byte) (*Network, error) {
	d := newDocument(name, data)
	if !d.read() {
		return nil, d.err()
	}
	n := &Network{}
	if root, version1 := d.network(); version1 {
		n = d.network1(root)
	} else if d.decode(wrapped(n, root)) {
		n.check(root)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	n.Warnings = flat(d.warnings)
	return n, nil
}

// network finds where the config begins and of which version it is.
func (d *document) network() (root at, version1 bool) {
	root = d.root()
	m, _ := d.value.(map[string]any)
	if inner, ok := m["network"]; ok && inner != nil {
		root = root.key("network")
		m, _ = inner.(map[string]any)
	}
	return root, m["version"] != nil && root.key("version").text() == "1"
}

// wrapped is what to decode into: v itself, or v below the key "network".
func wrapped[T any](v *T, root at) any {
	if root.path == "" {
		return v
	}
	return &struct {
		Network *T `json:"network"`
	}{v}
}

func (Network) notes() map[string]note {
	return join(
		each(note{text: "not supported: slipway knows ethernets, bonds, bridges and vlans"}, "dummy-devices", "modems",
			"nm-devices", "openvswitch", "tunnels", "virtual-ethernets", "vrfs", "wifis"),
		each(note{warning: true, text: "has no effect: slipway configures the network itself"}, "renderer"),
		each(note{text: "belongs to version 1", hint: "write version: 1 with it, or ethernets, bonds, bridges and vlans of version 2"}, "config"),
	)
}

func (Interface) notes() map[string]note {
	return join(
		each(unsupported(), "activation-mode", "auth", "dhcp6-overrides", "ipv6-address-generation", "ipv6-address-token",
			"ipv6-mtu", "ipv6-privacy", "ra-overrides", "routing-policy", "virtual-function-count",
			"embedded-switch-mode", "delay-virtual-functions-rebind", "infiniband-mode", "neigh-suppress"),
		each(note{warning: true, text: "has no effect: the network card keeps its driver's setting"}, "wakeonlan",
			"generic-receive-offload", "generic-segmentation-offload", "large-receive-offload", "receive-checksum-offload",
			"tcp-segmentation-offload", "tcp6-segmentation-offload", "transmit-checksum-offload"),
		each(note{warning: true, text: "has no effect: a node keeps its addresses while it runs"}, "critical"),
		each(note{warning: true, text: "has no effect: the kernel gives its own link-local addresses"}, "link-local"),
		each(note{warning: true, text: "has no effect"}, "optional-addresses", "emit-lldp", "renderer"),
	)
}

func (Route) notes() map[string]note {
	return each(unsupported(), "advertised-receive-window", "congestion-window")
}

// interfaceName checks a name that slipway gives. Linux: IFNAMSIZ is 16 with
// the closing NUL; "all" and "default" are taken below /proc/sys/net.
func interfaceName(s string) error {
	if len(s) < 16 && matches(`[A-Za-z0-9][A-Za-z0-9_.-]*`, s) && s != "all" && s != "default" {
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
