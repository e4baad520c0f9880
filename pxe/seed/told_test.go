package seed

import (
	"testing"

	"slipway.dev/slipway/configs/handoff"
)

// TestAToldUpgradeIsOfOneBundle: a node that lost power while it took the bundle asks
// again, and the seed was started with another one meanwhile.
func TestAToldUpgradeIsOfOneBundle(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), fleetOptions())
	all := nodes(t, s, serve(t, s), 1, 2)
	c := all[1]
	serves := func(serial uint64) {
		s.mu.Lock()
		s.o.Media[0].Serial = serial
		s.mu.Unlock()
	}
	o := told(t, s, c, handoff.Upgrade, Ordering{})
	serves(5)
	if again := tryOrder(t, c); again != nil {
		t.Errorf("told again: %+v", again)
	}
	m, err := s.Machine("worker-1")
	if err != nil || m.Order.State != handoff.Failed || m.Order.Code != codeOrderArch || m.Order.Hint != "order it again" {
		t.Fatalf("%+v %v", m.Order, err)
	}
	c.must(t, 204, "POST", handoff.PathOrdered, handoff.Outcome{ID: o.ID, State: handoff.Failed, Text: "later"}, nil)
	if m, _ := s.Machine("worker-1"); m.Order.Code != codeOrderArch {
		t.Errorf("a second failure: %+v", m.Order)
	}
	c.must(t, 204, "POST", handoff.PathOrdered, handoff.Outcome{ID: o.ID, State: handoff.Done}, nil) // it had it already
	if m, _ := s.Machine("worker-1"); m.Order.State != handoff.Done || m.Order.Code != "" || m.Bundle != "site 4" {
		t.Errorf("%+v", m)
	}
	serves(4)
	o = told(t, s, c, handoff.Reimage, Ordering{})
	serves(5)
	if again := c.order(t); again == nil || again.ID != o.ID {
		t.Errorf("a reimage: %+v", again)
	}
}
