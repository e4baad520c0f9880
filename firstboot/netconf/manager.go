package netconf

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
)

// Options say what the network is to be and whom to tell.
type Options struct {
	Want     *configs.Network          // nil: every interface asks for a lease
	Resolv   string                    // file that gets the name servers
	Hostname string                    // sent to DHCP servers; may be empty
	Report   func(handoff.Event)       // progress, without the phase
	Load     func(module string) error // makes the kernel know bonding, 8021q or bridge
	NICs     func() ([]NIC, error)     // nil: NICs("/sys")
	Grace    time.Duration             // how long a usable network waits for required interfaces that have none; 0: Grace
	Patience time.Duration             // how long the caller waits for a first address, for the countdown; 0: Patience
	Probe    Timing                    // zero: a quarter of RFC 5227's times
}

const (
	// Grace is long enough for a switch port that goes through listening and
	// learning (IEEE 802.1D: 30 s, 50 s with a change of topology).
	Grace = 2 * time.Minute
	// Patience covers the slowest links and servers that boot with the node.
	Patience = 10 * time.Minute
)

// Manager owns the network for a node's whole life. Use Start.
type Manager struct {
	o Options

	links *watch

	// of discover alone
	entries map[int]string // interface → entry of ethernets
	macs    map[int]string // as first seen: a bond changes them
	started map[string]bool

	mu        sync.Mutex
	order     []Address // in the order they came
	waits     map[string]*wait
	defaults  map[destination]Address // routes in the kernel
	usable    time.Time               // of the first address
	said      map[string]string       // last event of each step
	broken    error
	ready     chan struct{}
	resolving string // what resolv.conf holds
}

// wait is an interface that is not configured yet.
type wait struct {
	nic      string // "eth0 (52:54:00:00:00:01)" once known
	what     string
	required bool
	asking   bool // has a link
	since    time.Time
	told     time.Time
}

const anyInterface = "any interface"

// Start begins to configure the interfaces that the config names, or without a
// config all of them by DHCP, and keeps leases until ctx ends.
func Start(ctx context.Context, o Options) (*Manager, error) {
	if o.NICs == nil {
		o.NICs = func() ([]NIC, error) { return NICs("/sys") }
	}
	if o.Grace == 0 {
		o.Grace = Grace
	}
	if o.Patience == 0 {
		o.Patience = Patience
	}
	if o.Probe.Probes == 0 {
		o.Probe = wired()
	}
	if err := set("lo", configs.Interface{}); err != nil {
		return nil, err
	}
	m := &Manager{o: o, entries: map[int]string{}, macs: map[int]string{}, started: map[string]bool{}, waits: map[string]*wait{},
		defaults: map[destination]Address{}, said: map[string]string{}, ready: make(chan struct{}), links: newWatch()}
	for _, id := range m.required() {
		m.waits[id] = &wait{what: "no interface matches", required: true, since: time.Now()}
	}
	if len(m.waits) == 0 { // nothing is required by name, but a node needs an address
		m.waits[anyInterface] = &wait{what: "no network card found", since: time.Now()}
	}
	go m.links.run(ctx)
	go m.discover(ctx)
	return m, nil
}

// required are the entries that the boot waits for.
func (m *Manager) required() (ids []string) {
	w := m.o.Want
	if w == nil {
		return nil
	}
	add := func(id string, e configs.Interface) {
		if !e.Optional && id != "lo" && !m.member(id) {
			ids = append(ids, id)
		}
	}
	for id, e := range w.Ethernets {
		add(id, e.Interface)
	}
	for id, e := range w.Bonds {
		add(id, e.Interface)
	}
	for id, e := range w.VLANs {
		add(id, e.Interface)
	}
	for id, e := range w.Bridges {
		add(id, e.Interface)
	}
	slices.Sort(ids)
	return ids
}

// Wait returns the addresses, the one with the default route first, once all
// that is required is there or the grace period is over. The error says what
// is missing.
func (m *Manager) Wait(ctx context.Context) ([]Address, error) {
	select {
	case <-m.ready:
		return m.Addresses(), nil
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return nil, m.broken
	}
	return nil, fmt.Errorf("waiting for %s", m.waiting())
}

// Addresses are those of now, the one with the default route first.
func (m *Manager) Addresses() []Address {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := slices.Clone(m.order)
	first := m.preferred()
	slices.SortStableFunc(out, func(a, b Address) int {
		switch {
		case (a.Prefix == first) == (b.Prefix == first):
			return 0
		case a.Prefix == first:
			return -1
		}
		return 1
	})
	return out
}

func (m *Manager) waiting() string {
	var s []string
	if len(m.waits) == 0 && m.usable.IsZero() {
		return "an address: the network config gives none to any interface"
	}
	for _, k := range slices.Sorted(maps.Keys(m.waits)) {
		w := m.waits[k]
		name := k
		if w.nic != "" {
			name = w.nic
		}
		s = append(s, name+": "+w.what)
	}
	return strings.Join(s, "; ")
}

// Pending says what is waited for, "" when nothing is.
func (m *Manager) Pending() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.waiting()
}

// discover looks for interfaces, now and later: drivers and USB take their time.
func (m *Manager) discover(ctx context.Context) {
	defer m.guard("discover")
	if w := m.o.Want; w != nil {
		if lo, ok := w.Ethernets["lo"]; ok {
			m.start(ctx, "lo", "lo", lo.Interface)
		}
	}
	for ctx.Err() == nil {
		m.look(ctx)
		m.judge(time.Now())
		select {
		case <-m.ready: // from here on there is news only when a link is made
			m.links.wait(ctx, time.Minute)
		default:
		}
		sleep(ctx, 200*time.Millisecond) // pods make several links at once
	}
}

// look finds new interfaces and starts them.
func (m *Manager) look(ctx context.Context) {
	nics, err := m.o.NICs()
	for i, c := range nics {
		if _, ok := m.macs[c.Index]; !ok {
			m.macs[c.Index] = c.MAC
		}
		nics[i].MAC = m.macs[c.Index]
	}
	var got map[string]string
	var missing []string
	if err == nil {
		got, missing, err = Assign(m.o.Want, nics)
	}
	m.mu.Lock()
	m.broken = err
	for _, id := range missing {
		if w := m.waits[id]; w != nil {
			w.what = "no interface matches; there are " + list(nics)
		}
	}
	m.mu.Unlock()
	for _, nic := range nics {
		if id, ok := got[nic.Name]; ok && m.entries[nic.Index] == "" {
			m.found(ctx, nic, id)
		}
	}
	if m.o.Want != nil {
		m.build(func(id, name string, e configs.Interface) { m.start(ctx, id, name, e) })
	}
}

func list(nics []NIC) string {
	if len(nics) == 0 {
		return "none"
	}
	var s []string
	for _, c := range nics {
		s = append(s, c.String())
	}
	return strings.Join(s, ", ")
}

// found gives a card its name and, unless it is for a bond or a bridge, its
// addresses.
func (m *Manager) found(ctx context.Context, nic NIC, id string) {
	e := configs.Ethernet{Interface: configs.Interface{Addressing: configs.Addressing{DHCP4: true}, Optional: true}}
	if m.o.Want != nil {
		e = m.o.Want.Ethernets[id]
	}
	if e.SetName != "" && e.SetName != nic.Name {
		if err := rename(nic.Index, e.SetName); err != nil {
			m.fault(id, nic.Name, "SW-NET-DEVICE", "correct set-name in network-config", err)
			return
		}
		nic.Name = e.SetName
	}
	m.entries[nic.Index] = id
	if m.o.Want == nil || !m.member(id) {
		m.start(ctx, id, nic.Name, e.Interface)
		return
	}
	if err := set(nic.Name, configs.Interface{MTU: e.MTU, MACAddress: e.MACAddress}); err != nil {
		m.fault(id, nic.Name, "SW-NET-DEVICE", "correct the entry in network-config", err)
	}
}

// start configures one interface, once, and stays for its leases.
func (m *Manager) start(ctx context.Context, id, name string, e configs.Interface) {
	if m.started[name] {
		return
	}
	m.started[name] = true
	nic := NIC{Name: name}
	if l, err := netlink.LinkByName(name); err == nil {
		nic.Index, nic.MAC = l.Attrs().Index, l.Attrs().HardwareAddr.String()
	}
	p := &port{m: m, entry: id, nic: nic, e: e}
	if _, isBridge := m.wantBridge(id); isBridge {
		p.hollow = true
	}
	go p.run(ctx)
}

func (m *Manager) wantBridge(id string) (b configs.Bridge, ok bool) {
	if m.o.Want != nil {
		b, ok = m.o.Want.Bridges[id]
	}
	return b, ok && len(b.Members) == 0
}

// guard makes a panic an event: this runs in PID 1.
func (m *Manager) guard(step string) {
	if p := recover(); p != nil {
		m.o.Report(handoff.Event{Step: step, State: handoff.Failed, Code: "SW-INTERNAL", Text: fmt.Sprintf("internal error: %v", p)})
	}
}
