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
	m, err := f.seed.Orderable(ref, handoff.Reset, true)
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
		return d, seed.Refuse(codeCluster, seed.HintAPI(err), "the pods of %s: %s", m.Name, err)
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
	m, err := f.seed.Orderable(ref, handoff.Reimage, false)
	if err != nil {
		return m, err
	}
	if m.Disk == "" {
		return m, seed.Refuse(codeMemory, "restart it: it enrols again", "%s runs from memory: there is nothing to reimage", m.Name)
	}
	was, err := f.standing(ctx, m, how)
	if err != nil {
		return m, err
	}
	m, err = f.empty(ctx, m, was, handoff.Reimage, seed.Ordering{Leave: was.there}, how)
	if err == nil {
		m, err = f.seed.Emptied(m.ID, m.Order.ID, nil)
	}
	if err != nil || !was.there || !how.Force {
		return m, err
	}
	// Run does it again once the machine has enrolled again: one that starts before it
	// hears the order makes its Node anew.
	if err := f.kube.Delete(ctx, was.cluster, m.Name); err != nil {
		f.say(m.ID, "its Node was not deleted yet: %s", err)
		return m, nil
	}
	f.say(m.ID, "its Node was deleted from the cluster")
	return m, nil
}

// Remove takes a node out of the cluster for good. A machine that is reached is
// ordered to reset itself; when it has, Run deletes its Node, and its name is free.
// Any other's go at once, and so with Force do those of one that was ordered before;
// then also an order that such a machine has, and will never follow.
func (f *Fleet) Remove(ctx context.Context, ref string, how seed.Leaving) (seed.Machine, error) {
	m, err := f.seed.Orderable(ref, handoff.Reset, how.Force)
	if err != nil {
		return m, err
	}
	ended := m.Order != nil && m.Order.Verb == handoff.Reset && (m.Order.State == handoff.Failed || m.Order.State == handoff.Done)
	was, err := f.standing(ctx, m, how)
	if err != nil {
		return m, err
	}
	// Known or not: kubelet makes a Node when it starts.
	if m, err = f.empty(ctx, m, was, handoff.Reset, seed.Ordering{Leave: was.known, Forget: true, Force: how.Force}, how); err != nil {
		return m, err
	}
	if f.seed.Reachable(m.ID) && !(ended && how.Force) {
		return f.seed.Emptied(m.ID, m.Order.ID, nil)
	}
	if was.there {
		if err := f.kube.Delete(ctx, was.cluster, m.Name); err != nil && !how.Force {
			return m, f.spared(m, seed.Refuse(codeCluster, "again, or with --force, and kubectl delete node "+m.Name+" later", "the Node %s was not deleted: %s", m.Name, err))
		} else if err != nil {
			f.say(m.ID, "its Node was not deleted: kubectl delete node %s", m.Name)
		}
	}
	return f.seed.Forget(m.ID)
}

// standing is what the cluster has of a node before it leaves.
type standing struct {
	cluster handoff.Cluster
	known   bool // there is one
	there   bool // it has a Node of it
	ready   bool // whose pods can move
}

// standing asks the cluster, and says why a node may not leave.
func (f *Fleet) standing(ctx context.Context, m seed.Machine, how seed.Leaving) (standing, error) {
	k, nodes, err := f.cluster(ctx)
	_, known := f.seed.Reached()
	was := standing{cluster: k, known: known && f.kube != nil}
	if refused := quorum(m, nodes); refused != nil {
		return was, refused
	}
	if err != nil {
		if !how.Force {
			return was, orForce(err)
		}
		f.say(m.ID, "not drained: %s", err)
		was.there = true
		return was, nil
	}
	n, ok := named(nodes, m.Name)
	if was.there, was.ready = ok, ok && n.Ready; ok && !n.Ready {
		f.say(m.ID, "not drained: its Node is not Ready (%s)", n.Text)
	}
	return was, nil
}

// empty gives a node its order, and moves its pods away before the node is told: a
// seed that is killed meanwhile knows what it has to undo, and nobody else begins.
func (f *Fleet) empty(ctx context.Context, m seed.Machine, was standing, verb handoff.Verb, o seed.Ordering, how seed.Leaving) (seed.Machine, error) {
	o.Drain = true
	m, err := f.seed.Order(m.ID, verb, o)
	if err != nil || !was.ready {
		return m, err
	}
	limit := cmp.Or(time.Duration(how.Drain)*time.Second, seed.DrainFor)
	f.say(m.ID, "draining it, for %s at most", limit)
	ctx, stop := f.while(ctx, m)
	defer stop()
	err = f.kube.Drain(ctx, was.cluster, m.Name, limit, func(line string) { f.say(m.ID, "%s", line) })
	if err = f.drained(ctx, m, how, err); err != nil {
		return m, f.spared(m, err)
	}
	return m, nil
}

// while is a context that ends with a machine's order.
func (f *Fleet) while(ctx context.Context, m seed.Machine) (context.Context, func()) {
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			_, changed := f.seed.Steps(^uint64(0))
			if now, err := f.seed.Machine(m.ID); err != nil || !now.Order.Open() || now.Order.ID != m.Order.ID {
				stop()
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}()
	return ctx, func() { stop(); <-ended }
}

// spared ends an order of which nothing comes, and returns why.
func (f *Fleet) spared(m seed.Machine, err error) error {
	if _, other := f.seed.Emptied(m.ID, m.Order.ID, err); other != nil {
		return other
	}
	return err
}

// drained judges how a drain ended.
func (f *Fleet) drained(ctx context.Context, m seed.Machine, how seed.Leaving, err error) error {
	var standing *kube.StandingError
	switch {
	case err == nil:
		f.say(m.ID, "drained")
		return nil
	case ctx.Err() != nil:
		f.say(m.ID, "the drain was stopped")
		return fmt.Errorf("the drain was stopped: %w", err)
	case how.Force:
		f.say(m.ID, "not drained, and goes all the same: %s", err)
		return nil
	case errors.As(err, &standing):
		f.say(m.ID, "not drained: %s", err)
		return seed.Refuse(codeDrain, "again with a longer --drain-timeout, or --force, which loses what runs there; until then it takes pods again", "%s", err)
	}
	return seed.Refuse(codeCluster, "again; until then it takes pods again", "%s", err)
}

// orForce adds what can be done without the API server.
func orForce(err error) error {
	if r, ok := errors.AsType[*handoff.Refusal](err); ok {
		return seed.Refuse(r.Code, r.Hint+"; or --force: then its Node is deleted later", "%s", r.Text)
	}
	return err
}

// Withdraw takes an order back that the node cannot know yet. Run lets pods come to
// the node again.
func (f *Fleet) Withdraw(_ context.Context, ref string) (seed.Machine, error) {
	return f.seed.TakeBack(ref)
}
