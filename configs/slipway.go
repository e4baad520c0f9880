package configs

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// Slipway is what cloud-init has no key for.
type Slipway struct {
	Role       Role        `json:"role,omitempty"`
	Endpoint   string      `json:"endpoint,omitempty"` // "host" or "host:port" of the API server; empty: a single node
	Kubernetes ClusterNets `json:"kubernetes,omitzero"`
	// State is the label of an ext4 volume that keeps what the node becomes over
	// restarts: /etc, /usr/local, /var, /root, /home. Empty: memory, a restart begins anew.
	State string `json:"state,omitempty"`
	// Services are clients of shared storage to run beside Kubernetes.
	Services []Daemon `json:"services,omitempty"`
	// Install puts the node on a disk; without it, it runs from its boot medium.
	Install Install `json:"install,omitzero"`
	Hooks   Hooks   `json:"hooks,omitzero"`
	// Kubeadm changes the documents that kubeadm is given.
	Kubeadm Patches `json:"kubeadm,omitzero"`
	// Kubelet is a shorter way to write kubeadm.KubeletConfiguration.
	Kubelet Patch `json:"kubelet,omitempty"`
}

// Hooks are commands at points that cloud-init does not know.
type Hooks struct {
	BeforeInstall []Command `json:"beforeInstall,omitempty"` // before the first write to the disk
	ClusterReady  []Command `json:"clusterReady,omitempty"`  // the node is Ready; before runcmd
	Done          []Command `json:"done,omitempty"`          // after final_message
}

// Role is what a node does in its cluster.
type Role string

func (Role) words() []string { return []string{string(RoleControlPlane), string(RoleWorker)} }

// The roles.
const (
	RoleControlPlane Role = "control-plane"
	RoleWorker       Role = "worker"
)

// Daemon is a program of the bundle that a node runs only when it is named.
type Daemon string

func (Daemon) words() []string {
	var out []string
	for _, s := range Daemons() {
		out = append(out, string(s))
	}
	return out
}

// The daemons.
const (
	DaemonISCSI     Daemon = "iscsid"     // sessions to iSCSI targets
	DaemonMultipath Daemon = "multipathd" // disks that are seen over several ways
	DaemonRPC       Daemon = "rpcbind"    // locks of NFS version 3
)

// Daemons are all that there are.
func Daemons() []Daemon { return []Daemon{DaemonISCSI, DaemonMultipath, DaemonRPC} }

// ClusterNets are the networks and names inside the cluster.
type ClusterNets struct {
	PodSubnet     netip.Prefix `json:"podSubnet,omitzero"`     // default 10.244.0.0/16
	ServiceSubnet netip.Prefix `json:"serviceSubnet,omitzero"` // default 10.96.0.0/12
	DNSDomain     string       `json:"dnsDomain,omitempty"`    // default cluster.local
}

func (s *Slipway) setDefaults() {
	if s.Role == "" && s.Endpoint == "" {
		s.Role = RoleControlPlane
	}
	s.Kubernetes.setDefaults()
}

func (k *ClusterNets) setDefaults() {
	if !k.PodSubnet.IsValid() {
		k.PodSubnet = netip.MustParsePrefix("10.244.0.0/16")
	}
	if !k.ServiceSubnet.IsValid() {
		k.ServiceSubnet = netip.MustParsePrefix("10.96.0.0/12")
	}
	if k.DNSDomain == "" {
		k.DNSDomain = "cluster.local"
	}
}

// HostPort is the endpoint taken apart, with port 6443 unless it names one. The
// host is empty when there is no endpoint.
func (s Slipway) HostPort() (host string, port uint16) {
	h, p, err := net.SplitHostPort(s.Endpoint)
	if err != nil { // no port; an IPv6 address with one has brackets
		return s.Endpoint, 6443
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil { // not an endpoint that was checked
		return s.Endpoint, 6443
	}
	return h, uint16(n)
}

func (s *Slipway) check(a at) {
	if s.Role == "" {
		a.key("role").errorf("missing: a node with an endpoint is one of several").Hint = "write role: control-plane or role: worker"
	}
	a.key("role").oneOf(string(s.Role), string(RoleControlPlane), string(RoleWorker))
	a.key("endpoint").may(s.Endpoint, hostPort)
	if s.Role == RoleWorker && s.Endpoint == "" {
		a.key("endpoint").errorf("missing: a worker has to know where the API server is").Hint = "write endpoint: <address of the control plane>"
	}
	s.Kubernetes.check(a.key("kubernetes"))
	a.key("state").may(s.State, func(s string) error {
		if !matches(`[A-Za-z0-9_.-]{1,16}`, s) {
			return fmt.Errorf("%q is not a volume label: want 1 to 16 letters, digits, _ . and -", s)
		}
		return nil
	})
	for i, one := range s.Services {
		a.key("services").item(i).oneOf(string(one), one.words()...)
		if slices.Contains(s.Services[:i], one) {
			a.key("services").item(i).errorf("%q is there twice", string(one))
		}
	}
	s.Install.check(a.key("install"))
	s.Kubeadm.check(a.key("kubeadm"))
	s.Kubelet.check(a.key("kubelet"), "KubeletConfiguration")
	if len(s.Kubelet) > 0 && len(s.Kubeadm.KubeletConfiguration) > 0 {
		a.key("kubelet").onKey().errorf("kubeadm.KubeletConfiguration is there too: write one of the two")
	}
}

func (k *ClusterNets) check(a at) {
	pod, service := a.key("podSubnet"), a.key("serviceSubnet")
	pod.subnet(k.PodSubnet)
	service.subnet(k.ServiceSubnet)
	switch {
	case k.PodSubnet.Addr().Is4() != k.ServiceSubnet.Addr().Is4():
		service.errorf("%s and the pod subnet %s are of different IP versions", k.ServiceSubnet, k.PodSubnet)
	case k.PodSubnet.Overlaps(k.ServiceSubnet):
		service.errorf("%s overlaps the pod subnet %s", k.ServiceSubnet, k.PodSubnet)
	}
	a.key("dnsDomain").may(k.DNSDomain, func(s string) error { return dnsName(s, 253) })
}

// subnet checks that a prefix has no bits set beyond its length.
func (a at) subnet(p netip.Prefix) {
	if m := p.Masked(); m != p {
		a.errorf("%s is an address in a subnet: write %q", p, fmt.Sprint(m))
	}
}
