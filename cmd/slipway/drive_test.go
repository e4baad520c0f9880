package main

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/operator"
	"slipway.dev/slipway/pxe/seed/operator/operatortest"
	"slipway.dev/slipway/test/sshnode"
)

// oneNode is a seed whose first machine is a real sshd.
type oneNode struct {
	*operatortest.Desk
	machine seed.Machine
}

func (d oneNode) Machines() []seed.Machine {
	return append([]seed.Machine{d.machine}, d.Desk.Machines()...)
}

func (d oneNode) Machine(ref string) (seed.Machine, error) {
	if ref == d.machine.Name {
		return d.machine, nil
	}
	return d.Desk.Machine(ref)
}

// seedWith runs a seed and returns the flags that lead to it.
func seedWith(t *testing.T, n *sshnode.Node) []string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sw") // a socket's name must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := operator.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := operator.Server(operator.Handler(oneNode{operatortest.New(2), seed.Machine{ID: "00", Name: "w1", State: seed.Ready, Address: n.Address.Addr(), HostKeys: strings.Join(n.HostKeys, " ")}}))
	s.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return []string{"--state", dir, "--identity", n.Identity, "--user", n.User, "--port", strconv.Itoa(int(n.Address.Port()))}
}

func TestLogsAndSupportBundle(t *testing.T) {
	home := at(t)
	flags := seedWith(t, sshnode.Start(t, "#!/bin/sh\necho \"$* says token=hunter2\"\n"))
	call := func(args ...string) (int, string, string) { return cli(t, append(args, flags...)...) }
	if code, out, e := call("logs", "w1", "kubelet"); code != 0 || out != "logs kubelet says token=hunter2\n" {
		t.Errorf("%d\n%s%s", code, out, e)
	}
	if code, _, e := call("logs", "nosuch"); code != 1 || !strings.Contains(e, "nosuch") {
		t.Errorf("%d\n%s", code, e)
	}
	if code, _, e := call("logs", "cp-1"); code != 1 || !strings.Contains(e, `slipway: node "cp-1": the seed knows no SSH host key of it`) || !strings.Contains(e, "hint: ") {
		t.Errorf("%d\n%s", code, e)
	}
	if code, _, e := call("logs"); code != 2 {
		t.Errorf("%d\n%s", code, e)
	}
	code, out, e := call("support-bundle", "-o", "json", "--out", "b.tar.gz")
	var r supportResult
	if err := json.Unmarshal([]byte(out), &r); code != 0 || err != nil || r.File != "b.tar.gz" || len(r.Nodes) != 3 {
		t.Fatalf("%d %v\n%s%s", code, err, out, e)
	}
	f, err := os.Open(filepath.Join(home, "b.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(tr)
		if err != nil || strings.Contains(string(raw), "hunter2") {
			t.Errorf("%s: %v\n%s", h.Name, err, raw)
		}
		_, name, _ := strings.Cut(h.Name, "/")
		names = append(names, name)
	}
	for _, want := range []string{"seed/status.json", "seed/nodes.json", "seed/timeline.jsonl", "nodes/w1/status.txt", "nodes/w1/logs/kubelet.txt", "nodes/cp-1/unreachable.txt"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s in %q", want, names)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(home, ".slipway-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if code, _, e := cli(t, "support-bundle", "--state", home, "--identity", "x"); code != 1 || !strings.Contains(e, "hint: ") {
		t.Errorf("without a seed: %d\n%s", code, e)
	}
}
