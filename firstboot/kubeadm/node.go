package kubeadm

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"time"
)

// Node is one machine of a cluster, as kubeadm has to know it.
type Node struct {
	Name              string     // DNS label; the Node object's name
	Address           netip.Addr // of the interface that other nodes reach
	Endpoint          string     // "host" or "host:port" in front of several API servers; "" for one node
	KubernetesVersion string     // "v1.37.1"
	Networks          Networks
	Nameservers       []netip.Addr // for CoreDNS; none on an isolated network
	FlannelImage      string       // "ghcr.io/flannel-io/flannel:v0.26.7"
	Taints            []Taint      // none: pods may run here
	Seeded            bool         // a seed says who may join: nothing else in the cluster does
	Again             bool         // kubeadm writes everything of its own once more: the files are another bundle's
	Patches           string       // directory of kubeadm patches, "" for none
	// Overrides are RFC 7386 merge patches for documents, by kind ("KubeletConfiguration").
	Overrides map[string]map[string]any
	// CertificateLife is how long leaf certificates last, 0 for a year; CAs last ten times as long.
	CertificateLife time.Duration
}

// Networks are the networks and the name inside the cluster. Zero fields have
// defaults: 10.244.0.0/16, 10.96.0.0/12, cluster.local.
type Networks struct {
	Pods     netip.Prefix
	Services netip.Prefix
	Domain   string
}

// Taint keeps pods without a matching toleration off a node.
type Taint struct {
	Key    string `json:"key"`
	Value  string `json:"value,omitempty"`
	Effect string `json:"effect"` // NoSchedule, PreferNoSchedule, NoExecute
}

// apiPort is the API server's port on every node.
const apiPort = 6443

var (
	label   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`) // RFC 1123 section 2.1
	release = regexp.MustCompile(`^v1\.[0-9]+\.[0-9]+$`)
	domain  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
)

// complete fills defaults in and reports everything that is wrong at once.
func (n Node) complete() (Node, error) {
	if !n.Networks.Pods.IsValid() {
		n.Networks.Pods = netip.MustParsePrefix("10.244.0.0/16")
	}
	if !n.Networks.Services.IsValid() {
		n.Networks.Services = netip.MustParsePrefix("10.96.0.0/12")
	}
	if n.Networks.Domain == "" {
		n.Networks.Domain = "cluster.local"
	}
	if n.CertificateLife == 0 {
		n.CertificateLife = 365 * 24 * time.Hour
	}
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("node: "+format, args...))
		}
	}
	bad(label.MatchString(n.Name), "name %q is not a DNS label", n.Name)
	bad(n.Address.IsValid() && !n.Address.IsLoopback() && !n.Address.IsUnspecified(), "address %s cannot be reached by other machines", n.Address)
	bad(release.MatchString(n.KubernetesVersion), "Kubernetes version %q: want v1.Y.Z", n.KubernetesVersion)
	bad(domain.MatchString(n.Networks.Domain), "domain %q is not a DNS name", n.Networks.Domain)
	bad(!n.Networks.Pods.Overlaps(n.Networks.Services), "pod network %s overlaps service network %s", n.Networks.Pods, n.Networks.Services)
	for _, p := range []netip.Prefix{n.Networks.Pods, n.Networks.Services} {
		bad(!p.Contains(n.Address), "address %s is inside the cluster's own network %s", n.Address, p)
	}
	bad(n.FlannelImage != "", "flannel image is not named")
	bad(n.CertificateLife > 24*time.Hour, "certificate life %s is shorter than a day", n.CertificateLife)
	return n, errors.Join(errs...)
}

// endpoint is "host:port" of the API servers' common address, "" without one.
func (n Node) endpoint() string {
	if n.Endpoint == "" {
		return ""
	}
	if _, _, err := net.SplitHostPort(n.Endpoint); err == nil {
		return n.Endpoint
	}
	return net.JoinHostPort(n.Endpoint, fmt.Sprint(apiPort))
}
