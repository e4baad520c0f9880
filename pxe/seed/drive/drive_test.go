package drive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"slipway.dev/slipway/test/sshnode"
)

func TestLogsAndStatus(t *testing.T) {
	s := newStation(t)
	d := s.driver()
	for unit, want := range map[string]string{"": "kubelet\nsshd\n", "kubelet": "I1121 container 3f2a"} {
		var out bytes.Buffer
		if err := d.Logs(t.Context(), s.node, unit, false, &out); err != nil || !strings.HasPrefix(out.String(), want) {
			t.Errorf("logs %q: %q, %v", unit, out.String(), err)
		}
	}
	var out bytes.Buffer
	if err := d.Status(t.Context(), s.node, &out); err != nil || !strings.Contains(out.String(), "Linux 6.12") {
		t.Errorf("status: %q, %v", out.String(), err)
	}
	err := d.Logs(t.Context(), s.node, "nosuch", false, io.Discard)
	if err == nil || err.Error() != `node "w1": slipway logs nosuch: Process exited with status 1: service has no log` {
		t.Error(err)
	}
	for _, unit := range []string{"a b", "a;reboot", "$(reboot)", "`x`", "-f", "../x", "a\nb"} {
		if err := d.Logs(t.Context(), s.node, unit, false, io.Discard); err == nil || !strings.Contains(err.Error(), "want a name such as kubelet") {
			t.Errorf("%q: %v", unit, err)
		}
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	s := newStation(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- s.driver().Logs(ctx, s.node, "kubelet", true, w) }()
	line := make([]byte, 6)
	if _, err := io.ReadFull(r, line); err != nil || string(line) != "begin\n" {
		t.Fatalf("%q, %v", line, err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestKeysOfTheOperator(t *testing.T) {
	s := newStation(t)
	home := t.TempDir()
	for name, c := range map[string]struct {
		keys Keys
		want string // in the error; empty: it works
		hint string
	}{
		"a file":         {Identity(s.file), "", ""},
		"an agent":       {Agent(newAgent(t, s.file)), "", ""},
		"an empty agent": {Agent(newAgent(t, "")), "ssh-agent holds no key", ""},
		"no agent":       {Agent(filepath.Join(home, "none")), "ssh-agent: dial unix", ""},
		"no home":        {Home(home), "no ssh-agent and no key in " + home, ""},
		"no file":        {Identity(filepath.Join(home, "none")), "no such file", ""},
		"another key": {func() ([]ssh.Signer, error) { return []ssh.Signer{sshnode.Key(t, filepath.Join(home, "other"))}, nil },
			"unable to authenticate", "access.sshAuthorizedKeys"},
	} {
		d := &Driver{User: s.user, Keys: c.keys}
		err := d.Status(t.Context(), s.node, io.Discard)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		var e *Error
		if errors.As(err, &e) && !strings.Contains(e.Hint(), c.hint) {
			t.Errorf("%s: hint %q, want %q", name, e.Hint(), c.hint)
		}
	}
}

func TestHostKeysAreRequired(t *testing.T) {
	s := newStation(t)
	other := sshnode.Key(t, filepath.Join(t.TempDir(), "other"))
	for name, c := range map[string]struct {
		change func(*Node)
		want   string
	}{
		"unknown": {func(n *Node) { n.HostKeys = nil }, "the seed knows no SSH host key of it"},
		"another": {func(n *Node) { n.HostKeys = []string{ssh.FingerprintSHA256(other.PublicKey())} }, "another host key than the node told the seed: got " + s.node.HostKeys[0]},
		"nowhere": {func(n *Node) { n.Address = netip.AddrPort{} }, "its address is not known"},
		"silent":  {func(n *Node) { n.Address = silent(t) }, "deadline exceeded"},
		"refused": {func(n *Node) { n.Address = netip.AddrPortFrom(n.Address.Addr(), 1) }, "connection refused"},
	} {
		n := s.node
		c.change(&n)
		d := s.driver()
		if name == "silent" {
			d.Patience = 500 * time.Millisecond
		}
		if err := d.Status(t.Context(), n, io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func unpack(t *testing.T, raw []byte) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = string(b)
	}
}

func TestSupportBundle(t *testing.T) {
	s := newStation(t)
	d := s.driver()
	d.Patience = time.Minute
	d.within = func(argv []string) time.Duration {
		if strings.Join(argv, " ") == "slipway logs sshd" { // it never ends
			return time.Second
		}
		return time.Minute
	}
	told := map[string]error{}
	lost := Node{Name: "../lost", Address: s.node.Address, HostKeys: []string{"SHA256:none"}}
	b := Bundle{Name: "support", Time: time.Unix(1e9, 0), Nodes: []Node{s.node, lost}, Tell: func(n Node, err error) { told[n.Name] = err },
		Seed: []File{{Name: "status.json", Data: []byte(`{"token":"abcdef.0123456789abcdef","pin":"x"}`)}, {Name: "../../etc/x", Data: nil}}}
	var out bytes.Buffer
	if err := d.SupportBundle(t.Context(), b, &out); err != nil {
		t.Fatal(err)
	}
	got := unpack(t, out.Bytes())
	for name, want := range map[string]string{
		"support/seed/status.json":             `{"token":"***","pin":"x"}`,
		"support/seed/etc/x":                   "",
		"support/nodes/w1/status.txt":          "kernel    done     1.5 s  Linux 6.12\npassword: ***\n",
		"support/nodes/w1/events.jsonl":        `{"slipway":1,"phase":"kubernetes","text":"join ***"}` + "\n",
		"support/nodes/w1/services.txt":        "kubelet\nsshd\nx;reboot\n",
		"support/nodes/w1/logs/kubelet.txt":    "I1121 container 3f2a9c4d5e6f***\nAuthorization: Bearer ***\n",
		"support/nodes/w1/logs/sshd.txt":       "\n[slipway: slipway logs sshd: context deadline exceeded]\n",
		"support/nodes/w1/logs/containerd.txt": "\n[slipway: slipway logs containerd: Process exited with status 1: service has no log]\n",
		"support/nodes/_lost/unreachable.txt":  `node "../lost": ssh to ` + s.node.Address.String() + ": ssh: handshake failed: another host key than the node told the seed: got " + s.node.HostKeys[0] + ", want SHA256:none\n",
		"support/nodes/w1/df.txt":              "Filesystem",
		"support/nodes/w1/ip-addr.txt":         "",
		"support/nodes/w1/ip-route.txt":        "",
		"support/nodes/w1/dmesg.txt":           "",
	} {
		text, ok := got[name]
		if exact := strings.HasSuffix(want, "\n") && name != "support/nodes/_lost/unreachable.txt" || strings.HasSuffix(want, "}"); !ok || exact && text != want || !strings.HasPrefix(text, want) {
			t.Errorf("%s: %q, want %q", name, text, want)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("also there: %q", got)
	}
	if told["w1"] == nil || told["../lost"] == nil || !strings.Contains(told["w1"].Error(), "slipway logs sshd") {
		t.Errorf("told %v", told)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.SupportBundle(ctx, b, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestMask(t *testing.T) {
	hexes := strings.Repeat("0123456789abcdef", 4)
	m := newMasker()
	for in, want := range map[string]string{
		"token abcdef.0123456789abcdef.":    "token ***.",
		"key " + hexes + " x":               "key 0123456789ab*** x",
		"sha256:" + hexes:                   "sha256:" + hexes,
		`"token": "abc", "a": 1`:            `"token": "***", "a": 1`,
		`msg="password=\"x y\" and"`:        `msg="password=\"***\" and"`,
		`{"password":"a b\"c","x":1}`:       `{"password":"***","x":1}`,
		"password: 'a b' c":                 "password: '***' c",
		"client-key-data: LS0tLS1CRUdJTg==": "client-key-data: ***",
		"root:$6$salt$hash/x.y:19000:":      "root:***:19000:",
		"https://me:pass@reg.example/v2":    "https://me:***@reg.example/v2",
		"eyJhbGciOiJ.eyJzdWIiOiJ.c2ln":      "***",
		"a\n-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\nb": "a\n*** private key ***\nb",
		"a\n-----BEGIN PRIVATE KEY-----\nAA==\n":                                   "a\n*** private key ***",
		"AA==\n-----END OPENSSH PRIVATE KEY-----\nb":                               "*** private key ***\nb",
		"-----BEGIN CERTIFICATE-----\nAA==":                                        "-----BEGIN CERTIFICATE-----\nAA==",
		"secret \"kube-system/x\" not found":                                       "secret \"kube-system/x\" not found",
		"node-1.example.com 10.0.0.1:6443 ok":                                      "node-1.example.com 10.0.0.1:6443 ok",
	} {
		if got := m.text(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestTailKeepsWholeLines(t *testing.T) {
	w := &tail{most: 10}
	for range 9 {
		io.WriteString(w, "1234567\n")
	}
	if got := w.String(); got != "1234567\n" {
		t.Errorf("%q", got)
	}
}
