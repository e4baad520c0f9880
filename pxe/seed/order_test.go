package seed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe"
)

const storeURL = "http://10.0.0.1/amd64"

// fleetOptions serve the bundle "site 4".
func fleetOptions() Options {
	return Options{Media: []*lock.Manifest{{Name: "site", Serial: 4, Arch: arch.AMD64, Kubernetes: "v1.38.0"}},
		Store: func(a arch.Arch) string { return "http://10.0.0.1/" + string(a) }}
}

// nodes enrols machines from n on, of which the first is the control plane, and
// says that each is installed.
func nodes(t *testing.T, s *Seed, base string, n ...int) (all []*client) {
	t.Helper()
	for _, i := range n {
		f := facts(i)
		f.Bundle = "site 3"
		c := newClient(t, base, "", f)
		if _, err := s.Approve(c.enrol(t), ""); err != nil {
			t.Fatal(err)
		}
		if _, status := c.config(t); status != 200 {
			t.Fatal(status)
		}
		c.must(t, 204, "POST", handoff.PathTaken, nil, nil)
		c.installed(t, fmt.Sprintf("disk-%d", i))
		all = append(all, c)
	}
	return all
}

func (c *client) installed(t *testing.T, disk string) {
	t.Helper()
	c.must(t, 204, "POST", handoff.PathEvents, handoff.Event{Phase: "install", Step: "active", State: handoff.Done, Data: map[string]any{"disk": disk}}.Line(), nil)
}

// order asks for an order; nil when the answer is that there is none.
func (c *client) order(t *testing.T) *handoff.Order {
	t.Helper()
	var o handoff.Order
	status, r, err := c.do(t.Context(), "GET", handoff.PathOrder, nil, &o)
	if err != nil || r != nil || status != 200 && status != 202 {
		t.Fatalf("%d %+v %v", status, r, err)
	}
	if status == 202 {
		return nil
	}
	return &o
}

// told waits until the node is being answered, gives it an order, and returns
// what it was told.
func told(t *testing.T, s *Seed, c *client, verb handoff.Verb, how Ordering) handoff.Order {
	t.Helper()
	got := make(chan handoff.Order, 1)
	go func() {
		var o handoff.Order
		c.do(context.Background(), "GET", handoff.PathOrder, nil, &o)
		got <- o
	}()
	m, err := s.Order(c.facts.Boot, verb, how)
	if err != nil {
		t.Fatal(err)
	}
	o := <-got
	if o.ID != m.Order.ID || o.Verb != verb {
		t.Fatalf("told %+v, ordered %+v", o, m.Order)
	}
	return o
}

// helloWith says hello with a token.
func (c *client) helloWith(t *testing.T, token string) (int, *handoff.Refusal) {
	t.Helper()
	if c.nonce == nil {
		c.nonce = make([]byte, 32)
	}
	sum := sha256.Sum256(c.nonce)
	var w handoff.Welcome
	status, r, err := c.do(t.Context(), "POST", handoff.PathHello, handoff.Hello{Facts: c.facts, Commit: hex.EncodeToString(sum[:]), Token: token}, &w)
	if err != nil {
		t.Fatal(err)
	}
	if status == 200 {
		c.seed, _ = hex.DecodeString(w.Nonce)
	}
	return status, r
}

func local(s *Seed, c *client) bool {
	mac, _ := pxe.ParseMAC(c.facts.Boot)
	_, ok := s.Local(pxe.Machine{MAC: mac})
	return ok
}

func TestUpgradeOrder(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), fleetOptions())
	c := nodes(t, s, serve(t, s), 1)[0]
	if r := c.must(t, 404, "POST", handoff.PathOrdered, handoff.Outcome{ID: "beef", State: handoff.Done}, nil); r.Code != codeOrderUnknown || r.Text != `"beef" is no order of control-plane-1` {
		t.Errorf("%+v", r)
	}
	o := told(t, s, c, handoff.Upgrade, Ordering{})
	if o.Store != storeURL || o.Bundle != "site 4" || o.Token != "" || len(o.ID) != 32 {
		t.Errorf("%+v", o)
	}
	if again := c.order(t); again == nil || again.ID != o.ID {
		t.Errorf("told again: %+v", again)
	}
	if _, err := s.Order("control-plane-1", handoff.Reset, Ordering{}); code(err) != codeOrderOpen {
		t.Errorf("a second order: %v", err)
	}
	if _, err := s.TakeBack("control-plane-1"); code(err) != codeOrderTold {
		t.Errorf("withdrawn after it was told: %v", err)
	}
	if r := c.must(t, 400, "POST", handoff.PathOrdered, handoff.Outcome{ID: o.ID, State: handoff.Running}, nil); r.Code != codeBody {
		t.Errorf("%+v", r)
	}
	for range 2 { // the answer was lost
		c.must(t, 204, "POST", handoff.PathOrdered, handoff.Outcome{ID: o.ID, State: handoff.Done}, nil)
	}
	c.must(t, 204, "POST", handoff.PathOrdered, handoff.Outcome{ID: o.ID, State: handoff.Failed}, nil) // the first counts
	m, _ := s.Machine("control-plane-1")
	if m.Bundle != "site 4" || m.Kubernetes != "v1.38.0" || m.Order.Open() || m.Order.State != handoff.Done {
		t.Errorf("%+v", m)
	}
	second := told(t, s, c, handoff.Upgrade, Ordering{})
	c.must(t, 204, "POST", handoff.PathOrdered, handoff.Outcome{ID: o.ID, State: handoff.Done}, nil) // the earlier one once more
	c.must(t, 204, "POST", handoff.PathOrdered, handoff.Outcome{ID: second.ID, State: handoff.Failed, Code: "SW-SLOT-TRIES", Text: "fell back\x1b", Hint: "look"}, nil)
	m, _ = s.Machine("control-plane-1")
	if m.Order.Code != "SW-SLOT-TRIES" || m.Order.Text != "fell back" || m.Step.Code != "SW-SLOT-TRIES" || m.Step.Hint != "look" || m.State != Taken {
		t.Errorf("%+v", m)
	}
	if m, err := s.TakeBack(m.ID); err != nil || m.Order.State != handoff.Skipped {
		t.Errorf("%+v %v", m.Order, err)
	}
	if _, err := s.TakeBack(m.ID); code(err) != codeOrderNone {
		t.Error(err)
	}
	text := ""
	for _, st := range s.Timeline(m.ID) {
		text += st.State + " " + st.Text + "\n"
	}
	for _, want := range []string{"started the operator orders: upgrade to site 4\n", "running control-plane-1 was told: upgrade to site 4\n", "done upgrade to site 4: done\n", "failed upgrade to site 4: fell back\n", "skipped upgrade to site 4: withdrawn by the operator\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func code(err error) string {
	if r, ok := err.(*handoff.Refusal); ok {
		return r.Code
	}
	return fmt.Sprint(err)
}

func TestWhoGetsNoOrder(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), fleetOptions())
	base := serve(t, s)
	stranger := newClient(t, base, "", facts(7))
	if r := stranger.must(t, 404, "GET", handoff.PathOrder, nil, nil); r.Code != codeUnknown {
		t.Errorf("%+v", r)
	}
	waits := stranger.enrol(t)
	if r := stranger.must(t, 403, "GET", handoff.PathOrder, nil, nil); r.Code != codeNotYours {
		t.Errorf("%+v", r)
	}
	c := nodes(t, s, base, 1, 2)
	if err := s.Adopt("52:54:00:99:00:01", "self", "control-plane", netip.MustParseAddr("10.0.0.9")); err != nil {
		t.Fatal(err)
	}
	other := newClient(t, base, "", facts(2))
	other.enrol(t)
	for _, tt := range []struct {
		ref  string
		verb handoff.Verb
		want string
	}{
		{"nobody", handoff.Upgrade, codeUnknown}, {waits, handoff.Upgrade, codeOrderNode}, {"self", handoff.Reset, codeOrderSelf}, {"worker-1", handoff.Upgrade, codeOrderState},
	} {
		if _, err := s.Order(tt.ref, tt.verb, Ordering{}); code(err) != tt.want {
			t.Errorf("%s: got %v, want %s", tt.ref, err, tt.want)
		}
	}
	if _, err := s.Forget("self"); code(err) != codeOrderSelf {
		t.Error(err)
	}
	s.o.Media[0].Arch = arch.ARM64
	if _, err := s.Order("control-plane-1", handoff.Upgrade, Ordering{}); code(err) != codeOrderArch {
		t.Error(err)
	}
	s.o.Media[0].Arch = arch.AMD64
	if _, err := s.Order("control-plane-1", handoff.Upgrade, Ordering{}); err != nil {
		t.Error(err)
	}
	s.o.Media[0].Serial = 5 // the seed was started with another bundle meanwhile
	if o := tryOrder(t, c[0]); o != nil {
		t.Errorf("told %+v", o)
	}
	if m, _ := s.Machine("control-plane-1"); m.Order.Code != codeOrderArch || m.Order.State != handoff.Failed {
		t.Errorf("%+v", m.Order)
	}
}

func TestWithdrawnOrderIsNotTold(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), fleetOptions())
	c := nodes(t, s, serve(t, s), 1)[0]
	if _, err := s.Order(c.facts.Boot, handoff.Reset, Ordering{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.TakeBack(c.facts.Boot); err != nil {
		t.Fatal(err)
	}
	if o := tryOrder(t, c); o != nil {
		t.Errorf("told %+v", o)
	}
}

// TestReimage: told, off its disk, in again by the token alone, on its disk again.
func TestReimage(t *testing.T) {
	for _, how := range []string{"ask", "list", "auto"} {
		t.Run(how, func(t *testing.T) { reimage(t, how) })
	}
}

func reimage(t *testing.T, how string) {
	dir := t.TempDir()
	s := openSeed(t, dir, site(t, approve(how)), fleetOptions())
	base := serve(t, s)
	c := nodes(t, s, base, 1, 2)[1]
	if !local(s, c) {
		t.Fatal("an installed machine is not sent to its disk")
	}
	if status, r := newClient(t, base, "", facts(2)).helloWith(t, strings.Repeat("ab", 32)); status != 403 || r.Code != codeToken {
		t.Errorf("a token before there is an order: %d %+v", status, r)
	}
	if m, _ := s.Machine("worker-1"); m.Step.Code != codeToken {
		t.Errorf("the operator does not see it: %+v", m.Step)
	}
	o := told(t, s, c, handoff.Reimage, Ordering{Leave: true})
	if len(o.Token) != 64 || o.Store != storeURL {
		t.Errorf("%+v", o)
	}
	if local(s, c) {
		t.Error("a machine that was told to reimage is sent to its old disk")
	}
	if raw, _ := os.ReadFile(filepath.Join(dir, stateFile)); strings.Contains(string(raw), o.Token) {
		t.Error("the token is on disk")
	}
	if again := c.order(t); again == nil || *again != o {
		t.Errorf("told again: %+v", again)
	}
	c.must(t, 400, "POST", handoff.PathOrdered, handoff.Outcome{ID: o.ID, State: handoff.Done}, nil)
	for name, tt := range map[string]struct {
		machine int
		token   string
	}{"another machine": {3, o.Token}, "a wrong token": {2, strings.Repeat("ab", 32)}, "text": {2, "x"}} {
		if status, r := newClient(t, base, "", facts(tt.machine)).helloWith(t, tt.token); status != 403 || r.Code != codeToken {
			t.Errorf("%s: %d %+v", name, status, r)
		}
	}
	f := facts(2)
	f.Serial = "another"
	if status, r := newClient(t, base, "", f).helloWith(t, o.Token); status != 403 || r.Code != codeToken || !strings.Contains(r.Text, `the order is for "SN0002"`) {
		t.Errorf("another serial number: %d %+v", status, r)
	}
	f = facts(2)
	f.Bundle = "site 4"
	again := newClient(t, base, "", f)
	for range 2 { // the answer was lost
		if status, r := again.helloWith(t, o.Token); status != 200 {
			t.Fatalf("%d %+v", status, r)
		}
	}
	var st handoff.Standing
	if again.must(t, 200, "POST", handoff.PathReveal, handoff.Reveal{Nonce: hex.EncodeToString(again.nonce)}, &st); st.State != "approved" {
		t.Fatalf("%+v", st)
	}
	if status, r := again.helloWith(t, o.Token); status != 200 {
		t.Errorf("the winner once more: %d %+v", status, r)
	}
	if conf, _ := again.config(t); conf.Name != "worker-1" {
		t.Fatalf("%+v", conf)
	}
	again.must(t, 204, "POST", handoff.PathTaken, nil, nil)
	if status, r := newClient(t, base, "", f).helloWith(t, o.Token); status != 403 || r.Code != codeToken {
		t.Errorf("a used token: %d %+v", status, r)
	}
	if r := c.must(t, 403, "GET", handoff.PathOrder, nil, nil); r.Code != codeNotYours {
		t.Errorf("the old key: %+v", r)
	}
	if m, _ := s.Machine("worker-1"); m.Order.State != handoff.Done || !m.Order.Leave || m.Bundle != "site 4" || m.State != Taken || local(s, c) {
		t.Errorf("%+v %+v", m, m.Order)
	}
	again.installed(t, "disk-new")
	if !local(s, c) {
		t.Error("installed again, it is not sent to its disk")
	}
}

// TestReimageHasOneWinner: 16 keys with the one token at once.
func TestReimageHasOneWinner(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), fleetOptions())
	base := serve(t, s)
	c := nodes(t, s, base, 1, 2)[1]
	o := told(t, s, c, handoff.Reimage, Ordering{})
	var wg sync.WaitGroup
	won := make(chan string, 16)
	var ready sync.WaitGroup
	for n := range 16 {
		x := newClient(t, base, fmt.Sprintf("127.0.2.%d", n+1), facts(2))
		x.nonce = []byte(fmt.Sprintf("%032d", n))
		ready.Add(1)
		wg.Go(func() {
			status, r := x.helloWith(t, o.Token)
			ready.Done()
			if status != 200 {
				t.Errorf("%d %+v", status, r)
			}
			ready.Wait()
			var st handoff.Standing
			if status, r, err := x.do(t.Context(), "POST", handoff.PathReveal, handoff.Reveal{Nonce: hex.EncodeToString(x.nonce)}, &st); status != 200 {
				t.Errorf("%d %+v %v", status, r, err)
			}
			if st.State == "approved" {
				won <- x.facts.Boot
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Errorf("%d winners", len(won))
	}
}

// TestOrdersOutliveTheSeed: what was promised before a kill holds after it.
func TestOrdersOutliveTheSeed(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, site(t, approve("ask")), fleetOptions())
	if err != nil {
		t.Fatal(err)
	}
	base := serve(t, s)
	c := nodes(t, s, base, 1, 2, 3)
	o := told(t, s, c[1], handoff.Reimage, Ordering{Leave: true})
	if _, err := s.Order("worker-2", handoff.Upgrade, Ordering{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openSeed(t, dir, site(t, approve("ask")), fleetOptions())
	base = serve(t, s)
	if local(s, c[1]) || !local(s, c[2]) {
		t.Error("where they start from is forgotten")
	}
	if m, err := s.TakeBack("worker-2"); err != nil || m.Order.Verb != handoff.Upgrade {
		t.Errorf("%+v %v", m, err)
	}
	x := newClient(t, base, "", facts(2))
	if status, r := x.helloWith(t, o.Token); status != 200 {
		t.Fatalf("a token of before the restart: %d %+v", status, r)
	}
	c[1].base = base
	n := c[1].order(t) // it runs still, and asks again
	if n.ID != o.ID || n.Token == o.Token || n.Token == "" {
		t.Errorf("%+v", n)
	}
	var st handoff.Standing
	if x.must(t, 200, "POST", handoff.PathReveal, handoff.Reveal{Nonce: hex.EncodeToString(x.nonce)}, &st); st.State != "waiting" {
		t.Errorf("by a token that another took the place of: %+v", st)
	}
}

func TestRemove(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), fleetOptions())
	base := serve(t, s)
	c := nodes(t, s, base, 1, 2, 3)
	if !s.Reachable("worker-1") || s.Reachable("nobody") {
		t.Error("who is reachable?")
	}
	o := told(t, s, c[1], handoff.Reset, Ordering{Forget: true})
	if o.Store != "" || o.Bundle != "" || o.Token != "" {
		t.Errorf("%+v", o)
	}
	c[1].must(t, 204, "POST", handoff.PathOrdered, handoff.Outcome{ID: o.ID, State: handoff.Done}, nil)
	m, err := s.Machine(c[1].facts.Boot)
	if err != nil || m.Name != "" || m.State != Seen || m.Disk != "" || local(s, c[1]) {
		t.Errorf("%+v %v", m, err)
	}
	c[1].must(t, 403, "GET", handoff.PathOrder, nil, nil)
	if m, err := s.Forget("worker-2"); err != nil || m.Name != "" {
		t.Errorf("%+v %v", m, err)
	}
	if len(s.Nodes()) != 1 {
		t.Errorf("%+v", s.Nodes())
	}
	fresh := newClient(t, base, "", facts(9))
	if m, err := s.Approve(fresh.enrol(t), ""); err != nil || m.Name != "worker-1" {
		t.Errorf("the name is not free: %+v %v", m, err)
	}
}

func TestNodesTellWhatTheyRun(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), fleetOptions())
	c := nodes(t, s, serve(t, s), 1)[0]
	if m := s.Nodes()[0]; m.Bundle != "site 3" || m.Kubernetes != "" {
		t.Errorf("%+v", m)
	}
	c.must(t, 204, "POST", handoff.PathEvents, handoff.Event{Phase: "upgrade", State: handoff.Failed, Code: "SW-SLOT", Text: "fell back", Data: map[string]any{"bundle": "x 9"}}.Line(), nil)
	c.must(t, 204, "POST", handoff.PathEvents, handoff.Event{Phase: "order", Step: "reset", State: handoff.Failed, Code: "SW-RESET-DISK", Text: "no disk"}.Line(), nil)
	if m := s.Nodes()[0]; m.Bundle != "site 3" || m.State != Taken { // not held: it runs on
		t.Errorf("%+v", m)
	}
	c.must(t, 204, "POST", handoff.PathEvents, handoff.Event{Phase: "upgrade", State: handoff.Done, Data: map[string]any{"bundle": "site 4", "kubernetes": "v1.38.0"}}.Line(), nil)
	if m := s.Nodes()[0]; m.Bundle != "site 4" || m.Kubernetes != "v1.38.0" {
		t.Errorf("%+v", m)
	}
}

// TestJoinWaitsForTheOldNode: it would be deleted in the new one's place.
func TestJoinWaitsForTheOldNode(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), fleetOptions())
	c := nodes(t, s, serve(t, s), 1, 2)[1]
	told(t, s, c, handoff.Reimage, Ordering{Leave: true})
	id := c.facts.Boot
	m, _ := s.Machine(id)
	o := *m.Order
	if !s.leaving(id) {
		t.Error("it does not leave")
	}
	for _, other := range []string{"another", o.ID, o.ID} {
		if err := s.Left(id, other, "gone"); err != nil {
			t.Error(err)
		}
		if s.leaving(id) != (other == "another") {
			t.Errorf("after %q", other)
		}
	}
}

// tryOrder asks and gives up at once.
func tryOrder(t *testing.T, c *client) *handoff.Order {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	var o handoff.Order
	if status, _, err := c.do(ctx, "GET", handoff.PathOrder, nil, &o); err == nil && status == 200 {
		return &o
	}
	return nil
}

// TestReimageOverAPowerCut: the machine was let in and lost power before it had
// its config. Its next start gets in when the first is silent, and not before.
func TestReimageOverAPowerCut(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), fleetOptions())
	base := serve(t, s)
	c := nodes(t, s, base, 1, 2)[1]
	o := told(t, s, c, handoff.Reimage, Ordering{})
	start := func() (*client, handoff.Standing) {
		x := newClient(t, base, "", facts(2))
		if status, r := x.helloWith(t, o.Token); status != 200 {
			t.Fatalf("%d %+v", status, r)
		}
		var st handoff.Standing
		x.must(t, 200, "POST", handoff.PathReveal, handoff.Reveal{Nonce: hex.EncodeToString(x.nonce)}, &st)
		return x, st
	}
	first, st := start()
	if st.State != "approved" {
		t.Fatalf("%+v", st)
	}
	second, st := start()
	if st.State != "waiting" || !strings.Contains(st.Text, "2 machines have the same MAC") {
		t.Errorf("while the first is there: %+v", st)
	}
	s.mu.Lock()
	s.presence[handoff.KeyID(first.public)].last -= liveFor
	s.mu.Unlock()
	conf, status := second.config(t)
	if status != 200 || conf.Name != "worker-1" {
		t.Fatalf("%d %+v", status, conf)
	}
	if r := first.must(t, 409, "GET", handoff.PathConfig, nil, nil); r.Code != codeReplaced {
		t.Errorf("the first one: %+v", r)
	}
	second.must(t, 204, "POST", handoff.PathTaken, nil, nil)
	if status, r := newClient(t, base, "", facts(2)).helloWith(t, o.Token); status != 403 || r.Code != codeToken {
		t.Errorf("%d %+v", status, r)
	}
}
