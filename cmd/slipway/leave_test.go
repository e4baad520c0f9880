package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
)

// line is one of a story: what is typed, and what is seen.
type line struct {
	typed string
	code  int
	want  []string // in stdout, or in stderr when code is not 0
}

func tell(t *testing.T, story []line) {
	t.Helper()
	for _, l := range story {
		code, out, e := cli(t, strings.Fields(l.typed)...)
		text := out
		if l.code != 0 {
			text = out + e
		}
		for _, w := range l.want {
			if code != l.code || !strings.Contains(text, w) {
				t.Errorf("%s: exit %d, no %q in\n%s---\n%s", l.typed, code, w, out, e)
			}
		}
	}
}

func TestUpgradeStory(t *testing.T) {
	d := site(t, 12)
	for _, name := range []string{"cp-1", "worker-1", "worker-5"} {
		d.Change(name, func(m *seed.Machine) { m.Bundle, m.Kubernetes = "example 11", "v1.37.1" })
		d.Obey(name, handoff.Outcome{State: handoff.Done})
	}
	d.Change("worker-3", func(m *seed.Machine) { m.Bundle = "example 12" })
	d.Obey("worker-1", handoff.Outcome{State: handoff.Failed, Code: "SW-UPGRADE-KUBELET", Text: "kubelet was never Ready; it runs example 11 again", Hint: "slipway logs worker-1"})
	tell(t, []line{
		{"upgrade --dry-run", 0, []string{"NODE      ROLE           HAS         KUBERNETES  GETS                 WHY\n", "cp-1      control-plane  example 11  v1.37.1     example 12, v1.38.0  \n", "worker-3  worker         example 12  -           -                    it has that bundle\n"}},
		{"upgrade worker-5 --dry-run", 0, []string{"worker-5"}},
		{"upgrade cp-2", 1, []string{"cp-2 is no node"}},
		{"upgrade nobody", 1, []string{"SW-SEED-UNKNOWN"}},
		{"upgrade worker-5", 1, []string{"worker-5  worker  example 11", "nothing was changed: each of these nodes restarts", "hint: slipway upgrade worker-5 --yes\n"}},
		{"upgrade --yes", 1, []string{"worker-3: it has that bundle\n", "the operator orders: upgrade", "cp-1 has example 12\n", "worker-1: upgrade to example 12: kubelet was never Ready; it runs example 11 again (SW-UPGRADE-KUBELET)", "hint: slipway logs worker-1"}},
	})
	d.Obey("worker-1", handoff.Outcome{State: handoff.Done})
	tell(t, []line{
		{"upgrade --yes", 0, []string{"worker-1 has example 12\nworker-5 has example 12\n2 nodes upgraded to example 12\n"}},
		{"upgrade", 0, []string{"0 nodes upgraded to example 12\n"}},
	})
	d.Change("worker-5", func(m *seed.Machine) { m.Bundle = "refused" })
	d.Change("cp-1", func(m *seed.Machine) { m.Bundle = "example 11" })
	tell(t, []line{{"upgrade --yes", 1, []string{"nothing was changed: worker-5: one minor at a time", "hint: worker-5: slipway reimage worker-5\n"}}})
	if code, out, e := cli(t, "upgrade", "cp-1", "--yes", "-o", "json"); code != 0 || !json.Valid([]byte(out)) {
		t.Errorf("%d %s%s", code, out, e)
	}
}

// TestInterruptedUpgrade: the order stands, and the next one waits for it.
func TestInterruptedUpgrade(t *testing.T) {
	d := site(t, 12)
	d.Change("cp-1", func(m *seed.Machine) { m.Bundle = "example 11" })
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		for ordered := false; !ordered; time.Sleep(time.Second) { // the answer has come by then, too
			d.Change("cp-1", func(m *seed.Machine) { ordered = m.Order != nil })
		}
		stop()
	}()
	var out, e bytes.Buffer
	code := run(ctx, []string{"upgrade", "--yes"}, &out, &e)
	if code == 0 || !strings.Contains(e.String(), "the order of cp-1 stands; slipway upgrade goes on where this stopped. To take it back, as long as it was not told: slipway withdraw cp-1\n") {
		t.Errorf("%d %s", code, e.String())
	}
	tell(t, []line{{"upgrade --dry-run", 0, []string{"example 12, v1.38.0  it has the order"}}})
	go func() {
		time.Sleep(100 * time.Millisecond)
		d.Change("cp-1", func(m *seed.Machine) {
			o := *m.Order
			o.State, o.Ended = handoff.Done, time.Now()
			m.Order, m.Bundle = &o, "example 12"
		})
	}()
	tell(t, []line{{"upgrade --yes", 0, []string{"cp-1 has example 12\n1 nodes"}}})
}

func TestLeaveStory(t *testing.T) {
	d := site(t, 12)
	tell(t, []line{
		{"reimage cp-1 --yes", 1, []string{"cp-1 is the only control plane: the cluster would be lost (SW-ORDER-CONTROL-PLANE)", "hint: make a new cluster"}},
		{"reimage worker-5", 1, []string{"machine  52:54:00:12:00:0b", "cluster  worker-5 is Ready: it is drained, for 5m0s at most\n", "evicts   default/web-1 (loses its emptyDir)\n         default/db-0\n",
			"loses    everything on the disk that it starts from; data disks are kept\n", "nothing was changed", "hint: slipway reimage worker-5 --yes\n"}},
		{"remove worker-5 --force --drain-timeout 90s", 1, []string{"loses    its name, and", "hint: slipway remove worker-5 --yes --force --drain-timeout 1m30s\n"}},
		{"reimage worker-5 --drain-timeout 0s", 2, []string{"--drain-timeout 0s: want a second at least"}},
		{"reimage", 2, []string{"takes one REF"}},
		{"reimage worker-5 --yes --drain-timeout 1s", 1, []string{"there still stand default/db-0 (SW-ORDER-DRAIN)", "hint: again with --force"}},
		{"withdraw worker-5", 1, []string{"worker-5 has no order (SW-ORDER-NONE)"}},
		{"reimage worker-3 --yes", 0, []string{"worker-3 is not reached; the order stands until it asks. To take it back: slipway withdraw worker-3\n"}},
		{"reimage worker-3 --yes", 1, []string{"worker-3 has an order already (SW-ORDER-OPEN)"}},
		{"withdraw worker-3", 0, []string{"worker-3 has no order any more\n"}},
		{"remove worker-3 --yes", 0, []string{"worker-3 is removed and its name is free; the machine was not reached: its disk still starts the node"}},
	})
	d.Obey("worker-5", handoff.Outcome{State: handoff.Done})
	tell(t, []line{
		{"reimage worker-5 --yes", 0, []string{"worker-5 has enrolled again and installs itself: slipway nodes worker-5 --wait ready\n"}},
		{"remove worker-5 --yes", 0, []string{"worker-5 is removed and has reset itself; its name is free\n"}},
		{"reimage worker-5 -o json", 1, []string{`"pods": [`}},
	})
	for _, l := range []string{"upgrade", "reimage x", "remove x", "withdraw x"} {
		t.Setenv("XDG_STATE_HOME", t.TempDir())
		if code, _, e := cli(t, strings.Fields(l)...); code != 1 || !strings.Contains(e, "no seed runs") {
			t.Errorf("%s: %d %s", l, code, e)
		}
	}
}

func TestUndoWipeStory(t *testing.T) {
	d := site(t, 12)
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	d.Change("worker-1", func(m *seed.Machine) {
		m.Wipe = &seed.Wipe{ID: "1", Disk: handoff.Disk{Name: "sda", Serial: "S1"}, File: "/state/saved/S1.saved", Saved: at}
	})
	d.Change("worker-3", func(m *seed.Machine) {
		m.Wipe = &seed.Wipe{ID: "2", Disk: handoff.Disk{Name: "sda", Serial: "S2"}, File: "/state/saved/S2.saved", Saved: at, Large: at}
	})
	tell(t, []line{
		{"undo-wipe", 2, []string{"REF"}},
		{"undo-wipe worker-5", 1, []string{"SW-UNDO-NONE"}},
		{"undo-wipe worker-3 --yes", 1, []string{"too late: worker-3 began to make file systems (SW-UNDO-LATE)", "hint: what was saved is in /state/saved/S2.saved"}},
		{"undo-wipe worker-1", 0, []string{"worker-1: disk S1: nothing was written: it is as it was found\n"}},
	})
}
