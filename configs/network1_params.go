package configs

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// bondParams names the bonding driver's parameters (ifenslave's names, without
// "bond-") as netplan does; "" has no effect here.
func bondParams() map[string]string {
	return map[string]string{
		"mode": "mode", "miimon": "mii-monitor-interval", "updelay": "up-delay", "downdelay": "down-delay",
		"xmit_hash_policy": "transmit-hash-policy", "lacp_rate": "lacp-rate", "ad_select": "ad-select", "min_links": "min-links",
		"arp_interval": "arp-interval", "arp_ip_target": "arp-ip-targets", "arp_validate": "arp-validate", "arp_all_targets": "arp-all-targets",
		"primary": "primary", "primary_reselect": "primary-reselect-policy", "fail_over_mac": "fail-over-mac-policy",
		"num_grat_arp": "gratuitous-arp", "num_unsol_na": "gratuitous-arp", "resend_igmp": "resend-igmp",
		"all_slaves_active": "all-members-active", "packets_per_slave": "packets-per-member", "lp_interval": "learn-packet-interval",
		"use_carrier": "",
	}
}

// bridgeParams names those of bridge-utils-interfaces(5), without "bridge_".
func bridgeParams() map[string]string {
	return map[string]string{
		"ageing": "ageing-time", "bridgeprio": "priority", "fd": "forward-delay", "hello": "hello-time", "maxage": "max-age",
		"pathcost": "path-cost", "portprio": "port-priority", "stp": "stp",
		"gcint": "", "maxwait": "", "waitport": "", "hw": "", "ports": "",
	}
}

// numbered are parameters whose values the driver also takes by their place in
// its list (drivers/net/bonding/bond_options.c).
func numbered() map[string][]string {
	return map[string][]string{
		"mode":                    {"balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"},
		"lacp-rate":               {"slow", "fast"},
		"transmit-hash-policy":    {"layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac"},
		"fail-over-mac-policy":    {"none", "active", "follow"},
		"primary-reselect-policy": {"always", "better", "failure"},
		"ad-select":               {"stable", "bandwidth", "count"},
	}
}

// params translates the parameters of a bond or bridge; out is a pointer to
// version 2's struct of them.
func (t *translation) params(in map[string]param1, a, to at, table map[string]string, out any) {
	names := make([]string, 0, len(table))
	for name := range table {
		names = append(names, name)
	}
	slices.Sort(names)
	to = t.move(to.key("parameters"), a.key("params"))
	values := map[string]any{}
	for k, value := range in {
		here := a.key("params").key(k)
		name := strings.ReplaceAll(k, "-", "_")
		name = strings.TrimPrefix(strings.TrimPrefix(name, "bond_"), "bridge_")
		key, known := table[name]
		switch {
		case known && key != "":
			t.move(to.key(key), here)
			values[key] = value2(key, value)
		case known:
			here.onKey().warnf("has no effect")
		default:
			msg := "unknown key"
			if s := suggest(name, names); s != "" {
				msg += fmt.Sprintf(": did you mean %q?", k[:len(k)-len(name)]+s)
			}
			here.onKey().errorf("%s", msg)
		}
	}
	before := len(t.d.problems)
	t.d.fits(to, values, reflect.TypeOf(out).Elem())
	t.relocate(t.d.problems[before:])
	for _, p := range t.d.problems[before:] {
		t.d.misfits = append(t.d.misfits, p.Path)
	}
	b, err := json.Marshal(values)
	if err == nil {
		err = json.Unmarshal(b, out)
	}
	if err != nil && !t.d.broken() {
		a.errorf("internal error: decoding what was checked: %v", err)
	}
}

// value2 writes a parameter as version 2 has it.
func value2(key string, p param1) any {
	text := strings.Join(p, ",")
	switch key {
	case "arp-ip-targets":
		var list []any
		for _, s := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' }) {
			list = append(list, s)
		}
		return list
	case "path-cost", "port-priority":
		return byMember(p)
	case "stp", "all-members-active":
		if on := slices.Contains([]string{"on", "yes", "true", "1"}, text); on || slices.Contains([]string{"off", "no", "false", "0"}, text) {
			return on
		}
		return text
	case "mii-monitor-interval", "up-delay", "down-delay", "arp-interval":
		return text
	}
	n, err := strconv.Atoi(text)
	words := numbered()[key]
	switch {
	case err == nil && words != nil && n >= 0 && n < len(words):
		return words[n]
	case err == nil && words == nil && key != "primary" && key != "arp-validate" && key != "arp-all-targets":
		return json.Number(text)
	}
	return text
}

// byMember reads "eth0 50" or a list of such.
func byMember(p param1) any {
	all := map[string]any{}
	for _, s := range p {
		f := strings.Fields(s)
		if len(f) != 2 {
			return s
		}
		if _, err := strconv.Atoi(f[1]); err != nil {
			return s
		}
		all[f[0]] = json.Number(f[1])
	}
	return all
}

// global attaches name servers and routes that stand outside of an interface.
func (t *translation) global(it item1, a at) {
	switch it.Type {
	case "nameserver":
		if len(it.Address) == 0 && len(it.Search) == 0 {
			a.key("address").missing()
		}
		found := false
		t.each(func(kind, id string, on *Interface) {
			addressed := on.DHCP4 || len(on.Addresses) > 0
			if it.Interface == id || it.Interface == "" && addressed && id != "lo" {
				found = true
				t.servers(&on.Nameservers, it.Address, it.Search, a.key("address"), a.key("search"), t.d.root().key(kind).key(id))
			}
		})
		if !found && it.Interface != "" {
			a.key("interface").errorf("no interface %q in this config", it.Interface)
		} else if !found {
			a.errorf("no interface has an address to ask it from")
		}
	case "route":
		t.globalRoute(it, a)
	}
}

// globalRoute gives a route to the interface that reaches its gateway.
func (t *translation) globalRoute(it item1, a at) {
	g, ok := t.address(it.Gateway, a.key("gateway"))
	if !ok {
		return
	}
	found := false
	t.each(func(kind, id string, on *Interface) {
		if !found && on.reaches(g) {
			found = true
			t.route(&on.Addressing, it.route1, a, t.d.root().key(kind).key(id))
		}
	})
	if !found {
		a.key("gateway").errorf("%s is in no subnet of any interface", g).Hint = "write the route under routes of the subnet it belongs to"
	}
}

// each visits the interfaces of all kinds, in the order of their names.
func (t *translation) each(f func(kind, id string, on *Interface)) {
	visit(t.n.Ethernets, func(id string, e *Ethernet) { f("ethernets", id, &e.Interface) })
	visit(t.n.Bonds, func(id string, b *Bond) { f("bonds", id, &b.Interface) })
	visit(t.n.VLANs, func(id string, v *VLAN) { f("vlans", id, &v.Interface) })
	visit(t.n.Bridges, func(id string, b *Bridge) { f("bridges", id, &b.Interface) })
}

func visit[T any](m map[string]T, f func(string, *T)) {
	ids := make([]string, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		v := m[id]
		f(id, &v)
		m[id] = v
	}
}
