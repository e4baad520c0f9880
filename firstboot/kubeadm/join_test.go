package kubeadm

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/supervise"
)

const joinToken = "abcdef.0123456789abcdef"

// branch is a site whose API server signs requests and whose kubeadm joins.
type branch struct {
	*site
	ca      *x509.Certificate
	key     *ecdsa.PrivateKey
	life    time.Duration
	asked   []handoff.JoinRequest
	done    int
	waiting int // polls of a request before it is approved
	denied  bool
	issue   string // name in the certificate, "" for the one asked for
	known   int    // polls for which a Node of this name is Ready to a token
	request []byte
	seen    map[string]string // files while kubeadm ran
	broken  bool              // kubeadm ends before kubelet's files are there
}

func newBranch(t *testing.T) *branch {
	b := &branch{site: newSite(t), life: time.Hour, waiting: 1, seen: map[string]string{}}
	b.api.Config.Handler = http.HandlerFunc(b.serve)
	var err error
	if b.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	b.ca = b.sign(&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cluster"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, b.key.Public())
	return b
}

func (b *branch) sign(tmpl, parent *x509.Certificate, public any) *x509.Certificate {
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, public, b.key)
	if err != nil {
		b.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// bundle is the cluster's CA and, for this test's server, that one's certificate.
func (b *branch) bundle() string {
	enc := func(c *x509.Certificate) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return enc(b.ca) + enc(b.api.Certificate())
}

func (b *branch) serve(w http.ResponseWriter, r *http.Request) {
	const csrs = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	token := r.Header.Get("Authorization") == "Bearer "+joinToken
	switch {
	case !token && len(r.TLS.PeerCertificates) == 0:
		http.Error(w, `{"message":"Unauthorized"}`, http.StatusUnauthorized)
	case r.Method == http.MethodPost && r.URL.Path == csrs:
		raw, _ := io.ReadAll(r.Body)
		var s struct {
			Spec struct {
				Request []byte
				Signer  string `json:"signerName"`
				Usages  []string
			}
		}
		if err := json.Unmarshal(raw, &s); err != nil || s.Spec.Signer != "kubernetes.io/kube-apiserver-client-kubelet" || fmt.Sprint(s.Spec.Usages) != "[digital signature client auth]" {
			b.t.Errorf("request %s: %v", raw, err)
		}
		block, _ := pem.Decode(s.Spec.Request)
		b.request = block.Bytes
		fmt.Fprint(w, `{"metadata":{"name":"slipway-node-1-x"}}`)
	case r.Method == http.MethodGet && r.URL.Path == csrs+"/slipway-node-1-x":
		b.answerRequest(w)
	case r.URL.Path == "/api/v1/nodes/node-1" && token:
		b.known--
		fmt.Fprintf(w, `{"status":{"conditions":[{"type":"Ready","status":"%v"}]}}`, map[bool]string{true: "True", false: "Unknown"}[b.known >= 0])
	case r.URL.Path == "/version":
		fmt.Fprint(w, `{"gitVersion":"v1.38.2"}`)
	case r.URL.Path == "/api/v1/pods" && r.URL.Query().Get("fieldSelector") != "spec.nodeName=node-1":
		http.Error(w, `{"message":"can only list pods with spec.nodeName field selector"}`, http.StatusForbidden)
	case r.URL.Path == "/api/v1/nodes/node-1", r.URL.Path == "/api/v1/pods":
		b.site.serve(w, r)
	default:
		http.Error(w, `{"message":"forbidden"}`, http.StatusForbidden)
	}
}

func (b *branch) answerRequest(w http.ResponseWriter) {
	if b.denied {
		fmt.Fprint(w, `{"status":{"conditions":[{"type":"Denied","reason":"Key","message":"another key"}]}}`)
		return
	}
	if b.waiting--; b.waiting >= 0 {
		fmt.Fprint(w, `{"status":{}}`)
		return
	}
	r, err := x509.ParseCertificateRequest(b.request)
	if err != nil || r.CheckSignature() != nil {
		b.t.Error(err)
	}
	if r.Subject.CommonName != "system:node:node-1" || fmt.Sprint(r.Subject.Organization) != "[system:nodes]" || handoff.KeyID(r.RawSubjectPublicKeyInfo) != b.asked[len(b.asked)-1].Key {
		b.t.Errorf("request of %s for key %s, asked for %+v", r.Subject, handoff.KeyID(r.RawSubjectPublicKeyInfo), b.asked)
	}
	subject := r.Subject
	if b.issue != "" {
		subject.CommonName = b.issue
	}
	c := b.sign(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: subject, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(b.life),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, b.ca, r.PublicKey)
	raw, _ := json.Marshal(map[string]any{"status": map[string]any{"certificate": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}),
		"conditions": []any{map[string]any{"type": "Approved"}}}})
	_, _ = w.Write(raw)
}

// exec replays kubeadm: join leaves kubelet's files.
func (b *branch) exec(_ context.Context, cmd *exec.Cmd, line func(string)) error {
	b.ran = append(b.ran, cmd.Args)
	if cmd.Path == nftProgram || cmd.Args[1] == "upgrade" {
		return nil
	}
	for _, f := range []string{joinConfig, discoveryConf, kubeletKubeconfig, kubeletClient} {
		b.seen[f] = b.read(f)
	}
	if b.broken {
		line("[preflight] Running pre-flight checks")
		return &supervise.ExitError{Program: cmd.Path, Err: errors.New("exit status 1")}
	}
	b.put(kubeletBootstrap, "token: "+joinToken)
	b.put(kubeletConfig, "x")
	b.put(kubeletFlags, "x")
	f, err := os.Open("testdata/join.out")
	if err != nil {
		return err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line(sc.Text())
	}
	return nil
}

func (b *branch) runner() Runner {
	r := b.site.runner()
	r.Exec = b.exec
	r.server = ""
	return r
}

func (b *branch) means() Means {
	return Means{Ask: func(_ context.Context, j handoff.JoinRequest) (handoff.Join, error) {
		b.asked = append(b.asked, j)
		return handoff.Join{Server: b.api.URL, CA: b.bundle(), Token: joinToken}, nil
	}, Done: func() { b.done++ }}
}

// secrets finds files that hold the token.
func (b *branch) secrets() (found []string) {
	_ = filepath.Walk(b.root, func(name string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			if raw, _ := os.ReadFile(name); strings.Contains(string(raw), joinToken) {
				found = append(found, name)
			}
		}
		return err
	})
	return found
}

func TestJoin(t *testing.T) {
	b := newBranch(t)
	b.api.TLS.ClientAuth = tls.RequestClientCert
	b.known = 1
	n := single()
	n.Overrides = map[string]map[string]any{"KubeletConfiguration": {"maxPods": 50}, "JoinConfiguration": {"nodeRegistration": map[string]any{"imagePullPolicy": "Never"}}}
	if err := b.runner().Join(context.Background(), n, b.means()); err != nil {
		t.Fatal(err)
	}
	argv := strings.ReplaceAll(fmt.Sprint(b.ran), b.root, "ROOT")
	if want := "[[" + nftProgram + " -f ROOT/run/slipway/guard.nft] [" + kubeadmProgram + " join --config ROOT" + joinConfig + "]]"; argv != want {
		t.Errorf("ran %s, want %s", argv, want)
	}
	golden(t, "join.yaml", []byte(strings.ReplaceAll(b.seen[joinConfig], b.root, "")))
	if patch := b.read(patchesDir + "/kubeletconfiguration0+merge.yaml"); patch != "maxPods: 50\n" {
		t.Errorf("patch %q", patch)
	}
	if !strings.Contains(b.seen[discoveryConf], joinToken) || strings.Contains(b.seen[joinConfig]+b.seen[kubeletKubeconfig], joinToken) {
		t.Error("the token belongs into the discovery file alone")
	}
	for f, mode := range map[string]os.FileMode{joinConfig: 0o600, kubeletKubeconfig: 0o600, kubeletClient: 0o600} {
		if info, err := os.Stat(filepath.Join(b.root, f)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v, want mode %v", f, info, err, mode)
		}
	}
	if to, err := os.Readlink(filepath.Join(b.root, kubeletClient)); err != nil || !strings.HasPrefix(to, "kubelet-client-20") {
		t.Errorf("%s points to %q, %v: kubelet wants a link", kubeletClient, to, err)
	}
	var conf struct {
		Users []struct {
			User map[string]string `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal([]byte(b.seen[kubeletKubeconfig]), &conf); err != nil || conf.Users[0].User["client-certificate"] != kubeletClient {
		t.Errorf("kubelet.conf %s: %v", b.seen[kubeletKubeconfig], err)
	}
	if s := b.secrets(); len(s) > 0 || b.done != 1 || b.read(joinedMarker) != "v1.37.1\n" {
		t.Errorf("token left in %q, done %d times", s, b.done)
	}
	if last := b.events[len(b.events)-1]; last.Step != "ready" || last.State != handoff.Done {
		t.Errorf("last event is %+v", last)
	}
	// Once more, as after a restart.
	b.ran, b.asked = nil, nil
	if err := b.runner().Join(context.Background(), n, b.means()); err != nil || len(b.ran) != 1 || len(b.asked) != 0 || b.done != 1 {
		t.Errorf("second time: %v, ran %q, asked %d times", err, b.ran, len(b.asked))
	}
}

func TestJoinGoesOn(t *testing.T) {
	for _, c := range []struct {
		name    string
		cut     func(b *branch) // after a whole join
		asks    int
		kubeadm bool
		tokens  int // tells the seed
	}{
		{"nothing was lost", func(b *branch) {}, 0, false, 0},
		{"before the marker", func(b *branch) { b.gone(joinedMarker) }, 0, false, 1},
		{"while kubelet started", func(b *branch) {
			b.gone(joinedMarker)
			b.put(kubeletBootstrap, joinToken)
			b.put(discoveryConf, joinToken)
		}, 0, false, 1},
		{"before the flags", func(b *branch) { b.gone(joinedMarker, kubeletFlags); b.put(kubeletBootstrap, joinToken) }, 1, true, 1},
		{"flags are empty", func(b *branch) { b.gone(joinedMarker); b.put(kubeletFlags, "") }, 1, true, 1},
		{"before kubeadm", func(b *branch) { b.gone(joinedMarker, kubeletFlags, kubeletConfig) }, 1, true, 1},
		{"before kubelet.conf", func(b *branch) { b.gone(joinedMarker, kubeletFlags, kubeletConfig, kubeletKubeconfig) }, 1, true, 1},
		{"after the CA", func(b *branch) {
			b.gone(joinedMarker, kubeletFlags, kubeletConfig, kubeletKubeconfig, kubeletClient)
		}, 1, true, 1},
		{"the certificate is another CA's", func(b *branch) { b.gone(joinedMarker); b.put(pkiDir+"/ca.crt", "x") }, 1, true, 1},
		{"the certificate has ended", func(b *branch) { b.expire() }, 1, false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBranch(t)
			b.api.TLS.ClientAuth = tls.RequestClientCert
			if err := b.runner().Join(context.Background(), single(), b.means()); err != nil {
				t.Fatal(err)
			}
			b.ran, b.asked, b.done = nil, nil, 0
			c.cut(b)
			if err := b.runner().Join(context.Background(), single(), b.means()); err != nil {
				t.Fatal(err)
			}
			if len(b.asked) != c.asks || (len(b.ran) == 2) != c.kubeadm || b.done != c.tokens {
				t.Errorf("asked %d times, want %d; ran %q; done %d times, want %d", len(b.asked), c.asks, b.ran, b.done, c.tokens)
			}
			if s := b.secrets(); len(s) > 0 {
				t.Errorf("token left in %q", s)
			}
		})
	}
}

func (b *branch) gone(names ...string) {
	for _, n := range names {
		if err := os.Remove(filepath.Join(b.root, n)); err != nil {
			b.t.Fatal(err)
		}
	}
}

// expire puts a certificate in place that ended an hour ago.
func (b *branch) expire() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	c := b.sign(&x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "system:node:node-1"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, b.ca, key.Public())
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		b.t.Fatal(err)
	}
	b.gone(kubeletClient)
	b.put(kubeletClient, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))+string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
}

func TestJoinFails(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*branch)
		code string
		text string
	}{
		{"denied", func(b *branch) { b.denied = true }, "SW-JOIN-CERTIFICATE", "Denied Key: another key"},
		{"never approved", func(b *branch) { b.waiting = 1 << 30 }, "SW-JOIN-CERTIFICATE", "waiting for the seed to approve"},
		{"another name was signed", func(b *branch) { b.issue = "system:node:other" }, "SW-JOIN-CERTIFICATE", `issued to "system:node:other"`},
		{"the name is taken", func(b *branch) { b.known = 1 << 30 }, "SW-JOIN-NAME", `Ready under the name "node-1"`},
		{"kubeadm ends", func(b *branch) { b.broken = true }, "SW-KUBEADM-PREFLIGHT", "exit status 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBranch(t)
			c.set(b)
			r := b.runner()
			r.Patience = 1500 * time.Millisecond
			err := r.Join(context.Background(), single(), b.means())
			var f *report.Failure
			if !errors.As(err, &f) || f.Code != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %s with %q", err, c.code, c.text)
			}
			if s := b.secrets(); len(s) > 0 || b.done > 0 || exists(filepath.Join(b.root, joinedMarker)) {
				t.Errorf("token left in %q, done %d", s, b.done)
			}
		})
	}
}

func TestInitWithASeed(t *testing.T) {
	s := newSite(t)
	var deleted []string
	handler := s.api.Config.Handler
	s.api.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodDelete {
			handler.ServeHTTP(w, r)
			return
		}
		if deleted = append(deleted, r.URL.Path); len(deleted) == 2 { // gone already
			http.Error(w, `{"message":"not found"}`, http.StatusNotFound)
		}
	})
	n := single()
	n.Seeded = true
	if err := s.runner().Init(context.Background(), n); err != nil {
		t.Fatal(err)
	}
	want := "[/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/kubeadm:node-autoapprove-bootstrap /apis/rbac.authorization.k8s.io/v1/namespaces/kube-public/rolebindings/kubeadm:bootstrap-signer-clusterinfo]"
	if fmt.Sprint(deleted) != want {
		t.Errorf("deleted %s, want %s", deleted, want)
	}
	s.put(pkiDir+"/ca.crt", "CA")
	c, err := s.runner().Cluster(n)
	if err != nil || c.Server != "https://192.0.2.11:6443" || c.CA != "CA" || !strings.Contains(c.Kubeconfig, "client-key-data") {
		t.Errorf("%+v, %v", c, err)
	}
}
