package kube

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/test/kubeapi"
)

// news is what Watch told, and who waits for it.
type news struct {
	mu      sync.Mutex
	all     []string
	changed chan struct{}
}

func (n *news) tell(node string, ready bool, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, fmt.Sprintf("%s %v %s", node, ready, text))
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *news) wait(t *testing.T, want string) {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		n.mu.Lock()
		text, changed := strings.Join(n.all, "\n"), n.changed
		n.mu.Unlock()
		if strings.Contains(text, want) {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("never told %q:\n%s", want, text)
		}
	}
}

// site is a cluster with a seed that watches it.
type site struct {
	*kubeapi.Server
	cluster handoff.Cluster
	kube    *Kube
	news    *news
}

// watch runs until the function returned is called.
func (s *site) watch(t *testing.T) (stop func()) {
	t.Helper()
	s.kube = New(slog.New(slog.NewTextHandler(t.Output(), nil)))
	s.kube.first, s.kube.sweep = 20*time.Millisecond, 200*time.Millisecond
	s.news = &news{changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.kube.Watch(ctx, s.cluster, s.news.tell) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch ended with %v", err)
		}
	})
}

// ask creates a certificate request with a bootstrap token.
func (s *site) ask(t *testing.T, name, token string, r request, key *ecdsa.PrivateKey) int {
	t.Helper()
	return s.Do(t, http.MethodPost, pathCSR, token, map[string]any{"metadata": map[string]string{"name": name},
		"spec": map[string]any{"request": r.pem(t, key), "signerName": r.signer, "usages": r.usages}}, nil)
}

// condition waits for a decision on a request and for the certificate if it is
// approved.
func (s *site) condition(t *testing.T, name string) (kind, message string, cert []byte) {
	t.Helper()
	for range 300 {
		var c struct {
			Status struct {
				Conditions  []csrCondition
				Certificate []byte
			}
		}
		s.Do(t, http.MethodGet, pathCSR+"/"+name, "", nil, &c)
		if cs := c.Status.Conditions; len(cs) > 0 && (cs[0].Type == "Denied" || len(c.Status.Certificate) > 0) {
			return cs[0].Type, cs[0].Reason + ": " + cs[0].Message, c.Status.Certificate
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("request %q is undecided after 30 s", name)
	return
}

func (s *site) secrets(t *testing.T, node string) []secret {
	t.Helper()
	var l struct{ Items []secret }
	s.Do(t, http.MethodGet, pathSecrets+"?labelSelector="+nodeLabel+"%3D"+node, "", nil, &l)
	return l.Items
}

func (s *site) mint(t *testing.T, node, key string) string {
	t.Helper()
	j, err := s.kube.Mint(t.Context(), s.cluster, node, key)
	if err != nil {
		t.Fatal(err)
	}
	if j.Server != s.cluster.Server || j.CA != s.cluster.CA {
		t.Errorf("join %+v", j)
	}
	return j.Token
}

// works says whether a token authenticates: it may list nothing, but 401 means
// that the API server does not know it.
func (s *site) works(t *testing.T, token string) bool {
	t.Helper()
	for range 50 { // the authenticator reads a cache of Secrets
		code := s.Do(t, http.MethodGet, "/api/v1/namespaces/default/pods", token, nil, nil)
		if code == http.StatusForbidden {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}

func TestAgainstARealAPI(t *testing.T) {
	s := &site{Server: kubeapi.Start(t)}
	s.Kubeadm(t)
	s.cluster = s.Cluster(t)
	stop := s.watch(t)
	defer func() { stop() }()
	t.Run("one token a node", s.oneToken)
	t.Run("the enrolled request is approved", s.approved)
	t.Run("every other is denied", s.denied)
	t.Run("requests of nodes are left alone", s.leftAlone)
	t.Run("nodes are told", s.nodes)
	t.Run("expired tokens go", s.expired)
	t.Run("a restarted seed goes on", func(t *testing.T) {
		key, hash := newKey(t)
		token := s.mint(t, "w3", hash)
		stop()
		if code := s.ask(t, "w3", token, ordinary("w3"), key); code != http.StatusCreated {
			t.Fatal(code)
		}
		stop = s.watch(t)
		if kind, why, _ := s.condition(t, "w3"); kind != "Approved" {
			t.Errorf("%s %s", kind, why)
		}
	})
	t.Run("a real kubelet joins", s.kubelet)
	t.Run("a broken connection is made again", s.reconnects)
}

func (s *site) oneToken(t *testing.T) {
	_, hash := newKey(t)
	first := s.mint(t, "w1", hash)
	if code := s.Do(t, http.MethodGet, pathAutoApprove, "", nil, nil); code != http.StatusNotFound {
		t.Errorf("kubeadm's binding: HTTP %d, want 404", code)
	}
	if !s.works(t, first) {
		t.Error("the token does not work")
	}
	second := s.mint(t, "w1", hash)
	list := s.secrets(t, "w1")
	if len(list) != 1 || first == second {
		t.Fatalf("%d tokens of w1 after the second", len(list))
	}
	x := list[0]
	e, ok := x.enrolment()
	if id, word, _ := strings.Cut(second, "."); !ok || e != (enrolment{"w1", id, hash}) || string(x.Data["token-secret"]) != word || x.Metadata.Name != "bootstrap-token-"+id {
		t.Errorf("%+v, %v", e, ok)
	}
	end, err := time.Parse(time.RFC3339, string(x.Data["expiration"]))
	if left := time.Until(end); err != nil || left > Lifetime || left < Lifetime-time.Minute {
		t.Errorf("expires %s (%v)", x.Data["expiration"], err)
	}
	if x.Data["usage-bootstrap-signing"] != nil || string(x.Data["usage-bootstrap-authentication"]) != "true" || string(x.Data["auth-extra-groups"]) != tokenGroups {
		t.Errorf("%q", x.Data)
	}
	for range 2 { // the second finds nothing
		if err := s.kube.Finish(t.Context(), s.cluster, "w1"); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.secrets(t, "w1")); n != 0 {
		t.Errorf("%d tokens after Finish", n)
	}
	for range 250 {
		if s.Do(t, http.MethodGet, "/api/v1/namespaces/default/pods", second, nil, nil) == http.StatusUnauthorized {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("a deleted token still works")
}

func (s *site) approved(t *testing.T) {
	key, hash := newKey(t)
	token := s.mint(t, "w2", hash)
	if !s.works(t, token) {
		t.Fatal("the token does not work")
	}
	if code := s.ask(t, "w2", token, ordinary("w2"), key); code != http.StatusCreated {
		t.Fatal(code)
	}
	kind, why, raw := s.condition(t, "w2")
	if kind != "Approved" || why != `SlipwayEnrolled: node "w2" with the key it enrolled` {
		t.Fatalf("%s %s", kind, why)
	}
	b, _ := pem.Decode(raw)
	if cert, err := x509.ParseCertificate(b.Bytes); err != nil || cert.Subject.String() != "CN=system:node:w2,O=system:nodes" {
		t.Errorf("%v, %v", cert.Subject, err)
	}
	s.news.wait(t, "w2 false its certificate request is approved")
	s.mint(t, "w2", hash) // the same machine once more
	if code := s.Do(t, http.MethodGet, pathCSR+"/w2", "", nil, nil); code != http.StatusNotFound {
		t.Errorf("the earlier request of the key: HTTP %d, want 404", code)
	}
}

func (s *site) denied(t *testing.T) {
	key, hash := newKey(t)
	token := s.mint(t, "w1", hash)
	if !s.works(t, token) {
		t.Fatal("the token does not work")
	}
	let := 0
	for i, sp := range spoilings(t) {
		r := ordinary("w1")
		sp.spoil(&r)
		name := fmt.Sprintf("bad-%d", i)
		if s.ask(t, name, token, r, key) != http.StatusCreated {
			continue // the API server's own check was enough
		}
		let++
		if kind, why, _ := s.condition(t, name); kind != "Denied" || !strings.Contains(why, sp.want) {
			t.Errorf("%s: %s %s, want %q", sp.name, kind, why, sp.want)
		}
		s.news.wait(t, fmt.Sprintf("w1 false ALARM: certificate request %q of token %q denied: ", name, token[:6]))
	}
	if let < 10 {
		t.Errorf("only %d requests came to be judged", let)
	}
	t.Logf("%d of %d bad requests got past the API server, all of them denied", let, len(spoilings(t)))
	// A token that somebody else made.
	if code := s.Do(t, http.MethodPost, pathSecrets, "", secret{Metadata: metadata{Name: "bootstrap-token-foreig"}, Type: secretType,
		StringData: map[string]string{"token-id": "foreig", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true", "auth-extra-groups": tokenGroups}}, nil); code != http.StatusCreated {
		t.Fatal(code)
	}
	if !s.works(t, "foreig.0123456789abcdef") {
		t.Fatal("the foreign token does not work")
	}
	s.ask(t, "foreign", "foreig.0123456789abcdef", ordinary("w1"), key)
	if kind, why, _ := s.condition(t, "foreign"); kind != "Denied" || !strings.Contains(why, "not one of the seed's") {
		t.Errorf("%s %s", kind, why)
	}
	s.news.wait(t, ` false ALARM: certificate request "foreign" of token "foreig" denied`)
}

// leftAlone asks as a node that has joined, then badly with a token: when the
// second is denied the first has been looked at.
func (s *site) leftAlone(t *testing.T) {
	key, hash := newKey(t)
	token := s.mint(t, "w4", hash)
	s.works(t, token)
	s.ask(t, "w4", token, ordinary("w4"), key)
	_, _, raw := s.condition(t, "w4")
	b, _ := pem.Decode(raw)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(s.CA))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{{Certificate: [][]byte{b.Bytes}, PrivateKey: key}}}}}
	defer client.CloseIdleConnections()
	fresh, _ := newKey(t)
	body, err := json.Marshal(map[string]any{"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": map[string]string{"name": "rotation"},
		"spec": map[string]any{"request": ordinary("w4").pem(t, fresh), "signerName": kubeletSigner, "usages": []string{"digital signature", "client auth"}}})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Post(s.URL+pathCSR, "application/json", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("w4's own request: %s", resp.Status)
	}
	r := ordinary("w5")
	s.ask(t, "after", token, r, key)
	if kind, _, _ := s.condition(t, "after"); kind != "Denied" {
		t.Error(kind)
	}
	var c csr
	s.Do(t, http.MethodGet, pathCSR+"/rotation", "", nil, &c)
	if len(c.Status.Conditions) != 0 || c.Spec.Username != "system:node:w4" {
		t.Errorf("%+v", c)
	}
}

// kubelet starts a real one with the key it must use; what it asks for is what is
// approved. It ends at the container runtime, which is not there.
func (s *site) kubelet(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("kubelet runs as root only")
	}
	program := kubeapi.Program(t, "kubelet")
	const made = "/var/lib/kubelet" // kubelet makes it whatever its root directory is
	if _, err := os.Stat(made); os.IsNotExist(err) {
		t.Cleanup(func() { os.Remove(made) })
	}
	dir := t.TempDir()
	key, hash := newKey(t)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	token := s.mint(t, "w7", hash)
	if !s.works(t, token) {
		t.Fatal("the token does not work")
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{
		"pki/kubelet-client.key.tmp": string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})), // k8s.io/kubernetes/pkg/kubelet/certificate/bootstrap
		"ca.crt":                     s.CA,
		"config.yaml":                "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nfailSwapOn: false\nfailCgroupV1: false\ncgroupDriver: cgroupfs\ncontainerRuntimeEndpoint: unix://" + at("none.sock") + "\n",
		"bootstrap.conf": fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q, certificate-authority: %s}}]\nusers: [{name: u, user: {token: %s}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n",
			s.URL, at("ca.crt"), token),
	} {
		if err := os.MkdirAll(filepath.Dir(at(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--config="+at("config.yaml"), "--bootstrap-kubeconfig="+at("bootstrap.conf"), "--kubeconfig="+at("kubelet.conf"),
		"--cert-dir="+at("pki"), "--root-dir="+at("root"), "--hostname-override=w7")
	out, _ := cmd.CombinedOutput()
	raw, err := os.ReadFile(at("pki/kubelet-client-current.pem"))
	if err != nil {
		t.Fatalf("kubelet has no certificate: %v\n%s", err, out)
	}
	b, _ := pem.Decode(raw)
	cert, err := x509.ParseCertificate(b.Bytes)
	if err != nil || handoff.KeyID(cert.RawSubjectPublicKeyInfo) != hash || cert.Subject.CommonName != "system:node:w7" {
		t.Errorf("%v, %v", cert.Subject, err)
	}
	said := bytes.TrimSpace(out)
	t.Logf("%s; kubelet ended with %s", cert.Subject, said[bytes.LastIndexByte(said, '\n')+1:])
}

func (s *site) node(t *testing.T, name, status, message string) {
	t.Helper()
	n := map[string]any{"apiVersion": "v1", "kind": "Node", "metadata": map[string]string{"name": name}}
	s.Do(t, http.MethodPost, "/api/v1/nodes", "", n, nil)
	n["status"] = map[string]any{"conditions": []csrCondition{{Type: "Ready", Status: status, Reason: "Kubelet", Message: message}}}
	if code := s.Do(t, http.MethodPut, "/api/v1/nodes/"+name+"/status", "", n, nil); code != http.StatusOK {
		t.Fatal(code)
	}
}

func (s *site) nodes(t *testing.T) {
	s.node(t, "w2", "False", "no network yet")
	s.news.wait(t, "w2 false Kubelet: no network yet")
	s.node(t, "w2", "True", "well")
	s.news.wait(t, "w2 true Ready")
	s.Do(t, http.MethodDelete, "/api/v1/nodes/w2", "", nil, nil)
	s.news.wait(t, "w2 false the Node was deleted")
}

func (s *site) expired(t *testing.T) {
	for id, end := range map[string]time.Time{"oldold": time.Now().Add(-time.Second), "newnew": time.Now().Add(time.Hour)} {
		if code := s.Do(t, http.MethodPost, pathSecrets, "", secret{Metadata: metadata{Name: secretName + id, Labels: map[string]string{nodeLabel: id}}, Type: secretType,
			StringData: map[string]string{"token-id": id, "token-secret": "0123456789abcdef", "expiration": end.UTC().Format(time.RFC3339)}}, nil); code != http.StatusCreated {
			t.Fatal(code)
		}
	}
	for range 300 {
		if len(s.secrets(t, "oldold")) == 0 {
			if len(s.secrets(t, "newnew")) != 1 {
				t.Error("a token that lives was deleted")
			}
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Error("an expired token is still there after 30 s")
}

// reconnects puts a wire between seed and API server and cuts it.
func (s *site) reconnects(t *testing.T) {
	w := newWire(t, strings.TrimPrefix(s.URL, "https://"))
	far := *s
	far.cluster.Server = "https://" + w.l.Addr().String()
	stop := far.watch(t)
	defer stop()
	s.node(t, "n1", "False", "before")
	far.news.wait(t, "n1 false Kubelet: before")
	w.cut()
	s.node(t, "n1", "False", "while away")
	w.mend()
	far.news.wait(t, "n1 false Kubelet: while away")
	s.node(t, "n1", "True", "")
	far.news.wait(t, "n1 true Ready")
}

// wire is a TCP connection that can be cut.
type wire struct {
	l     net.Listener
	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{l: l}
	var g sync.WaitGroup
	t.Cleanup(func() { l.Close(); w.cut(); g.Wait() })
	g.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			w.mu.Lock()
			if w.conns = append(w.conns, in, out); w.down {
				in.Close()
				out.Close()
			}
			w.mu.Unlock()
			g.Go(func() { io.Copy(out, in); out.Close() })
			g.Go(func() { io.Copy(in, out); in.Close() })
		}
	})
	return w
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = true
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = false
}

func TestCredentialsThatCannotBeUsed(t *testing.T) {
	for name, x := range map[string]struct {
		c    handoff.Cluster
		want string
	}{
		"plain HTTP": {handoff.Cluster{Server: "http://192.0.2.1:6443"}, `want https://ADDRESS:PORT`},
		"a path":     {handoff.Cluster{Server: "https://192.0.2.1:6443/x"}, `want https://ADDRESS:PORT`},
		"no YAML":    {handoff.Cluster{Server: "https://192.0.2.1:6443", Kubeconfig: "{"}, "cluster: kubeconfig: "},
		"no user":    {handoff.Cluster{Server: "https://192.0.2.1:6443", Kubeconfig: "clusters: [{}]"}, "1 clusters and 0 users"},
	} {
		if err := New(slog.New(slog.DiscardHandler)).Watch(t.Context(), x.c, nil); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %q", name, err, x.want)
		}
	}
	if _, err := New(slog.New(slog.DiscardHandler)).Mint(t.Context(), handoff.Cluster{}, "w1", "AB"); err == nil || err.Error() != `token for node "w1": key "AB": want a SHA-256 in lower case hex` {
		t.Error(err)
	}
}
