// Package orders has both ends of an order in one test: the operator's client, the
// seed, a node's own client, and a real Kubernetes API. It holds tests only.
//
// It starts no machine: what a node does with an order is not seen here.
package orders

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/enrol"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/fleet"
	"slipway.dev/slipway/pxe/seed/kube"
	"slipway.dev/slipway/pxe/seed/operator"
	"slipway.dev/slipway/test/kubeapi"
)

// desk is a seed as package serve has it, without the wire.
type desk struct {
	*seed.Seed
	*fleet.Fleet
}

// site is a seed that serves nodes and its operator.
type site struct {
	t    *testing.T
	seed *seed.Seed
	url  string
	op   *operator.Client
}

func newSite(t *testing.T) *site { return newSiteWith(t, "", seed.Options{}) }

// newSiteWith has more in the spec of its cluster.yaml.
func newSiteWith(t *testing.T, spec string, o seed.Options) *site {
	t.Helper()
	c, err := configs.ParseCluster("cluster.yaml", []byte("apiVersion: slipway.dev/v1alpha1\nkind: Cluster\nmetadata: {name: site}\nspec:\n  nodes:\n    - {role: control-plane, count: 1, name: cp}\n    - {role: worker, name: \"w{n}\"}\n"+spec))
	if err != nil {
		t.Fatal(err)
	}
	k := kube.New(slog.New(slog.DiscardHandler))
	o.Kube, o.Media = k, []*lock.Manifest{{Name: "site", Serial: 4, Arch: arch.AMD64, Kubernetes: "v1.38.0"}}
	o.Store = func(a arch.Arch) string { return "http://10.0.0.1/" + string(a) }
	s, err := seed.Open(t.TempDir(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	d := desk{s, fleet.New(s, k, nil)}
	dir, err := os.MkdirTemp("", "sw") // a socket's name must be short
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	nodes, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := operator.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	servers := []*http.Server{{Handler: s.Node(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}, operator.Server(operator.Handler(d))}
	go servers[0].Serve(tls.NewListener(nodes, s.TLS(netip.MustParseAddr("127.0.0.1"))))
	go servers[1].Serve(socket)
	out := &site{t: t, seed: s, url: "https://" + nodes.Addr().String(), op: operator.NewClient(dir)}
	t.Cleanup(func() {
		out.op.Close()
		stop()
		err := <-ended
		for _, srv := range servers {
			srv.Close()
		}
		if err := errors.Join(err, s.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return out
}

// start is one power-on of a machine: it introduces itself, with a token or none.
func (s *site) start(mac, token string) (c *enrol.Client, config func() handoff.Config) {
	s.t.Helper()
	c, err := enrol.New(s.url, s.seed.Pin(), func(handoff.Event) {})
	if err == nil && token != "" {
		err = c.Token(token)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	type answer struct {
		conf handoff.Config
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		conf, err := c.Enrol(s.t.Context(), handoff.Facts{Arch: arch.AMD64, Boot: mac, MACs: []string{mac}, Memory: 4 << 30, CPUs: 2, Bundle: "site 3"})
		got <- answer{conf, err}
	}()
	return c, func() handoff.Config {
		s.t.Helper()
		a := <-got
		if a.err != nil {
			s.t.Fatal(a.err)
		}
		return a.conf
	}
}

// install takes the config and says that the machine starts from its disk.
func (s *site) install(c *enrol.Client) {
	s.t.Helper()
	if err := c.Taken(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	sink := enrol.NewSink()
	sink.Add(handoff.Event{Slipway: 1, Seq: 1, Phase: "install", Step: "active", State: handoff.Done, Data: map[string]any{"disk": "d"}})
	ctx, stop := context.WithCancel(s.t.Context())
	go c.Events(ctx, sink)
	s.until(func() bool {
		for _, m := range s.seed.Machines() {
			if m.Key == c.Key() && m.Disk != "" {
				return true
			}
		}
		return false
	})
	stop()
}

// until waits until something is so.
func (s *site) until(ok func() bool) {
	s.t.Helper()
	for range 1500 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.t.Fatal("it never came to be")
}

// approved lets a new machine in.
func (s *site) approved(mac string) (*enrol.Client, handoff.Config) {
	s.t.Helper()
	c, config := s.start(mac, "")
	s.until(func() bool { _, err := s.op.Approve(s.t.Context(), mac, ""); return err == nil })
	conf := config()
	s.install(c)
	return c, conf
}

// TestReimageOverAllOfIt: the operator's line to the worker that has joined again.
func TestReimageOverAllOfIt(t *testing.T) {
	api := kubeapi.Start(t)
	api.Kubeadm(t)
	s := newSite(t)
	ctx := t.Context()
	plane, _ := s.approved("52:54:00:00:00:01")
	if err := plane.Cluster(ctx, api.Cluster(t)); err != nil {
		t.Fatal(err)
	}
	const mac = "52:54:00:00:00:02"
	worker, conf := s.approved(mac)
	if conf.Name != "w1" {
		t.Fatalf("%+v", conf.Name)
	}
	node(t, api, "w1", nil)
	node(t, api, "cp", map[string]string{"node-role.kubernetes.io/control-plane": ""})
	if _, err := s.op.Reimage(ctx, "cp", seed.Leaving{}); err == nil || !strings.Contains(err.Error(), "cp is the only control plane: the cluster would be lost (SW-ORDER-CONTROL-PLANE)") {
		t.Errorf("the control plane: %v", err)
	}
	if d, err := s.op.Departure(ctx, "w1"); err != nil || d.Node != "Ready" {
		t.Errorf("%+v %v", d, err)
	}
	m, err := s.op.Reimage(ctx, "w1", seed.Leaving{Drain: 20})
	if err != nil || m.Order.Verb != handoff.Reimage {
		t.Fatalf("%+v %v", m, err)
	}
	if !there(t, api, "w1") {
		t.Error("its Node went before it was told")
	}
	o, err := worker.Order(ctx)
	if err != nil || o.ID != m.Order.ID || o.Store != "http://10.0.0.1/amd64" {
		t.Fatalf("%+v %v", o, err)
	}
	again, config := s.start(mac, o.Token)
	if conf := config(); conf.Name != "w1" {
		t.Errorf("it is %q now", conf.Name)
	}
	s.install(again)
	j, err := again.Join(ctx, handoff.JoinRequest{Name: "w1", Key: strings.Repeat("ab", 32)})
	if err != nil || j.Token == "" {
		t.Fatalf("%+v %v", j, err)
	}
	if there(t, api, "w1") {
		t.Error("it may join while its old Node is there")
	}
	if m, err := s.op.Machine(ctx, "w1"); err != nil || m.Order.State != handoff.Done || m.ID != mac {
		t.Errorf("%+v %v", m, err)
	}
	// A used token: the machine goes on without it, and waits.
	_, config = s.start(mac, o.Token)
	s.until(func() bool { m, err := s.op.Machine(ctx, mac); return err == nil && m.State == seed.Waiting })
	if _, err := s.op.Approve(ctx, mac, ""); err != nil {
		t.Error(err)
	}
	config()
}

// TestUpgradeAndRemove: each order is told and its outcome heard.
func TestUpgradeAndRemove(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	plane, _ := s.approved("52:54:00:00:00:01")
	if err := s.seed.Reach(handoff.Cluster{}); err != nil { // no API server answers there
		t.Fatal(err)
	}
	p, err := s.op.Plan(ctx)
	if err != nil || len(p.Nodes) != 1 || p.Nodes[0].Step != seed.UpgradeRefused { // nobody knows what it runs
		t.Errorf("%+v %v", p, err)
	}
	if _, err := s.seed.Order("cp", handoff.Upgrade, seed.Ordering{}); err != nil {
		t.Fatal(err)
	}
	o, err := plane.Order(ctx)
	if err != nil || o.Verb != handoff.Upgrade || o.Bundle != "site 4" {
		t.Fatalf("%+v %v", o, err)
	}
	if err := plane.Ordered(ctx, handoff.Outcome{ID: o.ID, State: handoff.Done}); err != nil {
		t.Fatal(err)
	}
	if m, err := s.op.Machine(ctx, "cp"); err != nil || m.Bundle != "site 4" || m.Kubernetes != "v1.38.0" || m.Order.State != handoff.Done {
		t.Errorf("%+v %v", m, err)
	}
	if _, err := s.op.Upgrade(ctx, "cp"); err == nil || !strings.Contains(err.Error(), "cp has site 4 already (SW-ORDER-SAME)") {
		t.Error(err)
	}
	worker, _ := s.approved("52:54:00:00:00:02")
	if _, err := s.op.Remove(ctx, "w1", seed.Leaving{}); err == nil || !strings.Contains(err.Error(), "(SW-ORDER-API)") {
		t.Error(err)
	}
	m, err := s.op.Remove(ctx, "w1", seed.Leaving{Force: true})
	if err != nil || m.Order.Verb != handoff.Reset {
		t.Fatalf("%+v %v", m, err)
	}
	if o, err = worker.Order(ctx); err != nil || o.Verb != handoff.Reset {
		t.Fatalf("%+v %v", o, err)
	}
	if err := worker.Ordered(ctx, handoff.Outcome{ID: o.ID, State: handoff.Done}); err != nil {
		t.Fatal(err)
	}
	if m, err := s.op.Machine(ctx, m.ID); err != nil || m.Name != "w1" || m.Order.State != handoff.Done { // its Node is still to be deleted
		t.Errorf("%+v %v", m, err)
	}
	if m, err := s.op.Remove(ctx, "w1", seed.Leaving{Force: true}); err != nil || m.Name != "" || m.State != seed.Seen {
		t.Errorf("%+v %v", m, err)
	}
}

func node(t *testing.T, api *kubeapi.Server, name string, labels map[string]string) {
	t.Helper()
	n := map[string]any{"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": name, "labels": labels}}
	api.Do(t, http.MethodPost, "/api/v1/nodes", "", n, nil)
	n["status"] = map[string]any{"conditions": []map[string]string{{"type": "Ready", "status": "True"}}, "nodeInfo": map[string]string{"kubeletVersion": "v1.37.1"}}
	if code := api.Do(t, http.MethodPut, "/api/v1/nodes/"+name+"/status", "", n, nil); code != http.StatusOK {
		t.Fatal(code)
	}
}

func there(t *testing.T, api *kubeapi.Server, name string) bool {
	t.Helper()
	return api.Do(t, http.MethodGet, "/api/v1/nodes/"+name, "", nil, nil) == http.StatusOK
}
