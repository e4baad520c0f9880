package seed

import (
	"bytes"
	"net/netip"
	"strconv"
	"testing"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe"
)

// TestKnown: who only says to be of this site is a stranger to the DHCP server.
func TestKnown(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, "  nodes:\n    - {role: control-plane, count: 1, match: {mac: ['52:54:00:00:00:AA']}}\n    - {role: worker, match: {uuid: [11111111-2222-3333-4444-555555555555]}}\n    - {role: worker, name: 'other-{n}'}\n"), Options{})
	base := serve(t, s)
	mac := func(text string) pxe.MAC {
		m, err := pxe.ParseMAC(text)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	a := newClient(t, base, "", facts(1))
	code := a.enrol(t)
	for _, c := range []struct {
		name string
		m    pxe.Machine
		want bool
	}{
		{"named by its card", pxe.Machine{MAC: mac("52:54:00:00:00:aa")}, true},
		{"anybody who says a UUID that a rule names", pxe.Machine{MAC: mac("52:54:00:00:ff:01"), UUID: "11111111-2222-3333-4444-555555555555"}, false},
		{"waits for approval", pxe.Machine{MAC: mac(facts(1).Boot)}, false},
		{"nobody", pxe.Machine{MAC: mac("52:54:00:00:ff:02")}, false},
	} {
		if got := s.Known(c.m); got != c.want {
			t.Errorf("%s: known %v, want %v", c.name, got, c.want)
		}
	}
	if _, err := s.Approve(code, ""); err != nil {
		t.Fatal(err)
	}
	if !s.Known(pxe.Machine{MAC: mac(facts(1).Boot)}) {
		t.Error("a machine that was approved is a stranger")
	}
}

// TestRuleRenamed: cluster.yaml was changed between two starts of the seed.
func TestRuleRenamed(t *testing.T) {
	dir := t.TempDir()
	s := openSeed(t, dir, site(t, approve("ask")), Options{})
	a := newClient(t, serve(t, s), "", facts(1))
	if m, err := s.Approve(a.enrol(t), ""); err != nil || m.Name != "control-plane-1" {
		t.Fatalf("%+v %v", m, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openSeed(t, dir, site(t, "  nodes:\n    - {role: control-plane, count: 1, name: 'cp-{n}'}\n    - {role: worker}\n"), Options{})
	b := newClient(t, serve(t, s), "", facts(2))
	if m, err := s.Approve(b.enrol(t), ""); err != nil || m.Role != configs.RoleWorker {
		t.Errorf("got %s as %s beside control-plane-1, want a worker: %v", m.Name, m.Role, err)
	}
}

// TestStrangersTalk: who waits for approval cannot fill the seed's timeline.
func TestStrangersTalk(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), Options{})
	a := newClient(t, serve(t, s), "", facts(1))
	code := a.enrol(t)
	say := func(from, n int) {
		var all bytes.Buffer
		for i := range n {
			all.Write(handoff.Event{Seq: from + i, Phase: "system", Step: "x", State: handoff.Running, Text: strconv.Itoa(from + i)}.Line())
		}
		a.must(t, 204, "POST", handoff.PathEvents, all.Bytes(), nil)
	}
	_, before := steps(s)
	for i := range 4 {
		say(1+1000*i, 1000)
	}
	if _, n := steps(s); n-before > 700 {
		t.Errorf("%d steps of a machine that nobody let in", n-before)
	}
	if _, err := s.Approve(code, ""); err != nil {
		t.Fatal(err)
	}
	_, before = steps(s)
	say(5001, 1000)
	if _, n := steps(s); n-before < 1000 {
		t.Errorf("%d of 1000 events of a node were kept", n-before)
	}
}

func steps(s *Seed) ([]Step, int) {
	all, _ := s.Steps(0)
	return all, len(all)
}

// TestTakenFromElsewhere: workers are sent to where the control plane is now.
func TestTakenFromElsewhere(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), Options{})
	a := newClient(t, serve(t, s), "", facts(1))
	if _, err := s.Approve(a.enrol(t), ""); err != nil {
		t.Fatal(err)
	}
	moved := netip.MustParseAddr("192.0.2.77")
	if err := s.do(func(c *change) error { return c.take(handoff.KeyID(a.public), moved) }); err != nil {
		t.Fatal(err)
	}
	m, err := s.Machine(facts(1).Boot)
	if err != nil || m.Address != moved {
		t.Errorf("got %s %v, want %s", m.Address, err, moved)
	}
	_ = s.do(func(c *change) error {
		if got := c.endpoint(); got != moved.String() {
			t.Errorf("endpoint %s, want %s", got, moved)
		}
		return nil
	})
}
