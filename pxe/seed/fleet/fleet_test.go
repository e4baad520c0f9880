package fleet

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/kube"
)

// cluster is one in memory.
type cluster struct {
	mu    sync.Mutex
	nodes []kube.Node
	pods  []kube.Pod
	down  error // the API server's answer
	drain error
	while func(context.Context) // a drain lasts
	said  []string              // what was done
}

func (c *cluster) did(format string, args ...any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down == nil {
		c.said = append(c.said, fmt.Sprintf(format, args...))
	}
	return c.down
}

func (c *cluster) done() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := strings.Join(c.said, ", ")
	c.said = nil
	return out
}

func (c *cluster) Nodes(context.Context, handoff.Cluster) ([]kube.Node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.nodes), c.down
}
func (c *cluster) Pods(context.Context, handoff.Cluster, string) ([]kube.Pod, error) {
	return c.pods, c.down
}
func (c *cluster) Drain(ctx context.Context, _ handoff.Cluster, node string, limit time.Duration, say func(string)) error {
	if err := c.did("drain %s %s", node, limit); err != nil {
		return err
	}
	say("default/web-1 is ending")
	if c.while != nil {
		c.while(ctx)
	}
	return cmp.Or(ctx.Err(), c.drain)
}
func (c *cluster) Cordon(_ context.Context, _ handoff.Cluster, node string, on bool) error {
	return c.did("cordon %s %v", node, on)
}
func (c *cluster) Delete(_ context.Context, _ handoff.Cluster, node string) error {
	if err := c.did("delete %s", node); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = slices.DeleteFunc(c.nodes, func(n kube.Node) bool { return n.Name == node })
	return nil
}

// node is a machine's side of the protocol.
type node struct {
	t    *testing.T
	base string
	http *http.Client
	n    int
}

func newNode(t *testing.T, base string, n int) *node {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}}}
	t.Cleanup(c.CloseIdleConnections)
	return &node{t, base, c, n}
}

func (n *node) do(method, path string, body, into any) int {
	n.t.Helper()
	raw, ok := body.([]byte)
	if !ok {
		raw, _ = json.Marshal(body)
	}
	req, err := http.NewRequestWithContext(n.t.Context(), method, n.base+path, bytes.NewReader(raw))
	if err != nil {
		n.t.Fatal(err)
	}
	resp, err := n.http.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	out, _ := io.ReadAll(resp.Body)
	if resp.StatusCode >= 400 {
		n.t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, out)
	}
	if into != nil {
		if err := json.Unmarshal(out, into); err != nil {
			n.t.Fatal(err)
		}
	}
	return resp.StatusCode
}

func (n *node) mac() string { return fmt.Sprintf("52:54:00:00:00:%02x", n.n) }

// enrol introduces the machine, with a token or none, and returns where it stands.
func (n *node) enrol(bundle, token string) (st handoff.Standing) {
	nonce := make([]byte, 32)
	sum := sha256.Sum256(nonce)
	n.do("POST", handoff.PathHello, handoff.Hello{Commit: hex.EncodeToString(sum[:]), Token: token, Facts: handoff.Facts{Arch: arch.AMD64, Boot: n.mac(), MACs: []string{n.mac()},
		Serial: fmt.Sprint("SN", n.n), Memory: 4 << 30, CPUs: 2, Bundle: bundle}}, nil)
	n.do("POST", handoff.PathReveal, handoff.Reveal{Nonce: hex.EncodeToString(nonce)}, &st)
	return st
}

// install takes the config and is on its disk.
func (n *node) install() (name string) {
	var conf handoff.Config
	n.do("GET", handoff.PathConfig, nil, &conf)
	n.do("POST", handoff.PathTaken, nil, nil)
	n.do("POST", handoff.PathEvents, handoff.Event{Phase: "install", Step: "active", State: handoff.Done, Data: map[string]any{"disk": "d"}}.Line(), nil)
	return conf.Name
}

// site is a seed with a control plane and two workers, of a cluster that runs.
type site struct {
	*Fleet
	seed  *seed.Seed
	kube  *cluster
	base  string
	nodes []*node
}

func newSite(t *testing.T) *site {
	t.Helper()
	c, err := configs.ParseCluster("cluster.yaml", []byte("apiVersion: slipway.dev/v1alpha1\nkind: Cluster\nmetadata: {name: site}\nspec:\n  nodes:\n    - {role: control-plane, count: 1, name: cp}\n    - {role: worker, name: \"w{n}\"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := seed.Open(t.TempDir(), c, seed.Options{Media: []*lock.Manifest{{Name: "site", Serial: 4, Arch: arch.AMD64, Kubernetes: "v1.38.0"}},
		Store: func(a arch.Arch) string { return "http://10.0.0.1/" + string(a) }})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Server{Handler: s.Node(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go h.Serve(tls.NewListener(l, s.TLS(netip.MustParseAddr("127.0.0.1"))))
	out := &site{seed: s, base: "https://" + l.Addr().String(), kube: &cluster{pods: []kube.Pod{{Namespace: "default", Name: "web-1", EmptyDir: true}, {Namespace: "default", Name: "job", Bare: true}}}}
	out.Fleet = New(s, out.kube, nil)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- out.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		h.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	for i := range 3 {
		n := newNode(t, out.base, i+1)
		n.enrol("site 3", "")
		if _, err := s.Approve(n.mac(), ""); err != nil {
			t.Fatal(err)
		}
		out.nodes = append(out.nodes, n)
		out.kube.nodes = append(out.kube.nodes, kube.Node{Name: n.install(), ControlPlane: i == 0, Ready: true, Kubelet: "v1.37.1"})
	}
	if err := s.Reach(handoff.Cluster{Server: "https://10.0.0.1:6443", CA: "x", Kubeconfig: "x"}); err != nil {
		t.Fatal(err)
	}
	return out
}

func codeOf(err error) string {
	if r, ok := errors.AsType[*handoff.Refusal](err); ok {
		return r.Code
	}
	return fmt.Sprint(err)
}

func (s *site) steps(ref string) string {
	m, err := s.seed.Machine(ref)
	if err != nil {
		return err.Error()
	}
	text := ""
	for _, st := range s.seed.Timeline(m.ID) {
		text += st.Text + "\n"
	}
	return text
}

// until waits for the fleet's own work.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func TestUpgradeTheFleet(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	table := func() (out string) {
		p, err := s.Plan(ctx)
		if err != nil || p.Bundle != "site 4" || p.Kubernetes != "v1.38.0" {
			t.Fatalf("%+v %v", p, err)
		}
		for _, u := range p.Nodes {
			out += fmt.Sprintf("%s %s %s; ", u.Name, u.Has, u.Step)
		}
		return out
	}
	if got := table(); got != "cp site 3 upgrade; w1 site 3 upgrade; w2 site 3 upgrade; " {
		t.Error(got)
	}
	if _, err := s.Upgrade(ctx, "w1"); codeOf(err) != codeSkew || !strings.Contains(err.Error(), "the control plane cp comes before w1") {
		t.Error(err)
	}
	for i, name := range []string{"cp", "w1", "w2"} {
		m, err := s.Upgrade(ctx, name)
		if err != nil || m.Order.Bundle != "site 4" {
			t.Fatalf("%+v %v", m, err)
		}
		if i == 0 {
			if got := table(); got != "cp site 3 ordered; w1 site 3 upgrade; w2 site 3 upgrade; " {
				t.Error(got)
			}
		}
		var o handoff.Order
		s.nodes[i].do("GET", handoff.PathOrder, nil, &o)
		if o.Verb != handoff.Upgrade || o.Store != "http://10.0.0.1/amd64" {
			t.Errorf("%+v", o)
		}
		s.nodes[i].do("POST", handoff.PathOrdered, handoff.Outcome{ID: o.ID, State: handoff.Done}, nil)
		s.kube.mu.Lock()
		s.kube.nodes[i].Kubelet = "v1.38.0"
		s.kube.mu.Unlock()
		if _, err := s.Upgrade(ctx, name); codeOf(err) != codeSame {
			t.Error(err)
		}
	}
	if got := table(); got != "cp site 4 same; w1 site 4 same; w2 site 4 same; " {
		t.Error(got)
	}
}

func TestPlan(t *testing.T) {
	m := func(name string, role configs.Role, bundle, kubernetes string) seed.Machine {
		return seed.Machine{ID: name, Name: name, Role: role, Arch: arch.AMD64, Disk: "d", State: seed.Ready, Bundle: bundle, Kubernetes: kubernetes, Facts: &handoff.Facts{}}
	}
	with := func(m seed.Machine, f func(*seed.Machine)) seed.Machine { f(&m); return m }
	cp, w := configs.RoleControlPlane, configs.RoleWorker
	for name, tt := range map[string]struct {
		machines []seed.Machine
		nodes    []kube.Node
		want     string
	}{
		"all":                   {[]seed.Machine{m("cp", cp, "s 3", "v1.37.0"), m("w", w, "s 3", "v1.37.0")}, nil, "cp upgrade, w upgrade"},
		"half-way":              {[]seed.Machine{m("cp", cp, "s 4", "v1.38.0"), m("w", w, "s 3", "v1.37.0")}, nil, "cp same, w upgrade"},
		"serial back":           {[]seed.Machine{m("cp", cp, "s 5", "v1.37.0")}, nil, "cp refused: the serial number never goes back"},
		"another bundle":        {[]seed.Machine{m("cp", cp, "x 3", "v1.37.0")}, nil, "cp refused: another name"},
		"two minors":            {[]seed.Machine{m("cp", cp, "s 3", "v1.36.0"), m("w", w, "s 3", "v1.37.0")}, nil, "cp refused: one minor at a time, w refused: upgrade the control plane first"},
		"the cluster knows":     {[]seed.Machine{m("cp", cp, "s 3", "v1.37.0")}, []kube.Node{{Name: "cp", Kubelet: "v1.36.0"}}, "cp refused: one minor"},
		"minor back":            {[]seed.Machine{m("cp", cp, "s 3", "v1.39.0")}, nil, "cp refused: it never goes back"},
		"nobody knows":          {[]seed.Machine{m("cp", cp, "s 3", "")}, nil, `cp refused: the node's Kubernetes ""`},
		"no control plane":      {[]seed.Machine{m("w", w, "s 3", "v1.37.0")}, nil, "w refused: nobody knows which Kubernetes the control plane runs"},
		"a worker far behind":   {[]seed.Machine{m("cp", cp, "s 3", "v1.37.0"), m("w", w, "s 1", "v1.34.0")}, nil, "cp refused: w: , w refused: "},
		"the seed's own":        {[]seed.Machine{with(m("cp", cp, "", ""), func(m *seed.Machine) { m.Facts = nil }), m("w", w, "s 3", "v1.37.0")}, []kube.Node{{Name: "cp", Kubelet: "v1.37.0"}}, "cp skipped: it runs this seed, w refused: upgrade the control plane first"},
		"from memory":           {[]seed.Machine{with(m("cp", cp, "s 3", "v1.37.0"), func(m *seed.Machine) { m.Disk = "" })}, nil, "cp skipped: it runs from memory"},
		"another order":         {[]seed.Machine{with(m("cp", cp, "s 3", "v1.37.0"), func(m *seed.Machine) { m.Order = &seed.Ordered{Verb: handoff.Reset} })}, nil, "cp skipped: it has an order: reset"},
		"has the order":         {[]seed.Machine{with(m("cp", cp, "s 3", "v1.37.0"), func(m *seed.Machine) { m.Order = &seed.Ordered{Verb: handoff.Upgrade} }), m("w", w, "s 3", "v1.37.0")}, nil, "cp ordered, w upgrade"},
		"no medium":             {[]seed.Machine{with(m("cp", cp, "s 3", "v1.37.0"), func(m *seed.Machine) { m.Arch = arch.ARM64 })}, nil, "cp skipped: this seed serves nothing for arm64"},
		"enrols again":          {[]seed.Machine{with(m("cp", cp, "s 3", "v1.37.0"), func(m *seed.Machine) { m.State = seed.Waiting })}, nil, "cp skipped: it was restarted"},
		"noted by its facts":    {[]seed.Machine{with(m("cp", cp, "", "v1.38.0"), func(m *seed.Machine) { m.Facts.Bundle = "s 4" })}, nil, "cp same"},
		"the oldest of several": {[]seed.Machine{m("a", cp, "s 4", "v1.38.0"), with(m("b", cp, "s 3", "v1.37.0"), func(m *seed.Machine) { m.Disk = "" }), m("w", w, "s 3", "v1.37.0")}, nil, "a same, b skipped: , w refused: upgrade the control plane first"},
	} {
		p := plan(tt.machines, tt.nodes, func(m seed.Machine) (string, string) {
			if m.Arch != arch.AMD64 {
				return "", ""
			}
			return "s 4", "v1.38.0"
		})
		for i, want := range strings.Split(tt.want, ", ") {
			head, why, _ := strings.Cut(want, ": ")
			u := p.Nodes[i]
			if got := fmt.Sprintf("%s %s", u.Name, u.Step); got != head || !strings.Contains(u.Why, why) {
				t.Errorf("%s: %s: %s, want %s", name, got, u.Why, want)
			}
		}
	}
}

func TestReimageAWorker(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	d, err := s.Departure(ctx, "w1")
	if err != nil || d.Node != "Ready" || !d.Reachable || strings.Join(d.Pods, "; ") != "default/web-1 (loses its emptyDir); default/job (no controller makes it again)" {
		t.Errorf("%+v %v", d, err)
	}
	m, err := s.Reimage(ctx, "w1", seed.Leaving{Drain: 7})
	if err != nil || !m.Order.Leave || m.Order.Verb != handoff.Reimage {
		t.Fatalf("%+v %v", m, err)
	}
	if got := s.kube.done(); got != "drain w1 7s" {
		t.Errorf("before it was told: %s", got)
	}
	var o handoff.Order
	s.nodes[1].do("GET", handoff.PathOrder, nil, &o)
	again := newNode(t, s.base, 2)
	if st := again.enrol("site 4", o.Token); st.State != "approved" {
		t.Fatalf("%+v", st)
	}
	if got := s.kube.done(); got != "" {
		t.Errorf("before it has its config: %s", got)
	}
	if name := again.install(); name != "w1" {
		t.Error(name)
	}
	until(t, "its Node is deleted", func() bool { return len(s.seed.Departing()) == 0 })
	if got := s.kube.done(); got != "delete w1" {
		t.Error(got)
	}
	for _, want := range []string{"draining it, for 7s at most\n", "default/web-1 is ending\n", "drained\n", "w1 was told: reimage\n", "its Node was deleted from the cluster\n", "approved by the token of the order to reimage it as w1, worker\n"} {
		if !strings.Contains(s.steps("w1"), want) {
			t.Errorf("no %q in\n%s", want, s.steps("w1"))
		}
	}
}

func TestLeavingGoesWrong(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(*site)
		ref   string
		force bool
		code  string // of reimage; "" when it goes on
		did   string
		said  string // in the timeline or the refusal
	}{
		"the only control plane": {nil, "cp", true, codePlane, "", "cp is the only control plane: the cluster would be lost"},
		"one of two": {func(s *site) {
			s.kube.nodes = append(s.kube.nodes, kube.Node{Name: "cp2", ControlPlane: true, Ready: true})
		}, "cp", true, codePlane, "",
			"of 2 control planes 2 are Ready: without cp etcd would lose its quorum"},
		"one of three": {func(s *site) {
			s.kube.nodes = append(s.kube.nodes, kube.Node{Name: "cp2", ControlPlane: true, Ready: true}, kube.Node{Name: "cp3", ControlPlane: true, Ready: true})
		}, "cp", true, codePlane, "", "takes no member out of etcd"},
		"two of three, one away": {func(s *site) {
			s.kube.nodes = append(s.kube.nodes, kube.Node{Name: "cp2", ControlPlane: true}, kube.Node{Name: "cp3", ControlPlane: true, Ready: true})
		}, "cp", true, codePlane, "", "quorum"},
		"pods stand": {func(s *site) {
			s.kube.drain = &kube.StandingError{Node: "w1", Limit: time.Second, Pods: []string{"default/db-0 stays: budget"}}
		}, "w1", false, codeDrain, "drain w1 5m0s",
			"there still stand default/db-0 stays: budget"},
		"pods stand, by force": {func(s *site) {
			s.kube.drain = &kube.StandingError{Node: "w1", Limit: time.Second, Pods: []string{"default/db-0"}}
		}, "w1", true, "", "drain w1 5m0s, delete w1",
			"not drained, and goes all the same"},
		"the API breaks":            {func(s *site) { s.kube.drain = errors.New("broken") }, "w1", false, codeCluster, "drain w1 5m0s", "broken"},
		"down":                      {func(s *site) { s.kube.nodes[1].Ready = false; s.kube.nodes[1].Text = "gone" }, "w1", false, "", "", "not drained: its Node is not Ready (gone)"},
		"no Node":                   {func(s *site) { s.kube.nodes = s.kube.nodes[:1] }, "w1", false, "", "", ""},
		"no API server":             {func(s *site) { s.kube.down = errors.New("refused") }, "w1", false, codeCluster, "", "the API server at https://10.0.0.1:6443 does not answer: refused"},
		"a certificate that ended":  {func(s *site) { s.kube.down = fmt.Errorf("HTTP 401: %w", seed.ErrCredentials) }, "w1", false, codeCluster, "", "the API server at https://10.0.0.1:6443 does not accept this seed: HTTP 401"},
		"no API server, by force":   {func(s *site) { s.kube.down = errors.New("refused") }, "w1", true, "", "", "its Node was not deleted yet: refused"},
		"control plane, API silent": {func(s *site) { s.kube.down = errors.New("refused") }, "cp", true, codePlane, "", "only control plane"},
		"nobody":                    {nil, "nobody", true, "SW-ENROL-UNKNOWN", "", "no machine"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			if tt.spoil != nil {
				s.kube.mu.Lock()
				tt.spoil(s)
				s.kube.mu.Unlock()
			}
			m, err := s.Reimage(t.Context(), tt.ref, seed.Leaving{Force: tt.force})
			if err == nil && m.Order == nil || cmp.Or(tt.code, "<nil>") != codeOf(err) {
				t.Fatalf("%+v %v", m, err)
			}
			if err == nil && !m.Order.Open() {
				t.Errorf("%+v", m.Order)
			}
			if got := s.kube.done(); got != tt.did {
				t.Errorf("did %q, want %q", got, tt.did)
			}
			if text := fmt.Sprint(err) + s.steps(tt.ref); !strings.Contains(text, tt.said) {
				t.Errorf("no %q in %s", tt.said, text)
			}
			if tt.code == codePlane {
				if _, err := s.Departure(t.Context(), tt.ref); codeOf(err) != codePlane {
					t.Error(err)
				}
			}
		})
	}
}

// TestANodeThatStaysTakesPods: withdrawn, or it could not follow.
func TestANodeThatStaysTakesPods(t *testing.T) {
	s := newSite(t)
	for _, how := range []string{"failed", "withdrawn"} {
		if _, err := s.Reimage(t.Context(), "w1", seed.Leaving{}); err != nil {
			t.Fatal(err)
		}
		s.kube.mu.Lock()
		s.kube.nodes[1].Cordoned = true
		s.kube.mu.Unlock()
		s.kube.done()
		if how == "failed" {
			var o handoff.Order
			s.nodes[1].do("GET", handoff.PathOrder, nil, &o)
			s.nodes[1].do("POST", handoff.PathOrdered, handoff.Outcome{ID: o.ID, State: handoff.Failed, Code: "SW-REIMAGE-KEXEC", Text: "locked down"}, nil)
		} else if m, err := s.Withdraw(t.Context(), "w1"); err != nil || m.Order.State != handoff.Skipped {
			t.Errorf("%+v %v", m, err)
		}
		until(t, "it takes pods", func() bool { return len(s.seed.Departing()) == 0 })
		if got := s.kube.done(); got != "cordon w1 false" {
			t.Errorf("%s: %s", how, got)
		}
	}
	if _, err := s.Withdraw(t.Context(), "w1"); codeOf(err) != "SW-ORDER-NONE" {
		t.Error(err)
	}
}
