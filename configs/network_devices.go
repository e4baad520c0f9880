package configs

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bond makes one interface of several (Documentation/networking/bonding.rst).
type Bond struct {
	Members    []string       `json:"interfaces,omitempty"`
	Parameters BondParameters `json:"parameters,omitzero"`
	Interface
}

// BondParameters are the bonding driver's, under netplan's names. Empty and
// zero leave the driver's default, but for mii-monitor-interval: 100 ms unless
// ARP watches the links, because the driver's 0 would never see one go.
type BondParameters struct {
	Mode   string `json:"mode,omitempty"` // default "balance-rr"
	Hash   string `json:"transmit-hash-policy,omitempty"`
	MinUp  int    `json:"min-links,omitempty"`
	LACP   string `json:"lacp-rate,omitempty"` // "slow" or "fast"
	Select string `json:"ad-select,omitempty"` // "stable", "bandwidth", "count"
	BondWatch
	BondFailover
}

// BondWatch is how a bond learns which links work.
type BondWatch struct {
	MIIMonitor  Milliseconds `json:"mii-monitor-interval,omitempty"`
	UpDelay     Milliseconds `json:"up-delay,omitempty"`
	DownDelay   Milliseconds `json:"down-delay,omitempty"`
	ARPInterval Milliseconds `json:"arp-interval,omitempty"`
	ARPTargets  []netip.Addr `json:"arp-ip-targets,omitempty"`
	ARPValidate string       `json:"arp-validate,omitempty"`
	ARPAll      string       `json:"arp-all-targets,omitempty"`
}

// BondFailover is what a bond does when its active link changes.
type BondFailover struct {
	Primary         string  `json:"primary,omitempty"` // a member
	PrimaryReselect string  `json:"primary-reselect-policy,omitempty"`
	FailOverMAC     string  `json:"fail-over-mac-policy,omitempty"`
	GratuitousARP   int     `json:"gratuitous-arp,omitempty"`
	ResendIGMP      *int    `json:"resend-igmp,omitempty"`
	AllActive       bool    `json:"all-members-active,omitempty"`
	PacketsPer      *int    `json:"packets-per-member,omitempty"`
	LearnInterval   Seconds `json:"learn-packet-interval,omitempty"`
}

// Bridge joins interfaces to one network.
type Bridge struct {
	Members    []string         `json:"interfaces,omitempty"`
	Parameters BridgeParameters `json:"parameters,omitzero"`
	Interface
}

// BridgeParameters are those of IEEE 802.1D; nil and zero leave the kernel's
// default, but for STP: netplan's default is true, the kernel's false.
type BridgeParameters struct {
	STP          *bool          `json:"stp,omitempty"`
	Priority     *int           `json:"priority,omitempty"` // 0 to 65535
	AgeingTime   *Seconds       `json:"ageing-time,omitempty"`
	AgingTime    *Seconds       `json:"aging-time,omitempty"` // netplan's other spelling
	ForwardDelay *Seconds       `json:"forward-delay,omitempty"`
	HelloTime    Seconds        `json:"hello-time,omitempty"`
	MaxAge       Seconds        `json:"max-age,omitempty"`
	PathCost     map[string]int `json:"path-cost,omitempty"`     // by member
	PortPriority map[string]int `json:"port-priority,omitempty"` // by member
}

// VLAN is one tagged network on a link (IEEE 802.1Q).
type VLAN struct {
	ID   *int   `json:"id,omitempty"` // 1 to 4094
	Link string `json:"link,omitempty"`
	Interface
}

func (BondParameters) notes() map[string]note {
	old := func(now string) note { return note{text: "is the old name", hint: "write " + now} }
	return map[string]note{"all-slaves-active": old("all-members-active"), "packets-per-slave": old("packets-per-member")}
}

func (Bridge) notes() map[string]note {
	return join(Interface{}.notes(), each(unsupported(), "mac-learning", "port-mac-learning", "hairpin"))
}

// Milliseconds is a time that YAML writes as a number of milliseconds or with
// a unit: 100, "100ms", "1s".
type Milliseconds time.Duration

// Seconds is a time that YAML writes as a number of seconds or with a unit:
// 15, "15s", "1500ms".
type Seconds time.Duration

func (Milliseconds) forms() []any { return []any{uint32(0), ""} }
func (Seconds) forms() []any      { return []any{uint32(0), ""} }

// UnmarshalJSON reads a number or a string with a unit.
func (m *Milliseconds) UnmarshalJSON(b []byte) error {
	return span((*time.Duration)(m), b, time.Millisecond)
}

// UnmarshalJSON reads a number or a string with a unit.
func (s *Seconds) UnmarshalJSON(b []byte) error { return span((*time.Duration)(s), b, time.Second) }

// MarshalJSON writes a string with a unit.
func (m Milliseconds) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(m).String()) }

// MarshalJSON writes a string with a unit.
func (s Seconds) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(s).String()) }

// longest is what the kernel's attributes can hold in hundredths of a second,
// with room to spare.
const longest = 1_000_000 * time.Second

func span(to *time.Duration, b []byte, unit time.Duration) error {
	text := strings.Trim(string(b), `"`)
	n, err := strconv.ParseUint(text, 10, 32)
	d := time.Duration(n) * unit
	if err != nil {
		if d, err = time.ParseDuration(text); err != nil {
			return fmt.Errorf("%q is not a time, such as %q or %q", text, "100ms", "15s")
		}
	}
	if d < 0 || d > longest {
		return fmt.Errorf("%q is not between 0 and %v", text, longest)
	}
	*to = d
	return nil
}

func (p *BondParameters) check(a at, members []string) {
	a.key("mode").oneOf(p.Mode, numbered()["mode"]...)
	a.key("transmit-hash-policy").oneOf(p.Hash, "layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac")
	a.key("lacp-rate").oneOf(p.LACP, "slow", "fast")
	a.key("ad-select").oneOf(p.Select, "stable", "bandwidth", "count")
	a.key("arp-validate").oneOf(p.ARPValidate, "none", "active", "backup", "all")
	a.key("arp-all-targets").oneOf(p.ARPAll, "any", "all")
	a.key("primary-reselect-policy").oneOf(p.PrimaryReselect, "always", "better", "failure")
	a.key("fail-over-mac-policy").oneOf(p.FailOverMAC, "none", "active", "follow")
	a.key("min-links").between(p.MinUp, 0, 1<<15)
	a.key("gratuitous-arp").between(p.GratuitousARP, 0, 255)
	if p.ResendIGMP != nil {
		a.key("resend-igmp").between(*p.ResendIGMP, 0, 255)
	}
	if p.PacketsPer != nil {
		a.key("packets-per-member").between(*p.PacketsPer, 0, 65535)
	}
	if p.Mode == "" || slices.Contains(numbered()["mode"], p.Mode) {
		p.checkModes(a)
	}
	for i, ip := range p.ARPTargets {
		if !ip.Is4() {
			a.key("arp-ip-targets").item(i).errorf("%s is not an IPv4 address", ip)
		}
	}
	if len(p.ARPTargets) > 16 { // BOND_MAX_ARP_TARGETS
		a.key("arp-ip-targets").errorf("%d addresses, at most 16", len(p.ARPTargets))
	}
	if p.ARPInterval > 0 && len(p.ARPTargets) == 0 {
		a.key("arp-interval").errorf("needs arp-ip-targets")
	}
	if p.ARPInterval > 0 && p.MIIMonitor > 0 {
		a.key("arp-interval").errorf("and mii-monitor-interval exclude each other")
	}
	if p.Primary != "" {
		a.key("primary").member(p.Primary, members)
	}
}

// checkModes refuses what the driver refuses in some modes
// (drivers/net/bonding/bond_options.c).
func (p *BondParameters) checkModes(a at) {
	mode := p.Mode
	if mode == "" {
		mode = "balance-rr"
	}
	only := func(key string, set bool, modes ...string) {
		for _, m := range modes {
			set = set && m != mode
		}
		if set {
			a.key(key).errorf("has no meaning in mode %s: it belongs to %s", mode, strings.Join(modes, ", "))
		}
	}
	only("lacp-rate", p.LACP != "", "802.3ad")
	only("ad-select", p.Select != "", "802.3ad")
	only("primary", p.Primary != "", "active-backup", "balance-tlb", "balance-alb")
	only("primary-reselect-policy", p.PrimaryReselect != "", "active-backup", "balance-tlb", "balance-alb")
	only("packets-per-member", p.PacketsPer != nil, "balance-rr")
	only("learn-packet-interval", p.LearnInterval > 0, "balance-tlb", "balance-alb")
	only("arp-interval", p.ARPInterval > 0, "balance-rr", "active-backup", "balance-xor", "broadcast")
}

func (p *BridgeParameters) check(a at, members []string) {
	if p.Priority != nil {
		a.key("priority").between(*p.Priority, 0, 65535)
	}
	if p.AgingTime != nil && p.AgeingTime != nil {
		a.key("aging-time").errorf("is ageing-time, which is set too")
	} else if p.AgingTime != nil {
		p.AgeingTime, p.AgingTime = p.AgingTime, nil
	}
	stp := p.STP == nil || *p.STP
	within := func(key string, s *Seconds, from, to time.Duration) {
		if s != nil && *s != 0 && stp && (time.Duration(*s) < from || time.Duration(*s) > to) {
			a.key(key).errorf("want %v to %v with stp, got %v", from, to, time.Duration(*s))
		}
	}
	// net/bridge/br_private_stp.h
	if p.ForwardDelay != nil && *p.ForwardDelay == 0 && stp {
		a.key("forward-delay").errorf("want 2s to 30s with stp, got 0s").Hint = "write stp: false beside it"
	}
	within("forward-delay", p.ForwardDelay, 2*time.Second, 30*time.Second)
	within("hello-time", &p.HelloTime, time.Second, 10*time.Second)
	within("max-age", &p.MaxAge, 6*time.Second, 40*time.Second)
	for m, cost := range p.PathCost {
		a.key("path-cost").key(m).onKey().member(m, members)
		a.key("path-cost").key(m).between(cost, 1, 65535)
	}
	for m, prio := range p.PortPriority {
		a.key("port-priority").key(m).onKey().member(m, members)
		a.key("port-priority").key(m).between(prio, 0, 63)
	}
}

// member checks that a name is one of a list of interfaces.
func (a at) member(name string, members []string) {
	if slices.Contains(members, name) {
		return
	}
	msg := fmt.Sprintf("%q is not among interfaces", name)
	if s := suggest(name, members); s != "" {
		msg += fmt.Sprintf(": did you mean %q?", s)
	}
	a.errorf("%s", msg)
}

func (a at) between(n, from, to int) {
	if n < from || n > to {
		a.errorf("want %d to %d, got %d", from, to, n)
	}
}
