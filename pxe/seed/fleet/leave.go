package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/kube"
)

// Departure says what a node would lose, or why it cannot leave.
func (f *Fleet) Departure(ctx context.Context, ref string) (seed.Departure, error) {
	d := seed.Departure{Pods: []string{}}
	m, err := f.seed.Orderable(ref, handoff.Reset)
	if err != nil {
		return d, err
	}
	d.Machine, d.Reachable = m, f.seed.Reachable(m.ID)
	k, nodes, err := f.cluster(ctx)
	if refused := quorum(m, nodes); refused != nil {
		return d, refused
	}
	if err != nil {
		d.Node = "not known: " + err.Error()
		return d, nil
	}
	n, ok := named(nodes, m.Name)
	if !ok {
		return d, nil
	}
	if d.Node = "Ready"; !n.Ready {
		d.Node = "not Ready: " + n.Text
	}
	pods, err := f.kube.Pods(ctx, k, m.Name)
	if err != nil {
		return d, seed.Refuse(codeCluster, "check that the control plane runs: slipway nodes", "the pods of %s: %s", m.Name, err)
	}
	for _, p := range pods {
		d.Pods = append(d.Pods, describe(p))
	}
	return d, nil
}

func describe(p kube.Pod) string {
	var loses []string
	if p.EmptyDir {
		loses = append(loses, "loses its emptyDir")
	}
	if p.Bare {
		loses = append(loses, "no controller makes it again")
	}
	if len(loses) == 0 {
		return p.String()
	}
	return fmt.Sprintf("%s (%s)", p, strings.Join(loses, ", "))
}

func named(nodes []kube.Node, name string) (kube.Node, bool) {
	i := slices.IndexFunc(nodes, func(n kube.Node) bool { return n.Name == name })
	if i < 0 {
		return kube.Node{}, false
	}
	return nodes[i], true
}

// quorum keeps control planes: whoever takes one away takes its member of etcd
// away, and this version takes none out of etcd first.
func quorum(m seed.Machine, nodes []kube.Node) error {
	n, listed := named(nodes, m.Name)
	if !isPlane(m) && !(listed && n.ControlPlane) {
		return nil
	}
	all, ready := planes(nodes)
	if !listed || !n.ControlPlane {
		all++
	}
	hint := "to start over, make a new cluster: stop the seed, move its state directory away, install all nodes anew"
	switch {
	case all <= 1:
		return seed.Refuse(codePlane, hint, "%s is the only control plane: the cluster would be lost", m.Name)
	case listed && n.Ready && ready-1 < all/2+1 || ready < all/2+1:
		return seed.Refuse(codePlane, "bring the other control planes to Ready first: slipway nodes", "of %d control planes %d are Ready: without %s etcd would lose its quorum", all, ready, m.Name)
	}
	return seed.Refuse(codePlane, "take its member out of etcd by hand, and kubectl delete node "+m.Name, "%s is one of %d control planes: this version takes no member out of etcd", m.Name, all)
}

// Reimage empties a node and orders it to install itself anew under its name. Its
// Node is deleted when the machine has enrolled again: one that cannot follow the
// order goes on as it was. With Force it is deleted at once.
func (f *Fleet) Reimage(ctx context.Context, ref string, how seed.Leaving) (seed.Machine, error) {
	m, err := f.seed.Orderable(ref, handoff.Reimage)
	if err != nil {
		return m, err
	}
	if m.Disk == "" {
		return m, seed.Refuse(codeMemory, "restart it: it enrols again", "%s runs from memory: there is nothing to reimage", m.Name)
	}
	k, there, err := f.empty(ctx, m, how)
	if err != nil {
		return m, err
	}
	m, err = f.seed.Order(m.ID, handoff.Reimage, seed.Ordering{Leave: there})
	if err != nil || !there || !how.Force {
		return m, err
	}
	if err := f.kube.Delete(ctx, k, m.Name); err != nil {
		f.say(m.ID, "its Node was not deleted yet: %s", err)
		return m, nil // Run does, once the machine has enrolled again
	}
	return m, f.seed.Left(m.ID, m.Order.ID)
}

// Remove takes a node out of the cluster for good. A machine that is reached is
// ordered to reset itself, and its name is free when it has; any other's at once.
func (f *Fleet) Remove(ctx context.Context, ref string, how seed.Leaving) (seed.Machine, error) {
	m, err := f.seed.Orderable(ref, handoff.Reset)
	if err != nil {
		return m, err
	}
	k, there, err := f.empty(ctx, m, how)
	if err != nil {
		return m, err
	}
	if there {
		if err := f.kube.Delete(ctx, k, m.Name); err != nil && !how.Force {
			return m, seed.Refuse(codeCluster, "again, or with --force, and kubectl delete node "+m.Name+" later", "the Node %s was not deleted: %s", m.Name, err)
		} else if err != nil {
			f.say(m.ID, "its Node was not deleted: kubectl delete node %s", m.Name)
		}
	}
	failed := m.Order != nil && m.Order.Verb == handoff.Reset && m.Order.State == handoff.Failed
	if !f.seed.Reachable(m.ID) || failed && how.Force {
		return f.seed.Forget(m.ID)
	}
	return f.seed.Order(m.ID, handoff.Reset, seed.Ordering{Forget: true})
}

// empty moves a node's pods away; there says that the cluster has a Node of it.
func (f *Fleet) empty(ctx context.Context, m seed.Machine, how seed.Leaving) (k handoff.Cluster, there bool, err error) {
	k, nodes, err := f.cluster(ctx)
	if refused := quorum(m, nodes); refused != nil {
		return k, false, refused
	}
	if err != nil {
		if !how.Force {
			return k, false, hinted(err, "again when it does, or --force: then its Node is deleted later")
		}
		f.say(m.ID, "not drained: %s", err)
		return k, true, nil
	}
	n, ok := named(nodes, m.Name)
	switch {
	case !ok:
		return k, false, nil
	case !n.Ready:
		f.say(m.ID, "not drained: its Node is not Ready (%s)", n.Text)
		return k, true, nil
	}
	limit := cmp.Or(time.Duration(how.Drain)*time.Second, seed.DrainFor)
	f.say(m.ID, "draining it, for %s at most", limit)
	return k, true, f.drained(ctx, m, how, f.kube.Drain(ctx, k, m.Name, limit, func(line string) { f.say(m.ID, "%s", line) }))
}

// drained judges how a drain ended.
func (f *Fleet) drained(ctx context.Context, m seed.Machine, how seed.Leaving, err error) error {
	var standing *kube.StandingError
	const stays = "it takes no new pods until: kubectl uncordon "
	switch {
	case err == nil:
		f.say(m.ID, "drained")
		return nil
	case ctx.Err() != nil:
		f.say(m.ID, "the drain was stopped; "+stays+"%s", m.Name)
		return err
	case how.Force:
		f.say(m.ID, "not drained, and goes all the same: %s", err)
		return nil
	case errors.As(err, &standing):
		f.say(m.ID, "not drained: %s", err)
		return seed.Refuse(codeDrain, "again with a longer --drain-timeout, or --force, which loses what runs there; "+stays+m.Name, "%s", err)
	}
	return seed.Refuse(codeCluster, "again; "+stays+m.Name, "%s", err)
}

func hinted(err error, hint string) error {
	if r, ok := errors.AsType[*handoff.Refusal](err); ok {
		return seed.Refuse(r.Code, hint, "%s", r.Text)
	}
	return err
}

// Withdraw takes an order back that the node cannot know yet. Run lets pods come to
// the node again.
func (f *Fleet) Withdraw(_ context.Context, ref string) (seed.Machine, error) {
	return f.seed.TakeBack(ref)
}
