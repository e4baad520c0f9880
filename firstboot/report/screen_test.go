package report

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"slipway.dev/slipway/configs/handoff"
)

var escapes = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")

// shown is a rendered screen as rows, without escapes.
func shown(t *testing.T, d *dashboard) []string {
	t.Helper()
	s := escapes.ReplaceAllString(d.render(), "")
	l := strings.Split(s, "\r\n")
	for i, row := range l {
		l[i] = strings.TrimRight(row, " ")
		if n := utf8.RuneCountInString(row); n >= columns {
			t.Errorf("row %d has %d columns: %q", i, n, row)
		}
		if strings.ContainsAny(row, "\x1b\a\b") {
			t.Errorf("row %d can steer the terminal: %q", i, row)
		}
	}
	if len(l) != rows-1 {
		t.Errorf("%d rows, want %d", len(l), rows-1)
	}
	return l
}

func TestDashboard(t *testing.T) {
	var d dashboard
	add := func(e handoff.Event) { e.Uptime = 1.5; d.add(e) }
	add(handoff.Event{Phase: "kernel", State: handoff.Started})
	add(handoff.Event{Phase: "kernel", State: handoff.Done, Text: "Linux 6.12\x1b[2J"})
	add(handoff.Event{Phase: "medium", State: handoff.Done, Text: `bundle "x"`, Data: map[string]any{"bundle": "x"}})
	add(handoff.Event{Phase: "network", State: handoff.Done, Text: "node-1 is 10.0.0.5", Data: map[string]any{"node": "node-1", "address": "10.0.0.5"}})
	add(handoff.Event{Phase: "kubernetes", State: handoff.Started})
	add(handoff.Event{Phase: "kubernetes", Step: "etcd", State: handoff.Started, Text: strings.Repeat("long ", 40)})
	l := shown(t, &d)
	for i, want := range []string{" slipway   x   node-1   10.0.0.5", " ok    kernel      Linux 6.12[2J", ` ok    medium      bundle "x"`, " ok    network     node-1 is 10.0.0.5", " ..    kubernetes  etcd long long"} {
		if !strings.HasPrefix(l[i], want) {
			t.Errorf("row %d is %q, want %q", i, l[i], want)
		}
	}

	add(handoff.Event{Phase: "kubernetes", Step: "etcd", State: handoff.Failed, Code: "SW-X", Text: "it broke\nin two lines", Hint: "look " + strings.Repeat("there ", 30), Data: map[string]any{"lines": []string{"a", "b"}}})
	all := strings.Join(shown(t, &d), "\n")
	for _, want := range []string{" FAIL  kubernetes  etcd it broke", " SW-X in kubernetes/etcd", "  it broke\n  in two lines\n  | a\n  | b\n  next: look there", "\n        there"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	add(handoff.Event{Phase: "kubernetes", State: handoff.Done, Text: "runs"})
	d.notice = []string{"  log in  ssh root@10.0.0.5"}
	all = strings.Join(shown(t, &d), "\n")
	if strings.Contains(all, "SW-X in") || !strings.HasSuffix(all, "\n  log in  ssh root@10.0.0.5") {
		t.Errorf("after it went well:\n%s", all)
	}
	for i := range 100 { // more than fits
		add(handoff.Event{Phase: fmt.Sprint("p", i%12), State: handoff.Failed, Code: "SW-Y", Text: strings.Repeat("word ", 100), Hint: strings.Repeat("do ", 300)})
	}
	shown(t, &d)
}

func TestCode(t *testing.T) {
	e := handoff.Event{Phase: "config", Step: "code", State: handoff.Running, Text: "Approve this machine at the seed: slipway approve K7Q-F2M", Data: map[string]any{"code": "K7Q-F2M"}}
	var d dashboard
	for _, p := range []string{"kernel", "modules", "medium", "network"} {
		d.add(handoff.Event{Phase: p, State: handoff.Done, Text: p})
	}
	d.add(e)
	d.add(handoff.Event{Phase: "config", Step: "standing", State: handoff.Running, Text: "waiting for the operator"})
	all := strings.Join(shown(t, &d), "\n")
	want := "      #   #   #####    ###            #####   ####    #   #\n      #  #        #   #   #           #           #   ## ##\n"
	if !strings.Contains(all, "\n  Approve this machine at the seed: slipway approve K7Q-F2M\n\n"+want) || !strings.Contains(all, "config/standing: waiting for the operator") {
		t.Errorf("screen:\n%s", all)
	}
	d.failed = &handoff.Event{Phase: "config", Code: "SW-X", Text: strings.Repeat("word ", 300), Hint: "do"}
	for i := range 9 {
		d.add(handoff.Event{Phase: fmt.Sprint("p", i), State: handoff.Running, Text: "x"})
	}
	shown(t, &d)
	d.add(handoff.Event{Phase: "config", Step: "code", State: handoff.Done, Text: "approved"})
	if all := strings.Join(shown(t, &d), "\n"); strings.Contains(all, "slipway approve") && strings.Contains(all, "#   #") {
		t.Errorf("the code is still there:\n%s", all)
	}
	if s := Text(e); !strings.Contains(s, "\r\n           #   #   #####    ###") {
		t.Errorf("serial %q", s)
	}
	seen := map[string]rune{}
	for _, r := range "0123456789ABCDEFGHJKMNPQRSTVWXYZ-" {
		l := letters(string(r))
		s := strings.Join(l, "\n")
		if old, ok := seen[s]; ok || strings.TrimSpace(s) == "" {
			t.Errorf("%c looks like %c", r, old)
		}
		seen[s] = r
	}
}
