package netconf

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
)

// Manager owns the network for a node's whole life. Use Start.
type Manager struct {
	want   *configs.Network
	resolv string
	report func(handoff.Event)

	mu      sync.Mutex
	order   []Address         // in the order they came
	pending map[string]string // required entry or interface → what it waits for
	routed  string            // interface of the default route
	hasGW   bool
	broken  error
	ready   chan struct{}
}

const anyInterface = "any interface"

// Start begins to configure the interfaces that the config names, or without a
// config all of them by DHCP, and keeps leases until ctx ends. resolv is the
// file that gets the name servers.
func Start(ctx context.Context, want *configs.Network, resolv string, report func(handoff.Event)) (*Manager, error) {
	if err := up("lo", 0); err != nil {
		return nil, err
	}
	m := &Manager{want: want, resolv: resolv, report: report, pending: map[string]string{}, ready: make(chan struct{})}
	if want != nil {
		for key, e := range want.Ethernets {
			if !e.Optional {
				m.pending[key] = "no interface matches"
			}
		}
	}
	if len(m.pending) == 0 { // nothing is required by name, but a node needs an address
		m.pending[anyInterface] = "no network card found"
	}
	go m.discover(ctx)
	return m, nil
}

// Wait returns the addresses, the one with the default route first, once all
// that is required is there. The error says what is missing.
func (m *Manager) Wait(ctx context.Context) ([]Address, error) {
	select {
	case <-m.ready:
		m.mu.Lock()
		defer m.mu.Unlock()
		out := slices.Clone(m.order)
		slices.SortStableFunc(out, func(a, b Address) int {
			return strings.Compare(boolKey(a.Interface != m.routed), boolKey(b.Interface != m.routed))
		})
		return out, nil
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return nil, m.broken
	}
	return nil, fmt.Errorf("waiting for %s", m.waiting())
}

func boolKey(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

func (m *Manager) waiting() string {
	var s []string
	for k, v := range m.pending {
		s = append(s, k+": "+v)
	}
	slices.Sort(s)
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
	started := map[string]bool{} // by MAC: names change
	for ctx.Err() == nil {
		nics, _ := NICs("/sys")
		got, _, err := Assign(m.want, nics)
		m.mu.Lock()
		m.broken = err
		m.mu.Unlock()
		for _, nic := range nics {
			if e, ok := got[nic.Name]; ok && !started[nic.MAC] {
				started[nic.MAC] = true
				go m.run(ctx, nic, e, m.key(nic, e))
			}
		}
		pause := 300 * time.Millisecond
		select {
		case <-m.ready:
			pause = 3 * time.Second
		default:
		}
		sleep(ctx, pause)
	}
}

// guard makes a panic an event: this runs in PID 1.
func (m *Manager) guard(step string) {
	if p := recover(); p != nil {
		m.report(handoff.Event{Step: step, State: handoff.Failed, Code: "SW-INTERNAL", Text: fmt.Sprintf("internal error: %v", p)})
	}
}

// key is the name under which an interface is waited for.
func (m *Manager) key(nic NIC, e configs.Ethernet) string {
	if m.want == nil {
		return anyInterface
	}
	for key, x := range m.want.Ethernets {
		if fits(key, x, nic) {
			return key
		}
	}
	return nic.Name
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// run configures one interface and stays for its leases.
func (m *Manager) run(ctx context.Context, nic NIC, e configs.Ethernet, key string) {
	defer m.guard(nic.Name)
	if e.SetName != "" && e.SetName != nic.Name {
		if err := rename(nic.Name, e.SetName); err != nil {
			m.problem(nic, key, err)
		} else {
			nic.Name = e.SetName
		}
	}
	for {
		err := up(nic.Name, e.MTU)
		if err == nil {
			break
		}
		m.problem(nic, key, err)
		if sleep(ctx, 5*time.Second); ctx.Err() != nil {
			return
		}
	}
	if fixed, ok := Static(nic.Name, nic.MAC, e); ok {
		for _, a := range fixed {
			m.got(nic, key, a, nil)
		}
	}
	if e.DHCP4 {
		m.dhcp(ctx, nic, e, key)
	}
}

func (m *Manager) dhcp(ctx context.Context, nic NIC, e configs.Ethernet, key string) {
	var old *Address
	for ctx.Err() == nil {
		for !carrier(nic.Name) {
			m.wait(key, nic.String()+" has no link")
			if sleep(ctx, 200*time.Millisecond); ctx.Err() != nil {
				return
			}
		}
		m.wait(key, "no answer to DHCP on "+nic.String())
		l, err := lease(ctx, nic, e)
		if err != nil {
			if ctx.Err() == nil && old == nil && m.isPending(key) {
				m.problem(nic, key, err)
			}
			sleep(ctx, 2*time.Second)
			continue
		}
		for l != nil {
			a, err := fromACK(nic, l.ACK, e)
			if err != nil {
				m.problem(nic, key, err)
				break
			}
			m.got(nic, key, a, old)
			old = &a
			l = renew(ctx, nic, e, l)
		}
	}
}

func (m *Manager) isPending(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.pending[key]
	return ok
}

func (m *Manager) wait(key, what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.pending[key]; ok {
		m.pending[key] = what
	}
}

func (m *Manager) problem(nic NIC, key string, err error) {
	m.wait(key, err.Error())
	m.report(handoff.Event{Step: nic.Name, State: handoff.Running, Text: err.Error() + "; trying again"})
}

// got applies an address, in place of an older one of the same lease.
func (m *Manager) got(nic NIC, key string, a Address, old *Address) {
	m.mu.Lock()
	defer m.mu.Unlock()
	same := old != nil && old.Prefix == a.Prefix
	if old != nil && !same {
		_ = remove(*old)
		m.order = slices.DeleteFunc(m.order, func(x Address) bool { return x.Interface == a.Interface && x.Prefix == old.Prefix })
	}
	if err := m.apply(a); err != nil {
		m.pending[key] = err.Error()
		m.report(handoff.Event{Step: nic.Name, State: handoff.Failed, Code: "SW-NET-APPLY", Text: err.Error(), Hint: "correct the address or route in network-config, or at the DHCP server"})
		return
	}
	if i := slices.IndexFunc(m.order, func(x Address) bool { return x.Interface == a.Interface && x.Prefix == a.Prefix }); i >= 0 {
		m.order[i] = a
	} else {
		m.order = append(m.order, a)
	}
	if err := m.writeResolv(); err != nil {
		m.report(handoff.Event{Step: nic.Name, State: handoff.Running, Text: err.Error()})
	}
	if !same {
		m.report(handoff.Event{Step: nic.Name, State: handoff.Done, Text: describe(a), Data: map[string]any{"address": a.Prefix.String(), "mac": a.MAC}})
	}
	delete(m.pending, key)
	delete(m.pending, anyInterface)
	if len(m.pending) == 0 {
		m.finish()
	}
}

func describe(a Address) string {
	s := fmt.Sprintf("%s (%s) has %s", a.Interface, a.MAC, a.Prefix)
	if a.DHCP {
		s += " by DHCP"
	}
	if a.Gateway.IsValid() {
		s += ", gateway " + a.Gateway.String()
	}
	return s
}

// apply sets the address; the first with a gateway keeps the default route.
func (m *Manager) apply(a Address) error {
	if err := apply(a); err != nil {
		return err
	}
	if !a.Gateway.IsValid() || (m.hasGW && m.routed != a.Interface) {
		return nil
	}
	if err := defaultRoute(a); err != nil {
		return err
	}
	m.routed, m.hasGW = a.Interface, true
	return nil
}

// finish makes the network ready: a default route in any case.
func (m *Manager) finish() {
	select {
	case <-m.ready:
		return
	default:
	}
	if !m.hasGW && len(m.order) > 0 {
		if err := defaultRoute(m.order[0]); err != nil {
			m.report(handoff.Event{Step: m.order[0].Interface, State: handoff.Running, Text: err.Error()})
		}
		m.routed = m.order[0].Interface
	}
	close(m.ready)
}

func (m *Manager) writeResolv() error {
	tmp := filepath.Join(filepath.Dir(m.resolv), ".resolv.conf")
	if err := os.WriteFile(tmp, Resolv(m.order), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, m.resolv)
}
