package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
)

// onLine is called with what a command says as it says it.
type onLine func(text string)

func (f onLine) Write(p []byte) (int, error) {
	f(string(p))
	return len(p), nil
}

// TestRemoveWaitsForTheNode: the machine is empty, and the API server does not answer.
func TestRemoveWaitsForTheNode(t *testing.T) {
	d := site(t, 12)
	change := func(leave bool) {
		d.Change("worker-5", func(m *seed.Machine) {
			o := *m.Order
			o.State, o.Told, o.Ended, o.Forget, o.Leave = handoff.Done, time.Now(), time.Now().Add(-time.Hour), true, leave
			m.Order = &o
		})
	}
	said := 0
	var out bytes.Buffer
	code := run(t.Context(), []string{"remove", "worker-5", "--yes"}, &out, onLine(func(text string) {
		switch {
		case strings.Contains(text, "the operator orders: reset"):
			change(true)
		case strings.Contains(text, "worker-5 has reset itself; its name is free when the API server has deleted its Node"):
			said++
			change(false)
		}
	}))
	if code != 0 || said != 1 || out.String() != "worker-5 is removed and has reset itself; its name is free\n" {
		t.Errorf("%d %d %q", code, said, out.String())
	}
}

// TestUpgradeOfASilentNode: it was told in an earlier run, and nothing came since.
func TestUpgradeOfASilentNode(t *testing.T) {
	for _, c := range []struct{ name, want string }{
		{"worker-5", ": look at its screen; if the machine is gone for good: slipway remove worker-5 --force\n"},
		{"cp-1", ": look at its screen\n"},
	} {
		d := site(t, 12)
		at := time.Now().Add(-time.Hour)
		d.Change(c.name, func(m *seed.Machine) {
			m.Bundle, m.Step.Time = "example 11", at.Add(5*time.Minute)
			m.Order = &seed.Ordered{ID: "1", Verb: handoff.Upgrade, Bundle: "example 12", Given: at, Told: at, State: handoff.Running}
		})
		said := 0
		var out bytes.Buffer
		code := run(t.Context(), []string{"upgrade", c.name, "--yes"}, &out, onLine(func(text string) {
			if text != c.name+" was told at "+at.Format(time.TimeOnly)+", and nothing was heard of it since "+at.Add(5*time.Minute).Format(time.TimeOnly)+c.want {
				return
			}
			said++
			d.Change(c.name, func(m *seed.Machine) {
				o := *m.Order
				o.State, o.Ended = handoff.Done, time.Now()
				m.Order, m.Bundle = &o, "example 12"
			})
		}))
		if code != 0 || said != 1 {
			t.Errorf("%s: %d %d %q", c.name, code, said, out.String())
		}
	}
}

// TestRemoveShowsAnOrderThatWasNotFollowed: the line to type has --force.
func TestRemoveShowsAnOrderThatWasNotFollowed(t *testing.T) {
	d := site(t, 12)
	at := time.Date(2026, 11, 21, 10, 0, 0, 0, time.Local)
	d.Change("worker-3", func(m *seed.Machine) {
		m.Order = &seed.Ordered{ID: "1", Verb: handoff.Upgrade, Bundle: "example 12", Given: at, Told: at, State: handoff.Running}
	})
	tell(t, []line{{"remove worker-3", 1, []string{"order    it has one that it has not followed, given at 10:00:00: upgrade to example 12\n", "hint: slipway remove worker-3 --yes --force\n"}}})
}
