package status

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
)

func node(t *testing.T, events ...handoff.Event) Node {
	t.Helper()
	dir := t.TempDir()
	var raw []byte
	for _, e := range events {
		raw = append(raw, e.Line()...)
	}
	n := Node{Events: filepath.Join(dir, "events.jsonl"), Logs: filepath.Join(dir, "log")}
	if err := errors.Join(os.Mkdir(n.Logs, 0o755), os.WriteFile(n.Events, append(raw, `{"slipway":1,"cut`...), 0o644),
		os.WriteFile(filepath.Join(n.Logs, "sshd.log"), []byte("one\ntwo\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCommands(t *testing.T) {
	n := node(t,
		handoff.Event{Phase: "kernel", State: handoff.Started}, handoff.Event{Phase: "kernel", State: handoff.Done, Uptime: 1.5, Text: "Linux 6.12"},
		handoff.Event{Phase: "services", State: handoff.Started, Uptime: 2},
		handoff.Event{Phase: "services", Step: "sshd", State: handoff.Done, Uptime: 3, Text: "sshd answers"},
		handoff.Event{Phase: "kubernetes", Step: "etcd", State: handoff.Failed, Uptime: 9, Code: "SW-KUBEADM-ETCD", Text: "no quorum", Hint: "wait"})
	for args, want := range map[string][]string{
		"status":         {"kernel    done     1.5 s  Linux 6.12", "  sshd    done     3.0 s  sshd answers", "last failure, kubernetes/etcd at 9.0 s: SW-KUBEADM-ETCD", "next: wait"},
		"events":         {"    1.50  done     kernel", "SW-KUBEADM-ETCD  next: wait"},
		"events -o json": {`{"slipway":1,"seq":0,"uptime":1.5,"phase":"kernel"`},
		"logs":           {"sshd\n"},
		"logs sshd":      {"one\ntwo\n"},
	} {
		var out bytes.Buffer
		if err := n.Run(t.Context(), strings.Fields(args), &out); err != nil {
			t.Errorf("%s: %v", args, err)
		}
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s: no %q in\n%s", args, w, out.String())
			}
		}
	}
	for _, args := range []string{"", "status x", "events -o yaml", "logs a b", "reset"} {
		if err := n.Run(t.Context(), strings.Fields(args), &bytes.Buffer{}); !errors.Is(err, ErrUsage) {
			t.Errorf("%q: %v", args, err)
		}
	}
	for _, name := range []string{"../events", "none"} {
		if err := n.Run(t.Context(), []string{"logs", name}, &bytes.Buffer{}); err == nil {
			t.Errorf("logs %s worked", name)
		}
	}
}

// lineWriter hands over what is written.
type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) { w <- string(p); return len(p), nil }

func TestFollowGoesOnAfterRotation(t *testing.T) {
	n := node(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got := make(lineWriter, 10)
	go func() { _ = n.Run(ctx, []string{"logs", "sshd", "-f"}, got) }()
	name := filepath.Join(n.Logs, "sshd.log")
	wait := func(want string) {
		t.Helper()
		select {
		case l := <-got:
			if l != want {
				t.Fatalf("got %q, want %q", l, want)
			}
		case <-ctx.Done():
			t.Fatalf("no line %q", want)
		}
	}
	wait("one\n")
	wait("two\n")
	if err := errors.Join(os.Rename(name, name+".1"), os.WriteFile(name, []byte("three\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	wait("three\n")
}

// TestEventsOfTwoFiles reads every event once: a file that follows another
// begins with what stood.
func TestEventsOfTwoFiles(t *testing.T) {
	at := func(seq int, phase string) handoff.Event {
		return handoff.Event{Seq: seq, Phase: phase, State: handoff.Done, Text: fmt.Sprintf("event %d", seq)}
	}
	n := node(t, at(1, "kernel"), at(3, "ready"), at(4, "day"), at(5, "day"))
	var older []byte
	for _, e := range []handoff.Event{at(1, "kernel"), at(2, "day"), at(3, "ready")} {
		older = append(older, e.Line()...)
	}
	if err := os.WriteFile(n.Events+".1", older, 0o644); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := n.Run(t.Context(), []string{"events", "-o", "json"}, &out); err != nil {
		t.Fatal(err)
	}
	want := ""
	for _, e := range []handoff.Event{at(1, "kernel"), at(2, "day"), at(3, "ready"), at(4, "day"), at(5, "day")} {
		want += string(e.Line())
	}
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got := make(lineWriter, 10)
	go func() { _ = n.Run(ctx, []string{"events", "-f", "-o", "json"}, got) }()
	wait := func(seq int) {
		t.Helper()
		select {
		case l := <-got:
			if !strings.Contains(l, fmt.Sprintf("event %d", seq)) {
				t.Fatalf("got %q, want event %d", l, seq)
			}
		case <-ctx.Done():
			t.Fatalf("no event %d", seq)
		}
	}
	for i := range 5 {
		wait(i + 1)
	}
	f, err := os.OpenFile(n.Events, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The sixth is written to a file that has another name before anybody looks again.
	e6, e7 := at(6, "day"), at(7, "day")
	if err := errors.Join(os.Rename(n.Events, n.Events+".1"), os.WriteFile(n.Events+".new", append(e6.Line(), e7.Line()...), 0o644), os.Rename(n.Events+".new", n.Events)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(append([]byte("\n"), e6.Line()...)); err != nil {
		t.Fatal(err)
	}
	wait(6)
	wait(7)
}

func TestOperator(t *testing.T) {
	for _, c := range []struct {
		args, rest string
		ok         bool
	}{
		{"status", "status", false}, {"logs kubelet -f", "logs kubelet -f", false}, {"events", "events", false}, {"", "", false},
		{"nodes", "nodes", true}, {"seed status", "status", true}, {"seed logs node-1", "logs node-1", true}, {"--help", "--help", true},
	} {
		rest, ok := Operator(strings.Fields(c.args))
		if got := strings.Join(rest, " "); got != c.rest || ok != c.ok {
			t.Errorf("slipway %s: %q, %v; want %q, %v", c.args, got, ok, c.rest, c.ok)
		}
	}
}
