package fleet

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
)

// TestRemoveAWorker: its Node and its name go when it is empty, not before.
func TestRemoveAWorker(t *testing.T) {
	s := newSite(t)
	m, err := s.Remove(t.Context(), "w1", seed.Leaving{})
	if err != nil || m.Order.Verb != handoff.Reset || !m.Order.Forget || !m.Order.Leave || m.Order.Drain {
		t.Fatalf("%+v %v", m, err)
	}
	if got := s.kube.done(); got != "drain w1 5m0s" {
		t.Error(got)
	}
	var o handoff.Order
	s.nodes[1].do("GET", handoff.PathOrder, nil, &o)
	s.nodes[1].do("POST", handoff.PathOrdered, handoff.Outcome{ID: o.ID, State: handoff.Done}, nil)
	until(t, "its name is free", func() bool { _, err := s.seed.Machine("w1"); return codeOf(err) == "SW-ENROL-UNKNOWN" })
	if got := s.kube.done(); got != "delete w1" {
		t.Error(got)
	}
	if m, _ := s.seed.Machine(m.ID); m.Order.State != handoff.Done || m.Order.Leave || m.Disk != "" {
		t.Errorf("%+v %+v", m, m.Order)
	}
}

// TestRemoveGoesWrong: a node that did not reset itself goes on as it was, until
// it is removed by force.
func TestRemoveGoesWrong(t *testing.T) {
	s := newSite(t)
	if _, err := s.Remove(t.Context(), "w1", seed.Leaving{}); err != nil {
		t.Fatal(err)
	}
	var o handoff.Order
	s.nodes[1].do("GET", handoff.PathOrder, nil, &o)
	s.nodes[1].do("POST", handoff.PathOrdered, handoff.Outcome{ID: o.ID, State: handoff.Failed, Code: "SW-RESET", Text: "busy"}, nil)
	if m, _ := s.seed.Machine("w1"); m.Order.Code != "SW-RESET" {
		t.Errorf("%+v", m.Order)
	}
	until(t, "it takes pods", func() bool { return len(s.seed.Departing()) == 0 })
	if m, err := s.Remove(t.Context(), "w1", seed.Leaving{Force: true}); err != nil || m.Name != "" {
		t.Errorf("%+v %v", m, err)
	}
	if got := s.kube.done(); got != "drain w1 5m0s, drain w1 5m0s, delete w1" {
		t.Error(got)
	}
}

// TestRemoveWithoutTheAPI: the machine is empty, and its Node is still to be deleted.
func TestRemoveWithoutTheAPI(t *testing.T) {
	s := newSite(t)
	if _, err := s.Remove(t.Context(), "w1", seed.Leaving{}); err != nil {
		t.Fatal(err)
	}
	s.kube.mu.Lock()
	s.kube.down = errors.New("refused")
	s.kube.mu.Unlock()
	var o handoff.Order
	s.nodes[1].do("GET", handoff.PathOrder, nil, &o)
	s.nodes[1].do("POST", handoff.PathOrdered, handoff.Outcome{ID: o.ID, State: handoff.Done}, nil)
	if d := s.seed.Departing(); len(d) != 1 || d[0].Name != "w1" || d[0].Stays {
		t.Errorf("%+v", d)
	}
	if m, err := s.Remove(t.Context(), "w1", seed.Leaving{Force: true}); err != nil || m.Name != "" {
		t.Errorf("by force: %+v %v", m, err)
	}
	if d := s.seed.Departing(); len(d) != 0 {
		t.Errorf("%+v", d)
	}
}

// TestReimageByForceDeletesTheNodeAgain: a machine that is off makes its Node anew
// when it starts, before it hears the order.
func TestReimageByForceDeletesTheNodeAgain(t *testing.T) {
	s := newSite(t)
	m, err := s.Reimage(t.Context(), "w1", seed.Leaving{Force: true})
	if err != nil || !m.Order.Leave {
		t.Fatalf("%+v %v", m.Order, err)
	}
	if got := s.kube.done(); got != "drain w1 5m0s, delete w1" {
		t.Error(got)
	}
	var o handoff.Order
	s.nodes[1].do("GET", handoff.PathOrder, nil, &o)
	again := newNode(t, s.base, 2)
	if st := again.enrol("site 4", o.Token); st.State != "approved" {
		t.Fatalf("%+v", st)
	}
	again.install()
	until(t, "its Node is deleted", func() bool { return len(s.seed.Departing()) == 0 })
	if got := s.kube.done(); got != "delete w1" {
		t.Error(got)
	}
	if _, err := s.Reimage(t.Context(), "w2", seed.Leaving{Force: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Withdraw(t.Context(), "w2"); err != nil {
		t.Fatal(err)
	}
	until(t, "nothing is left to do", func() bool { return len(s.seed.Departing()) == 0 })
	if text := s.steps("w2"); !strings.Contains(text, "it has no Node: restart the machine to bring it back\n") {
		t.Error(text)
	}
}

// TestTheOrderIsThereBeforeTheDrain: a second operator is refused meanwhile, nothing
// is told or undone, and a withdrawal stops it.
func TestTheOrderIsThereBeforeTheDrain(t *testing.T) {
	s := newSite(t)
	s.kube.nodes[1].Cordoned = true
	s.kube.while = func(ctx context.Context) {
		if m, _ := s.seed.Machine("w1"); !m.Order.Open() || !m.Order.Drain || len(s.seed.Departing()) != 0 {
			t.Errorf("%+v", m.Order)
		}
		if _, err := s.Upgrade(ctx, "w1"); codeOf(err) != "SW-ORDER-OPEN" {
			t.Errorf("a second operator: %v", err)
		}
		if _, err := s.Withdraw(ctx, "w1"); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		if _, err := s.Upgrade(t.Context(), "w1"); codeOf(err) != "SW-ORDER-OPEN" || len(s.seed.Departing()) != 0 {
			t.Errorf("while the drain ends: %v", err)
		}
	}
	_, err := s.Reimage(t.Context(), "w1", seed.Leaving{Force: true})
	if codeOf(err) != "SW-ORDER-NONE" || !strings.Contains(err.Error(), "the order of w1 ended while its pods were moved: withdrawn by the operator") {
		t.Error(err)
	}
	until(t, "it takes pods", func() bool { return len(s.seed.Departing()) == 0 })
	if got := s.kube.done(); got != "drain w1 5m0s, cordon w1 false" {
		t.Error(got)
	}
}

// TestDrainIsInterrupted: the order does not stand, and the node takes pods again.
func TestDrainIsInterrupted(t *testing.T) {
	s := newSite(t)
	s.kube.nodes[1].Cordoned = true
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := s.Reimage(ctx, "w1", seed.Leaving{Force: true}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	until(t, "it takes pods", func() bool { return len(s.seed.Departing()) == 0 })
	if m, _ := s.seed.Machine("w1"); m.Order.State != handoff.Skipped || !strings.Contains(s.steps("w1"), "reimage: not drained: the drain was stopped") {
		t.Errorf("%+v\n%s", m.Order, s.steps("w1"))
	}
	if got := s.kube.done(); got != "drain w1 5m0s, cordon w1 false" {
		t.Error(got)
	}
}

// TestRemoveAMachineThatIsGone: told and never heard of again, it is let go by force.
func TestRemoveAMachineThatIsGone(t *testing.T) {
	t.Parallel() // half a minute of silence
	s := newSite(t)
	if _, err := s.seed.Order("w1", handoff.Upgrade, seed.Ordering{}); err != nil {
		t.Fatal(err)
	}
	var o handoff.Order
	s.nodes[1].do("GET", handoff.PathOrder, nil, &o)
	for s.seed.Reachable("w1") {
		time.Sleep(100 * time.Millisecond)
	}
	if d, err := s.Departure(t.Context(), "w1"); err != nil || d.Reachable || !d.Machine.Order.Open() {
		t.Errorf("%+v %v", d, err)
	}
	if _, err := s.Remove(t.Context(), "w1", seed.Leaving{}); codeOf(err) != "SW-ORDER-OPEN" {
		t.Error(err)
	}
	if m, err := s.Remove(t.Context(), "w1", seed.Leaving{Force: true}); err != nil || m.Name != "" {
		t.Errorf("%+v %v", m, err)
	}
	if got := s.kube.done(); got != "drain w1 5m0s, delete w1" {
		t.Error(got)
	}
}
