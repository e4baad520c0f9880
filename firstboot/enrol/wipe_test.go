package enrol

import (
	"errors"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/report"
)

// TestSaveHolds: what a seed says, or that there is none, becomes the code that
// the installation holds with; nothing waits here.
func TestSaveHolds(t *testing.T) {
	s := newSeed(t, newAuthority(t, time.Now().AddDate(-1, 0, 0)))
	srv := s.serve("127.0.0.1:0")
	c, err := New(srv.URL, handoff.KeyID(s.auth.ca.Raw), func(handoff.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		say  *refused
		code string
	}{
		{"its disk is full", &refused{handoff.Refusal{Code: "SW-ENROL-STATE", Text: "the seed has a problem of its own"}, 500}, "SW-UNDO-SEED"},
		{"it restarts", &refused{handoff.Refusal{}, 503}, "SW-UNDO-SEED"},
		{"rejected", &refused{handoff.Refusal{Code: "SW-ENROL-REJECTED", Text: "rejected: no"}, 403}, "SW-ENROL-REJECTED"},
		{"it knows no wipes", &refused{handoff.Refusal{Code: "SW-ENROL-BODY", Text: "no such request"}, 404}, "SW-ENROL-BODY"},
		{"it is away", nil, "SW-UNDO-SEED"},
	} {
		if tc.say == nil {
			srv.Close()
		} else {
			s.mu.Lock()
			s.refuse[handoff.PathSaved] = tc.say
			s.mu.Unlock()
		}
		_, err := c.Save(t.Context(), []byte("{}\n"))
		if f, ok := errors.AsType[*report.Failure](err); !ok || f.Code != tc.code || f.Hint == "" {
			t.Errorf("%s: got %v, want %s", tc.name, err, tc.code)
		}
	}
}

func TestAnOlderSeedHasNothingToUndo(t *testing.T) {
	s := newSeed(t, newAuthority(t, time.Now().AddDate(-1, 0, 0)))
	s.refuse[handoff.PathWipe] = &refused{handoff.Refusal{Code: "SW-ENROL-BODY", Text: "no such request"}, 404}
	c, err := New(s.serve("127.0.0.1:0").URL, handoff.KeyID(s.auth.ca.Raw), func(handoff.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	if w, err := c.Wiping(t.Context(), handoff.Wiping{Stage: handoff.WipeAgain}); err != nil || w != (handoff.Window{}) {
		t.Errorf("%+v, %v", w, err)
	}
	if _, err := c.Wiping(t.Context(), handoff.Wiping{ID: "a", Stage: handoff.WipeLarge}); err == nil {
		t.Error("it goes on")
	}
}
