package configs

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"slipway.dev/slipway/configs/arch"
)

// KindCluster is what a cluster.yaml says it is.
const KindCluster = "Cluster"

// Cluster is cluster.yaml: one customer's site. The seed makes each node's
// user-data from it.
type Cluster struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Metadata   ClusterMetadata `json:"metadata"`
	Spec       ClusterSpec     `json:"spec"`
}

// ClusterMetadata names a cluster.
type ClusterMetadata struct {
	Name string `json:"name"` // RFC 1123 label
}

// ClusterSpec is what a site decides.
type ClusterSpec struct {
	Endpoint string      `json:"endpoint,omitempty"` // "host" or "host:port" of the API server; empty: the first control plane's address
	Networks ClusterNets `json:"networks,omitzero"`
	Nodes    []NodeRule  `json:"nodes"` // the first that fits a machine is taken
	Access   SiteAccess  `json:"access,omitzero"`
	Time     SiteTime    `json:"time,omitzero"`
	Seed     SeedSpec    `json:"seed,omitzero"`
	Install  Install     `json:"install,omitzero"` // of every node whose rule has none
	// CloudConfig are further keys of every node's user-data; the seed's own win.
	CloudConfig map[string]any `json:"cloudConfig,omitempty"`
}

// NodeRule turns machines into nodes.
type NodeRule struct {
	Role  Role         `json:"role"`
	Count int          `json:"count,omitempty"` // how many at most; 0: any number
	Match MachineMatch `json:"match,omitzero"`
	// Name is the node's name, with {n} for a number from 1 when the rule makes
	// more than one: "worker-{n}", which is also the default.
	Name string `json:"name,omitempty"`
	// Install replaces the site's as a whole.
	Install Install `json:"install,omitzero"`
}

// MachineMatch says which machines a rule is for; all given properties must fit.
type MachineMatch struct {
	MAC    []MAC       `json:"mac,omitempty"`    // any of the machine's cards
	Serial []string    `json:"serial,omitempty"` // SMBIOS serial number
	UUID   []string    `json:"uuid,omitempty"`   // SMBIOS UUID
	Arch   []arch.Arch `json:"arch,omitempty"`
	Memory Quantity    `json:"memory,omitempty"` // at least
	CPUs   int         `json:"cpus,omitempty"`   // at least
}

// Quantity is a number of bytes; "16Gi" and "512Mi" in YAML, and plain bytes.
type Quantity int64

// UnmarshalText reads a quantity.
func (q *Quantity) UnmarshalText(b []byte) error {
	s := string(b)
	shift := 0
	for unit, n := range map[string]int{"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40} {
		if d, ok := strings.CutSuffix(s, unit); ok {
			s, shift = d, n
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 || n > 1<<62>>shift {
		return fmt.Errorf("%q: want a number of bytes, such as %q", b, "16Gi")
	}
	*q = Quantity(n << shift)
	return nil
}

// SiteTime is where the site's clocks come from besides the seed.
type SiteTime struct {
	Servers []string `json:"servers,omitempty"` // names or addresses
}

// Approval is who lets a machine become a node.
type Approval string

// The approvals.
const (
	ApproveAsk  Approval = "ask"  // the operator compares the code on the machine's screen
	ApproveList Approval = "list" // machines that a rule names by MAC, serial number or UUID
	ApproveAuto Approval = "auto" // every machine, while the seed's window is open
)

// SeedSpec is how the seed behaves on the site's network.
type SeedSpec struct {
	Approve Approval `json:"approve,omitempty"` // default ask
	DHCP    SeedDHCP `json:"dhcp,omitzero"`
}

// DHCPMode is what the seed may answer.
type DHCPMode string

// The modes.
const (
	DHCPAuto  DHCPMode = "auto"  // listen first: full without another server, else proxy
	DHCPProxy DHCPMode = "proxy" // boot information only, never an address
	DHCPOff   DHCPMode = "off"   // nothing: the site's own server points at the seed
)

// SeedDHCP is the address plan of a LAN without a DHCP server.
type SeedDHCP struct {
	Mode   DHCPMode     `json:"mode,omitempty"`  // default auto
	Subnet netip.Prefix `json:"subnet,omitzero"` // needed to give addresses
	First  netip.Addr   `json:"first,omitzero"`  // of the range; default: the subnet's upper half
	Last   netip.Addr   `json:"last,omitzero"`   //
	Router netip.Addr   `json:"router,omitzero"` // default: the seed
	DNS    []netip.Addr `json:"dns,omitempty"`   // default: none
}

// SiteAccess is who may log in to nodes.
type SiteAccess struct {
	SSHAuthorizedKeys []string `json:"sshAuthorizedKeys,omitempty"` // authorized_keys lines, for root
}

// ParseCluster reads cluster.yaml strictly, fills in defaults and checks it. An
// error is a Problems with everything found.
func ParseCluster(name string, data []byte) (*Cluster, error) {
	d := newDocument(name, data)
	if !d.read() || !d.isKind(APIVersion, KindCluster) {
		return nil, d.err()
	}
	var c Cluster
	if !d.decode(&c) {
		return nil, d.err()
	}
	c.setDefaults()
	c.check(d.root())
	if err := d.err(); err != nil {
		return nil, err
	}
	return &c, nil
}

func (c *Cluster) setDefaults() {
	s := &c.Spec
	s.Networks.setDefaults()
	s.Seed.Approve = cmp.Or(s.Seed.Approve, ApproveAsk)
	s.Seed.DHCP.Mode = cmp.Or(s.Seed.DHCP.Mode, DHCPAuto)
	for i := range s.Nodes {
		r := &s.Nodes[i]
		if r.Name == "" && r.Role == RoleControlPlane {
			r.Name = "control-plane-{n}"
		}
		if r.Name == "" {
			r.Name = "worker-{n}"
		}
	}
}

func (c *Cluster) check(a at) {
	a.key("metadata").key("name").must(c.Metadata.Name, func(s string) error {
		if strings.Contains(s, ".") {
			return fmt.Errorf("%q: want one name without dots", s)
		}
		return dnsName(s, 63)
	})
	a, s := a.key("spec"), c.Spec
	a.key("endpoint").may(s.Endpoint, hostPort)
	s.Networks.check(a.key("networks"))
	s.checkNodes(a.key("nodes"))
	s.Install.check(a.key("install"))
	for i, k := range s.Access.SSHAuthorizedKeys {
		if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k)); err != nil {
			a.key("access").key("sshAuthorizedKeys").item(i).errorf("not a line of authorized_keys: %v", err)
		}
	}
	for i, h := range s.Time.Servers {
		a.key("time").key("servers").item(i).must(h, host)
	}
	s.Seed.check(a.key("seed"))
	for _, k := range []string{"slipway", "hostname", "fqdn"} {
		if _, ok := s.CloudConfig[k]; ok {
			a.key("cloudConfig").key(k).errorf("the seed writes this key itself")
		}
	}
}

// InstallOf is what the nodes of a rule, known by its name, are installed with.
func (s *ClusterSpec) InstallOf(rule string) Install {
	for _, r := range s.Nodes {
		if r.Name == rule && len(r.Install.Disk) > 0 {
			return r.Install
		}
	}
	return s.Install
}

func (s *ClusterSpec) checkNodes(a at) {
	if len(s.Nodes) == 0 {
		a.missing().Hint = "say what machines become: nodes: [{role: control-plane, count: 1}, {role: worker}]"
		return
	}
	planes := 0
	first := map[string]string{} // what identifies a machine → the rule that has it
	names := map[string]int{}
	for i, r := range s.Nodes {
		here := a.item(i)
		r.check(here)
		if r.Role == RoleControlPlane {
			planes += max(r.Count, 1)
			if r.Count != 1 {
				here.key("count").errorf("want 1 for a control plane, got %d", r.Count).Hint = "several control planes are not supported yet"
			}
		}
		if j, ok := names[r.Name]; ok {
			here.key("name").errorf("%q is already the name of nodes[%d]", r.Name, j)
		} else {
			names[r.Name] = i
		}
		for key, list := range map[string][]string{"mac": texts(r.Match.MAC), "serial": r.Match.Serial, "uuid": r.Match.UUID} {
			for j, v := range list {
				at := fmt.Sprintf("nodes[%d]", i)
				if other, ok := first[key+" "+v]; ok {
					here.key("match").key(key).item(j).errorf("%q is already matched by %s", v, other)
				} else {
					first[key+" "+v] = at
				}
			}
		}
		if last := i == len(s.Nodes)-1; !last && r.Count == 0 && !here.key("match").set() {
			here.errorf("matches every machine: the rules after it are never used").Hint = "give it a count or a match, or move it to the end"
		}
	}
	if planes == 0 {
		a.errorf("no rule makes a control plane").Hint = "add {role: control-plane, count: 1}"
	} else if planes > 1 {
		a.errorf("%d control planes, want 1", planes).Hint = "several control planes are not supported yet"
	}
}

func texts[T ~string](in []T) (out []string) {
	for _, v := range in {
		out = append(out, string(v))
	}
	return out
}

func (r *NodeRule) check(a at) {
	a.key("role").must(string(r.Role), nil)
	a.key("role").oneOf(string(r.Role), string(RoleControlPlane), string(RoleWorker))
	if r.Count < 0 {
		a.key("count").errorf("want a number of machines, got %d", r.Count)
	}
	a.key("name").must(strings.ReplaceAll(r.Name, "{n}", "1"), func(s string) error { return dnsName(s, 63) })
	if r.Count != 1 && !strings.Contains(r.Name, "{n}") {
		a.key("name").errorf("%q would be the name of several nodes", r.Name).Hint = fmt.Sprintf("write %q, or count: 1", r.Name+"-{n}")
	}
	r.Install.check(a.key("install"))
	m := a.key("match")
	if m.set() && len(r.Match.MAC)+len(r.Match.Serial)+len(r.Match.UUID)+len(r.Match.Arch)+r.Match.CPUs == 0 && r.Match.Memory == 0 {
		m.errorf("empty: it would match every machine").Hint = "remove it, or give mac, serial, uuid, arch, memory or cpus"
	}
	for i, u := range r.Match.UUID {
		if !matches(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`, u) {
			m.key("uuid").item(i).errorf("%q is not a UUID in lower case", u)
		}
	}
	for i, name := range r.Match.Arch {
		if _, err := arch.Parse(string(name)); err != nil {
			m.key("arch").item(i).errorf("%s", err)
		}
	}
}

func (s *SeedSpec) check(a at) {
	a.key("approve").oneOf(string(s.Approve), string(ApproveAsk), string(ApproveList), string(ApproveAuto))
	d, a := s.DHCP, a.key("dhcp")
	a.key("mode").oneOf(string(d.Mode), string(DHCPAuto), string(DHCPProxy), string(DHCPOff))
	if d.Subnet.IsValid() {
		a.key("subnet").subnet(d.Subnet)
		if !d.Subnet.Addr().Is4() || d.Subnet.Bits() > 30 {
			a.key("subnet").errorf("%s: want an IPv4 subnet of /30 or larger", d.Subnet)
		}
	}
	for _, one := range []struct {
		key  string
		addr netip.Addr
	}{{"first", d.First}, {"last", d.Last}, {"router", d.Router}} {
		switch {
		case !one.addr.IsValid():
		case !d.Subnet.IsValid():
			a.key(one.key).errorf("needs subnet")
		case !d.Subnet.Contains(one.addr):
			a.key(one.key).errorf("%s is not in the subnet %s", one.addr, d.Subnet)
		}
	}
	if d.First.IsValid() != d.Last.IsValid() {
		a.errorf("first and last belong together")
	} else if d.First.IsValid() && d.Last.Less(d.First) {
		a.key("last").errorf("%s comes before first, %s", d.Last, d.First)
	} else if d.First.IsValid() && d.Router.IsValid() && !d.Router.Less(d.First) && !d.Last.Less(d.Router) {
		a.key("router").errorf("%s is in the range that machines get addresses from", d.Router)
	}
}
