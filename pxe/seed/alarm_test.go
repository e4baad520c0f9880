package seed

import (
	"slices"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
)

// TestHostKeysAreTheNodesOwn: they come from the key that was approved, not from
// whoever enrols with the same MAC and waits.
func TestHostKeysAreTheNodesOwn(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("auto")), Options{})
	base := serve(t, s)
	if err := s.Arm(time.Minute); err != nil {
		t.Fatal(err)
	}
	event := func(letter string) []byte {
		return handoff.Event{Seq: 1, Phase: "services", Step: "sshd", State: handoff.Running, Data: map[string]any{handoff.DataHostKeys: []string{"SHA256:" + strings.Repeat(letter, 43)}}}.Line()
	}
	c := newClient(t, base, "", facts(1))
	c.enrol(t)
	c.config(t)
	c.must(t, 204, "POST", handoff.PathTaken, nil, nil)
	c.must(t, 204, "POST", handoff.PathEvents, event("a"), nil)
	rogue := newClient(t, base, "", facts(1))
	rogue.enrol(t)
	if m, _ := s.Machine(c.facts.Boot); m.State != Waiting {
		t.Fatalf("%+v", m)
	}
	rogue.do(t.Context(), "POST", handoff.PathEvents, event("b"), nil) // taken or not
	if m, _ := s.Machine(c.facts.Boot); m.HostKeys != "SHA256:"+strings.Repeat("a", 43) {
		t.Errorf("%q", m.HostKeys)
	}
}

func TestAlarmsAreShownAndChangeNothing(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("auto")), Options{})
	if err := s.Arm(time.Minute); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, serve(t, s), "", facts(1))
	c.enrol(t)
	c.config(t)
	c.must(t, 204, "POST", handoff.PathTaken, nil, nil)
	m, _ := s.Machine(c.facts.Boot)
	s.nodeIs(m.Name, true, "Ready")
	s.nodeIs(m.Name, false, Alarm+"with its token")
	s.nodeIs("", false, Alarm+"with another")
	var got []string
	all, _ := s.Steps(0)
	for _, st := range all {
		if st.Code == "SW-JOIN-ALARM" {
			got = append(got, st.Machine+" "+string(st.Stage)+" "+st.Text)
		}
	}
	if want := []string{m.ID + " kubernetes ALARM: with its token", " seed ALARM: with another"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if m, _ := s.Machine(m.ID); m.State != Ready {
		t.Errorf("%+v", m)
	}
}
