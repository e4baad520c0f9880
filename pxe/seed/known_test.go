package seed

import (
	"testing"

	"slipway.dev/slipway/configs"
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
