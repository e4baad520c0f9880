package operatortest

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
)

// Obey makes the orders of one node end in this way as soon as they are given.
func (d *Desk) Obey(name string, out handoff.Outcome) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.obey == nil {
		d.obey = map[string]handoff.Outcome{}
	}
	d.obey[name] = out
}

// Plan has the nodes whose bundle is known, control planes first. One whose
// bundle is "refused" is.
func (d *Desk) Plan(context.Context) (seed.Upgrade, error) {
	u := seed.Upgrade{Bundle: d.Status().Bundle, Kubernetes: "v1.38.0", Nodes: []seed.UpgradeNode{}}
	for _, m := range d.Machines() {
		if m.Bundle == "" || m.Name == "" {
			continue
		}
		n := seed.UpgradeNode{ID: m.ID, Name: m.Name, Role: m.Role, Has: m.Bundle, Kubernetes: m.Kubernetes, Step: seed.UpgradeNow}
		switch {
		case m.Bundle == u.Bundle:
			n.Step, n.Why = seed.UpgradeSame, "it has that bundle"
		case m.Bundle == "refused":
			n.Step, n.Why, n.Hint = seed.UpgradeRefused, "one minor at a time", "slipway reimage "+m.Name
		case m.Order.Open():
			n.Step = seed.UpgradeOrdered
		}
		u.Nodes = append(u.Nodes, n)
	}
	slices.SortStableFunc(u.Nodes, func(a, b seed.UpgradeNode) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Name, b.Name))
	})
	return u, nil
}

// Upgrade orders it.
func (d *Desk) Upgrade(_ context.Context, ref string) (seed.Machine, error) {
	return d.order(ref, handoff.Upgrade)
}

// Withdraw takes back what was not told.
func (d *Desk) Withdraw(_ context.Context, ref string) (seed.Machine, error) {
	return d.judge(ref, seed.StageSystem, "withdrawn by the operator", func(m *seed.Machine) error {
		if !m.Order.Open() {
			return &handoff.Refusal{Code: "SW-ORDER-NONE", Text: m.Name + " has no order"}
		}
		o := *m.Order
		o.State, o.Ended = handoff.Skipped, Now()
		m.Order = &o
		return nil
	})
}

// UndoWipe has the disk given back at once.
func (d *Desk) UndoWipe(ref string) (seed.Machine, error) {
	return d.judge(ref, seed.StageSystem, "the wipe was undone", func(m *seed.Machine) error {
		switch {
		case m.Wipe == nil:
			return &handoff.Refusal{Code: "SW-UNDO-NONE", Text: m.Name + " writes no disk that held others' data, or nothing of it was saved"}
		case !m.Wipe.Large.IsZero():
			return &handoff.Refusal{Code: "SW-UNDO-LATE", Text: "too late: " + m.Name + " began to make file systems", Hint: "what was saved is in " + m.Wipe.File}
		}
		w := *m.Wipe
		w.Asked, w.Ended, w.Text = Now(), Now(), "nothing was written: it is as it was found"
		m.Wipe, m.State = &w, seed.Rejected
		return nil
	})
}

// Departure has two pods to lose.
func (d *Desk) Departure(_ context.Context, ref string) (seed.Departure, error) {
	m, err := d.Machine(ref)
	if err == nil && m.Role == configs.RoleControlPlane {
		err = &handoff.Refusal{Code: "SW-ORDER-CONTROL-PLANE", Text: m.Name + " is the only control plane: the cluster would be lost", Hint: "make a new cluster"}
	}
	return seed.Departure{Machine: m, Node: "Ready", Reachable: m.State == seed.Ready, Pods: []string{"default/web-1 (loses its emptyDir)", "default/db-0"}}, err
}

// Reimage orders it.
func (d *Desk) Reimage(_ context.Context, ref string, how seed.Leaving) (seed.Machine, error) {
	if how.Drain == 1 && !how.Force {
		return seed.Machine{}, &handoff.Refusal{Code: "SW-ORDER-DRAIN", Text: "there still stand default/db-0", Hint: "again with --force"}
	}
	return d.order(ref, handoff.Reimage)
}

// Remove forgets a machine that is not Ready.
func (d *Desk) Remove(_ context.Context, ref string, _ seed.Leaving) (seed.Machine, error) {
	if m, err := d.Machine(ref); err != nil || m.State == seed.Ready {
		return d.order(ref, handoff.Reset)
	}
	return d.judge(ref, seed.StageEnrol, "removed", func(m *seed.Machine) error {
		m.Name, m.Role, m.State = "", "", seed.Seen
		return nil
	})
}

func (d *Desk) order(ref string, verb handoff.Verb) (seed.Machine, error) {
	return d.judge(ref, seed.StageSystem, fmt.Sprintf("the operator orders: %s", verb), func(m *seed.Machine) error {
		if m.Order.Open() {
			return &handoff.Refusal{Code: "SW-ORDER-OPEN", Text: m.Name + " has an order already"}
		}
		m.Order = &seed.Ordered{ID: fmt.Sprint(verb, len(d.steps)), Verb: verb, Given: Now(), State: handoff.Started}
		if verb == handoff.Upgrade {
			m.Order.Bundle = d.status.Bundle
		}
		if out, ok := d.obey[m.Name]; ok {
			m.Order.Told = Now()
			m.Order.State, m.Order.Ended, m.Order.Code, m.Order.Text, m.Order.Hint = out.State, Now(), out.Code, out.Text, out.Hint
			if out.State == handoff.Done && verb == handoff.Upgrade {
				m.Bundle = d.status.Bundle
			}
		}
		return nil
	})
}
