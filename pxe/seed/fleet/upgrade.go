package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/configs/skew"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/kube"
)

// Plan says what each node would get, and changes nothing. Without an API server
// that answers, what the nodes said of themselves counts.
func (f *Fleet) Plan(ctx context.Context) (seed.Upgrade, error) {
	_, nodes, err := f.cluster(ctx)
	if err != nil {
		f.log.Warn("planning an upgrade without the cluster", "err", err)
	}
	return plan(f.seed.Nodes(), nodes, func(m seed.Machine) (string, string) { return f.seed.Serves(m.Arch) }), nil
}

// plan is pure. Machines are control planes first, and upgraded in that order.
func plan(machines []seed.Machine, nodes []kube.Node, serves func(seed.Machine) (bundle, kubernetes string)) seed.Upgrade {
	out := seed.Upgrade{Nodes: []seed.UpgradeNode{}}
	runs := map[string]string{}
	for _, n := range nodes {
		runs[n.Name] = n.Kubelet
	}
	plane := "" // the lowest that a control plane has after its turn
	for _, m := range machines {
		u := seed.UpgradeNode{ID: m.ID, Name: m.Name, Role: m.Role, Has: has(m), Kubernetes: cmp.Or(runs[m.Name], m.Kubernetes)}
		bundle, kubernetes := serves(m)
		if out.Bundle == "" {
			out.Bundle, out.Kubernetes = bundle, kubernetes
		}
		u.Step, u.Why = step(m, u, bundle)
		if u.Step == seed.UpgradeNow {
			if err := allowed(u, isPlane(m), bundle, kubernetes, plane); err != nil {
				u.Step, u.Why, u.Hint = seed.UpgradeRefused, err.Error(), behind(u, isPlane(m), kubernetes, plane, err)
			}
		}
		if u.Step == seed.UpgradeNow && isPlane(m) {
			for _, w := range machines {
				if err := skew.Behind(cmp.Or(runs[w.Name], w.Kubernetes, kubernetes), kubernetes); !isPlane(w) && err != nil {
					u.Step, u.Why = seed.UpgradeRefused, fmt.Sprintf("%s: %s", w.Name, err)
				}
			}
		}
		if isPlane(m) {
			after := u.Kubernetes
			if u.Step == seed.UpgradeNow || u.Step == seed.UpgradeOrdered {
				after = kubernetes
			}
			if plane == "" || skew.Check(after, plane, "") == nil {
				plane = after
			}
		}
		out.Nodes = append(out.Nodes, u)
	}
	return out
}

func has(m seed.Machine) string {
	if m.Bundle == "" && m.Facts != nil { // a node of before bundles were noted
		return m.Facts.Bundle
	}
	return m.Bundle
}

// step is what can be said without any version.
func step(m seed.Machine, u seed.UpgradeNode, bundle string) (seed.UpgradeStep, string) {
	switch {
	case m.Facts == nil: // it never enrolled, see seed.Adopt
		return seed.UpgradeSkipped, "it runs this seed: upgrade it on the machine itself"
	case m.Order.Open() && m.Order.Verb == handoff.Upgrade:
		return seed.UpgradeOrdered, ""
	case m.Order.Open():
		return seed.UpgradeSkipped, fmt.Sprintf("it has an order: %s", m.Order)
	case bundle == "":
		return seed.UpgradeSkipped, fmt.Sprintf("this seed serves nothing for %s", m.Arch)
	case u.Has == bundle:
		return seed.UpgradeSame, "it has that bundle"
	case m.State == seed.Waiting || m.State == seed.Approved:
		return seed.UpgradeSkipped, "it was restarted and enrols again"
	case m.Disk == "":
		return seed.UpgradeSkipped, "it runs from memory: restarted, it gets the bundle that is served"
	}
	return seed.UpgradeNow, ""
}

// allowed asks the rules of versions.
func allowed(u seed.UpgradeNode, control bool, bundle, kubernetes, plane string) error {
	if err := skew.Bundle(u.Has, bundle); err != nil {
		return err
	}
	switch {
	case control:
		return skew.Check(u.Kubernetes, kubernetes, "")
	case plane == "":
		return errors.New("nobody knows which Kubernetes the control plane runs")
	}
	return skew.Check(u.Kubernetes, kubernetes, plane)
}

// behind is what to do with a worker that was away for more than one minor. What it
// has of its own can be made anew, as soon as the control plane has that version.
func behind(u seed.UpgradeNode, control bool, kubernetes, plane string, why error) string {
	if control || !errors.Is(why, skew.ErrMinor) || skew.Check(kubernetes, kubernetes, plane) != nil {
		return ""
	}
	return "install it anew, when the control plane has " + kubernetes + ": slipway reimage " + u.Name + "; the others by name: slipway upgrade REF..."
}

// Upgrade orders one node to take the bundle that is served. A worker's turn is
// only after the control planes'.
func (f *Fleet) Upgrade(ctx context.Context, ref string) (seed.Machine, error) {
	m, err := f.seed.Orderable(ref, handoff.Upgrade, false)
	if err != nil {
		return m, err
	}
	p, err := f.Plan(ctx)
	if err != nil {
		return m, err
	}
	var mine *seed.UpgradeNode
	for _, u := range p.Nodes {
		if u.ID == m.ID {
			mine = &u
			break
		}
		if isPlane(m) || u.Step == seed.UpgradeSame || u.Step == seed.UpgradeSkipped || u.Role == m.Role {
			continue
		}
		if u.Step == seed.UpgradeRefused {
			hint := "serve a bundle that the control plane may have: slipway upgrade --dry-run"
			if skew.Check(p.Kubernetes, p.Kubernetes, u.Kubernetes) == nil {
				hint += "; or install it anew with this one: slipway reimage " + m.Name
			}
			return m, seed.Refuse(codeSkew, hint, "the control plane %s comes before %s, and may not have this bundle: %s", u.Name, m.Name, u.Why)
		}
		return m, seed.Refuse(codeSkew, "slipway upgrade", "the control plane %s comes before %s: it has %s still", u.Name, m.Name, u.Has)
	}
	switch {
	case mine == nil:
		return m, seed.Refuse(codeSkew, "list them: slipway nodes", "%s is no node", ref)
	case mine.Step == seed.UpgradeSame:
		return m, seed.Refuse(codeSame, "", "%s has %s already", m.Name, p.Bundle)
	case mine.Step == seed.UpgradeSkipped:
		return m, seed.Refuse(codeMemory, "slipway upgrade --dry-run shows all", "%s: %s", m.Name, mine.Why)
	case mine.Step == seed.UpgradeRefused:
		return m, seed.Refuse(codeSkew, cmp.Or(mine.Hint, "serve a bundle that may follow: slipway upgrade --dry-run"), "%s: %s", m.Name, mine.Why)
	}
	return f.seed.Order(m.ID, handoff.Upgrade, seed.Ordering{})
}
