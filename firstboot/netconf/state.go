package netconf

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs/handoff"
)

const (
	// tell is how often the countdown of each interface is shown.
	tell = 10 * time.Second
	// another is how long a network without a router waits for one that other
	// interfaces with a link may bring.
	another = 5 * time.Second
)

// wait notes what an entry waits for, if it is waited for.
func (m *Manager) wait(entry, what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.waits[entry]; w != nil {
		w.what = what
	}
}

// known names the interface of an entry. Interfaces that nobody requires are
// waited for, too, in the sense that their countdown is shown.
func (m *Manager) known(entry string, nic NIC) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.waits, anyInterface)
	if m.waits[entry] == nil {
		m.waits[entry] = &wait{what: "not configured yet", since: time.Now()}
	}
	m.waits[entry].nic = nic.String()
	if nic.Name == "lo" {
		delete(m.waits, entry)
	}
}

func (m *Manager) waitsFor(entry, what string, asking bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.waits[entry]; w != nil {
		w.what, w.asking = what, asking
	}
}

func (m *Manager) satisfied(entry string) {
	m.mu.Lock()
	delete(m.waits, entry)
	m.mu.Unlock()
	m.judge(time.Now())
}

// fault reports what went wrong with an interface, once in the same words.
// Without a code it is only a step on the way.
func (m *Manager) fault(entry, step, code, hint string, err error) {
	m.mu.Lock()
	if w := m.waits[entry]; w != nil {
		w.what = err.Error()
	}
	again := m.said[step] == err.Error()
	m.said[step] = err.Error()
	m.mu.Unlock()
	if again {
		return
	}
	e := handoff.Event{Step: step, State: handoff.Running, Text: err.Error() + "; trying again"}
	if code != "" {
		e = handoff.Event{Step: step, State: handoff.Failed, Code: code, Text: err.Error(), Hint: hint}
	}
	var other *Conflict
	if errors.As(err, &other) {
		e.Data = map[string]any{"address": other.IP.String(), "other": other.MAC.String()}
	}
	m.o.Report(e)
}

// judge decides whether the network is ready and shows the countdowns.
func (m *Manager) judge(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.ready:
		return
	default:
	}
	required, asking := 0, 0
	for _, w := range m.waits {
		if w.required {
			required++
		}
		if w.asking {
			asking++
		}
	}
	routed := m.gateway()
	since := now.Sub(m.usable)
	switch {
	case m.usable.IsZero():
	case required == 0 && (routed || asking == 0 || since >= another):
		m.finish()
		return
	case required > 0 && since >= m.o.Grace:
		m.o.Report(handoff.Event{Step: "grace", State: handoff.Running, Code: "SW-NET-DEGRADED", Text: "going on without " + m.waiting(),
			Hint: "check cables and switch ports, or write optional: true; the node goes on trying"})
		m.finish()
		return
	}
	m.countdown(now)
}

// countdown tells for each interface what it waits for and how much longer.
func (m *Manager) countdown(now time.Time) {
	for _, k := range slices.Sorted(maps.Keys(m.waits)) {
		w := m.waits[k]
		if w.told.IsZero() {
			w.told = w.since
		}
		if now.Sub(w.told) < tell {
			continue
		}
		w.told = now
		name := k
		if w.nic != "" {
			name = w.nic
		}
		left := m.o.Patience - now.Sub(w.since)
		text := fmt.Sprintf("%s: %s for %.0f s", name, w.what, now.Sub(w.since).Seconds())
		switch {
		case !m.usable.IsZero():
			left = m.o.Grace - now.Sub(m.usable)
			text += fmt.Sprintf("; the boot goes on without it in %.0f s", max(0, left.Seconds()))
		case left > 0:
			text += fmt.Sprintf("; waiting %.0f s more before the boot is called stuck", left.Seconds())
		default:
			text += "; still trying"
		}
		m.o.Report(handoff.Event{Step: k, State: handoff.Running, Text: text,
			Data: map[string]any{"waited": int(now.Sub(w.since).Seconds()), "left": int(max(0, left.Seconds()))}})
	}
}

func (m *Manager) gateway() bool {
	return slices.ContainsFunc(m.order, func(a Address) bool { return a.Gateway.IsValid() })
}

// finish makes the network ready: a default route in any case.
func (m *Manager) finish() {
	close(m.ready)
	m.elect()
}

// got applies an address, in place of an older one of the same lease.
func (m *Manager) got(nic NIC, a Address, old *Address) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	same := old != nil && old.Prefix == a.Prefix
	if err := apply(a); err != nil {
		return err
	}
	if old != nil {
		m.forget(*old)
		if same {
			retire(*old, a)
		} else {
			_ = remove(*old)
		}
	}
	m.add(a, !same)
	delete(m.said, nic.Name)
	return nil
}

// adopt notes an address that the kernel has set.
func (m *Manager) adopt(a Address) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.add(a, true)
}

func (m *Manager) add(a Address, isNew bool) {
	if a.Interface != "lo" {
		m.order = append(m.order, a)
		if m.usable.IsZero() {
			m.usable = time.Now()
		}
	}
	m.elect()
	m.writeResolv()
	if isNew {
		m.o.Report(handoff.Event{Step: a.Interface, State: handoff.Done, Text: a.String(),
			Data: map[string]any{"address": a.Prefix.String(), "mac": a.MAC}})
	}
}

func (m *Manager) forget(a Address) {
	m.order = slices.DeleteFunc(m.order, func(x Address) bool { return x.Interface == a.Interface && x.Prefix == a.Prefix })
}

// lost gives an address up.
func (m *Manager) lost(nic NIC, a Address) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(a)
	if err := remove(a); err != nil {
		m.o.Report(handoff.Event{Step: nic.Name, State: handoff.Running, Text: fmt.Sprintf("interface %q: removing %s: %v", nic.Name, a.Prefix, err)})
	}
	m.elect()
	m.writeResolv()
	m.o.Report(handoff.Event{Step: nic.Name, State: handoff.Running, Text: fmt.Sprintf("%s gave up %s", nic, a.Prefix)})
}

// destination tells default routes apart, as the kernel does.
type destination struct {
	is6    bool
	metric int
}

// elect decides whose default routes count: of those with one metric the
// first. A node that is ready has one in any case.
func (m *Manager) elect() {
	want := map[destination]Address{}
	for _, a := range m.order {
		d := destination{a.Prefix.Addr().Is6(), a.Metric}
		if _, ok := want[d]; !ok && a.Gateway.IsValid() {
			want[d] = a
		}
	}
	select {
	case <-m.ready:
		if len(want) == 0 && len(m.order) > 0 {
			a := m.order[0]
			a.Metric = 0
			want[destination{is6: a.Prefix.Addr().Is6()}] = a
		}
	default:
	}
	for d, a := range m.defaults {
		if _, ok := want[d]; !ok {
			if r, err := defaultRoute(a); err == nil {
				_ = netlink.RouteDel(r) // gone with its address, mostly
			}
			delete(m.defaults, d)
		}
	}
	for d, a := range want {
		now := m.defaults[d]
		if now.Interface == a.Interface && now.Prefix == a.Prefix && now.Gateway == a.Gateway {
			continue
		}
		r, err := defaultRoute(a)
		if err == nil {
			err = netlink.RouteReplace(r)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			m.o.Report(handoff.Event{Step: a.Interface, State: handoff.Failed, Code: "SW-NET-APPLY", Hint: "correct the gateway",
				Text: fmt.Sprintf("interface %q: default route via %s: %v", a.Interface, a.Gateway, err)})
			continue
		}
		m.defaults[d] = a
	}
}

// preferred is the address with the default route of the lowest metric, of an
// IPv4 one if there is any.
func (m *Manager) preferred() (p netip.Prefix) {
	best := destination{is6: true, metric: 1 << 62}
	for d, a := range m.defaults {
		if !d.is6 && best.is6 || d.is6 == best.is6 && d.metric < best.metric {
			best, p = d, a.Prefix
		}
	}
	return p
}

func (m *Manager) writeResolv() {
	b := Resolv(m.order)
	if string(b) == m.resolving {
		return
	}
	tmp := filepath.Join(filepath.Dir(m.o.Resolv), ".resolv.conf")
	err := os.WriteFile(tmp, b, 0o644)
	if err == nil {
		err = os.Rename(tmp, m.o.Resolv)
	}
	if err != nil {
		m.o.Report(handoff.Event{Step: "resolv.conf", State: handoff.Running, Text: err.Error()})
		return
	}
	m.resolving = string(b)
}
