// Package kubeapi starts a real Kubernetes API (etcd, kube-apiserver,
// kube-controller-manager) on loopback for a test, from the programs that a
// build of this project left in the user's cache.
//
// It has no kubelet and no network: what runs on a node is not there. It builds
// and downloads nothing.
package kubeapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
)

// Server is a Kubernetes API that runs until the test ends.
type Server struct {
	URL string // https://127.0.0.1:PORT
	CA  string // PEM
	dir string
	ca  *authority
}

// programs are the main packages that are looked for, by file name.
func programs() map[string]string {
	return map[string]string{"etcd": "go.etcd.io/etcd/server/v3", "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
		"kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager", "kubelet": "k8s.io/kubernetes/cmd/kubelet"}
}

// Program is the path of one program, for tests that run it themselves. The test
// is skipped if it was never built.
func Program(t testing.TB, name string) string {
	t.Helper()
	bin, err := find()
	if err != nil {
		t.Skipf("a real %s is needed: %v", name, err)
	}
	return bin[name]
}

// find returns the newest build of each program for this machine, told by what
// the Go linker wrote into it, or what is missing.
func find() (map[string]string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, pkg := range programs() {
		files, err := filepath.Glob(filepath.Join(cache, "slipway", "programs", "*", name))
		if err != nil {
			return nil, err
		}
		var newest time.Time
		for _, f := range files {
			info, err := buildinfo.ReadFile(f)
			if err != nil || info.Path != pkg {
				continue
			}
			native := false
			for _, s := range info.Settings {
				native = native || s.Key == "GOARCH" && s.Value == runtime.GOARCH
			}
			if fi, err := os.Stat(f); err == nil && native && fi.ModTime().After(newest) {
				newest, out[name] = fi.ModTime(), f
			}
		}
		if out[name] == "" {
			return nil, fmt.Errorf("no %s of %s below the user's cache: build an ISO once (make build)", name, pkg)
		}
	}
	return out, nil
}

// Start runs the programs and returns when the API answers. The test is skipped
// if they were never built.
func Start(t testing.TB) *Server {
	t.Helper()
	bin, err := find()
	if err != nil {
		t.Skipf("a real Kubernetes API is needed: %v", err)
	}
	s := &Server{dir: t.TempDir()}
	s.ca = newAuthority(t, s.dir)
	s.CA = string(s.ca.pem)
	client, peer, api := freePort(t), freePort(t), freePort(t)
	s.URL = "https://" + api
	s.run(t, bin["etcd"], "--data-dir="+s.file("etcd"), "--unsafe-no-fsync", "--listen-client-urls=http://"+client, "--advertise-client-urls=http://"+client,
		"--listen-peer-urls=http://"+peer, "--initial-advertise-peer-urls=http://"+peer, "--initial-cluster=default=http://"+peer, "--log-level=warn")
	s.ca.issue(t, "server", "kube-apiserver", nil)
	_, port, _ := net.SplitHostPort(api)
	apiserver := s.run(t, bin["kube-apiserver"], "--etcd-servers=http://"+client, "--bind-address=127.0.0.1", "--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none", // loopback is refused
		"--secure-port="+port,
		"--tls-cert-file="+s.file("server.crt"), "--tls-private-key-file="+s.file("server.key"), "--client-ca-file="+s.file("ca.crt"),
		"--service-account-key-file="+s.file("server.key"), "--service-account-signing-key-file="+s.file("server.key"), "--service-account-issuer=https://kubernetes.default.svc",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--enable-bootstrap-token-auth", "--service-cluster-ip-range=10.96.0.0/16", "--cert-dir="+s.file("certs"))
	if err := os.WriteFile(s.file("root.conf"), []byte(s.Kubeconfig(t, "root", "system:masters")), 0o600); err != nil {
		t.Fatal(err)
	}
	s.wait(t, apiserver)
	s.run(t, bin["kube-controller-manager"], "--kubeconfig="+s.file("root.conf"), "--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0",
		"--controllers=csrsigning,csrapproving,csrcleaner", "--cluster-signing-cert-file="+s.file("ca.crt"), "--cluster-signing-key-file="+s.file("ca.key"))
	return s
}

func (s *Server) file(name string) string { return filepath.Join(s.dir, name) }

// run starts a program that ends with the test; what it said is printed if the
// test failed. The channel closes when it ended.
func (s *Server) run(t testing.TB, argv ...string) <-chan struct{} {
	t.Helper()
	var out tail
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = &out, &out, s.dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(argv[0]), out.String())
		}
	})
	return ended
}

// tail keeps the last of what a program says.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	t.b = t.b[max(0, len(t.b)-8<<10):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (s *Server) wait(t testing.TB, ended <-chan struct{}) {
	t.Helper()
	var code int
	var err error
	for range 600 {
		var raw []byte
		if raw, code, err = s.raw(context.Background(), http.MethodGet, "/readyz", "", nil); err == nil && code == http.StatusOK {
			return
		}
		err = fmt.Errorf("%d %s %w", code, raw, err)
		select {
		case <-ended:
			t.Fatal("kube-apiserver ended")
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Fatalf("kube-apiserver is not ready after a minute: %v", err)
}

// raw asks as root, or with a bearer token.
func (s *Server) raw(ctx context.Context, method, path, token string, body []byte) ([]byte, int, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	conf := &tls.Config{RootCAs: x509.NewCertPool()}
	conf.RootCAs.AppendCertsFromPEM(s.ca.pem)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	} else {
		cert, err := tls.LoadX509KeyPair(s.file("root.crt"), s.file("root.key"))
		if err != nil {
			return nil, 0, err
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	tr := &http.Transport{TLSClientConfig: conf}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return raw, resp.StatusCode, err
}

// Do sends a request as system:masters, or with a bearer token, and returns the
// HTTP status; the answer goes into into unless that is nil.
func (s *Server) Do(t testing.TB, method, path, token string, body, into any) int {
	t.Helper()
	var in []byte
	if body != nil {
		var err error
		if in, err = json.Marshal(body); err != nil {
			t.Fatal(err)
		}
	}
	raw, code, err := s.raw(t.Context(), method, path, token, in)
	if err != nil {
		t.Fatal(err)
	}
	if into != nil {
		if err := json.Unmarshal(raw, into); err != nil {
			t.Fatalf("%s %s: %d %s: %v", method, path, code, raw, err)
		}
	}
	if code >= 300 {
		t.Logf("%s %s: %d %.300s", method, path, code, raw)
	}
	return code
}

// Bind grants a cluster role to a group.
func (s *Server) Bind(t testing.TB, name, role, group string) {
	t.Helper()
	const api = "rbac.authorization.k8s.io"
	if code := s.Do(t, http.MethodPost, "/apis/"+api+"/v1/clusterrolebindings", "", map[string]any{"metadata": map[string]string{"name": name},
		"roleRef":  map[string]string{"apiGroup": api, "kind": "ClusterRole", "name": role},
		"subjects": []map[string]string{{"apiGroup": api, "kind": "Group", "name": group}}}, nil); code != http.StatusCreated {
		t.Fatalf("binding %q: HTTP %d", name, code)
	}
}

// Kubeadm makes the bindings of `kubeadm init` that concern a join.
func (s *Server) Kubeadm(t testing.TB) {
	t.Helper()
	const joining = "system:bootstrappers:kubeadm:default-node-token"
	s.Bind(t, "kubeadm:cluster-admins", "cluster-admin", "kubeadm:cluster-admins")
	s.Bind(t, "kubeadm:kubelet-bootstrap", "system:node-bootstrapper", joining)
	s.Bind(t, "kubeadm:node-autoapprove-bootstrap", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", joining)
}

// Cluster is what the first control plane would tell the seed.
func (s *Server) Cluster(t testing.TB) handoff.Cluster {
	t.Helper()
	return handoff.Cluster{Server: s.URL, CA: s.CA, Kubeconfig: s.Kubeconfig(t, "kubernetes-admin", "kubeadm:cluster-admins")}
}
