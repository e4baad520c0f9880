package configs

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Patch is an RFC 7386 JSON merge patch: what it names replaces, null removes.
// apiVersion and kind may be repeated in it.
type Patch map[string]any

// Patches change the documents that kubeadm is given, by kind.
type Patches struct {
	InitConfiguration      Patch `json:"InitConfiguration,omitempty"`
	ClusterConfiguration   Patch `json:"ClusterConfiguration,omitempty"`
	JoinConfiguration      Patch `json:"JoinConfiguration,omitempty"`
	KubeletConfiguration   Patch `json:"KubeletConfiguration,omitempty"`
	KubeProxyConfiguration Patch `json:"KubeProxyConfiguration,omitempty"`
}

// ByKind is the patches by the kind of their document, without empty ones;
// slipway.kubelet is that of KubeletConfiguration.
func (s Slipway) ByKind() map[string]Patch {
	all := map[string]Patch{
		"InitConfiguration": s.Kubeadm.InitConfiguration, "ClusterConfiguration": s.Kubeadm.ClusterConfiguration,
		"JoinConfiguration": s.Kubeadm.JoinConfiguration, "KubeletConfiguration": s.Kubeadm.KubeletConfiguration,
		"KubeProxyConfiguration": s.Kubeadm.KubeProxyConfiguration,
	}
	if len(s.Kubelet) > 0 {
		all["KubeletConfiguration"] = s.Kubelet
	}
	maps.DeleteFunc(all, func(_ string, p Patch) bool { return len(p) == 0 })
	return all
}

// document is what may be said of a kind: its version, its top-level keys, and
// the paths that are the node's own business, each with what to write instead.
type kubeDocument struct {
	apiVersion string
	keys       []string // nil: any
	own        map[string]string
}

// kubeDocuments follows kubeadm's v1beta4 types; kubelet and kube-proxy have
// hundreds of keys and check them themselves.
func kubeDocuments() map[string]kubeDocument {
	const node = "the node knows it"
	const phases = "the node decides which phases are left to do"
	kubeadm := "kubeadm.k8s.io/v1beta4"
	return map[string]kubeDocument{
		"InitConfiguration": {kubeadm, []string{"bootstrapTokens", "dryRun", "nodeRegistration", "localAPIEndpoint", "certificateKey",
			"skipPhases", "patches", "timeouts"},
			map[string]string{"localAPIEndpoint": node, "nodeRegistration.criSocket": node, "nodeRegistration.name": "write hostname",
				"bootstrapTokens": "tokens are made when a node joins", "dryRun": "remove it", "certificateKey": "it is a secret", "skipPhases": phases}},
		"ClusterConfiguration": {kubeadm, []string{"etcd", "networking", "kubernetesVersion", "controlPlaneEndpoint", "apiServer",
			"controllerManager", "scheduler", "dns", "proxy", "certificatesDir", "imageRepository", "featureGates", "clusterName",
			"encryptionAlgorithm", "certificateValidityPeriod", "caCertificateValidityPeriod"},
			map[string]string{"kubernetesVersion": "write spec.kubernetes.version of bundle.yaml", "controlPlaneEndpoint": "write slipway.endpoint",
				"networking.podSubnet": "write slipway.kubernetes.podSubnet", "networking.serviceSubnet": "write slipway.kubernetes.serviceSubnet",
				"networking.dnsDomain": "write slipway.kubernetes.dnsDomain", "imageRepository": "images come from the bundle"}},
		"JoinConfiguration": {kubeadm, []string{"dryRun", "nodeRegistration", "caCertPath", "discovery", "controlPlane", "skipPhases",
			"patches", "timeouts"},
			map[string]string{"discovery": node, "nodeRegistration.criSocket": node, "nodeRegistration.name": "write hostname", "dryRun": "remove it", "skipPhases": phases}},
		"KubeletConfiguration": {"kubelet.config.k8s.io/v1beta1", nil,
			map[string]string{"containerRuntimeEndpoint": node, "cgroupDriver": node, "staticPodPath": node}},
		"KubeProxyConfiguration": {"kubeproxy.config.k8s.io/v1alpha1", nil, map[string]string{"clientConnection.kubeconfig": node}},
	}
}

func (p Patches) check(a at) {
	p.InitConfiguration.check(a.key("InitConfiguration"), "InitConfiguration")
	p.ClusterConfiguration.check(a.key("ClusterConfiguration"), "ClusterConfiguration")
	p.JoinConfiguration.check(a.key("JoinConfiguration"), "JoinConfiguration")
	p.KubeletConfiguration.check(a.key("KubeletConfiguration"), "KubeletConfiguration")
	p.KubeProxyConfiguration.check(a.key("KubeProxyConfiguration"), "KubeProxyConfiguration")
}

func (p Patch) check(a at, kind string) {
	doc := kubeDocuments()[kind]
	for key, want := range map[string]string{"apiVersion": doc.apiVersion, "kind": kind} {
		if got, ok := p[key]; ok && got != want {
			a.key(key).errorf("want %q, got %q", want, asText(got))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(p)) {
		if doc.keys == nil || key == "apiVersion" || key == "kind" || slices.Contains(doc.keys, key) {
			continue
		}
		msg := "unknown key"
		if s := suggest(key, doc.keys); s != "" {
			msg += ": did you mean \"" + s + "\"?"
		}
		a.key(key).onKey().errorf("%s", msg)
	}
	for path, instead := range doc.own {
		if here, ok := p.at(a, path); ok {
			here.onKey().errorf("is not to be changed").Hint = instead
		}
	}
}

// at is the place of "a.b" in the patch, if it is there.
func (p Patch) at(a at, path string) (at, bool) {
	var v any = map[string]any(p)
	for key := range strings.SplitSeq(path, ".") {
		m, _ := v.(map[string]any)
		next, ok := m[key]
		if !ok {
			return a, false
		}
		v, a = next, a.key(key)
	}
	return a, true
}

func asText(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, _ := json.Marshal(v)
	return string(b)
}
