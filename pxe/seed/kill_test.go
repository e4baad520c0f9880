package seed

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe"
)

var kills = flag.Int("kills", 30, "how often TestKill kills the seed")

// childDir tells the test binary to be a seed in that directory.
const childDir = "SLIPWAY_TEST_SEED_DIR"

const killSpec = "  endpoint: 192.0.2.1\n  nodes:\n    - {role: control-plane, count: 1, name: cp}\n    - {role: worker}\n"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// child is a seed with its DHCP server; it serves until it is killed.
func child(dir string) error {
	c, err := configs.ParseCluster("cluster.yaml", []byte("apiVersion: slipway.dev/v1alpha1\nkind: Cluster\nmetadata: {name: site}\nspec:\n"+killSpec))
	if err != nil {
		return err
	}
	s, err := Open(dir, c, fleetOptions())
	if err != nil {
		return err
	}
	s.hellos.SetLimit(1e6)
	d, err := pxe.NewDHCP(pxe.Network{Server: netip.MustParseAddr("10.0.0.1"), Subnet: netip.MustParsePrefix("10.0.0.0/24"),
		First: netip.MustParseAddr("10.0.0.100"), Last: netip.MustParseAddr("10.0.0.199"), LeaseTime: time.Hour},
		s.Leases(), func(pxe.Machine) pxe.Boot { return pxe.Boot{Known: true} })
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/approve", func(w http.ResponseWriter, r *http.Request) {
		if _, err := s.Approve(r.FormValue("code"), ""); err != nil {
			http.Error(w, err.Error(), 500)
		}
	})
	mux.HandleFunc("/order", func(w http.ResponseWriter, r *http.Request) {
		m, err := s.Order(r.FormValue("ref"), handoff.Reimage, Ordering{})
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		fmt.Fprint(w, m.Order.ID)
	})
	mux.HandleFunc("/dhcp", func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		p, err := dhcpv4.FromBytes(raw)
		if err != nil {
			http.Error(w, err.Error(), 400)
			return
		}
		a := d.Handle(p)
		for _, e := range a.Events {
			s.Observe(e)
		}
		if a.Packet != nil {
			_, _ = w.Write(a.Packet.ToBytes())
		}
	})
	node, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	operator, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go http.Serve(tls.NewListener(node, s.TLS(netip.MustParseAddr("127.0.0.1"))), s.Node())
	fmt.Printf("%s %s\n", node.Addr(), operator.Addr())
	return http.Serve(operator, mux)
}

// life is one run of the child.
type life struct {
	cmd            *exec.Cmd
	node, operator string
}

func start(t *testing.T, dir string) *life {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^$")
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	l := &life{cmd: cmd}
	if _, scanErr := fmt.Sscan(line, &l.node, &l.operator); err != nil || scanErr != nil {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("the seed did not start again: %q %v", line, err)
	}
	return l
}

func (l *life) kill() {
	l.cmd.Process.Kill()
	l.cmd.Wait()
}

// promises are what the seed has acknowledged, over all its lives.
type promises struct {
	t        *testing.T
	mu       sync.Mutex
	holder   map[netip.Addr]string // address → MAC
	machines []*promised
	next     int
	names    map[string]*promised
}

// promised is one machine and what was acknowledged to it.
type promised struct {
	c                          *client
	n                          int
	approved, asked, takenOver bool // asked: taken was sent; takenOver: and answered, or seen as used up
}

func (p *promises) lease(ctx context.Context, l *life, mac string) {
	hw, _ := net.ParseMAC(mac)
	send := func(q *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+l.operator+"/dhcp", bytes.NewReader(q.ToBytes()))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil || len(raw) == 0 {
			return nil
		}
		a, err := dhcpv4.FromBytes(raw)
		if err != nil {
			return nil
		}
		return a
	}
	q, err := dhcpv4.NewDiscovery(hw)
	if err != nil {
		return
	}
	offer := send(q)
	if offer == nil {
		return
	}
	if q, err = dhcpv4.NewRequestFromOffer(offer); err != nil {
		return
	}
	ack := send(q)
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
		return
	}
	a, _ := netip.AddrFromSlice(ack.YourIPAddr.To4())
	p.mu.Lock()
	defer p.mu.Unlock()
	if other, ok := p.holder[a]; ok && other != mac {
		p.t.Errorf("%s was given to %s and to %s", a, other, mac)
	}
	p.holder[a] = mac
}

// enrol takes a new machine as far as it gets.
func (p *promises) enrol(ctx context.Context, l *life) {
	p.mu.Lock()
	p.next++
	m := &promised{n: p.next}
	p.mu.Unlock()
	m.c = newClient(p.t, "https://"+l.node, fmt.Sprintf("127.0.%d.%d", 4+m.n/200, 1+m.n%200), facts(m.n))
	if status, _, err := m.c.hello(ctx); err != nil || status != 200 {
		return
	}
	if status, _, err := m.c.reveal(ctx); err != nil || status != 200 {
		return
	}
	req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+l.operator+"/approve?code="+m.c.code(), nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		return
	}
	p.mu.Lock()
	m.approved = true
	p.machines = append(p.machines, m)
	p.mu.Unlock()
	if rand.IntN(3) == 0 { // it fetches in a later life
		return
	}
	p.config(ctx, m, true)
}

// config fetches a config, checks the answer against what was promised, and may
// use the enrolment up.
func (p *promises) config(ctx context.Context, m *promised, take bool) {
	var conf handoff.Config
	status, r, err := m.c.do(ctx, "GET", handoff.PathConfig, nil, &conf)
	if err != nil {
		return
	}
	p.mu.Lock()
	switch {
	case status == 200 && m.takenOver:
		p.t.Errorf("machine %d: a config that was taken is given again", m.n)
	case status == 409 && m.asked:
		m.takenOver = true
	case status != 200 && !m.takenOver:
		p.t.Errorf("machine %d: an acknowledged approval is lost: %d %+v", m.n, status, r)
	case status == 200:
		if other := p.names[conf.Name]; other != nil && other != m {
			p.t.Errorf("%s is both machine %d and %d", conf.Name, other.n, m.n)
		}
		p.names[conf.Name] = m
	}
	take = take && status == 200
	m.asked = m.asked || take
	p.mu.Unlock()
	if !take {
		return
	}
	if status, _, err = m.c.do(ctx, "POST", handoff.PathTaken, nil, nil); err == nil && status == 204 {
		p.mu.Lock()
		m.takenOver = true
		p.mu.Unlock()
	}
}

// TestKill kills the seed at random moments. No address is given twice, no
// enrolment that was taken is usable again, no acknowledged approval is lost.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	p := &promises{t: t, holder: map[netip.Addr]string{}, names: map[string]*promised{}}
	window := 100 // ms until a kill, at most: longer while nothing gets done in it, as on a busy host
	for round := range *kills {
		l := start(t, dir)
		ctx, stop := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for w := range 2 {
			wg.Go(func() {
				for ctx.Err() == nil {
					p.lease(ctx, l, fmt.Sprintf("52:54:01:00:%02x:%02x", w, rand.IntN(20)))
				}
			})
			wg.Go(func() {
				for ctx.Err() == nil {
					p.enrol(ctx, l)
				}
			})
		}
		p.mu.Lock()
		old, before := append([]*promised(nil), p.machines...), len(p.machines)
		p.mu.Unlock()
		if n := len(old) - 8; n > 0 && round < *kills-1 {
			old = append(old[n:], old[rand.IntN(n)]) // and one of long ago
		}
		for _, m := range old {
			m.c.base = "https://" + l.node
			p.config(ctx, m, rand.IntN(2) == 0)
		}
		if round < *kills-1 {
			time.Sleep(time.Duration(5+rand.IntN(window)) * time.Millisecond)
		}
		l.kill()
		stop()
		wg.Wait()
		if len(p.machines) > before {
			window = 100
		} else {
			window = min(2*window, 10_000)
		}
	}
	taken := 0
	for _, m := range p.machines {
		if m.takenOver {
			taken++
		}
	}
	t.Logf("%d kills: %d addresses, %d approvals, %d of them taken", *kills, len(p.holder), len(p.machines), taken)
	if len(p.holder) == 0 || taken == 0 {
		t.Error("nothing happened: the test shows nothing")
	}
	if s, err := Open(dir, site(t, killSpec), Options{}); err != nil {
		t.Error(err)
	} else {
		held := 0
		all, _ := s.Leases().All()
		for _, a := range all {
			if p.holder[a.Addr] == a.MAC.String() {
				held++
			}
		}
		if held != len(p.holder) {
			t.Errorf("%d of %d acknowledged leases are on disk", held, len(p.holder))
		}
		for _, m := range s.Machines() {
			if strings.HasPrefix(m.Name, "worker-") && m.State != Approved && m.State != Taken {
				t.Errorf("%+v", m)
			}
		}
		s.Close()
	}
}

// reimaged is one machine that is reimaged while the seed is killed, and what was
// acknowledged: how far it came at least.
type reimaged struct {
	old, fresh *client
	id, token  string // of the order
	stage      string // "", ordered, told, approved, taken
	last       string // what was asked for last: it may have happened
}

// run goes through a reimage until something is not answered.
func (m *reimaged) run(ctx context.Context, l *life) {
	m.last = "ordered"
	req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+l.operator+"/order?ref="+m.old.facts.Boot, nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return
	}
	id, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != 200 {
		return
	}
	m.id, m.stage, m.last = string(id), "ordered", "told"
	var o handoff.Order
	if status, _, err := m.old.do(ctx, "GET", handoff.PathOrder, nil, &o); err != nil || status != 200 {
		return
	}
	m.token, m.stage, m.last = o.Token, "told", "approved"
	m.fresh.nonce = make([]byte, 32)
	sum := sha256.Sum256(m.fresh.nonce)
	if status, _, err := m.fresh.do(ctx, "POST", handoff.PathHello, handoff.Hello{Facts: m.fresh.facts, Commit: hex.EncodeToString(sum[:]), Token: m.token}, nil); err != nil || status != 200 {
		return
	}
	var st handoff.Standing
	if _, _, err := m.fresh.do(ctx, "POST", handoff.PathReveal, handoff.Reveal{Nonce: hex.EncodeToString(m.fresh.nonce)}, &st); err != nil || st.State != "approved" {
		return
	}
	m.stage, m.last = "approved", "taken"
	if status, _, err := m.fresh.do(ctx, "POST", handoff.PathTaken, nil, nil); err == nil && status == 204 {
		m.stage, m.last = "taken", ""
	}
}

// holds asks the next seed whether what was acknowledged is still so.
func (m *reimaged) holds(t *testing.T, l *life) {
	t.Helper()
	m.old.base, m.fresh.base = "https://"+l.node, "https://"+l.node
	if m.stage == "taken" {
		x := newClient(t, m.old.base, "", m.old.facts)
		if status, r := x.helloWith(t, m.token); status != 403 || r.Code != codeToken {
			t.Errorf("a token that was used before the kill: %d %+v", status, r)
		}
		return
	}
	if m.stage == "approved" {
		if status, r, err := m.fresh.do(t.Context(), "GET", handoff.PathConfig, nil, nil); err != nil || status != 200 && (status != 409 || r.Code != codeTaken) {
			t.Errorf("let in before the kill: %d %+v %v", status, r, err)
		}
		return
	}
	var o handoff.Order
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	switch status, r, err := m.old.do(ctx, "GET", handoff.PathOrder, nil, &o); {
	case err != nil && m.stage == "" && ctx.Err() != nil: // none: it waits for one
	case err != nil:
		t.Error(err)
	case status == 200 && (m.stage == "" && m.last == "ordered" || o.ID == m.id):
	case status == 403 && m.last == "approved": // it was let in, and nobody heard
	default:
		t.Errorf("%q acknowledged before the kill, %q asked: %d %+v %+v", m.stage, m.last, status, o, r)
	}
}

// TestKillReimage kills the seed at random moments of a reimage.
func TestKillReimage(t *testing.T) {
	dir := t.TempDir()
	stages := map[string]int{}
	l := start(t, dir)
	for n := range max(1, *kills/2) {
		f := facts(5000 + n)
		m := &reimaged{old: newClient(t, "https://"+l.node, "", f), fresh: newClient(t, "https://"+l.node, "", f)}
		code := m.old.enrol(t)
		if resp, err := http.Post("http://"+l.operator+"/approve?code="+code, "", nil); err != nil || resp.StatusCode != 200 {
			t.Fatal(err)
		}
		m.old.config(t)
		m.old.must(t, 204, "POST", handoff.PathTaken, nil, nil)
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { m.run(ctx, l); close(ended) }()
		time.Sleep(time.Duration(rand.IntN(12_000)) * time.Microsecond)
		l.kill()
		stop()
		<-ended
		stages[m.stage]++
		l = start(t, dir)
		m.holds(t, l)
	}
	l.kill()
	t.Logf("killed with acknowledged: %v", stages)
}
