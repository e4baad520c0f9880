package report

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/logfile"
)

// TestFileIsBounded reports a hundred times more than the file holds.
func TestFileIsBounded(t *testing.T) {
	const limit = 20_000
	r := New(&memory{}, false, func() float64 { return 1 })
	path := filepath.Join(t.TempDir(), "events")
	if err := r.keepIn(path, limit); err != nil {
		t.Fatal(err)
	}
	r.Emit(handoff.Event{Phase: "kernel", State: handoff.Started})
	r.Emit(handoff.Event{Phase: "kernel", State: handoff.Done, Text: "Linux"})
	r.Emit(handoff.Event{Phase: "services", Step: "sshd", State: handoff.Done})
	for i := range 20_000 {
		r.Emit(handoff.Event{Phase: "services", Step: "kubelet", State: handoff.Failed, Text: fmt.Sprint(i)})
	}
	last := 0
	for _, p := range []string{logfile.Older(path), path} {
		raw, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) > limit+1000 {
			t.Errorf("%s has %d bytes, want about %d at most", p, len(raw), limit)
		}
		lines := strings.SplitAfter(string(raw), "\n")
		for i, want := range []string{`"phase":"kernel","state":"done"`, `"step":"sshd"`, `"step":"kubelet"`} {
			if !strings.Contains(lines[i], want) {
				t.Errorf("%s, line %d: %q, want %q", p, i+1, lines[i], want)
			}
		}
		for _, l := range lines[3 : len(lines)-1] {
			e, ok, err := handoff.ParseLine([]byte(l))
			if !ok || err != nil || last > 0 && e.Seq != last+1 {
				t.Fatalf("after event %d: %q %v", last, l, err)
			}
			last = e.Seq
		}
	}
	if last != 20_003 {
		t.Errorf("the last event is %d", last)
	}
}

func TestJournalKeepsPhases(t *testing.T) {
	j, err := newJournal(filepath.Join(t.TempDir(), "events"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	add := func(seq int, phase, step string) {
		e := handoff.Event{Seq: seq, Phase: phase, Step: step}
		j.add(e, e.Line())
	}
	add(1, "kernel", "")
	for i := range 10 * maxKept {
		add(i+2, "system", fmt.Sprint("blob", i))
	}
	all := strings.SplitAfter(string(j.standing()), "\n")
	if len(j.last) != maxKept || !strings.Contains(all[0], `"phase":"kernel"`) || !strings.Contains(all[maxKept-1], fmt.Sprintf("blob%d", 10*maxKept-1)) {
		t.Errorf("%d steps, first %q, last %q", len(j.last), all[0], all[len(all)-2])
	}
}
