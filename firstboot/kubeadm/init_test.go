package kubeadm

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/supervise"
)

// site is a machine in a directory: a kubeadm that replays recorded output and
// an API server that remembers what was applied.
type site struct {
	t       *testing.T
	root    string
	api     *httptest.Server
	fail    string // program's last line; "" succeeds
	mu      sync.Mutex
	ran     [][]string
	applied []string
	events  []handoff.Event
	polls   int
}

func newSite(t *testing.T) *site {
	s := &site{t: t, root: t.TempDir()}
	s.api = httptest.NewTLSServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.api.Close)
	for _, d := range []string{"proc/sys/net/ipv4", "usr/lib/slipway/manifests", "etc"} {
		if err := os.MkdirAll(filepath.Join(s.root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.put("/etc/hosts", "127.0.0.1 localhost")
	s.put(manifestsDir+"/20-b.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n")
	s.put("/proc/sys/kernel/random/boot_id", "this-start\n")
	s.put(manifestsDir+"/10-a.yaml", "# only a comment\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: kube-system}\n")
	return s
}

func (s *site) put(name, content string) {
	s.t.Helper()
	file := filepath.Join(s.root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// kubeconfig trusts the test server and shows it a certificate.
func (s *site) kubeconfig() string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		s.t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	enc := func(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }
	out, err := yaml.Marshal(map[string]any{
		"clusters": []any{map[string]any{"cluster": map[string]any{"server": "https://elsewhere.example:6443",
			"certificate-authority-data": enc("CERTIFICATE", s.api.Certificate().Raw)}}},
		"users": []any{map[string]any{"user": map[string]any{"client-certificate-data": enc("CERTIFICATE", der), "client-key-data": enc("EC PRIVATE KEY", raw)}}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return string(out)
}

func (s *site) exec(ctx context.Context, cmd *exec.Cmd, line func(string)) error {
	if cmd.Path == nftProgram {
		s.ran = append(s.ran, cmd.Args)
		return nil
	}
	s.mu.Lock()
	s.ran = append(s.ran, cmd.Args)
	s.mu.Unlock()
	f, err := os.Open("testdata/init.out")
	if err != nil {
		return err
	}
	defer f.Close()
	s.put(adminConf, s.kubeconfig())
	s.put(kubeletConfig, "x")
	s.put(etcdData+"/wal", "x")
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line(sc.Text())
		if s.fail != "" && strings.HasPrefix(sc.Text(), "[upload-config]") {
			line(s.fail)
			return &supervise.ExitError{Program: cmd.Path, Err: errors.New("exit status 1"), Tail: []string{s.fail}}
		}
	}
	return nil
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := func(names ...string) {
		var list []map[string]any
		for i := 0; i < len(names); i += 2 {
			list = append(list, map[string]any{"kind": names[i], "name": names[i+1], "namespaced": !strings.HasPrefix(names[i], "Cluster") && names[i] != "Namespace"},
				map[string]any{"kind": names[i], "name": names[i+1] + "/status", "namespaced": true})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"resources": list})
	}
	switch {
	case r.Method == http.MethodPatch:
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("Content-Type") != "application/apply-patch+yaml" || !json.Valid(body) || r.URL.RawQuery != "fieldManager=slipway&force=true" {
			s.t.Errorf("%s?%s: content type %q, body %.40q", r.URL.Path, r.URL.RawQuery, r.Header.Get("Content-Type"), body)
		}
		s.applied = append(s.applied, r.URL.Path)
		fmt.Fprint(w, "{}")
	case r.URL.Path == "/api/v1":
		kind("Namespace", "namespaces", "ServiceAccount", "serviceaccounts", "ConfigMap", "configmaps")
	case r.URL.Path == "/apis/apps/v1":
		kind("DaemonSet", "daemonsets")
	case r.URL.Path == "/apis/rbac.authorization.k8s.io/v1":
		kind("ClusterRole", "clusterroles", "ClusterRoleBinding", "clusterrolebindings")
	case r.URL.Path == "/api/v1/nodes/node-1":
		s.polls++
		status, reason := "True", ""
		if s.polls == 1 {
			status, reason = "False", "KubeletNotReady"
		}
		fmt.Fprintf(w, `{"status":{"nodeInfo":{"bootID":"this-start"},"conditions":[{"type":"Ready","status":%q,"reason":%q}]}}`, status, reason)
	case r.URL.Path == "/api/v1/pods":
		fmt.Fprint(w, readyPods)
	default:
		http.Error(w, `{"message":"no such thing"}`, http.StatusNotFound)
	}
}

const readyPods = `{"items":[
{"metadata":{"name":"kube-proxy-x","namespace":"kube-system","labels":{"k8s-app":"kube-proxy"}},"spec":{"nodeName":"node-1"},"status":{"conditions":[{"type":"Ready","status":"True"}]}},
{"metadata":{"name":"kube-flannel-ds-x","namespace":"kube-flannel","labels":{"k8s-app":"flannel"}},"spec":{"nodeName":"node-1"},"status":{"conditions":[{"type":"Ready","status":"True"}]}},
{"metadata":{"name":"coredns-x","namespace":"kube-system","labels":{"k8s-app":"kube-dns"}},"spec":{"nodeName":"node-1"},"status":{"conditions":[{"type":"Ready","status":"True"}]}}]}`

func (s *site) runner() Runner {
	restart := func(name string) error { s.ran = append(s.ran, []string{"restart", name}); return nil }
	return Runner{Exec: s.exec, Restart: restart, Log: slog.New(slog.DiscardHandler), Root: s.root, Patience: 20 * time.Second, server: s.api.URL,
		Report: func(e handoff.Event) { s.mu.Lock(); s.events = append(s.events, e); s.mu.Unlock() }}
}

func (s *site) read(name string) string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.root, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

func TestInit(t *testing.T) {
	const argv = kubeadmProgram + " init --config ROOT/etc/kubernetes/kubeadm.yaml --skip-phases="
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string // argv of kubeadm, "" when it must not run
	}{
		{"fresh", nil, argv + "show-join-command"},
		{"cut before kubelet", map[string]string{pkiDir + "/ca.crt": ""}, argv + "show-join-command"},
		{"cut after kubeconfigs", map[string]string{kubeletKubeconfig: "x"}, argv + "preflight,show-join-command"},
		{"cut after manifests", map[string]string{manifestDir + "/etcd.yaml": "x"}, argv + "preflight,show-join-command"},
		{"cut while files were empty", map[string]string{kubeletKubeconfig: "", manifestDir + "/etcd.yaml": ""}, argv + "show-join-command"},
		{"cut after kubelet", map[string]string{kubeletConfig: "x"}, argv + "preflight,show-join-command"},
		{"cut after etcd", map[string]string{etcdData + "/wal": "x"}, argv + "preflight,show-join-command"},
		{"done", map[string]string{etcdData + "/wal": "x", doneMarker: "v1.37.1", adminConf: "KUBECONFIG"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			for f, content := range c.files {
				s.put(f, strings.Replace(content, "KUBECONFIG", s.kubeconfig(), 1))
			}
			if err := s.runner().Init(context.Background(), single()); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, argv := range s.ran {
				got = append(got, strings.ReplaceAll(strings.Join(argv, " "), s.root, "ROOT"))
			}
			if want := strings.TrimSuffix(nftProgram+" -f ROOT/run/slipway/guard.nft\n"+c.want, "\n"); strings.Join(got, "\n") != want {
				t.Errorf("ran %q, want %q", got, want)
			}
			if rules := s.read(guardRules); !strings.Contains(rules, "ip daddr 10.96.0.0/12 drop") {
				t.Errorf("guard:\n%s", rules)
			}
			want := []string{"/api/v1/namespaces/kube-flannel", "/apis/rbac.authorization.k8s.io/v1/clusterroles/flannel",
				"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/flannel", "/api/v1/namespaces/kube-flannel/serviceaccounts/flannel",
				"/api/v1/namespaces/kube-flannel/configmaps/kube-flannel-cfg", "/apis/apps/v1/namespaces/kube-flannel/daemonsets/kube-flannel-ds",
				"/api/v1/namespaces/kube-system/configmaps/a", "/api/v1/namespaces/default/configmaps/b"}
			if !slices.Equal(s.applied, want) {
				t.Errorf("applied\n%s\nwant\n%s", strings.Join(s.applied, "\n"), strings.Join(want, "\n"))
			}
			if got := s.read(doneMarker); strings.TrimSpace(got) != "v1.37.1" {
				t.Errorf("marker holds %q", got)
			}
			if got, want := s.read("/etc/hosts"), "127.0.0.1 localhost\n192.0.2.11 node-1\n"; got != want {
				t.Errorf("hosts: got %q, want %q", got, want)
			}
			if got := s.read("/proc/sys/net/ipv4/ip_forward"); got != "1\n" {
				t.Errorf("ip_forward: got %q", got)
			}
			if exists(filepath.Join(s.root, pkiDir, "ca.crt")) {
				t.Error("an empty ca.crt is still there")
			}
			last := s.events[len(s.events)-1]
			if last.Step != "ready" || last.State != handoff.Done {
				t.Errorf("last event is %+v", last)
			}
		})
	}
}

func TestInitTellsWhatKubeadmDoes(t *testing.T) {
	s := newSite(t)
	var got strings.Builder
	n := newNarrator(func(e handoff.Event) { fmt.Fprintf(&got, "%-20s %-8s %s\n", e.Step, e.State, e.Text) }, nil)
	if err := Exec(s.exec).run(context.Background(), slog.New(slog.DiscardHandler), n.line, kubeadmProgram); err != nil {
		t.Fatal(err)
	}
	n.end(handoff.Done, "")
	if strings.Contains(got.String(), "abcdef.0123456789abcdef") {
		t.Error("an event holds the bootstrap token")
	}
	golden(t, "init.events", []byte(got.String()))
}

func TestInitFails(t *testing.T) {
	s := newSite(t)
	s.fail = "error: the token is abcdef.0123456789abcdef"
	err := s.runner().Init(context.Background(), single())
	var f *report.Failure
	if !errors.As(err, &f) || f.Code != "SW-KUBEADM-UPLOAD-CONFIG" {
		t.Fatalf("got %v, want code SW-KUBEADM-UPLOAD-CONFIG", err)
	}
	if !strings.Contains(err.Error(), "the token is ***") || strings.Contains(err.Error(), "abcdef.") {
		t.Errorf("last lines: %v", err)
	}
	if exists(filepath.Join(s.root, doneMarker)) {
		t.Error("the marker was written")
	}
	// The next run goes on.
	s.fail = ""
	if err := s.runner().Init(context.Background(), single()); err != nil {
		t.Fatal(err)
	}
	last := s.ran[len(s.ran)-1]
	if got := last[len(last)-1]; got != "--skip-phases=preflight,show-join-command" {
		t.Errorf("second run: %q", got)
	}
}

func TestInitRefusesToMakeASecondCluster(t *testing.T) {
	s := newSite(t)
	s.put(doneMarker, "v1.37.1")
	err := s.runner().Init(context.Background(), single())
	var f *report.Failure
	if !errors.As(err, &f) || f.Code != "SW-KUBEADM-DATA" || len(s.ran) > 0 {
		t.Errorf("got %v, ran %q", err, s.ran)
	}
}

func TestApplyStopsAtAnObjectThatIsWrong(t *testing.T) {
	s := newSite(t)
	s.put(adminConf, s.kubeconfig())
	calls := 0
	s.api.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch {
			calls++
			http.Error(w, `{"message":"spec.replicas: must be positive"}`, http.StatusUnprocessableEntity)
			return
		}
		s.serve(w, r)
	})
	err := s.runner().manifests(context.Background(), single())
	if err == nil || !strings.Contains(err.Error(), "applying 10-a.yaml: kube-system/configmap/a: HTTP 422: spec.replicas: must be positive") || calls != 1 {
		t.Errorf("got %v after %d calls", err, calls)
	}
}

func TestImport(t *testing.T) {
	s := newSite(t)
	if err := s.runner().Import(context.Background(), "/run/images.tar"); err != nil {
		t.Fatal(err)
	}
	want := "/usr/bin/ctr --namespace k8s.io images import --snapshotter erofs --label io.cri-containerd.pinned=pinned /run/images.tar"
	if got := strings.Join(s.ran[0], " "); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRepair(t *testing.T) {
	s := newSite(t)
	keep := []string{"/pki/ca.crt", "/pki/ca.key", "/pki/sa.key", "/pki/sa.pub", "/pki/external-ca.crt", "/admin.conf"}
	gone := []string{"/pki/apiserver.key", "/pki/etcd/ca.key", "/pki/front.crt", "/pki/front.key", "/kubelet.conf", "/manifests/etcd.yaml"}
	for _, f := range keep {
		s.put("/etc/kubernetes"+f, "x")
	}
	for _, f := range gone {
		content := "x"
		if !strings.HasSuffix(f, ".key") {
			content = ""
		}
		s.put("/etc/kubernetes"+f, content)
	}
	if err := s.runner().Repair(); err != nil {
		t.Fatal(err)
	}
	for _, f := range keep {
		if !exists(filepath.Join(s.root, "etc/kubernetes", f)) {
			t.Errorf("%s is gone", f)
		}
	}
	for _, f := range gone {
		if exists(filepath.Join(s.root, "etc/kubernetes", f)) {
			t.Errorf("%s is still there", f)
		}
	}
}
