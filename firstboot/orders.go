package firstboot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/firstboot/report"
)

// takeOrders asks the seed for orders from here on: a node that never gets as far
// as Kubernetes is the one that has to be installed anew.
func (n *Node) takeOrders() {
	if n.enrol == nil {
		return
	}
	n.own("order", "", func(ctx context.Context) {
		if n.disk != nil && !n.settled(ctx) {
			return
		}
		n.orders(ctx)
	})
}

// settled waits until the node's disk is what the node is, neither being
// installed nor on trial; false when this start will not see it.
func (n *Node) settled(ctx context.Context) bool {
	_ = n.content.wait(ctx) // a disk that lies hears orders: to be replaced
	if ctx.Err() != nil || n.writing() {
		return false
	}
	if n.onTrial() {
		select {
		case <-n.confirmed:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// orders asks the seed what it wants of this node, for as long as the node runs.
func (n *Node) orders(ctx context.Context) {
	last := ""
	for ctx.Err() == nil {
		o, err := n.enrol.Order(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil && o.ID != last {
			last = o.ID
			n.Report.Emit(handoff.Event{Phase: "order", Step: string(o.Verb), State: handoff.Started, Text: "the seed wants it: " + string(o.Verb) + " " + o.Bundle})
			if then, err := n.follow(ctx, o); then != "" {
				n.end(then)
			} else {
				if err != nil {
					n.Report.Error("order", string(o.Verb), err, nil)
				}
				n.outcome(ended(o, err))
			}
		}
		select { // an order stands until its outcome has arrived
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
		}
	}
}

// follow does what the seed ordered, and says how the machine has to end for it
// to come about; "" when the order has come to its end.
func (n *Node) follow(ctx context.Context, o handoff.Order) (then Power, err error) {
	n.upgrading.Lock() // an order waits for what was asked on the node
	defer n.upgrading.Unlock()
	switch o.Verb {
	case handoff.Upgrade:
		if err := n.triedBefore(o.ID); err != nil {
			return "", err
		}
		switch err := n.upgradeLocked(ctx, wanted{source: o.Store, order: o.ID, bundle: o.Bundle}); {
		case err == nil:
			return Kexec, nil
		case errors.Is(err, errCurrent):
			return "", nil
		default:
			return "", err
		}
	case handoff.Reimage:
		return "", n.reimage(ctx, o)
	case handoff.Reset:
		return "", n.resetThen(ctx, func(err error) {
			limit, cancel := context.WithTimeout(ctx, 30*time.Second) // the disk is empty: there is no later
			defer cancel()
			_ = n.enrol.Ordered(limit, ended(o, err))
		})
	}
	return "", report.Fail("SW-ORDER-UNKNOWN", "the seed is newer than this node: upgrade the node first", fmt.Errorf("order %q", o.Verb))
}

// triedBefore is how the trial of an order ended that the seed has not heard of.
func (n *Node) triedBefore(order string) error {
	if n.disk == nil || n.disk.Record.Trial == nil {
		return nil
	}
	t := n.disk.Record.Trial
	if t.Order != order || t.Step != install.GivenUp {
		return nil
	}
	return &report.Failure{Code: t.Code, Hint: t.Hint, Err: errors.New(t.Text)}
}

func ended(o handoff.Order, err error) handoff.Outcome {
	out := handoff.Outcome{ID: o.ID, State: handoff.Done}
	if err != nil {
		out.State, out.Text = handoff.Failed, err.Error()
	}
	if f, ok := errors.AsType[*report.Failure](err); ok {
		out.Code, out.Hint = f.Code, f.Hint
	}
	return out
}

// outcome tells the seed how an order ended, as soon as it is there.
func (n *Node) outcome(o handoff.Outcome) {
	if n.enrol != nil && o.ID != "" {
		n.tellSeed("order", func(ctx context.Context) error { return n.enrol.Ordered(ctx, o) })
	}
}
