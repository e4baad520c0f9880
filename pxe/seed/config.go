package seed

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/configs/render"
)

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
