package enrol

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/report"
)

// authority is a seed's CA and the certificate of its server.
type authority struct {
	ca     *x509.Certificate
	server tls.Certificate
}

func newAuthority(t *testing.T, from time.Time) authority {
	t.Helper()
	make := func(tmpl, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if parent == nil {
			parent, signer = tmpl, key
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		return der, key
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "seed CA"}, NotBefore: from, NotAfter: from.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, caKey := make(root, nil, nil)
	ca, err := x509.ParseCertificate(caDER)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: from.Add(time.Hour), NotAfter: from.AddDate(1, 0, 0),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, key := make(leaf, ca, caKey)
	return authority{ca, tls.Certificate{Certificate: [][]byte{der, caDER}, PrivateKey: key}}
}

// seed implements the protocol of configs/handoff as far as a test wants it to.
type seed struct {
	t       *testing.T
	auth    authority
	mu      sync.Mutex
	nonce   []byte
	commit  string
	key     []byte // node's, PKIX DER
	code    string
	polls   int // of the config, answered with 202
	known   bool
	hellos  int
	tokens  []string // of the hellos
	refuse  map[string]*refused
	events  []handoff.Event
	batches []int
	taken   int
	joins   int
	cluster handoff.Cluster
}

func newSeed(t *testing.T, auth authority) *seed {
	return &seed{t: t, auth: auth, refuse: map[string]*refused{}, nonce: bytes.Repeat([]byte{7}, 32)}
}

// serve listens at address, "127.0.0.1:0" for any.
func (s *seed) serve(address string) *httptest.Server {
	s.t.Helper()
	l, err := net.Listen("tcp", address)
	for i := 0; err != nil && i < 50; i++ { // the port of a server that was just closed
		time.Sleep(20 * time.Millisecond)
		l, err = net.Listen("tcp", address)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(s.handle), ErrorLog: nil},
		TLS: &tls.Config{Certificates: []tls.Certificate{s.auth.server}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13}}
	srv.Config.ErrorLog = quiet()
	srv.StartTLS()
	s.t.Cleanup(srv.Close)
	return srv
}

func (s *seed) handle(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.refuse[r.URL.Path]; f != nil {
		w.WriteHeader(f.status)
		_ = json.NewEncoder(w).Encode(f.Refusal)
		return
	}
	key := r.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo
	body, _ := io.ReadAll(r.Body)
	answer := func(status int, v any) {
		w.WriteHeader(status)
		if v != nil {
			_ = json.NewEncoder(w).Encode(v)
		}
	}
	if r.URL.Path != handoff.PathHello && (!s.known || !bytes.Equal(key, s.key)) {
		answer(http.StatusUnauthorized, handoff.Refusal{Code: "SW-ENROL-UNKNOWN", Text: "say hello first"})
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "POST " + handoff.PathHello:
		var h handoff.Hello
		if err := json.Unmarshal(body, &h); err != nil {
			s.t.Error(err)
		}
		if s.tokens = append(s.tokens, h.Token); h.Token == "spent" {
			answer(http.StatusForbidden, handoff.Refusal{Code: "SW-ENROL-TOKEN", Text: "no more"})
			return
		}
		s.hellos, s.known, s.key, s.commit = s.hellos+1, true, key, h.Commit
		answer(http.StatusOK, handoff.Welcome{Cluster: "lab", Nonce: hex.EncodeToString(s.nonce), Time: time.Now().Add(time.Hour)})
	case "POST " + handoff.PathReveal:
		var v handoff.Reveal
		_ = json.Unmarshal(body, &v)
		nonce, _ := hex.DecodeString(v.Nonce)
		if sum := sha256.Sum256(nonce); len(nonce) != 32 || hex.EncodeToString(sum[:]) != s.commit {
			s.t.Errorf("nonce %q is not what was committed to", v.Nonce)
		}
		s.code = handoff.Code(s.key, s.auth.ca.Raw, nonce, s.nonce)
		answer(http.StatusOK, handoff.Standing{State: "waiting", Text: "waiting for approval"})
	case "GET " + handoff.PathConfig:
		if s.polls > 0 {
			s.polls--
			answer(http.StatusAccepted, handoff.Standing{State: "waiting", Text: "waiting for approval"})
			return
		}
		answer(http.StatusOK, handoff.Config{Name: "node-1", Files: map[string]string{"user-data": "#cloud-config\n{}\n"}})
	case "POST " + handoff.PathTaken:
		s.taken++
		answer(http.StatusNoContent, nil)
	case "POST " + handoff.PathEvents:
		s.batches = append(s.batches, len(body))
		for _, l := range strings.Split(strings.TrimSpace(string(body)), "\n") {
			e, ok, err := handoff.ParseLine([]byte(l))
			if !ok || err != nil {
				s.t.Errorf("line %q: %v", l, err)
			}
			s.events = append(s.events, e)
		}
		answer(http.StatusNoContent, nil)
	case "POST " + handoff.PathJoin:
		if s.joins++; s.joins == 1 {
			answer(http.StatusAccepted, handoff.Standing{State: "waiting", Text: "no cluster yet"})
			return
		}
		answer(http.StatusOK, handoff.Join{Server: "https://10.0.0.1:6443", CA: "x", Token: "abcdef.0123456789abcdef"})
	case "POST " + handoff.PathCluster:
		_ = json.Unmarshal(body, &s.cluster)
		answer(http.StatusNoContent, nil)
	case "POST " + handoff.PathJoined:
		answer(http.StatusNoContent, nil)
	default:
		answer(http.StatusNotFound, nil)
	}
}

// heard collects what a client reports.
type heard struct {
	mu sync.Mutex
	l  []handoff.Event
}

func (h *heard) tell(e handoff.Event) {
	h.mu.Lock()
	h.l = append(h.l, e)
	h.mu.Unlock()
}

func (h *heard) find(text string) *handoff.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.l {
		if strings.Contains(e.Text, text) {
			return &e
		}
	}
	return nil
}

func client(t *testing.T, url, pin string) (*Client, *heard) {
	t.Helper()
	h := &heard{}
	c, err := New(url, pin, h.tell)
	if err != nil {
		t.Fatal(err)
	}
	return c, h
}

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestEnrol(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name string
		from time.Time // of the seed's certificates, as a clock that is wrong sees them
		pin  bool
	}{
		{"pinned", now.AddDate(0, 0, -1), true},
		{"first seen", now.AddDate(0, 0, -1), false},
		{"the node's clock says 25 years earlier", now.AddDate(25, 0, 0), true},
		{"the node's clock says 12 years later", now.AddDate(-12, 0, 0), true},
		{"first seen, and the clock is early", now.AddDate(25, 0, 0), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSeed(t, newAuthority(t, c.from))
			s.polls = 2
			pin := ""
			if c.pin {
				pin = handoff.KeyID(s.auth.ca.Raw)
			}
			n, h := client(t, s.serve("127.0.0.1:0").URL, pin)
			ctx := limited(t)
			conf, err := n.Enrol(ctx, handoff.Facts{MACs: []string{"52:54:00:00:00:01"}})
			if err != nil || conf.Name != "node-1" || conf.Files["user-data"] == "" {
				t.Fatalf("%+v, %v", conf, err)
			}
			e := h.find("slipway approve " + s.code)
			if e == nil || e.Step != "code" || e.Data["code"] != s.code || len(s.code) != 7 {
				t.Errorf("code %q: events %+v", s.code, h.l)
			}
			if handoff.KeyID(s.key) != n.Key() {
				t.Errorf("the seed saw key %s, want %s", handoff.KeyID(s.key), n.Key())
			}
			if o := n.Offset(); o < 59*time.Minute || o > 61*time.Minute {
				t.Errorf("offset %s, want about 1h", o)
			}
			if err := errors.Join(n.Taken(ctx), n.Joined(ctx), n.Cluster(ctx, handoff.Cluster{Server: "x"})); err != nil || s.taken != 1 || s.cluster.Server != "x" {
				t.Errorf("%v, taken %d, cluster %+v", err, s.taken, s.cluster)
			}
			j, err := n.Join(ctx, handoff.JoinRequest{Name: "node-1", Key: strings.Repeat("0", 64)})
			if err != nil || j.Token == "" || h.find("no cluster yet") == nil {
				t.Errorf("%+v, %v", j, err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	good := newAuthority(t, time.Now().AddDate(0, 0, -1))
	other := newAuthority(t, time.Now().AddDate(0, 0, -1))
	alone := authority{good.ca, tls.Certificate{Certificate: other.server.Certificate[:1], PrivateKey: other.server.PrivateKey}}
	forged := authority{good.ca, tls.Certificate{Certificate: [][]byte{other.server.Certificate[0], good.ca.Raw}, PrivateKey: other.server.PrivateKey}}
	selfSigned := authority{good.ca, tls.Certificate{Certificate: [][]byte{other.server.Certificate[0], other.server.Certificate[0]}, PrivateKey: other.server.PrivateKey}}
	for _, c := range []struct {
		name   string
		server authority
		pin    string
		path   string
		answer *refused
		code   string
		text   string
	}{
		{"another CA", other, handoff.KeyID(good.ca.Raw), "", nil, "SW-ENROL-PIN", "want " + handoff.KeyID(good.ca.Raw)},
		{"no CA in the chain", alone, handoff.KeyID(good.ca.Raw), "", nil, "SW-ENROL-PIN", "1 certificate"},
		{"no CA, no pin", alone, "", "", nil, "SW-ENROL-PIN", "1 certificate"},
		{"the right CA beside another's certificate", forged, handoff.KeyID(good.ca.Raw), "", nil, "SW-ENROL-PIN", "unknown authority"},
		{"a leaf in place of the CA", selfSigned, "", "", nil, "SW-ENROL-PIN", "not a CA's"},
		{"rejected", good, "", handoff.PathConfig, &refused{handoff.Refusal{Code: "SW-ENROL-REJECTED", Text: "rejected by the operator", Hint: "ask him"}, 403}, "SW-ENROL-REJECTED", "rejected by the operator"},
		{"used up", good, "", handoff.PathConfig, &refused{handoff.Refusal{Code: "SW-ENROL-USED", Text: "given out already"}, 409}, "SW-ENROL-USED", "given out already"},
		{"not a seed", good, "", handoff.PathHello, &refused{status: 404}, "SW-ENROL-REFUSED", "404: Not Found"},
		{"redirected", good, "", handoff.PathHello, &refused{status: 302}, "SW-ENROL-REFUSED", "302: Found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSeed(t, c.server)
			if c.path != "" {
				s.refuse[c.path] = c.answer
			}
			n, h := client(t, s.serve("127.0.0.1:0").URL, c.pin)
			_, err := n.Enrol(limited(t), handoff.Facts{})
			var f *report.Failure
			if !errors.As(err, &f) || f.Code != c.code || f.Hint == "" || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("got %v (%+v), want %s with %q", err, f, c.code, c.text)
			}
			shown := false
			for _, e := range h.l {
				shown = e.Step == "code" && e.State == handoff.Running || shown && e.Step != "code"
			}
			if shown {
				t.Errorf("the code is still shown: %+v", h.l)
			}
			if c.path == "" && s.hellos > 0 {
				t.Error("the node spoke to it")
			}
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if _, err := n.Enrol(ctx, handoff.Facts{}); !errors.Is(err, context.Canceled) {
				t.Errorf("second attempt at once: %v", err)
			}
		})
	}
}

func TestSeedGoesAway(t *testing.T) {
	auth := newAuthority(t, time.Now().AddDate(0, 0, -1))
	for _, c := range []struct {
		name   string
		forget bool
		hellos int
	}{{"and remembers", false, 0}, {"and forgets", true, 1}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			first := newSeed(t, auth)
			first.polls = 1 << 30
			srv := first.serve("127.0.0.1:0")
			n, h := client(t, srv.URL, handoff.KeyID(auth.ca.Raw))
			type result struct {
				conf handoff.Config
				err  error
			}
			got := make(chan result, 1)
			ctx := limited(t)
			go func() {
				conf, err := n.Enrol(ctx, handoff.Facts{})
				got <- result{conf, err}
			}()
			wait(t, "the code", func() bool { return h.find("waiting for approval") != nil })
			srv.CloseClientConnections()
			srv.Close()
			wait(t, "that the seed is away", func() bool { return h.find("waiting for the seed at "+srv.URL) != nil })
			second := newSeed(t, auth)
			if !c.forget {
				second.known, second.key = true, first.key
			}
			second.serve(srv.Listener.Addr().String())
			r := <-got
			if r.err != nil || r.conf.Name != "node-1" || second.hellos != c.hellos {
				t.Errorf("%+v, %v, %d hellos, want %d", r.conf, r.err, second.hellos, c.hellos)
			}
			if h.find("answers again") == nil {
				t.Error("nobody said that it is back")
			}
		})
	}
}

func TestAnotherSeedTakesItsPlace(t *testing.T) {
	t.Parallel()
	first := newSeed(t, newAuthority(t, time.Now()))
	srv := first.serve("127.0.0.1:0")
	n, _ := client(t, srv.URL, "")
	if _, err := n.Enrol(limited(t), handoff.Facts{}); err != nil {
		t.Fatal(err)
	}
	srv.CloseClientConnections()
	srv.Close()
	second := newSeed(t, newAuthority(t, time.Now()))
	second.serve(srv.Listener.Addr().String())
	var f *report.Failure
	if err := n.Taken(limited(t)); !errors.As(err, &f) || f.Code != "SW-ENROL-PIN" || second.taken != 0 {
		t.Errorf("got %v, want SW-ENROL-PIN", err)
	}
}

func TestNew(t *testing.T) {
	for _, c := range []struct{ seed, pin string }{
		{"http://10.0.0.1:1", ""}, {"10.0.0.1", ""}, {"https://", ""}, {"https://10.0.0.1/x", ""}, {"https://10.0.0.1", "12"}, {"https://10.0.0.1", strings.Repeat("x", 64)},
	} {
		var f *report.Failure
		if _, err := New(c.seed, c.pin, nil); !errors.As(err, &f) || f.Code != "SW-CMDLINE" {
			t.Errorf("%q %q: got %v", c.seed, c.pin, err)
		}
	}
}

// TestWaitingIsOneLine: each try has a port of its own, and a machine may wait
// for days.
func TestWaitingIsOneLine(t *testing.T) {
	c, h := client(t, "https://127.0.0.1:1", "")
	for port := range 50 {
		c.away(&net.OpError{Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000 + port},
			Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, Err: errors.New("connection reset by peer")})
	}
	c.away(nil)
	if len(h.l) != 2 || !strings.Contains(h.l[0].Text, "waiting for the seed at https://127.0.0.1:1: connection reset by peer") {
		t.Errorf("%d events: %+v", len(h.l), h.l)
	}
}

// A token is told to a seed that is pinned, at each introduction.
func TestToken(t *testing.T) {
	s := newSeed(t, newAuthority(t, time.Now()))
	srv := s.serve("127.0.0.1:0")
	c, err := New(srv.URL, "", func(handoff.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Token("secret"); err == nil || !strings.Contains(err.Error(), "slipway.reimage=") {
		t.Errorf("without a pin: %v", err)
	}
	if _, err := c.Enrol(t.Context(), handoff.Facts{}); err != nil {
		t.Fatal(err)
	}
	if c, err = New(srv.URL, handoff.KeyID(s.auth.ca.Raw), func(handoff.Event) {}); err != nil {
		t.Fatal(err)
	}
	if err := c.Token("secret"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Enrol(t.Context(), handoff.Facts{}); err != nil {
		t.Fatal(err)
	}
	// One that the seed does not take is not shown again, and the operator is waited for.
	var h heard
	if c, err = New(srv.URL, handoff.KeyID(s.auth.ca.Raw), h.tell); err != nil {
		t.Fatal(err)
	}
	if err := c.Token("spent"); err != nil {
		t.Fatal(err)
	}
	if conf, err := c.Enrol(t.Context(), handoff.Facts{}); err != nil || conf.Name != "node-1" || h.find("waiting for approval instead") == nil || h.find("slipway approve") == nil {
		t.Errorf("a token that is spent: %+v, %v", conf, err)
	}
	if got := s.tokens[2:]; !slices.Equal(got, []string{"spent", ""}) {
		t.Errorf("the seed was told %q", got)
	}
	s.tokens = s.tokens[:2]
	if len(s.tokens) != 2 || s.tokens[0] != "" || s.tokens[1] != "secret" {
		t.Errorf("the seed was told %q", s.tokens)
	}
}
