package seed

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
)

// brief asks for the config without waiting for long.
func (c *client) brief(t testing.TB) (handoff.Config, bool) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	var conf handoff.Config
	status, r, err := c.do(ctx, "GET", handoff.PathConfig, nil, &conf)
	if r != nil || err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("config: %d %+v %v", status, r, err)
	}
	return conf, status == 200
}

// given waits for a config that is due.
func (c *client) given(t testing.TB) (handoff.Config, bool) {
	t.Helper()
	conf, status := c.config(t)
	return conf, status == 200
}

// TestDuplicates: two machines that say to be one get nothing until the wrong
// one is rejected.
func TestDuplicates(t *testing.T) {
	for _, tc := range []struct {
		name string
		f    func(*handoff.Facts)
	}{
		{"MAC", func(f *handoff.Facts) { f.Boot, f.MACs = facts(1).Boot, facts(1).MACs }},
		{"second card", func(f *handoff.Facts) { f.MACs = append(f.MACs, facts(1).MACs...) }},
		{"UUID", func(f *handoff.Facts) { f.UUID = facts(1).UUID }},
		{"serial", func(f *handoff.Facts) { f.Serial = facts(1).Serial }},
		{"everything", func(f *handoff.Facts) { *f = facts(1) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := openSeed(t, t.TempDir(), site(t, approve("auto")), Options{})
			base := serve(t, s)
			f := facts(2)
			tc.f(&f)
			a, b := newClient(t, base, "", facts(1)), newClient(t, base, "127.0.0.2", f)
			ca, cb := a.enrol(t), b.enrol(t)
			if err := s.Arm(time.Minute); err != nil {
				t.Fatal(err)
			}
			if _, ok := a.brief(t); ok {
				t.Error("the first got a config")
			}
			if _, ok := b.brief(t); ok {
				t.Error("the second got a config")
			}
			m, err := s.Machine(cb)
			if err != nil || !strings.Contains(m.Reason, ca) || !strings.Contains(m.Reason, cb) || m.Verdict.Code != "SW-SEED-DUPLICATE" {
				t.Fatalf("%+v %v", m, err)
			}
			if _, err := s.Approve(facts(1).Boot, ""); HTTPStatus(err) != 409 {
				t.Errorf("approved: %v", err)
			}
			if _, err := s.Reject(cb, "not ours"); err != nil {
				t.Fatal(err)
			}
			conf, ok := a.given(t)
			if !ok || conf.Name != "control-plane-1" {
				t.Errorf("the right one got %+v", conf)
			}
			if r := b.must(t, 403, "GET", handoff.PathConfig, nil, nil); r.Code != codeRejected {
				t.Errorf("got %s", r.Code)
			}
		})
	}
}

// TestBlankNumbers: what makers leave the same on every board tells nothing.
func TestBlankNumbers(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("auto")), Options{})
	base := serve(t, s)
	s.Arm(time.Minute)
	for n := range 3 {
		f := facts(n)
		f.Serial, f.UUID = "Default string", "03000200-0400-0500-0006-000700080009"
		c := newClient(t, base, "", f)
		c.enrol(t)
		if _, ok := c.given(t); !ok {
			t.Errorf("machine %d got no config", n)
		}
	}
}

// TestRestartWhileWaiting: a machine that was switched off and on is one machine.
func TestRestartWhileWaiting(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), Options{})
	base := serve(t, s)
	a, b := newClient(t, base, "", facts(1)), newClient(t, base, "", facts(1))
	ca := a.enrol(t)
	if _, err := s.Approve(ca, ""); err != nil {
		t.Fatal(err)
	}
	s.began = s.began.Add(-liveFor)
	code := b.enrol(t)
	m, err := s.Machine(facts(1).Boot)
	if err != nil || m.State != Waiting || m.Code != code || strings.Contains(m.Reason, "machines") {
		t.Fatalf("%+v %v", m, err)
	}
	if r := a.must(t, 409, "GET", handoff.PathConfig, nil, nil); r.Code != codeReplaced {
		t.Errorf("the approved key of an earlier start: %+v", r)
	}
	if m, err := s.Approve(code, ""); err != nil || m.Name != "control-plane-1" {
		t.Errorf("%+v %v", m, err)
	}
}

func TestForgottenWhenGone(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), Options{})
	c := newClient(t, serve(t, s), "", facts(1))
	c.enrol(t)
	s.began = s.began.Add(-forgetAfter)
	if err := s.do(s.sweep); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Machine(facts(1).Boot); err != nil || m.State != Seen || m.Code != "" {
		t.Errorf("%+v %v", m, err)
	}
	c.must(t, 404, "GET", handoff.PathConfig, nil, nil)
	c.enrol(t)
}

func TestLimits(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), Options{})
	base := serve(t, s)
	for n := range maxSource {
		newClient(t, base, "127.0.0.3", facts(n)).enrol(t)
	}
	if status, r, err := newClient(t, base, "127.0.0.3", facts(99)).hello(t.Context()); status != 429 || r.Code != codeCrowd {
		t.Errorf("%d %+v %v", status, r, err)
	}
	other := newClient(t, base, "127.0.0.4", facts(100))
	other.enrol(t)
	if err := s.do(func(c *change) error { // as if others waited
		for n := range maxPending {
			c.enrolments[fmt.Sprint(n)] = &enrolment{Key: fmt.Sprint(n), Phase: introduced}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if status, r, err := newClient(t, base, "127.0.0.5", facts(101)).hello(t.Context()); status != 429 || r.Code != codeCrowd {
		t.Errorf("%d %+v %v", status, r, err)
	}
	s.hellos.SetLimit(0)
	s.hellos.SetBurst(0)
	if status, r, err := newClient(t, base, "127.0.0.6", facts(102)).hello(t.Context()); status != 429 || r.Code != codeRate {
		t.Errorf("%d %+v %v", status, r, err)
	}
	other.must(t, 400, "POST", handoff.PathReveal, make([]byte, 8<<10), nil)
	other.must(t, 400, "POST", handoff.PathEvents, make([]byte, handoff.MaxEvents+1), nil)
}

func TestWrongHellos(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), Options{})
	base := serve(t, s)
	for _, tc := range []struct {
		name string
		f    func(*handoff.Facts)
		code string
	}{
		{"no card", func(f *handoff.Facts) { f.Boot, f.MACs = "", nil }, codeFacts},
		{"multicast", func(f *handoff.Facts) { f.MACs = []string{"01:00:5e:00:00:01"} }, codeFacts},
		{"not a MAC", func(f *handoff.Facts) { f.MACs = []string{"eth0"} }, codeFacts},
		{"architecture", func(f *handoff.Facts) { f.Arch = "sparc" }, codeFacts},
		{"memory", func(f *handoff.Facts) { f.Memory = -1 }, codeFacts},
	} {
		f := facts(1)
		tc.f(&f)
		if status, r, err := newClient(t, base, "", f).hello(t.Context()); status != 400 || r.Code != tc.code {
			t.Errorf("%s: %d %+v %v", tc.name, status, r, err)
		}
	}
	c := newClient(t, base, "", facts(1))
	for _, body := range []string{"", "{", "[]", `{"commit":"00"}`, `{} {}`} {
		if r := c.must(t, 400, "POST", handoff.PathHello, []byte(body), nil); r.Code != codeBody {
			t.Errorf("%q: %+v", body, r)
		}
	}
	if status, _, err := c.hello(t.Context()); status != 200 {
		t.Fatal(err)
	}
	c.nonce[0]++
	if status, r, _ := c.reveal(t.Context()); status != 400 || r.Code != codeNonce {
		t.Errorf("another nonce: %d %+v", status, r)
	}
	c.must(t, 404, "GET", "/v1/nothing", nil, nil)
}

const rules = `  nodes:
    - {role: worker, name: storage, count: 1, match: {serial: [SN0007]}}
    - {role: control-plane, count: 1, match: {memory: 8Gi}}
    - {role: worker, name: "big-{n}", count: 2, match: {memory: 64Gi, cpus: 16}}
    - {role: worker, name: "arm-{n}", match: {arch: [arm64]}}
    - {role: worker, name: "w-{n}", match: {mac: ["52:54:00:00:00:09"]}}
`

func TestRules(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, rules), Options{})
	base := serve(t, s)
	for _, tc := range []struct {
		n    int
		f    func(*handoff.Facts)
		want string // name, or part of the error
	}{
		{1, func(f *handoff.Facts) {}, "no rule of cluster.yaml has room"},
		{7, func(f *handoff.Facts) { f.Memory = 64 << 30 }, "storage"},
		{2, func(f *handoff.Facts) { f.Memory = 62 << 30; f.CPUs = 16 }, "control-plane-1"}, // the first that fits and is approved
		{3, func(f *handoff.Facts) { f.Memory = 62 << 30; f.CPUs = 16 }, "big-1"},
		{4, func(f *handoff.Facts) { f.Memory = 59 << 30; f.CPUs = 16 }, "no rule"}, // 60 GiB is the least that counts as 64
		{5, func(f *handoff.Facts) { f.Memory = 64 << 30; f.CPUs = 16 }, "big-2"},
		{6, func(f *handoff.Facts) { f.Memory = 64 << 30; f.CPUs = 16 }, `taken by big-1, big-2`},
		{8, func(f *handoff.Facts) { f.Arch = arch.ARM64 }, "arm-1"},
		{9, func(f *handoff.Facts) {}, "w-1"},
	} {
		f := facts(tc.n)
		tc.f(&f)
		code := newClient(t, base, fmt.Sprintf("127.0.2.%d", tc.n), f).enrol(t)
		m, err := s.Approve(code, "")
		if err != nil && strings.Contains(err.Error(), tc.want) {
			continue
		}
		if m.Name != tc.want {
			t.Errorf("machine %d: got %q %v, want %q", tc.n, m.Name, err, tc.want)
		}
	}
}

func TestApproveList(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, rules+"  seed: {approve: list}\n"), Options{})
	base := serve(t, s)
	big := facts(2)
	big.Memory = 64 << 30
	for _, tc := range []struct {
		f     handoff.Facts
		state State
	}{{facts(7), Approved}, {facts(9), Approved}, {big, Waiting}} {
		newClient(t, base, "", tc.f).enrol(t)
		if m, err := s.Machine(tc.f.Boot); err != nil || m.State != tc.state {
			t.Errorf("%s: %+v %v", tc.f.Boot, m, err)
		}
	}
}

func TestAssign(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), Options{})
	base := serve(t, s)
	first, second := newClient(t, base, "", facts(1)), newClient(t, base, "", facts(2))
	first.enrol(t)
	second.enrol(t)
	for _, tc := range []struct{ ref, name, role, bad string }{
		{facts(9).Boot, "x", "", "no machine"},
		{facts(1).Boot, "Not_A_Name", "", "want one name"},
		{facts(1).Boot, "a.b", "", "want one name"},
		{facts(1).Boot, "", "king", "want control-plane or worker"},
		{facts(1).Boot, "db", "worker", ""},
		{facts(2).Boot, "db", "", "is the name of"},
		{"db", "", "control-plane", ""},
		{facts(2).Boot, "", "control-plane", "the control plane is db already"},
	} {
		if _, err := s.Assign(tc.ref, tc.name, tc.role); err == nil != (tc.bad == "") || err != nil && !strings.Contains(err.Error(), tc.bad) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
	if m, err := s.Approve(facts(2).Boot, ""); err != nil || m.Name != "worker-1" {
		t.Errorf("%+v %v", m, err)
	}
	if m, err := s.Approve("db", ""); err != nil || m.Role != configs.RoleControlPlane {
		t.Errorf("%+v %v", m, err)
	}
	if conf, ok := first.given(t); !ok || conf.Name != "db" {
		t.Errorf("%+v", conf)
	}
	first.must(t, 204, "POST", handoff.PathTaken, nil, nil)
	if _, err := s.Assign("db", "other", ""); HTTPStatus(err) != 409 {
		t.Errorf("assigned after it was taken: %v", err)
	}
	if _, err := s.Reject("db", "broken"); err != nil {
		t.Fatal(err)
	}
	third := newClient(t, base, "", facts(3))
	third.enrol(t)
	if m, err := s.Assign(facts(3).Boot, "db", ""); err != nil || m.Role != configs.RoleControlPlane {
		t.Errorf("replacing a rejected machine: %+v %v", m, err)
	}
	if m, err := s.Approve(facts(3).Boot, ""); err != nil || m.Name != "db" || m.Role != configs.RoleControlPlane {
		t.Errorf("replacing a rejected machine: %+v %v", m, err)
	}
}

// kube is a cluster that does what it is told.
type kube struct {
	mu     sync.Mutex
	minted []string
	done   []string
	fail   error
	tell   chan func(node string, ready bool, text string)
}

func (k *kube) Mint(_ context.Context, c handoff.Cluster, node, key string) (handoff.Join, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		return handoff.Join{}, k.fail
	}
	k.minted = append(k.minted, node)
	return handoff.Join{Server: c.Server, CA: c.CA, Token: "abcdef.0123456789abcdef"}, nil
}

func (k *kube) Finish(_ context.Context, _ handoff.Cluster, node string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.done = append(k.done, node)
	return nil
}

func (k *kube) Watch(ctx context.Context, _ handoff.Cluster, tell func(node string, ready bool, text string)) error {
	select {
	case k.tell <- tell:
	case <-ctx.Done():
	}
	<-ctx.Done()
	return ctx.Err()
}

// become takes a machine all the way to its config.
func (c *client) become(t testing.TB, s *Seed) string {
	t.Helper()
	if _, err := s.Approve(c.enrol(t), ""); err != nil {
		t.Fatal(err)
	}
	conf, ok := c.given(t)
	if !ok {
		t.Fatal("no config")
	}
	c.must(t, 204, "POST", handoff.PathTaken, nil, nil)
	return conf.Name
}

const aCA = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"

func TestClusterAndJoin(t *testing.T) {
	k := &kube{tell: make(chan func(string, bool, string))}
	dir := t.TempDir()
	s := openSeed(t, dir, site(t, approve("ask")), Options{Kube: k})
	base := serve(t, s)
	cp, w := newClient(t, base, "127.0.3.1", facts(1)), newClient(t, base, "127.0.3.2", facts(2))
	cluster := handoff.Cluster{Server: "https://127.0.3.1:6443", CA: aCA, Kubeconfig: "secret"}
	cp.enrol(t)
	cp.must(t, 403, "POST", handoff.PathCluster, cluster, nil)
	if name := cp.become(t, s); name != "control-plane-1" {
		t.Fatal(name)
	}
	w.become(t, s)
	join := handoff.JoinRequest{Name: "worker-1", Key: strings.Repeat("ab", 32)}
	for _, tc := range []struct {
		who  *client
		path string
		body any
		want int
	}{
		{w, handoff.PathCluster, cluster, 403},
		{cp, handoff.PathJoin, join, 403},
		{w, handoff.PathJoin, handoff.JoinRequest{Name: "worker-2", Key: join.Key}, 403},
		{w, handoff.PathJoin, handoff.JoinRequest{Name: "worker-1", Key: "xx"}, 400},
		{cp, handoff.PathCluster, handoff.Cluster{Server: "http://x", CA: aCA, Kubeconfig: "x"}, 400},
		{newClient(t, base, "", facts(3)), handoff.PathJoin, join, 404},
	} {
		tc.who.must(t, tc.want, "POST", tc.path, tc.body, nil)
	}
	if _, err := s.Kubeconfig(); HTTPStatus(err) != 409 {
		t.Errorf("a kubeconfig before there is a cluster: %v", err)
	}
	joined := make(chan handoff.Join, 1)
	go func() {
		var j handoff.Join
		w.do(context.Background(), "POST", handoff.PathJoin, join, &j)
		joined <- j
	}()
	time.Sleep(50 * time.Millisecond)
	cp.must(t, 204, "POST", handoff.PathCluster, cluster, nil)
	if j := <-joined; j.Token == "" || j.Address != netip.MustParseAddr("127.0.3.2") {
		t.Errorf("%+v", j)
	}
	w.must(t, 204, "POST", handoff.PathJoined, nil, nil)
	if fmt.Sprint(k.minted, k.done) != "[worker-1] [worker-1]" {
		t.Error(k.minted, k.done)
	}
	k.fail = errors.New("connection refused: secret-token")
	if r := w.must(t, 503, "POST", handoff.PathJoin, join, nil); r.Code != codeJoin || strings.Contains(r.Text, "secret") {
		t.Errorf("%+v", r)
	}
	tell := <-k.tell
	tell("worker-1", true, "")
	if m, _ := s.Machine("worker-1"); m.State != Ready || s.Status().ReadyOf != [2]int{1, 2} {
		t.Errorf("%+v %+v", m, s.Status())
	}
	tell("worker-1", false, "container runtime is down")
	if m, _ := s.Machine("worker-1"); m.State != Taken || m.Verdict == nil || m.Verdict.Code != "SW-SEED-NOT-READY" {
		t.Errorf("%+v", m)
	}
	s.Close()
	s = openSeed(t, dir, site(t, approve("ask")), Options{Kube: k})
	if raw, err := s.Kubeconfig(); err != nil || string(raw) != "secret" || s.Status().API != cluster.Server {
		t.Errorf("after a restart: %q %v", raw, err)
	}
	<-k.tell
}

// TestWorkerWaitsForEndpoint: a worker's config names the control plane.
func TestWorkerWaitsForEndpoint(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, "  nodes:\n    - {role: worker, count: 1, name: w, match: {serial: [SN0002]}}\n    - {role: control-plane, count: 1}\n"), Options{})
	base := serve(t, s)
	cp, w := newClient(t, base, "127.0.3.1", facts(1)), newClient(t, base, "127.0.3.2", facts(2))
	if _, err := s.Approve(w.enrol(t), ""); err != nil {
		t.Fatal(err)
	}
	if _, ok := w.brief(t); ok {
		t.Fatal("a config without an endpoint")
	}
	cp.become(t, s)
	if conf, ok := w.given(t); !ok || !strings.Contains(conf.Files["user-data"], "endpoint: 127.0.3.1") {
		t.Errorf("%v %+v", ok, conf)
	}
}

func TestEvents(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), Options{})
	c := newClient(t, serve(t, s), "", facts(1))
	lines := func(all ...handoff.Event) (out []byte) {
		for i, e := range all {
			if e.Seq == 0 {
				e.Seq = i + 1
			}
			out = append(out, e.Line()...)
		}
		return out
	}
	c.must(t, 404, "POST", handoff.PathEvents, lines(handoff.Event{Phase: "kernel", State: handoff.Done}), nil)
	c.become(t, s)
	state := func(want State) {
		t.Helper()
		if m, _ := s.Machine(facts(1).Boot); m.State != want {
			t.Errorf("got %s (%s), want %s", m.State, m.Reason, want)
		}
	}
	first := lines(handoff.Event{Phase: "system", State: handoff.Started, Text: "a\x1b[2Jb\r\nc"},
		handoff.Event{Phase: "system", Step: "verify", State: handoff.Running, Data: map[string]any{"bytes": 5e6, "total": 9e6}},
		handoff.Event{Phase: "services", State: handoff.Failed, Text: "no code: tried again"})
	c.must(t, 204, "POST", handoff.PathEvents, append([]byte("rubbish\n{\"slipway\":2}\n"), first...), nil)
	c.must(t, 204, "POST", handoff.PathEvents, first, nil) // the answer was lost
	m, _ := s.Machine(facts(1).Boot)
	if m.State != Taken || m.Done != 5e6 || m.Total != 9e6 {
		t.Errorf("%+v", m)
	}
	tl := s.Timeline(m.ID)
	if tl = tl[len(tl)-3:]; tl[0].Text != "system/a[2Jb c" || tl[0].Stage != StageSystem || tl[1].Stage != StageBlobs {
		t.Errorf("%+v", tl)
	}
	c.must(t, 204, "POST", handoff.PathEvents, lines(
		handoff.Event{Seq: 10, Phase: "services", State: handoff.Failed, Code: "SW-SERVICE", Text: "sshd ended", Hint: "look"},
		handoff.Event{Seq: 11, Phase: "services", Step: "hold", State: handoff.Running},
		handoff.Event{Seq: 12, Phase: "system", Step: "content", State: handoff.Done}), nil)
	state(Held)
	if m, _ = s.Machine(facts(1).Boot); m.Verdict == nil || m.Verdict.Code != "SW-SERVICE" || m.Verdict.Hint != "look" {
		t.Errorf("%+v", m.Verdict)
	}
	c.must(t, 204, "POST", handoff.PathEvents, lines(handoff.Event{Seq: 13, Phase: "services", State: handoff.Done}), nil)
	state(Taken)
	c.must(t, 204, "POST", handoff.PathEvents, lines(handoff.Event{Seq: 14, Phase: "ready", State: handoff.Done}), nil)
	state(Ready)
}

// TestRejectedByMistake: the key that was rejected can be let in after all, and
// a new start of a rejected machine needs the operator.
func TestRejectedByMistake(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("auto")), Options{})
	base := serve(t, s)
	a := newClient(t, base, "", facts(1))
	code := a.enrol(t)
	if m, err := s.Reject(code, "wrong\x1brack"); err != nil || m.State != Rejected || m.Verdict != nil && m.Verdict.Code == "" || m.Reason != "rejected: wrongrack" {
		t.Fatalf("%+v %v", m, err)
	}
	a.must(t, 403, "GET", handoff.PathConfig, nil, nil)
	if status, r, _ := a.hello(t.Context()); status != 403 || r.Code != codeRejected {
		t.Errorf("%d %+v", status, r)
	}
	if err := s.Arm(time.Minute); err != nil {
		t.Fatal(err)
	}
	b := newClient(t, base, "", facts(1))
	b.enrol(t)
	if m, err := s.Machine(facts(1).Boot); err != nil || m.State != Waiting || m.Reason != "rejected before: wrongrack" {
		t.Errorf("%+v %v", m, err)
	}
	if _, err := s.Reject(facts(1).Boot, ""); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Approve(code, ""); err != nil || m.State != Approved {
		t.Errorf("%+v %v", m, err)
	}
	if _, ok := a.given(t); !ok {
		t.Error("no config after all")
	}
}
