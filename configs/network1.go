package configs

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// network1 is network-config version 1 (cloud-init, "Networking config version 1").
type network1 struct {
	Version int     `json:"version"`
	Config  []item1 `json:"config"`
}

// item1 is one item of it; which keys count depends on the type.
type item1 struct {
	Type    string    `json:"type"`
	Name    string    `json:"name"`
	MAC     MAC       `json:"mac_address"`
	MTU     int       `json:"mtu"`
	RA      *bool     `json:"accept-ra"`
	Subnets []subnet1 `json:"subnets"`
	stack1
	route1
	Address   List   `json:"address"` // nameserver
	Search    List   `json:"search"`
	Interface string `json:"interface"`
}

// stack1 are the keys of bonds, bridges and VLANs.
type stack1 struct {
	Bond   []string          `json:"bond_interfaces"`
	Bridge []string          `json:"bridge_interfaces"`
	Params map[string]param1 `json:"params"`
	Link   string            `json:"vlan_link"`
	ID     *int              `json:"vlan_id"`
}

// route1 is a route, of an item or of a subnet.
type route1 struct {
	Destination string `json:"destination"`
	Network     string `json:"network"` // another name of destination
	Netmask     mask1  `json:"netmask"`
	Prefix      mask1  `json:"prefix"`
	Gateway     string `json:"gateway"`
	Metric      int    `json:"metric"`
}

type subnet1 struct {
	Type    string   `json:"type"`
	Control string   `json:"control"`
	Address string   `json:"address"`
	Netmask mask1    `json:"netmask"`
	Gateway string   `json:"gateway"`
	Metric  int      `json:"metric"`
	DNS     List     `json:"dns_nameservers"`
	Search  List     `json:"dns_search"`
	Routes  []route1 `json:"routes"`
	MTU     int      `json:"mtu"`
}

// mask1 is a prefix length, as a number or text, or a dotted mask.
type mask1 string

func (mask1) forms() []any { return []any{"", uint8(0)} }

// UnmarshalJSON reads a number or a string.
func (m *mask1) UnmarshalJSON(b []byte) error {
	*m = mask1(strings.Trim(string(b), `"`))
	return nil
}

// param1 is a value of params, in whatever form.
type param1 []string

func (param1) forms() []any { return []any{[]string(nil), "", int64(0), false} }

// UnmarshalJSON reads a scalar or a list of strings.
func (p *param1) UnmarshalJSON(b []byte) error {
	if b[0] == '[' {
		return json.Unmarshal(b, (*[]string)(p))
	}
	*p = []string{strings.Trim(string(b), `"`)}
	return nil
}

func (network1) notes() map[string]note {
	return each(note{text: "belongs to version 2", hint: "write version: 2, or items under config"}, "ethernets", "bonds", "bridges", "vlans", "renderer")
}

func (item1) notes() map[string]note { return each(unsupported(), "dhcp4", "dhcp6", "wakeonlan") }

func (subnet1) notes() map[string]note {
	return join(each(note{warning: true, text: "has no effect: it follows from address and netmask"}, "broadcast", "ipv4", "ipv6", "scope"),
		each(unsupported(), "pointopoint"))
}

// translation makes version 2 of version 1 and remembers what came from where.
type translation struct {
	d     *document
	n     *Network
	moved map[string]string // path in version 2 → path in the file
	first map[string]int    // kind and name → item
}

// network1 reads version 1 and returns it as version 2. Problems stand where
// the file has the cause.
func (d *document) network1(root at) *Network {
	var old network1
	if !d.decode(wrapped(&old, root)) {
		return &Network{}
	}
	t := &translation{d: d, moved: map[string]string{}, first: map[string]int{},
		n: &Network{Version: 2, Ethernets: map[string]Ethernet{}, Bonds: map[string]Bond{}, Bridges: map[string]Bridge{}, VLANs: map[string]VLAN{}}}
	if !root.key("config").set() {
		root.key("config").missing().Hint = "write a list of physical, bond, bridge, vlan, nameserver and route"
	}
	t.move(d.root(), root)
	for i, it := range old.Config {
		t.item(it, root.key("config").item(i), i)
	}
	for i, it := range old.Config {
		t.global(it, root.key("config").item(i))
	}
	// The version is the file's; the check is about version 2.
	t.move(d.root().key("version"), root.key("version"))
	before := len(d.problems)
	t.n.check(d.root())
	t.relocate(d.problems)
	t.relocate(d.warnings)
	// What was left out because it did not fit was reported as that.
	later := slices.DeleteFunc(d.problems[before:], func(p *Problem) bool {
		return slices.ContainsFunc(d.misfits, at{d: d, path: p.Path}.around)
	})
	d.problems = d.problems[:before+len(later)]
	return t.n
}

// move says that to of version 2 is from of the file.
func (t *translation) move(to, from at) at {
	t.moved[to.path] = from.path
	if s, ok := t.d.spots[from.path]; ok && to.path != from.path {
		t.d.spots[to.path] = s
	}
	return to
}

// relocate makes problems of version 2 problems of the file.
func (t *translation) relocate(all []*Problem) {
	for _, p := range all {
		for path := p.Path; path != ""; path = path[:max(0, strings.LastIndexAny(path, ".["))] {
			if from, ok := t.moved[path]; ok {
				hint := p.Hint
				*p = *at{d: t.d, path: from}.problem(p.Message)
				p.Hint = hint
				break
			}
		}
	}
}

func (t *translation) item(it item1, a at, i int) {
	kind, ok := map[string]string{"physical": "ethernets", "bond": "bonds", "bridge": "bridges", "vlan": "vlans",
		"loopback": "ethernets", "nameserver": "", "route": ""}[it.Type]
	if !ok {
		if it.Type == "" {
			a.key("type").missing()
		}
		a.key("type").oneOf(it.Type, "physical", "bond", "bridge", "vlan", "nameserver", "route", "loopback")
		return
	}
	if kind == "" {
		return
	}
	if it.Type == "loopback" {
		it.Name = "lo"
	}
	if it.Name == "" {
		a.key("name").missing()
		return
	}
	if other, ok := t.first[kind+" "+it.Name]; ok {
		a.key("name").errorf("%q is already config[%d]", it.Name, other)
		return
	}
	t.first[kind+" "+it.Name] = i
	here := t.move(t.d.root().key(kind).key(it.Name), a)
	on := t.common(it, a, here)
	switch it.Type {
	case "physical":
		e := Ethernet{Interface: on}
		if it.MAC != "" {
			e.Match.MACAddress, e.SetName, e.MACAddress = it.MAC, it.Name, ""
			t.move(here.key("match"), a.key("mac_address"))
			t.move(here.key("match").key("macaddress"), a.key("mac_address"))
			t.move(here.key("set-name"), a.key("name"))
		}
		t.n.Ethernets[it.Name] = e
	case "loopback":
		if on.Optional = true; len(on.Addresses) > 0 {
			t.n.Ethernets["lo"] = Ethernet{Interface: on}
		}
	case "bond":
		b := Bond{Members: it.Bond, Interface: on}
		t.list(here.key("interfaces"), a.key("bond_interfaces"), len(it.Bond))
		t.params(it.Params, a, here, bondParams(), &b.Parameters)
		t.n.Bonds[it.Name] = b
	case "bridge":
		b := Bridge{Members: it.Bridge, Interface: on}
		t.list(here.key("interfaces"), a.key("bridge_interfaces"), len(it.Bridge))
		t.params(it.Params, a, here, bridgeParams(), &b.Parameters)
		t.n.Bridges[it.Name] = b
	case "vlan":
		t.move(here.key("id"), a.key("vlan_id"))
		t.move(here.key("link"), a.key("vlan_link"))
		t.n.VLANs[it.Name] = VLAN{ID: it.ID, Link: it.Link, Interface: on}
	}
}

func (t *translation) list(to, from at, n int) {
	t.move(to, from)
	for i := range n {
		t.move(to.item(i), from.item(i))
	}
}

// common translates what all kinds have.
func (t *translation) common(it item1, a, to at) Interface {
	on := Interface{MTU: it.MTU, MACAddress: it.MAC, AcceptRA: it.RA}
	t.move(to.key("mtu"), a.key("mtu"))
	t.move(to.key("macaddress"), a.key("mac_address"))
	for i, s := range it.Subnets {
		t.subnet(&on, s, a.key("subnets").item(i), to)
	}
	return on
}

func (t *translation) subnet(on *Interface, s subnet1, a, to at) {
	switch s.Type {
	case "dhcp", "dhcp4":
		on.DHCP4 = true
		t.move(to.key("dhcp4"), a.key("type"))
	case "dhcp6", "ipv6_dhcpv6-stateful", "ipv6_dhcpv6-stateless":
		on.DHCP6 = true
		t.move(to.key("dhcp6"), a.key("type"))
	case "ipv6_slaac":
		yes := true
		on.AcceptRA = &yes
	case "static", "static6":
		if p, ok := t.prefix(s.Address, s.Netmask, a.key("address"), a.key("netmask")); ok {
			at2 := to.key("addresses")
			t.move(at2, a.key("address"))
			t.move(at2.item(len(on.Addresses)), a.key("address"))
			on.Addresses = append(on.Addresses, p)
		}
	case "manual":
	case "":
		a.key("type").missing()
	default:
		a.key("type").oneOf(s.Type, "dhcp", "dhcp4", "dhcp6", "static", "static6", "manual", "ipv6_slaac")
	}
	a.key("control").oneOf(s.Control, "auto", "manual")
	on.Optional = on.Optional || s.Control == "manual"
	if s.MTU != 0 && on.MTU == 0 {
		on.MTU = s.MTU
		t.move(to.key("mtu"), a.key("mtu"))
	}
	t.gateway(on, s, a, to)
	t.servers(&on.Nameservers, s.DNS, s.Search, a.key("dns_nameservers"), a.key("dns_search"), to)
	for i, r := range s.Routes {
		t.route(&on.Addressing, r, a.key("routes").item(i), to)
	}
}

// gateway is a default route of its subnet.
func (t *translation) gateway(on *Interface, s subnet1, a, to at) {
	if s.Gateway == "" {
		return
	}
	g, err := netip.ParseAddr(s.Gateway)
	switch {
	case err != nil:
		a.key("gateway").errorf("want an address, such as %q, got %q", "192.0.2.1", s.Gateway)
	case s.Metric == 0 && g.Is4() && !on.Gateway4.IsValid():
		on.Gateway4 = g
		t.move(to.key("gateway4"), a.key("gateway"))
	case s.Metric == 0 && g.Is6() && !on.Gateway6.IsValid():
		on.Gateway6 = g
		t.move(to.key("gateway6"), a.key("gateway"))
	default:
		t.route(&on.Addressing, route1{Destination: "default", Gateway: s.Gateway, Metric: s.Metric}, a, to)
	}
}

// route adds a route; "default", 0.0.0.0 and :: are every destination.
func (t *translation) route(on *Addressing, r route1, a, to at) {
	name := "destination"
	if r.Destination == "" {
		name, r.Destination = "network", r.Network
	}
	here := to.key("routes").item(len(on.Routes))
	t.move(here, a)
	t.move(here.key("to"), a.key(name))
	t.move(here.key("via"), a.key("gateway"))
	t.move(here.key("metric"), a.key("metric"))
	out := Route{Metric: r.Metric}
	if r.Destination == "" {
		a.key("destination").missing()
		return
	}
	var ok bool
	if out.Via, ok = t.address(r.Gateway, a.key("gateway")); !ok {
		return
	}
	mask := r.Netmask
	if mask == "" {
		mask = r.Prefix
	}
	switch {
	case r.Destination == "default" && out.Via.Is6(), r.Destination == "::" && mask == "":
		out.To.Prefix = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	case r.Destination == "default", r.Destination == "0.0.0.0" && mask == "":
		out.To.Prefix = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	default:
		if out.To.Prefix, ok = t.prefix(r.Destination, mask, a.key(name), a.key("netmask")); !ok {
			return
		}
	}
	on.Routes = append(on.Routes, out)
}

func (t *translation) address(s string, a at) (netip.Addr, bool) {
	if s == "" {
		a.missing()
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(s)
	if err != nil {
		a.errorf("want an address, such as %q, got %q", "192.0.2.1", s)
	}
	return ip, err == nil
}

// prefix joins an address and its mask; one that holds its length needs none.
func (t *translation) prefix(s string, mask mask1, a, maskAt at) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, true
	}
	ip, ok := t.address(s, a)
	if !ok {
		return netip.Prefix{}, false
	}
	if mask == "" {
		a.errorf("%s has no prefix length", s).Hint = fmt.Sprintf("write %q, or netmask beside it", s+"/24")
		return netip.Prefix{}, false
	}
	bits, err := strconv.Atoi(string(mask))
	if err != nil {
		bits = maskBits(string(mask), ip.BitLen())
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		maskAt.errorf("%q is not a netmask of %s", mask, ip)
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(ip, p.Bits()), true
}

// maskBits is the length of a dotted mask, -1 when it is none of this size.
func maskBits(mask string, size int) int {
	m, err := netip.ParseAddr(mask)
	if err != nil || m.BitLen() != size {
		return -1
	}
	if ones, bits := net.IPMask(m.AsSlice()).Size(); bits == size {
		return ones
	}
	return -1
}

func (t *translation) servers(to *Nameservers, dns, search List, dnsAt, searchAt, on at) {
	for i, s := range dns {
		if ip, ok := t.address(s, dnsAt.item(i)); ok && !slices.Contains(to.Addresses, ip) {
			to.Addresses = append(to.Addresses, ip)
		}
	}
	for i, s := range search {
		if slices.Contains(to.Search, s) {
			continue
		}
		t.move(on.key("nameservers").key("search").item(len(to.Search)), searchAt.item(i))
		to.Search = append(to.Search, s)
	}
}
