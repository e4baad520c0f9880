package seed

import (
	"strings"
	"testing"

	"slipway.dev/slipway/configs/handoff"
)

// TestASeedThatEndsInADrain: what it had begun is on disk, and is undone.
func TestASeedThatEndsInADrain(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, site(t, approve("ask")), fleetOptions())
	if err != nil {
		t.Fatal(err)
	}
	c := nodes(t, s, serve(t, s), 1, 2)[1]
	m, err := s.Order("worker-1", handoff.Reimage, Ordering{Leave: true, Drain: true})
	if err != nil {
		t.Fatal(err)
	}
	if o := tryOrder(t, c); o != nil {
		t.Errorf("told while its pods are moved: %+v", o)
	}
	if len(s.Departing()) != 0 || Judge(m, nil, m.Order.Given.Add(patientAsk+1)) != nil {
		t.Errorf("%+v %+v", s.Departing(), Judge(m, nil, m.Order.Given.Add(patientAsk+1)))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // killed again at once
		if s, err = Open(dir, site(t, approve("ask")), fleetOptions()); err != nil {
			t.Fatal(err)
		}
		if d := s.Departing(); len(d) != 1 || d[0].Name != "worker-1" || !d[0].Stays {
			t.Errorf("%+v", d)
		}
		if m, _ := s.Machine("worker-1"); m.Verdict == nil || m.Verdict.Code != codeOrderCut || m.Verdict.Hint != "order it again: slipway reimage worker-1" {
			t.Errorf("%+v %+v", m.Order, m.Verdict)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEmptied(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), fleetOptions())
	c := nodes(t, s, serve(t, s), 1, 2)[1]
	m, err := s.Order("worker-1", handoff.Reset, Ordering{Drain: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Emptied(m.ID, "another", nil); code(err) != codeOrderNone {
		t.Error(err)
	}
	if m, err = s.Emptied(m.ID, m.Order.ID, nil); err != nil || m.Order.Drain {
		t.Errorf("%+v %v", m.Order, err)
	}
	if o := c.order(t); o == nil || o.ID != m.Order.ID {
		t.Errorf("%+v", o)
	}
	if _, err := s.Emptied(m.ID, m.Order.ID, nil); code(err) != codeOrderNone {
		t.Error(err)
	}
}

// TestStayIsKept: a Node that takes no new pods is to take them again, whatever is
// done with the order that drained it, and by whatever order it is followed.
func TestStayIsKept(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), fleetOptions())
	c := nodes(t, s, serve(t, s), 1, 2)[1]
	stays := func(want bool) {
		t.Helper()
		if d := s.Departing(); (len(d) == 1 && d[0].Stays) != want {
			t.Errorf("%+v", d)
		}
	}
	o := told(t, s, c, handoff.Reimage, Ordering{Leave: true})
	c.must(t, 204, "POST", handoff.PathOrdered, handoff.Outcome{ID: o.ID, State: handoff.Failed, Text: "no"}, nil)
	stays(true)
	if _, err := s.TakeBack("worker-1"); err != nil {
		t.Fatal(err)
	}
	stays(true)
	m, err := s.Order("worker-1", handoff.Reset, Ordering{})
	if err != nil {
		t.Fatal(err)
	}
	stays(false) // it is to leave
	if _, err := s.TakeBack("worker-1"); err != nil {
		t.Fatal(err)
	}
	stays(true)
	if m, err = s.Order("worker-1", handoff.Upgrade, Ordering{}); err != nil {
		t.Fatal(err)
	}
	stays(true)
	if err := s.Left(m.ID, m.Order.ID, "its Node takes pods again"); err != nil {
		t.Fatal(err)
	}
	stays(false)
	if m, _ := s.Machine("worker-1"); !m.Order.Open() {
		t.Errorf("%+v", m.Order)
	}
}

// TestLeaveIsKept: the Node of before is deleted before anything else is ordered.
func TestLeaveIsKept(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), fleetOptions())
	base := serve(t, s)
	c := nodes(t, s, base, 1, 2)[1]
	told(t, s, c, handoff.Reset, Ordering{Leave: true, Forget: true})
	again := newClient(t, base, "", facts(2)) // it starts the installer before it is empty
	if _, err := s.Approve(again.enrol(t), ""); err != nil {
		t.Fatal(err)
	}
	again.config(t)
	again.must(t, 204, "POST", handoff.PathTaken, nil, nil)
	m, err := s.Machine("worker-1")
	if err != nil || m.Order.Code != codeOrderLost || !m.Order.Leave || !s.leaving(m.ID) {
		t.Fatalf("%+v %v", m.Order, err)
	}
	if d := s.Departing(); len(d) != 1 || d[0].Stays {
		t.Errorf("%+v", d)
	}
	if _, err := s.Order(m.ID, handoff.Upgrade, Ordering{}); code(err) != codeOrderOpen || !strings.Contains(err.Error(), "its Node of before is still to be deleted") {
		t.Error(err)
	}
	if v := Judge(m, nil, m.Order.Ended.Add(patientAsk+1)); v == nil || v.Code != "SW-ORDER-API" {
		t.Errorf("%+v", v)
	}
	if err := s.Left(m.ID, m.Order.ID, "gone"); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Machine("worker-1"); err != nil || m.State != Taken {
		t.Errorf("it was forgotten: %+v %v", m, err)
	}
}

// TestForceEndsAnOrderOfASilentNode: its hardware died after it was told.
func TestForceEndsAnOrderOfASilentNode(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), fleetOptions())
	all := nodes(t, s, serve(t, s), 1, 2)
	c := all[1]
	first := told(t, s, c, handoff.Upgrade, Ordering{})
	hint := func(err error) string {
		t.Helper()
		r, ok := err.(*handoff.Refusal)
		if !ok {
			t.Fatal(err)
		}
		return r.Hint
	}
	const gone = "; if the machine is gone for good: slipway remove worker-1 --force"
	_, err := s.TakeBack("worker-1")
	if h := hint(err); code(err) != codeOrderTold || !strings.HasSuffix(h, gone) {
		t.Errorf("%v: %s", err, h)
	}
	_, err = s.Order("worker-1", handoff.Reset, Ordering{Force: true})
	if h := hint(err); code(err) != codeOrderOpen || !strings.HasSuffix(h, gone) {
		t.Errorf("it is reached: %v: %s", err, h)
	}
	s.mu.Lock()
	s.presence[handoff.KeyID(c.public)].last -= liveFor
	s.mu.Unlock()
	if _, err := s.Orderable("worker-1", handoff.Reset, false); code(err) != codeOrderOpen {
		t.Errorf("without force: %v", err)
	}
	m, err := s.Machine("worker-1")
	if v := Judge(m, nil, m.Order.Told.Add(patientObey+1)); err != nil || v == nil || v.Code != "SW-ORDER-SLOW" || !strings.HasSuffix(v.Hint, gone) {
		t.Errorf("%+v %v", v, err)
	}
	if _, err := s.Orderable("worker-1", handoff.Reset, true); err != nil {
		t.Error(err)
	}
	if m, err = s.Order("worker-1", handoff.Reset, Ordering{Force: true, Forget: true}); err != nil || m.Order.Verb != handoff.Reset {
		t.Fatalf("%+v %v", m.Order, err)
	}
	text := ""
	for _, st := range s.Timeline(m.ID) {
		text += st.State + " " + st.Text + "\n"
	}
	if !strings.Contains(text, "skipped upgrade to site 4: given up by the operator: the machine is not reached\n") {
		t.Error(text)
	}
	c.must(t, 204, "POST", handoff.PathOrdered, handoff.Outcome{ID: first.ID, State: handoff.Done}, nil) // it lives after all
	if m, _ := s.Machine("worker-1"); !m.Order.Open() || m.Bundle != "site 3" {
		t.Errorf("%+v", m)
	}
	if m, err := s.Forget("worker-1"); err != nil || m.Name != "" || m.Order.State != handoff.Done {
		t.Errorf("%+v %v", m.Order, err)
	}
	if m, _ := s.Machine("control-plane-1"); m.ifGone() != "" {
		t.Error(m.ifGone())
	}
}
