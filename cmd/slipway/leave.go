package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/operator"
	"slipway.dev/slipway/pxe/seed/operator/table"
)

// leaving is what reimage and remove are told.
type leaving struct {
	yes, force bool
	drain      time.Duration
}

func (l *leaving) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&l.yes, "yes", false, "do it; without, it shows what would be lost")
	cmd.Flags().BoolVar(&l.force, "force", false, "go on when pods still stand or the API server does not answer; remove: also when a machine that is not reached has an order")
	cmd.Flags().DurationVar(&l.drain, "drain-timeout", seed.DrainFor, "how long its pods have to move")
}

func (a *app) reimageCommand() *cobra.Command {
	var f seedFlags
	var l leaving
	cmd := &cobra.Command{
		Use:   "reimage REF",
		Short: "Install a node anew over the network, under its name",
		Long: `Reimage takes a worker out of the cluster and has it install itself anew: no new
pods, those that it has are evicted within their disruption budgets, the node is told
and starts the seed's installer, its Node is deleted, and it enrols with a token that
counts once. It comes back under its name, without approval. Its own disk is wiped;
data disks are kept.

A node that is not Ready is not drained. One that is not reached has the order until
it asks. Control planes are refused.`,
		Example: "  slipway reimage worker-2\n  slipway reimage worker-2 --yes --drain-timeout 15m",
		Args:    oneArg("REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.leave(cmd.Context(), &f, l, handoff.Reimage, args[0])
		},
	}
	f.register(cmd)
	l.register(cmd)
	return cmd
}

func (a *app) removeCommand() *cobra.Command {
	var f seedFlags
	var l leaving
	cmd := &cobra.Command{
		Use:   "remove REF",
		Short: "Take a node out of the cluster for good",
		Long: `Remove evicts a worker's pods within their disruption budgets and orders the machine
to reset itself: its disk starts no more and holds nothing of the node, and it powers
off. Its Node is deleted then, and its name is free. Of a machine that is not reached
only the Node and the name go; its disk stays what it is. Control planes are refused.`,
		Example: "  slipway remove worker-2\n  slipway remove worker-2 --yes --force",
		Args:    oneArg("REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.leave(cmd.Context(), &f, l, handoff.Reset, args[0])
		},
	}
	f.register(cmd)
	l.register(cmd)
	return cmd
}

func (a *app) withdrawCommand() *cobra.Command {
	var f seedFlags
	cmd := &cobra.Command{
		Use:   "withdraw REF",
		Short: "Take back an order that a node has not been told",
		Long: `Withdraw takes back an order to upgrade, reimage or reset, as long as the node has not
been told it. One that has gone wrong is no longer shown.`,
		Example: "  slipway withdraw worker-2",
		Args:    oneArg("REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			defer c.Close()
			_, ref, err := find(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			m, err := c.Withdraw(cmd.Context(), ref)
			if err != nil {
				return err
			}
			return a.show(m, func() { fmt.Fprintln(a.out, table.Clean(operator.Name(m)+" has no order any more")) })
		},
	}
	f.register(cmd)
	return cmd
}

func (a *app) leave(ctx context.Context, f *seedFlags, l leaving, verb handoff.Verb, ref string) error {
	if l.drain < time.Second {
		return usageError{fmt.Errorf("--drain-timeout %s: want a second at least", l.drain)}
	}
	c, err := f.client()
	if err != nil {
		return err
	}
	defer c.Close()
	_, ref, err = find(ctx, c, ref)
	if err != nil {
		return err
	}
	d, err := c.Departure(ctx, ref)
	if err != nil {
		return err
	}
	if !l.yes {
		return a.wouldLeave(d, l, verb)
	}
	how := seed.Leaving{Force: l.force, Drain: int((l.drain + time.Second - 1) / time.Second)}
	do, id := c.Reimage, d.Machine.ID
	if verb == handoff.Reset {
		do = c.Remove
	}
	var m seed.Machine
	err = a.narrated(ctx, c, id, func() error {
		if m, err = do(ctx, id, how); err == nil && d.Reachable && m.Order.Open() {
			m, err = a.obeyed(ctx, c, m, "the machine goes on by itself")
		}
		return err
	})
	if err != nil {
		return err
	}
	return a.show(m, func() { fmt.Fprintln(a.out, table.Clean(left(d, m, verb))) })
}

// left says what became of a node.
func left(d seed.Departure, m seed.Machine, verb handoff.Verb) string {
	name := operator.Name(d.Machine)
	switch {
	case m.Order.Open():
		return name + " is not reached; the order stands until it asks. To take it back: slipway withdraw " + name
	case verb == handoff.Reimage:
		return name + " has enrolled again and installs itself: slipway nodes " + name + " --wait ready"
	case m.Order != nil && m.Order.Verb == verb && m.Order.State == handoff.Done && !m.Order.Told.IsZero():
		return name + " is removed and has reset itself; its name is free"
	}
	return name + " is removed and its name is free; the machine was not reached: its disk still starts the node that it was, wipe it before it is switched on (slipway reset on the machine)"
}

// wouldLeave shows what a node has to lose and the line to type.
func (a *app) wouldLeave(d seed.Departure, l leaving, verb handoff.Verb) error {
	name := operator.Name(d.Machine)
	err := a.show(d, func() {
		line := func(key, format string, args ...any) {
			fmt.Fprintf(a.out, "%-8s %s\n", key, table.Clean(fmt.Sprintf(format, args...)))
		}
		line("machine", "%s", describe(d.Machine))
		switch {
		case d.Node == "":
			line("cluster", "has no Node %s", name)
		case d.Node == "Ready":
			line("cluster", "%s is Ready: it is drained, for %s at most", name, l.drain)
		default:
			line("cluster", "%s is %s: it is not drained", name, d.Node)
		}
		for i, p := range d.Pods {
			key := ""
			if i == 0 {
				key = "evicts"
			}
			line(key, "%s", p)
		}
		if verb == handoff.Reimage {
			line("loses", "everything on the disk that it starts from; data disks are kept")
		} else {
			line("loses", "its name, and everything on the disk that it starts from; data disks are kept")
		}
		if o := d.Machine.Order; o.Open() {
			line("order", "it has one that it has not followed, given at %s: %s", o.Given.Local().Format(time.TimeOnly), o)
		}
		if !d.Reachable {
			line("reached", "no: nothing was heard of it for half a minute")
		}
	})
	if err != nil {
		return err
	}
	words := []string{"slipway", "reimage", name, "--yes"}
	if verb == handoff.Reset {
		words[1] = "remove"
	}
	if l.force || d.Machine.Order.Open() && verb == handoff.Reset {
		words = append(words, "--force")
	}
	if l.drain != seed.DrainFor {
		words = append(words, "--drain-timeout", l.drain.String())
	}
	return still{"nothing was changed", strings.Join(words, " ")}
}
