package netconf

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"slipway.dev/slipway/configs/handoff"
)

// paper is a manager that nothing drives but the test.
func paper(t *testing.T, yaml string) (*Manager, *[]handoff.Event) {
	t.Helper()
	var events []handoff.Event
	m := &Manager{o: Options{Want: network(t, yaml), Grace: Grace, Patience: Patience, Report: func(e handoff.Event) { events = append(events, e) }},
		waits: map[string]*wait{}, defaults: map[destination]Address{}, said: map[string]string{}, ready: make(chan struct{})}
	for _, id := range m.required() {
		m.waits[id] = &wait{what: "no link", required: true, since: time.Now()}
	}
	return m, &events
}

func isReady(m *Manager) bool {
	select {
	case <-m.ready:
		return true
	default:
		return false
	}
}

// Ten minutes without any link: a countdown for each card every ten seconds,
// and no end before a port that takes its time is there.
func TestCountdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, events := paper(t, "version: 2\nethernets: {eth0: {dhcp4: true}, eth1: {dhcp4: true}}\n")
		m.waits["eth0"].nic = "eth0 (52:54:00:00:00:01)"
		for range 4 * 60 * 10 {
			time.Sleep(250 * time.Millisecond)
			m.judge(time.Now())
		}
		if isReady(m) {
			t.Error("ready without an address")
		}
		if len(*events) != 2*60 {
			t.Errorf("%d events, want 120", len(*events))
		}
		for i, want := range map[int]string{0: "eth0 (52:54:00:00:00:01): no link for 10 s; waiting 590 s more before the boot is called stuck",
			1: "eth1: no link for 10 s; waiting 590 s more before the boot is called stuck", 118: "eth0 (52:54:00:00:00:01): no link for 600 s; still trying"} {
			if got := (*events)[i].Text; got != want {
				t.Errorf("event %d: got %q, want %q", i, got, want)
			}
		}
		// eth0 comes at last; the other one has two minutes from now.
		m.satisfied("eth0")
		m.usable, m.order = time.Now(), []Address{{Interface: "none", Prefix: netip.MustParsePrefix("192.0.2.9/24")}}
		began := time.Now()
		for !isReady(m) {
			time.Sleep(250 * time.Millisecond)
			m.judge(time.Now())
		}
		if took := time.Since(began); took != Grace {
			t.Errorf("went on after %v, want %v", took, Grace)
		}
		var all strings.Builder
		for _, e := range *events {
			all.WriteString(e.Code + " " + e.Text + "\n")
		}
		for _, want := range []string{" eth1: no link for 610 s; the boot goes on without it in 110 s\n", "SW-NET-DEGRADED going on without eth1: no link\n"} {
			if !strings.Contains(all.String(), want) {
				t.Errorf("no %q in\n%s", want, all.String())
			}
		}
	})
}

// Without a router, other cards with a link get a moment to bring one.
func TestAnotherCardMayKnowTheRouter(t *testing.T) {
	for _, c := range []struct {
		name    string
		asking  bool // the other card has a link
		gateway string
		want    time.Duration
	}{
		{"a router is known", true, "192.0.2.1", 0},
		{"the other card is dead", false, "", 0},
		{"the other card asks", true, "", another},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, _ := paper(t, "")
				m.waits["eth1"] = &wait{what: "no answer to DHCP", asking: c.asking, since: time.Now()}
				a := Address{Interface: "none", Prefix: netip.MustParsePrefix("192.0.2.9/24")}
				if c.gateway != "" {
					a.Gateway = netip.MustParseAddr(c.gateway)
				}
				m.usable, m.order = time.Now(), []Address{a}
				began := time.Now()
				for m.judge(time.Now()); !isReady(m); m.judge(time.Now()) {
					time.Sleep(time.Second)
				}
				if got := time.Since(began); got != c.want {
					t.Errorf("ready after %v, want %v", got, c.want)
				}
			})
		})
	}
}
