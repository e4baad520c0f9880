package kubeadm

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/arch"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func single() Node {
	return Node{Name: "node-1", Address: netip.MustParseAddr("192.0.2.11"), KubernetesVersion: "v1.37.1",
		FlannelImage: "ghcr.io/flannel-io/flannel:v0.26.7"}
}

func TestDocuments(t *testing.T) {
	full := single()
	full.Endpoint = "api.site.example"
	full.Networks = Networks{Pods: netip.MustParsePrefix("172.20.0.0/16"), Services: netip.MustParsePrefix("172.21.0.0/16"), Domain: "site.example"}
	full.Taints = []Taint{{Key: "node-role.kubernetes.io/control-plane", Effect: "NoSchedule"}}
	full.Patches = "/etc/kubernetes/patches"
	full.CertificateLife = 90 * 24 * time.Hour
	patched := single()
	patched.Overrides = map[string]map[string]any{
		"ClusterConfiguration":   {"apiServer": map[string]any{"extraArgs": []any{map[string]any{"name": "audit-log-maxage", "value": "7"}}}},
		"InitConfiguration":      {"nodeRegistration": map[string]any{"taints": []any{map[string]any{"key": "dedicated", "effect": "NoSchedule"}}}, "timeouts": map[string]any{"discovery": "20m0s", "tlsBootstrap": nil}},
		"KubeletConfiguration":   {"maxPods": 200, "containerLogMaxFiles": nil, "evictionHard": map[string]any{"memory.available": "5%"}},
		"KubeProxyConfiguration": {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "mode": "iptables"},
	}
	for name, n := range map[string]Node{"single": single(), "full": full, "patched": patched} {
		t.Run(name, func(t *testing.T) {
			b, err := Documents(n)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".kubeadm.yaml", b)
			b, err = FlannelManifest(n)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".flannel.yaml", b)
		})
	}
}

// The examples of RFC 7386, appendix A, whose target and patch are objects.
func TestMergePatch(t *testing.T) {
	for _, c := range [][3]string{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`}, {`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`}, {`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`}, {`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`}, {`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`}, {`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`}, {`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	} {
		var target, patch map[string]any
		if err := errors.Join(json.Unmarshal([]byte(c[0]), &target), json.Unmarshal([]byte(c[1]), &patch)); err != nil {
			t.Fatal(err)
		}
		if got, _ := json.Marshal(mergePatch(target, patch)); string(got) != c[2] {
			t.Errorf("%s and %s: got %s, want %s", c[0], c[1], got, c[2])
		}
	}
}

func TestContainerdConfig(t *testing.T) {
	b, err := ContainerdConfig(Runtime{Arch: arch.AMD64, Sandbox: "registry.k8s.io/pause:3.10.2"})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "containerd.toml", b)
	for _, r := range []Runtime{{Sandbox: "x"}, {Arch: arch.AMD64}, {Arch: arch.AMD64, Sandbox: "x", Layers: "/a'b"}} {
		if b, err := ContainerdConfig(r); err == nil {
			t.Errorf("%+v: got a config:\n%s", r, b)
		}
	}
}

func TestNodeSaysEverythingThatIsWrong(t *testing.T) {
	_, err := Documents(Node{Name: "Node_1", Address: netip.MustParseAddr("10.96.0.5"), KubernetesVersion: "1.37",
		Networks: Networks{Pods: netip.MustParsePrefix("10.96.0.0/16")}, CertificateLife: time.Hour})
	if err == nil {
		t.Fatal("got documents")
	}
	for _, want := range []string{
		`name "Node_1" is not a DNS label`,
		`Kubernetes version "1.37": want v1.Y.Z`,
		"pod network 10.96.0.0/16 overlaps service network 10.96.0.0/12",
		"address 10.96.0.5 is inside the cluster's own network 10.96.0.0/12",
		"flannel image is not named",
		"certificate life 1h0m0s is shorter than a day",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
}

func TestEndpoint(t *testing.T) {
	for in, want := range map[string]string{"": "", "api.example": "api.example:6443", "192.0.2.1:8443": "192.0.2.1:8443", "2001:db8::1": "[2001:db8::1]:6443"} {
		if got := (Node{Endpoint: in}).endpoint(); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestPodResolvConf(t *testing.T) {
	node := netip.MustParseAddr("192.0.2.11")
	a := netip.MustParseAddr
	for _, c := range []struct {
		in   []netip.Addr
		want string
	}{
		{nil, "nameserver 192.0.2.11\n"},
		{[]netip.Addr{a("192.0.2.53")}, "nameserver 192.0.2.53\n"},
		{[]netip.Addr{a("192.0.2.1"), a("192.0.2.2"), a("192.0.2.3"), a("192.0.2.4")}, "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n"},
	} {
		if got := string(PodResolvConf(c.in, node)); got != c.want {
			t.Errorf("%v: got %q, want %q", c.in, got, c.want)
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs:\ngot\n%s\nwant\n%s", file, got, want)
	}
}
