package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/operator"
	"slipway.dev/slipway/pxe/seed/operator/operatortest"
)

// site runs a seed in memory where this user's seed would be.
func site(t *testing.T, machines int) *operatortest.Desk {
	t.Helper()
	at(t)
	dir, err := os.MkdirTemp("", "sw") // a socket's name must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("XDG_STATE_HOME", dir)
	state, err := stateDir()
	if err != nil {
		t.Fatal(err)
	}
	l, err := operator.Listen(state)
	if err != nil {
		t.Fatal(err)
	}
	d := operatortest.New(machines)
	s := operator.Server(operator.Handler(d))
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return d
}

func TestNoSeed(t *testing.T) {
	dir := at(t)
	t.Setenv("XDG_STATE_HOME", dir+"/state")
	for _, line := range []string{"nodes", "disks x", "status", "events", "approve 7K3-M9Q", "reject x", "assign x --name y", "arm 1m", "kubeconfig --wait", "nodes --wait ready", "status --state elsewhere"} {
		code, out, e := cli(t, strings.Fields(line)...)
		if code != 1 || out != "" || !strings.Contains(e, "no seed runs with its state in") || !strings.Contains(e, "hint: start it with: slipway serve") {
			t.Errorf("%s: %d %q %q", line, code, out, e)
		}
	}
}

func TestOperatorsUsage(t *testing.T) {
	at(t)
	for _, line := range []string{"approve", "approve a b --code 7K3-M9Q", "reject", "assign x", "assign", "arm", "arm soon", "arm -- -5m", "arm 0s",
		"nodes --wait soon", "nodes --wait seen", "nodes --timeout 5m", "nodes --watch -o json", "status x", "kubeconfig x"} {
		if code, _, e := cli(t, strings.Fields(line)...); code != 2 || !strings.HasPrefix(e, "slipway: ") {
			t.Errorf("%s: exit %d, %q", line, code, e)
		}
	}
}

func TestOperatorsStory(t *testing.T) {
	d := site(t, 12)
	for _, tt := range []struct {
		line string
		code int
		want []string // in stdout, or in stderr when code is not 0
	}{
		{"status", 0, []string{"cluster    fab-7", "dhcp       proxy", "another server: 10.20.0.254", "2 of 8 nodes are ready"}},
		{"nodes", 0, []string{"cp-2 ", "7K3-M9Q", "Does its screen show Q0W-4ZT? Then: slipway approve Q0W-4ZT", "SW-SEED-NO-4011"}},
		{"nodes cp-1 52-54-00-12-00-03", 0, []string{"cp-1 ", "worker-1 "}},
		{"nodes nobody", 1, []string{`no machine is called "nobody" (SW-SEED-UNKNOWN)`, "hint: `slipway nodes` lists them"}},
		{"events cp-1", 0, []string{"cp-1", "kubernetes done", "Node is Ready"}},
		{"approve 7K3-M9R", 1, []string{`no machine is called "7K3-M9R"`}},
		{"approve cp-2 --code AAA-AAA", 1, []string{"shows another code than AAA-AAA (SW-SEED-CODE)", "hint: somebody may sit between"}},
		{"approve cp-2 --code A", 2, []string{"a code is like 7K3-M9Q"}},
		{"approve cp-2", 2, []string{"cp-2: give the code that its screen shows with --code"}},
		{"approve 7k3m9q", 0, []string{"cp-2 is approved, control-plane (52:54:00:12:00:00)"}},
		{"approve 7K3-M9Q", 1, []string{`no machine is called "7K3-M9Q"`}},
		{"assign qow-4zt --name web-001 --role worker", 0, []string{"web-001 is waiting, worker"}},
		{"approve web-001 --code Q0W-4ZT", 0, []string{"web-001 is approved"}},
		{"approve worker-4", 2, []string{"worker-4: give the code"}},
		{"reject 52-54-00-12-00-07 --reason printer", 0, []string{"52:54:00:12:00:07 is rejected"}},
		{"arm 30m", 0, []string{"armed until "}},
		{"arm 25h", 1, []string{"want 0 to 86400"}},
		{"arm off", 0, []string{"not armed"}},
		{"nodes --wait ready", 1, []string{"worker-2 is held: Two disks match", "hint: Name one by serial number"}},
		{"kubeconfig", 1, []string{"there is no cluster yet"}},
	} {
		code, out, e := cli(t, strings.Fields(tt.line)...)
		text := out
		if tt.code != 0 {
			text = e
		}
		for _, w := range tt.want {
			if code != tt.code || !strings.Contains(text, w) {
				t.Errorf("%s: exit %d, no %q in\n%s%s", tt.line, code, w, out, e)
			}
		}
		if strings.ContainsAny(out+e, "\x1b\u202e") {
			t.Errorf("%s: what a machine sent reached the terminal", tt.line)
		}
	}
	for _, line := range []string{"status", "nodes", "nodes cp-1", "assign worker-4 --name w4", "arm 1m"} {
		if code, out, e := cli(t, append(strings.Fields(line), "-o", "json")...); code != 0 || !json.Valid([]byte(out)) {
			t.Errorf("%s -o json: %d %s%s", line, code, out, e)
		}
	}
	if code, out, _ := cli(t, "events", "-o", "json", "cp-1"); code != 0 || strings.Count(out, "\n") != 10 || strings.Count(out, `"stage"`) != 10 {
		t.Errorf("%d %s", code, out)
	}
	d.Form("kind: Config\n")
	if code, out, e := cli(t, "kubeconfig", "--wait"); code != 0 || out != "kind: Config\n" {
		t.Errorf("%d %s%s", code, out, e)
	}
	for range 2 { // the same once more is no harm
		if code, _, e := cli(t, "kubeconfig", "--out", "new/site.conf"); code != 0 {
			t.Errorf("%d %s", code, e)
		}
	}
	if fi, err := os.Stat("new/site.conf"); err != nil || fi.Mode() != 0o600 {
		t.Errorf("%v %v", fi, err)
	}
	d.Form("kind: Config # another\n")
	if code, _, e := cli(t, "kubeconfig", "--out", "new/site.conf"); code != 1 || !strings.Contains(e, "nothing was written") {
		t.Errorf("%d %s", code, e)
	}
}

func TestNodesWait(t *testing.T) {
	d := site(t, 2) // cp-2 waits, cp-1 is ready
	if code, _, e := cli(t, "nodes", "--wait", "ready", "--timeout", "50ms"); code != 1 || !strings.Contains(e, "50ms have passed: 1 of at least 1 are ready, cp-2 is waiting (enrol)") {
		t.Errorf("%d %s", code, e)
	}
	if code, _, e := cli(t, "nodes", "--wait", "waiting", "--count", "3", "--timeout", "50ms"); code != 1 || !strings.Contains(e, "2 of at least 3 are waiting") {
		t.Errorf("%d %s", code, e)
	}
	go func() {
		time.Sleep(100 * time.Millisecond)
		d.Change("cp-2", func(m *seed.Machine) { m.State = seed.Ready })
	}()
	if code, out, e := cli(t, "nodes", "--wait", "ready", "--count", "2"); code != 0 || !strings.Contains(out, "2 of 2 ready") {
		t.Errorf("%d %s%s", code, out, e)
	}
	d.Record(seed.Step{Time: operatortest.Now(), Machine: "52:54:00:12:00:00", Stage: seed.StageReady, Text: "Node is Ready"})
	if code, out, e := cli(t, "nodes", "--watch", "--wait", "ready"); code != 0 || !strings.Contains(out, "cp-2               ready               Node is Ready\n") {
		t.Errorf("%d %s%s", code, out, e)
	}
}

func TestCodes(t *testing.T) {
	for in, want := range map[string]string{"7K3-M9Q": "7K3-M9Q", "7k3m9q": "7K3-M9Q", "oil-0U1": "", "oil-0l1": "011-011", "": "", "7K3-M9": "", "7K3-M9QQ": "", "cp-1": ""} {
		if got, ok := code(in); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", in, got, ok)
		}
	}
}
