package configs

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// entry is one interface of a config while it is checked.
type entry struct {
	kind string // "ethernets"
	id   string
	at   at
	on   *Interface
	// needs are the interfaces it stands on, each with its place.
	needs  []string
	needAt func(i int) at
}

func (e entry) String() string { return e.kind + "." + e.id }

func (n *Network) check(root at) {
	switch {
	case !root.key("version").set():
		root.key("version").missing().Hint = "write version: 2"
	case n.Version != 2:
		root.key("version").errorf("version %d is not supported, only 2 (netplan) and 1 (cloud-init)", n.Version)
	}
	var all []entry
	all = append(all, n.checkEthernets(root.key("ethernets"))...)
	all = append(all, n.checkBonds(root.key("bonds"))...)
	all = append(all, n.checkVLANs(root.key("vlans"))...)
	all = append(all, n.checkBridges(root.key("bridges"))...)
	checkNames(all)
	checkNeeds(all)
	checkCycles(all)
	checkTwice(all)
}

func (n *Network) checkEthernets(a at) (all []entry) {
	macs := map[MAC]string{}
	names := map[string]string{}
	for _, id := range slices.Sorted(maps.Keys(n.Ethernets)) {
		e := n.Ethernets[id]
		here := a.key(id)
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
			} else if other, ok := n.Ethernets[e.SetName]; ok && e.SetName != id && !other.matching() {
				here.key("set-name").errorf("%q is already the name of %q", e.SetName, e.SetName)
			}
			names[e.SetName] = id
		}
		all = append(all, entry{kind: "ethernets", id: id, at: here, on: &e.Interface})
	}
	return all
}

func (n *Network) checkBonds(a at) (all []entry) {
	for _, id := range slices.Sorted(maps.Keys(n.Bonds)) {
		b := n.Bonds[id]
		here := a.key(id)
		here.onKey().may(id, interfaceName)
		b.Interface.check(here, id)
		b.Parameters.check(here.key("parameters"), b.Members)
		n.Bonds[id] = b
		all = append(all, entry{kind: "bonds", id: id, at: here, on: &b.Interface, needs: b.Members, needAt: here.key("interfaces").item})
	}
	return all
}

func (n *Network) checkBridges(a at) (all []entry) {
	for _, id := range slices.Sorted(maps.Keys(n.Bridges)) {
		b := n.Bridges[id]
		here := a.key(id)
		here.onKey().may(id, interfaceName)
		b.Interface.check(here, id)
		b.Parameters.check(here.key("parameters"), b.Members)
		n.Bridges[id] = b
		all = append(all, entry{kind: "bridges", id: id, at: here, on: &b.Interface, needs: b.Members, needAt: here.key("interfaces").item})
	}
	return all
}

func (n *Network) checkVLANs(a at) (all []entry) {
	type tag struct {
		link string
		id   int
	}
	taken := map[tag]string{}
	for _, id := range slices.Sorted(maps.Keys(n.VLANs)) {
		v := n.VLANs[id]
		here := a.key(id)
		here.onKey().may(id, interfaceName)
		v.Interface.check(here, id)
		e := entry{kind: "vlans", id: id, at: here, on: &v.Interface, needAt: func(int) at { return here.key("link") }}
		if v.Link == "" {
			here.key("link").missing()
		} else {
			e.needs = []string{v.Link}
		}
		if v.ID == nil {
			here.key("id").missing()
		} else {
			here.key("id").between(*v.ID, 1, 4094)
			t := tag{v.Link, *v.ID}
			if other, ok := taken[t]; ok {
				here.key("id").errorf("%d of %q is already %q", t.id, t.link, other)
			}
			taken[t] = id
		}
		n.VLANs[id] = v
		all = append(all, e)
	}
	return all
}

// checkNames refuses two interfaces of one name.
func checkNames(all []entry) {
	by := map[string]entry{}
	for _, e := range all {
		if other, ok := by[e.id]; ok {
			e.at.onKey().errorf("%q is already the name of %s", e.id, other)
			continue
		}
		by[e.id] = e
	}
}

// checkNeeds looks at what bonds, bridges and VLANs stand on.
func checkNeeds(all []entry) {
	kinds := map[string]string{}
	var ids []string
	for _, e := range all {
		kinds[e.id] = e.kind
		ids = append(ids, e.id)
	}
	master := map[string]entry{}
	for _, e := range all {
		for i, need := range e.needs {
			here := e.needAt(i)
			kind, known := kinds[need]
			switch {
			case !known:
				msg := fmt.Sprintf("no interface %q in this config", need)
				if s := suggest(need, ids); s != "" {
					msg += fmt.Sprintf(": did you mean %q?", s)
				}
				here.errorf("%s", msg).Hint = "name it under ethernets, bonds, bridges or vlans"
			case need == "lo":
				here.errorf("the loopback interface joins nothing")
			case e.kind == "vlans" || need == e.id:
			case e.kind == "bonds" && kind != "ethernets":
				here.errorf("%q is one of %s: a bond takes ethernets", need, kind)
			case e.kind == "bridges" && kind == "bridges":
				here.errorf("%q is a bridge: a bridge takes none", need)
			default:
				if other, ok := master[need]; ok {
					here.errorf("%q is already in %s", need, other)
				} else {
					master[need] = e
				}
			}
		}
	}
	for _, e := range all {
		if m, ok := master[e.id]; ok {
			e.checkMember(m)
		}
	}
}

// checkMember refuses what a bond's or bridge's member cannot use.
func (e entry) checkMember(m entry) {
	for _, x := range []struct {
		key string
		set bool
	}{
		{"addresses", len(e.on.Addresses) > 0}, {"dhcp4", e.on.DHCP4}, {"gateway4", e.on.Gateway4.IsValid()},
		{"gateway6", e.on.Gateway6.IsValid()}, {"routes", len(e.on.Routes) > 0},
	} {
		if x.set {
			e.at.key(x.key).errorf("%q is in %s", e.id, m).Hint = "write it there"
		}
	}
}

// checkCycles refuses interfaces that stand on themselves. Each cycle is
// named once.
func checkCycles(all []entry) {
	by := map[string]entry{}
	for _, e := range all {
		by[e.id] = e
	}
	done := map[string]bool{}
	var walk func(e entry, path []string) bool
	walk = func(e entry, path []string) bool {
		if i := slices.Index(path, e.id); i >= 0 {
			first := by[path[i]]
			first.at.onKey().errorf("stands on itself: %s", strings.Join(append(path[i:], e.id), " on "))
			return true
		}
		if done[e.id] {
			return false
		}
		for _, need := range e.needs {
			if next, ok := by[need]; ok && walk(next, append(slices.Clone(path), e.id)) {
				done[e.id] = true
				return true
			}
		}
		done[e.id] = true
		return false
	}
	for _, e := range all {
		walk(e, nil)
	}
}

// checkTwice finds addresses of two interfaces, and default routes that
// compete: of two with one metric the kernel keeps the later.
func checkTwice(all []entry) {
	type route struct {
		is6           bool
		table, metric int
	}
	addresses := map[netip.Addr]entry{}
	defaults := map[route]entry{}
	for _, e := range all {
		for i, p := range e.on.Addresses {
			if other, ok := addresses[p.Addr()]; ok && other.String() != e.String() {
				e.at.key("addresses").item(i).errorf("%s is already an address of %s", p.Addr(), other)
				continue
			}
			addresses[p.Addr()] = e
		}
		competes := func(a at, r route) {
			if other, ok := defaults[r]; ok {
				a.warnf("a second default route with the same metric: %s has one already and keeps it", other).Hint = "give one of them another metric or table"
				return
			}
			defaults[r] = e
		}
		if e.on.Gateway4.IsValid() {
			competes(e.at.key("gateway4"), route{})
		}
		if e.on.Gateway6.IsValid() {
			competes(e.at.key("gateway6"), route{is6: true})
		}
		for i, r := range e.on.Routes {
			if r.To.IsValid() && r.To.Bits() == 0 {
				competes(e.at.key("routes").item(i), route{r.To.Addr().Is6(), r.Table, r.Metric})
			}
		}
	}
}

func (e *Ethernet) matching() bool {
	return e.Match.MACAddress != "" || e.Match.Name != "" || len(e.Match.Driver) > 0
}

func (e *Ethernet) check(a at, id string) {
	given := a.key("match").set()
	if !given {
		a.may(id, interfaceName)
	} else if !e.matching() {
		a.key("match").errorf("empty: it would match every interface").Hint = "give macaddress, name or driver"
	}
	a.key("set-name").may(e.SetName, interfaceName)
	if e.SetName != "" && !given {
		a.key("set-name").errorf("needs match")
	}
	if id == "lo" && (e.DHCP4 || given) {
		a.errorf("the loopback interface takes fixed addresses only")
	}
	e.Interface.check(a, id)
}

func (e *Interface) check(a at, id string) {
	// RFC 791: every link carries 68 bytes; 65535 is the longest packet.
	if a.key("mtu").set() && (e.MTU < 68 || e.MTU > 65535) {
		a.key("mtu").errorf("want 68 to 65535 bytes, got %d", e.MTU)
	}
	if m := string(e.MACAddress); m != "" && strings.ContainsRune("13579bdf", rune(m[1])) {
		a.key("macaddress").errorf("%q is a group address", m)
	}
	e.Addressing.check(a, id)
}

func (e *Addressing) check(a at, id string) {
	if e.DHCP6 {
		a.key("dhcp6").errorf("DHCPv6 is not supported").Hint = "write the IPv6 address under addresses, or accept-ra: true for one from the router"
	}
	a.key("dhcp-identifier").oneOf(e.DHCPIdentifier, "mac", "duid")
	if e.DHCPIdentifier == "duid" {
		a.key("dhcp-identifier").errorf("a node without a disk of its own has no lasting DUID").Hint = "write dhcp-identifier: mac, or leave it out"
	}
	for i, p := range e.Addresses {
		a.key("addresses").item(i).hostAddress(p, id == "lo")
		if j := slices.IndexFunc(e.Addresses, func(q netip.Prefix) bool { return p.Addr() == q.Addr() }); j < i {
			a.key("addresses").item(i).errorf("%s is already in addresses[%d]", p.Addr(), j)
		}
	}
	e.checkGateway(a.key("gateway4"), e.Gateway4, "IPv4")
	e.checkGateway(a.key("gateway6"), e.Gateway6, "IPv6")
	for i := range e.Routes {
		e.checkRoute(a.key("routes").item(i), &e.Routes[i])
	}
	for i, s := range e.Nameservers.Search {
		a.key("nameservers").key("search").item(i).must(s, func(s string) error { return dnsName(s, 253) })
	}
	o := a.key("dhcp4-overrides")
	o.key("hostname").may(e.DHCP4Override.Hostname, func(s string) error { return dnsName(s, 253) })
	o.key("route-metric").between(e.DHCP4Override.RouteMetric, 0, 1<<31-1)
	if o.set() && !e.DHCP4 {
		o.errorf("needs dhcp4: true")
	}
}

func (e *Addressing) checkGateway(a at, g netip.Addr, version string) {
	switch {
	case !g.IsValid():
	case g.Is4() != (version == "IPv4"):
		a.errorf("%s is not an %s address", g, version)
	case g.IsLinkLocalUnicast() && g.Is6():
	case !e.reaches(g):
		a.errorf("%s is in no subnet of addresses", g)
	}
}

func (e *Addressing) checkRoute(a at, r *Route) {
	a.key("type").oneOf(r.Type, "unicast", "blackhole", "unreachable", "prohibit", "throw", "local")
	a.key("scope").oneOf(r.Scope, "global", "link", "host")
	a.key("metric").atLeast(r.Metric, 0)
	a.key("table").atLeast(r.Table, 0)
	if a.key("mtu").set() {
		a.key("mtu").between(r.MTU, 68, 65535)
	}
	direct := r.Type != "" && r.Type != "unicast" || r.Scope == "link" || r.Scope == "host"
	if !r.To.IsValid() {
		a.key("to").missing()
		return
	}
	if !r.Via.IsValid() {
		if !direct {
			a.key("via").missing()
		}
		return
	}
	if a.key("to").text() == "default" && r.Via.Is6() {
		r.To.Prefix = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	a.key("to").subnet(r.To.Prefix)
	if r.To.Addr().Is4() != r.Via.Is4() {
		a.key("via").errorf("%s and %s are of different IP versions", r.Via, r.To)
	}
	if r.Via.Is4() && !e.DHCP4 && !r.OnLink && !e.reaches(r.Via) {
		a.key("via").errorf("%s is in no subnet of addresses", r.Via).Hint = "on-link: true reaches it all the same"
	}
}

func (a at) atLeast(n, least int) {
	if n < least {
		a.errorf("want %d or more, got %d", least, n)
	}
}

// reaches reports whether an address is on the link by the static addresses.
func (e *Addressing) reaches(ip netip.Addr) bool {
	return slices.ContainsFunc(e.Addresses, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// hostAddress checks that a prefix can be the address of one interface.
func (a at) hostAddress(p netip.Prefix, loopback bool) {
	ip := p.Addr()
	if ip.IsMulticast() || ip.IsUnspecified() || ip.IsLoopback() && !loopback {
		a.errorf("%s is not the address of an interface", p)
	} else if ip.Is4() && p.Bits() < 31 && p.Masked() == p {
		a.errorf("%s is a whole subnet, not an address in it", p)
	}
}
