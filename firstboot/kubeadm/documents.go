package kubeadm

import (
	"bytes"
	"fmt"
	"net"
	"time"

	"sigs.k8s.io/yaml"
)

// Files that kubeadm and kubelet share with us.
const (
	criSocket = "unix:///run/containerd/containerd.sock"
	// resolvConf is what pods with dnsPolicy Default (CoreDNS) get; see PodResolvConf.
	resolvConf = "/run/slipway/pod-resolv.conf"
)

// The documents below are the parts of kubeadm v1beta4, kubelet v1beta1 and
// kube-proxy v1alpha1 that we set; all else keeps upstream's default.

type typeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

type initConfiguration struct {
	typeMeta         `json:",inline"`
	BootstrapTokens  []bootstrapToken `json:"bootstrapTokens"`
	LocalAPIEndpoint apiEndpoint      `json:"localAPIEndpoint"`
	NodeRegistration registration     `json:"nodeRegistration"`
	Patches          *patches         `json:"patches,omitempty"`
	Timeouts         timeouts         `json:"timeouts"`
}

type bootstrapToken struct {
	TTL    string   `json:"ttl"`
	Groups []string `json:"groups"`
	Usages []string `json:"usages"`
}

type apiEndpoint struct {
	AdvertiseAddress string `json:"advertiseAddress"`
	BindPort         int    `json:"bindPort"`
}

type registration struct {
	Name                  string   `json:"name"`
	CRISocket             string   `json:"criSocket"`
	Taints                []Taint  `json:"taints"` // [] and not absent: absent means the control-plane taint
	ImagePullPolicy       string   `json:"imagePullPolicy"`
	IgnorePreflightErrors []string `json:"ignorePreflightErrors,omitempty"`
	KubeletExtraArgs      []arg    `json:"kubeletExtraArgs"`
}

type arg struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type patches struct {
	Directory string `json:"directory"`
}

type timeouts struct {
	ControlPlaneComponentHealthCheck string `json:"controlPlaneComponentHealthCheck"`
	KubeletHealthCheck               string `json:"kubeletHealthCheck"`
	KubernetesAPICall                string `json:"kubernetesAPICall"`
	EtcdAPICall                      string `json:"etcdAPICall"`
	TLSBootstrap                     string `json:"tlsBootstrap"`
	Discovery                        string `json:"discovery"`
}

type clusterConfiguration struct {
	typeMeta                    `json:",inline"`
	KubernetesVersion           string     `json:"kubernetesVersion"`
	ControlPlaneEndpoint        string     `json:"controlPlaneEndpoint,omitempty"`
	Networking                  networking `json:"networking"`
	APIServer                   apiServer  `json:"apiServer"`
	EncryptionAlgorithm         string     `json:"encryptionAlgorithm"`
	CertificateValidityPeriod   string     `json:"certificateValidityPeriod"`
	CACertificateValidityPeriod string     `json:"caCertificateValidityPeriod"`
}

type networking struct {
	PodSubnet     string `json:"podSubnet"`
	ServiceSubnet string `json:"serviceSubnet"`
	DNSDomain     string `json:"dnsDomain"`
}

type apiServer struct {
	CertSANs []string `json:"certSANs"`
}

type kubeletConfiguration struct {
	typeMeta                    `json:",inline"`
	CgroupDriver                string `json:"cgroupDriver"`
	ContainerRuntimeEndpoint    string `json:"containerRuntimeEndpoint"`
	ResolvConf                  string `json:"resolvConf"`
	FailSwapOn                  bool   `json:"failSwapOn"`
	ContainerLogMaxSize         string `json:"containerLogMaxSize"`
	ContainerLogMaxFiles        int    `json:"containerLogMaxFiles"`
	ImageGCHighThresholdPercent int    `json:"imageGCHighThresholdPercent"`
	RotateCertificates          bool   `json:"rotateCertificates"`
	ServerTLSBootstrap          bool   `json:"serverTLSBootstrap"`
}

type kubeProxyConfiguration struct {
	typeMeta `json:",inline"`
	Mode     string `json:"mode"`
}

// Documents renders kubeadm.yaml for the first node of a cluster: init,
// cluster, kubelet and kube-proxy configuration.
func Documents(n Node) ([]byte, error) {
	n, err := n.complete()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for i, d := range []any{initDocument(n), clusterDocument(n), kubeletDocument(), kubeProxyDocument()} {
		if i > 0 {
			out.WriteString("---\n")
		}
		b, err := n.render(d)
		if err != nil {
			return nil, fmt.Errorf("rendering kubeadm.yaml: %w", err)
		}
		out.Write(b)
	}
	return out.Bytes(), nil
}

// render writes a document with the node's override for its kind.
func (n Node) render(d any) ([]byte, error) {
	b, err := yaml.Marshal(d)
	if err != nil {
		return nil, err
	}
	var doc map[string]any
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return nil, err
	}
	kind, _ := doc["kind"].(string)
	patch, ok := n.Overrides[kind]
	if !ok {
		return b, nil
	}
	return yaml.Marshal(mergePatch(doc, patch))
}

// mergePatch is RFC 7386, section 2: null removes, mappings are merged, all
// else replaces.
func mergePatch(target map[string]any, patch map[string]any) map[string]any {
	if target == nil {
		target = map[string]any{}
	}
	for k, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(target, k)
		case map[string]any:
			old, _ := target[k].(map[string]any)
			target[k] = mergePatch(old, v)
		default:
			target[k] = v
		}
	}
	return target
}

// patient is how long kubeadm waits for anything: one machine in an emulator
// takes minutes for what kubeadm gives a minute; a failure that cannot get better
// ends kubeadm long before.
const patient = "15m0s"

func initDocument(n Node) initConfiguration {
	d := initConfiguration{
		typeMeta: typeMeta{"kubeadm.k8s.io/v1beta4", "InitConfiguration"},
		// Nobody joins with it; the phase that makes it also makes the RBAC rules for kubelet certificates.
		BootstrapTokens: []bootstrapToken{{TTL: "15m0s", Groups: []string{"system:bootstrappers:kubeadm:default-node-token"},
			Usages: []string{"signing", "authentication"}}},
		LocalAPIEndpoint: apiEndpoint{AdvertiseAddress: n.Address.String(), BindPort: apiPort},
		NodeRegistration: registration{Name: n.Name, CRISocket: criSocket, Taints: n.Taints, ImagePullPolicy: "IfNotPresent",
			IgnorePreflightErrors: ignored(),
			KubeletExtraArgs:      []arg{{"node-ip", n.Address.String()}}},
		Timeouts: timeouts{patient, patient, patient, patient, patient, patient},
	}
	if d.NodeRegistration.Taints == nil {
		d.NodeRegistration.Taints = []Taint{}
	}
	if n.Patches != "" {
		d.Patches = &patches{Directory: n.Patches}
	}
	return d
}

// ignored lists the preflight checks whose errors do not stop init.
func ignored() []string {
	return []string{
		// Looks for the kernel's configuration, in a module or in /boot, and the
		// system root has neither; the kernel is the one this image was built with.
		"SystemVerification",
	}
}

func clusterDocument(n Node) clusterConfiguration {
	sans := []string{n.Name, n.Address.String()}
	if e := n.endpoint(); e != "" {
		host, _, _ := net.SplitHostPort(e)
		sans = append(sans, host)
	}
	return clusterConfiguration{
		typeMeta:             typeMeta{"kubeadm.k8s.io/v1beta4", "ClusterConfiguration"},
		KubernetesVersion:    n.KubernetesVersion,
		ControlPlaneEndpoint: n.endpoint(),
		Networking:           networking{n.Networks.Pods.String(), n.Networks.Services.String(), n.Networks.Domain},
		APIServer:            apiServer{CertSANs: sans},
		// RSA-2048 costs seconds per key on slow processors, and there are sixteen.
		EncryptionAlgorithm:         "ECDSA-P256",
		CertificateValidityPeriod:   hours(n.CertificateLife),
		CACertificateValidityPeriod: hours(10 * n.CertificateLife),
	}
}

func hours(d time.Duration) string { return d.Round(time.Hour).String() }

func kubeletDocument() kubeletConfiguration {
	return kubeletConfiguration{
		typeMeta:                 typeMeta{"kubelet.config.k8s.io/v1beta1", "KubeletConfiguration"},
		CgroupDriver:             "cgroupfs", // PID 1 is not systemd
		ContainerRuntimeEndpoint: criSocket,
		ResolvConf:               resolvConf,
		ContainerLogMaxSize:      "10Mi",
		ContainerLogMaxFiles:     3,
		// 100 switches it off: an image that is removed cannot be pulled again here.
		ImageGCHighThresholdPercent: 100,
		RotateCertificates:          true,
		// shutdownGracePeriod stays 0: kubelet learns of a shutdown from logind, which does not run.
	}
}

func kubeProxyDocument() kubeProxyConfiguration {
	return kubeProxyConfiguration{typeMeta{"kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration"}, "nftables"}
}
