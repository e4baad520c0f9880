package seed

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/configs/render"
)

// fit says why a rule is not for a machine; "" when it is.
func fit(r *configs.NodeRule, f *handoff.Facts) string {
	m := r.Match
	if len(m.MAC) > 0 && !slices.ContainsFunc(m.MAC, func(a configs.MAC) bool { return slices.Contains(f.MACs, strings.ToLower(string(a))) }) {
		return "another MAC"
	}
	if len(m.Serial) > 0 && !slices.Contains(m.Serial, f.Serial) {
		return "another serial number"
	}
	if len(m.UUID) > 0 && !slices.Contains(m.UUID, f.UUID) {
		return "another UUID"
	}
	if len(m.Arch) > 0 && !slices.Contains(m.Arch, f.Arch) {
		return fmt.Sprintf("it is %s", f.Arch)
	}
	// MemTotal is what firmware and kernel leave: 62.7 of 64 GiB, 3.8 of 4.
	if want := int64(m.Memory); want-want/16 > f.Memory {
		return fmt.Sprintf("it has %d MiB of memory, %d are wanted", f.Memory>>20, int64(m.Memory)>>20)
	}
	if m.CPUs > f.CPUs {
		return fmt.Sprintf("it has %d CPUs, %d are wanted", f.CPUs, m.CPUs)
	}
	return ""
}

// names says whether a rule that fits a machine means this very one. A serial
// number or UUID that makers leave the same on every board means nobody.
func names(r *configs.NodeRule, f *handoff.Facts) bool {
	m := r.Match
	return len(m.MAC) > 0 || len(m.Serial) > 0 && !blank(f.Serial) || len(m.UUID) > 0 && !blank(f.UUID)
}

// blank says that an SMBIOS text is what boards have that nobody filled in.
func blank(s string) bool {
	s = strings.ToLower(strings.TrimSpace(s))
	switch s {
	case "to be filled by o.e.m.", "default string", "system serial number", "not specified", "not applicable", "none",
		"unknown", "oem", "o.e.m.", "serial", "n/a", "na", "123456789", "0123456789", "1234567890",
		"03000200-0400-0500-0006-000700080009": // AMI's sample, on many small boards
		return true
	}
	return strings.Trim(s, "0-. ") == "" || strings.Trim(s, "f-") == ""
}

// slot is the place that a machine gets among the nodes.
type slot struct {
	rule string // its name pattern; "" for a role that the operator gave
	name string
	role configs.Role
	ours bool // the rule names this machine
}

// room finds a machine's slot: the one it has, or that of the first rule that
// fits and is not full.
func (c *change) room(r *record, f *handoff.Facts) (slot, error) {
	rules := c.s.cluster.Spec.Nodes
	if r.Name != "" && r.Role != "" {
		i := slices.IndexFunc(rules, func(n configs.NodeRule) bool { return n.Name == r.Rule })
		return slot{r.Rule, r.Name, r.Role, i >= 0 && fit(&rules[i], f) == "" && names(&rules[i], f)}, nil
	}
	var why []string
	for i := range rules {
		n := &rules[i]
		bad := ""
		if r.Role != "" && n.Role != r.Role {
			bad = "another role"
		} else {
			bad = fit(n, f)
		}
		holders := c.holders(n, r.ID)
		if bad == "" && n.Count > 0 && len(holders) >= n.Count {
			bad = "taken by " + strings.Join(holders, ", ")
		}
		name := r.Name
		if bad == "" && name == "" {
			if name = c.freeName(n.Name, r.ID); name == "" {
				bad = fmt.Sprintf("the name %q is another machine's", n.Name)
			}
		}
		if bad == "" {
			return slot{n.Name, name, n.Role, names(n, f)}, nil
		}
		why = append(why, fmt.Sprintf("%s %q: %s", n.Role, n.Name, bad))
	}
	if r.Fixed && r.Role == configs.RoleWorker { // the operator's word is enough for a worker
		name := r.Name
		if name == "" {
			name = c.freeName("worker-{n}", r.ID)
		}
		return slot{"", name, r.Role, false}, nil
	}
	return slot{}, refusal(codeRule, "add a rule under spec.nodes of cluster.yaml and start the seed again, or give it the name of a machine that was rejected: slipway assign",
		"no rule of cluster.yaml has room for it (%s)", strings.Join(why, "; "))
}

// holders are the names of other machines that hold a slot of a rule. A control
// plane of a rule that is gone from cluster.yaml, or has another name now, holds
// one too: a second one would make a second cluster.
func (c *change) holders(rule *configs.NodeRule, but string) (out []string) {
	c.all(func(r *record) {
		orphan := r.Role == configs.RoleControlPlane && r.Name != "" && rule.Role == r.Role &&
			!slices.ContainsFunc(c.s.cluster.Spec.Nodes, func(n configs.NodeRule) bool { return n.Name == r.Rule })
		if r.ID != but && (r.Rule == rule.Name && r.Rule != "" || orphan) {
			out = append(out, r.Name)
		}
	})
	slices.Sort(out)
	return out
}

// freeName fills the lowest free number into a pattern; "" when a name without
// a number is taken.
func (c *change) freeName(pattern, but string) string {
	taken := map[string]bool{}
	c.all(func(r *record) {
		if r.Name != "" && r.ID != but {
			taken[r.Name] = true
		}
	})
	for n := 1; ; n++ {
		name := strings.ReplaceAll(pattern, "{n}", strconv.Itoa(n))
		if !taken[name] {
			return name
		}
		if name == pattern {
			return ""
		}
	}
}

// all visits every machine as the change leaves it.
func (c *change) all(f func(*record)) {
	for id, r := range c.s.machines {
		if changed, ok := c.machines[id]; ok {
			r = changed
		}
		f(r)
	}
	for id, r := range c.machines {
		if c.s.machines[id] == nil {
			f(r)
		}
	}
}

// release gives a machine's slot back, unless it is the operator's word.
func (r *record) release() {
	if !r.Fixed {
		r.Name, r.Role, r.Rule = "", "", ""
	}
}

// instance is the same for every fetch of one enrolment and differs for the
// next: cloud-init configures anew what has another one.
func instance(e *enrolment) string {
	s := sha256.Sum256([]byte("slipway instance\x00" + e.Machine + "\x00" + e.Key))
	return "i-" + hex.EncodeToString(s[:10])
}

// endpoint is where nodes find the API server; "" while nobody knows.
func (c *change) endpoint() string {
	if c.s.cluster.Spec.Endpoint != "" {
		return c.s.cluster.Spec.Endpoint
	}
	out := ""
	c.all(func(r *record) {
		if r.Node == selfKey && r.Role == configs.RoleControlPlane && out == "" {
			out = r.Address.String()
		}
		if e := c.peek(r.Node); r.Role == configs.RoleControlPlane && e != nil && (e.Phase == granted || e.Phase == used) && out == "" {
			out = e.Source.String()
		}
	})
	return out
}

// config is a node's config, or a text for it to show while it waits.
func (c *change) config(key string) (conf handoff.Config, wait handoff.Standing, err error) {
	e := c.peek(key)
	if e == nil || e.Phase == introduced {
		return conf, wait, errUnknown()
	}
	c.judge(key)
	switch e = c.peek(key); e.Phase {
	case revealed:
		return conf, handoff.Standing{State: "waiting", Text: "not approved yet: " + e.Reason}, nil
	case granted:
	default:
		return conf, wait, c.s.turnedDown(e)
	}
	if same, like := c.rivals(e); len(same) > 0 || len(like) > 0 && !e.Compared {
		return conf, handoff.Standing{State: "waiting", Text: double(e, append(same, like...))}, nil
	}
	n := render.Node{Name: e.Name, Role: e.Role, Instance: instance(e), Endpoint: c.s.cluster.Spec.Endpoint, Time: c.s.o.times(), Wipe: e.Wipe}
	if r := c.peekMachine(e.Machine); r != nil {
		n.Rule = r.Rule
	}
	n.Lease = c.s.lease(e.Source)
	if n.Role == configs.RoleWorker {
		if n.Endpoint = c.endpoint(); n.Endpoint == "" {
			return conf, handoff.Standing{State: "approved", Text: fmt.Sprintf("approved as %s; waiting for a control plane to be approved", e.Name)}, nil
		}
	}
	conf, err = render.Config(c.s.cluster, n)
	if err != nil { // its text may hold what the config holds
		c.s.log.Error("a node's config cannot be made", "node", e.Name, "machine", e.Machine)
		return conf, wait, refusal(codeConfig, "look at cluster.yaml at the seed", "the seed cannot make the config of %s", e.Name)
	}
	return conf, wait, nil
}

// lease is the one that this seed gave an address by, zero when it did not.
func (s *Seed) lease(at netip.Addr) render.Lease {
	dhcp := s.cluster.Spec.Seed.DHCP
	mac, ok := s.leases.holder(at)
	if !ok || !dhcp.Subnet.Contains(at) {
		return render.Lease{}
	}
	return render.Lease{MAC: mac.String(), Address: netip.PrefixFrom(at, dhcp.Subnet.Bits()), Router: dhcp.Router, DNS: dhcp.DNS}
}

// Forget makes a node a machine that nobody knows: its name is free.
func (s *Seed) Forget(ref string) (Machine, error) {
	var m Machine
	err := s.do(func(c *change) error {
		r, _, err := c.find(ref)
		if err != nil {
			return err
		}
		if r.Node == selfKey {
			return errSelf(r)
		}
		c.outlived(r, r.Order.untold(handoff.Reset), "the node was removed")
		c.forget(r)
		m = r.Machine
		return nil
	})
	return m, err
}

func (c *change) forget(r *record) {
	c.step(r.ID, StageEnrol, handoff.Done, "removed: the name %q is free", r.Name)
	for _, key := range append([]string{r.Node}, keysOf(c.pending(r.ID))...) {
		if o := c.peek(key); o != nil && o.Machine == r.ID {
			c.enrolment(key).Phase = replaced
		}
	}
	if r.Order != nil {
		o := *r.Order
		o.Leave, o.Stay, o.Drain = false, false, false
		r.Order = &o
	}
	r.Fixed = false
	r.release()
	r.Node, r.Key, r.Code, r.Disk, r.HostKeys, r.Back, r.Used, r.Token = "", "", "", "", "", "", false, ""
	r.State, r.Reason, r.HeldFrom, r.HeldAt, r.Bundle, r.Kubernetes = Seen, "removed by the operator", "", "", "", ""
}

func keysOf(all []*enrolment) (keys []string) {
	for _, e := range all {
		keys = append(keys, e.Key)
	}
	return keys
}
