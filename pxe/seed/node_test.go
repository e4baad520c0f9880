package seed

import (
	"bytes"
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
	"strings"
	"sync"
	"testing"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
)

// site is a cluster.yaml around some lines of its spec.
func site(t testing.TB, spec string) *configs.Cluster {
	t.Helper()
	c, err := configs.ParseCluster("cluster.yaml", []byte("apiVersion: slipway.dev/v1alpha1\nkind: Cluster\nmetadata: {name: site}\nspec:\n"+spec))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const twoRules = "  nodes:\n    - {role: control-plane, count: 1}\n    - {role: worker}\n"

func approve(how string) string { return twoRules + "  seed: {approve: " + how + "}\n" }

func openSeed(t testing.TB, dir string, c *configs.Cluster, o Options) *Seed {
	t.Helper()
	s, err := Open(dir, c, o)
	if err != nil {
		t.Fatal(err)
	}
	s.hellos.SetLimit(1e6)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// serve is a server of Node on loopback.
func serve(t testing.TB, s *Seed) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Server{Handler: s.Node(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go h.Serve(tls.NewListener(l, s.TLS(netip.MustParseAddr("127.0.0.1"))))
	t.Cleanup(func() { h.Close() })
	return "https://" + l.Addr().String()
}

// client is a node's side of the conversation.
type client struct {
	base   string
	http   *http.Client
	public []byte
	ca     []byte
	facts  handoff.Facts
	nonce  []byte
	seed   []byte
}

// newClient makes a machine with a key of its own that calls from an address.
func newClient(t testing.TB, base, from string, f handoff.Facts) *client {
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
	c := &client{base: base, facts: f}
	if c.public, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		t.Fatal(err)
	}
	d := &net.Dialer{}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c.http = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: d.DialContext, TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) != 2 {
				return fmt.Errorf("%d certificates, want the server's and its CA's", len(cs.PeerCertificates))
			}
			c.ca = cs.PeerCertificates[1].Raw
			return cs.PeerCertificates[0].CheckSignatureFrom(cs.PeerCertificates[1])
		}}}}
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

func (c *client) do(ctx context.Context, method, path string, body any, into any) (int, *handoff.Refusal, error) {
	var raw []byte
	switch b := body.(type) {
	case nil:
	case []byte:
		raw = b
	default:
		raw, _ = json.Marshal(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(raw))
	if err != nil {
		return 0, nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, err
	}
	if resp.StatusCode >= 400 {
		r := new(handoff.Refusal)
		if err := json.Unmarshal(out, r); err != nil || !strings.HasPrefix(r.Code, "SW-") {
			return 0, nil, fmt.Errorf("%s: status %d with %q: not a Refusal", path, resp.StatusCode, out)
		}
		return resp.StatusCode, r, nil
	}
	if into != nil && len(out) > 0 {
		err = json.Unmarshal(out, into)
	}
	return resp.StatusCode, nil, err
}

// must makes a request that has to be answered with a status.
func (c *client) must(t testing.TB, want int, method, path string, body, into any) *handoff.Refusal {
	t.Helper()
	got, r, err := c.do(t.Context(), method, path, body, into)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if got != want {
		t.Fatalf("%s: got %d (%+v), want %d", path, got, r, want)
	}
	return r
}

func (c *client) hello(ctx context.Context) (int, *handoff.Refusal, error) {
	c.nonce = make([]byte, 32)
	rand.Read(c.nonce)
	sum := sha256.Sum256(c.nonce)
	var w handoff.Welcome
	status, r, err := c.do(ctx, "POST", handoff.PathHello, handoff.Hello{Facts: c.facts, Commit: hex.EncodeToString(sum[:])}, &w)
	c.seed, _ = hex.DecodeString(w.Nonce)
	return status, r, err
}

func (c *client) reveal(ctx context.Context) (int, *handoff.Refusal, error) {
	return c.do(ctx, "POST", handoff.PathReveal, handoff.Reveal{Nonce: hex.EncodeToString(c.nonce)}, nil)
}

// enrol says hello and reveals; it returns the code.
func (c *client) enrol(t testing.TB) string {
	t.Helper()
	for _, f := range []func(context.Context) (int, *handoff.Refusal, error){c.hello, c.reveal} {
		if status, r, err := f(t.Context()); err != nil || status != 200 {
			t.Fatalf("enrolling: %d %+v %v", status, r, err)
		}
	}
	return c.code()
}

func (c *client) code() string { return handoff.Code(c.public, c.ca, c.nonce, c.seed) }

// config fetches the config; a short context ends the wait.
func (c *client) config(t testing.TB) (handoff.Config, int) {
	t.Helper()
	var conf handoff.Config
	status, r, err := c.do(t.Context(), "GET", handoff.PathConfig, nil, &conf)
	if err != nil {
		t.Fatal(err)
	}
	if r != nil {
		t.Logf("config: %d %s %s", status, r.Code, r.Text)
	}
	return conf, status
}

func facts(n int) handoff.Facts {
	mac := fmt.Sprintf("52:54:00:00:%02x:%02x", n>>8, n&255)
	return handoff.Facts{Arch: arch.AMD64, Serial: fmt.Sprintf("SN%04d", n), UUID: fmt.Sprintf("11111111-2222-3333-4444-%012d", n),
		Boot: mac, MACs: []string{mac}, Memory: 4 << 30, CPUs: 2, Firmware: "uefi", Medium: "network"}
}

func TestEnrolByCode(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), Options{Address: netip.MustParsePrefix("10.0.0.1/24")})
	c := newClient(t, serve(t, s), "", facts(1))
	if r := c.must(t, 404, "GET", handoff.PathConfig, nil, nil); r.Code != codeUnknown {
		t.Errorf("got %s", r.Code)
	}
	code := c.enrol(t)
	if sum := sha256.Sum256(c.ca); hex.EncodeToString(sum[:]) != s.Pin() {
		t.Error("the pin is not the CA's")
	}
	m, err := s.Machine(code)
	if err != nil || m.State != Waiting || m.Code != code || m.ID != c.facts.Boot {
		t.Fatalf("%+v, %v", m, err)
	}
	if r := c.must(t, 409, "POST", handoff.PathTaken, nil, nil); r.Code != codeWaiting {
		t.Errorf("got %s", r.Code)
	}
	if _, err := s.Approve(m.ID, "000-000"); HTTPStatus(err) != 409 {
		t.Errorf("approved with another code: %v", err)
	}
	got := make(chan handoff.Config)
	go func() {
		var conf handoff.Config
		c.do(context.Background(), "GET", handoff.PathConfig, nil, &conf)
		got <- conf
	}()
	if m, err = s.Approve(m.ID, strings.ToLower(code)); err != nil || m.State != Approved || m.Name != "control-plane-1" || m.Role != configs.RoleControlPlane {
		t.Fatalf("%+v, %v", m, err)
	}
	if conf := <-got; conf.Name != "control-plane-1" || !strings.Contains(conf.Files["user-data"], "10.0.0.1") {
		t.Errorf("got %+v", conf)
	}
	first, _ := c.config(t)
	if again, _ := c.config(t); first.Files["meta-data"] != again.Files["meta-data"] {
		t.Error("a second fetch differs")
	}
	c.must(t, 204, "POST", handoff.PathTaken, nil, nil)
	c.must(t, 204, "POST", handoff.PathTaken, nil, nil)
	for range 2 {
		if r := c.must(t, 409, "GET", handoff.PathConfig, nil, nil); r.Code != codeTaken {
			t.Errorf("got %s", r.Code)
		}
	}
	if status, r, _ := c.hello(t.Context()); status != 409 || r.Code != codeTaken {
		t.Errorf("hello of a used key: %d %+v", status, r)
	}
	if m, _ = s.Machine("control-plane-1"); m.State != Taken || m.Code != "" {
		t.Errorf("%+v", m)
	}
	for _, st := range s.Timeline(m.ID) {
		t.Log(st.Stage, st.State, st.Text)
	}
}

// TestAgain: a machine that was a node needs the operator, whatever the rule.
func TestAgain(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("auto")), Options{})
	base := serve(t, s)
	if err := s.Arm(time.Minute); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, base, "", facts(1))
	c.enrol(t)
	if _, status := c.config(t); status != 200 {
		t.Fatal(status)
	}
	c.must(t, 204, "POST", handoff.PathTaken, nil, nil)
	again := newClient(t, base, "", facts(1))
	again.enrol(t)
	m, _ := s.Machine(c.facts.Boot)
	if m.State != Waiting || m.Reason != "enrolled before as control-plane-1; approve again to replace it" {
		t.Fatalf("%+v", m)
	}
	if m, err := s.Approve(m.ID, ""); err != nil || m.Name != "control-plane-1" {
		t.Fatalf("%+v %v", m, err)
	}
	a, _ := again.config(t)
	if a.Name != "control-plane-1" {
		t.Fatalf("%+v", a)
	}
	if r := c.must(t, 409, "GET", handoff.PathConfig, nil, nil); r.Code != codeReplaced {
		t.Errorf("the old key: %s", r.Code)
	}
}

// TestRace: 64 machines at once want the one slot; exactly one gets it.
func TestRace(t *testing.T) {
	one := "  nodes:\n    - {role: control-plane, count: 1, name: cp}\n  seed: {approve: auto}\n"
	s := openSeed(t, t.TempDir(), site(t, one), Options{})
	base := serve(t, s)
	if err := s.Arm(time.Minute); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	won := make(chan string, 64)
	for n := range 64 {
		c := newClient(t, base, fmt.Sprintf("127.0.1.%d", n+1), facts(n))
		wg.Go(func() {
			if status, r, err := c.hello(t.Context()); status != 200 {
				t.Errorf("hello: %d %+v %v", status, r, err)
				return
			}
			if status, r, err := c.reveal(t.Context()); status != 200 {
				t.Errorf("reveal: %d %+v %v", status, r, err)
				return
			}
			ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
			defer stop()
			var conf handoff.Config
			if status, _, err := c.do(ctx, "GET", handoff.PathConfig, nil, &conf); status == 200 {
				won <- conf.Name
			} else if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 || <-won != "cp" {
		t.Fatalf("%d machines got the slot", len(won)+1)
	}
	waiting := 0
	for _, m := range s.Machines() {
		if m.State == Waiting && strings.Contains(m.Reason, "no rule of cluster.yaml has room") {
			waiting++
		}
	}
	if waiting != 63 {
		t.Errorf("%d wait with a reason, want 63", waiting)
	}
}
