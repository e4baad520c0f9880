package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/operator"
	"slipway.dev/slipway/pxe/seed/operator/table"
)

func (a *app) upgradeCommand() *cobra.Command {
	var f seedFlags
	var yes, dry bool
	cmd := &cobra.Command{
		Use:   "upgrade [REF]...",
		Short: "Give nodes the bundle that the seed serves, one after the other",
		Long: `Upgrade orders every node whose bundle is not the seed's to take it, or those that
are named: the control plane first, then the workers, one after the other. Each node
fetches what has changed into its other slot, starts from it, and goes back to the
one before by itself when it does not become healthy. The first that fails ends it;
typed again, it goes on with those that are left.

Before anything changes the rules of versions are checked for all of them: no bundle
with a lower serial number, no lower Kubernetes, not more than one minor up, no worker
newer than the control plane. Interrupted, an order stands: slipway withdraw.`,
		Example: "  slipway upgrade --dry-run\n  slipway upgrade --yes\n  slipway upgrade worker-3 --yes",
		RunE: func(cmd *cobra.Command, refs []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			defer c.Close()
			p, err := a.upgradePlan(cmd.Context(), c, refs)
			if err != nil {
				return err
			}
			if dry {
				return a.show(p, func() { printUpgrade(a.out, p) })
			}
			return a.upgrade(cmd.Context(), c, p, refs, yes)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only show what each node would get, and why not")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

// upgradePlan is what the seed says, narrowed to some nodes.
func (a *app) upgradePlan(ctx context.Context, c *operator.Client, refs []string) (seed.Upgrade, error) {
	p, err := c.Plan(ctx)
	if err != nil || len(refs) == 0 {
		return p, err
	}
	ids := map[string]bool{}
	for _, ref := range refs {
		m, _, err := find(ctx, c, ref)
		if err != nil {
			return p, err
		}
		if !slices.ContainsFunc(p.Nodes, func(u seed.UpgradeNode) bool { return u.ID == m.ID }) {
			return p, still{table.Clean(operator.Name(m)) + " is no node", "list them: slipway upgrade --dry-run"}
		}
		ids[m.ID] = true
	}
	p.Nodes = slices.DeleteFunc(p.Nodes, func(u seed.UpgradeNode) bool { return !ids[u.ID] })
	return p, nil
}

func printUpgrade(w io.Writer, p seed.Upgrade) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tROLE\tHAS\tKUBERNETES\tGETS\tWHY")
	for _, u := range p.Nodes {
		gets, why := "-", u.Why
		switch u.Step {
		case seed.UpgradeNow:
			gets = p.Bundle + ", " + p.Kubernetes
		case seed.UpgradeOrdered:
			gets, why = p.Bundle+", "+p.Kubernetes, "it has the order"
		}
		cells := []string{u.Name, string(u.Role), u.Has, u.Kubernetes, gets, why}
		for i, cell := range cells {
			if cells[i] = table.Clean(cell); cells[i] == "" && i < len(cells)-1 {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	_ = t.Flush()
}

func (a *app) upgrade(ctx context.Context, c *operator.Client, p seed.Upgrade, refs []string, yes bool) error {
	var refused, hints []string
	var todo []seed.UpgradeNode
	for _, u := range p.Nodes {
		switch u.Step {
		case seed.UpgradeRefused:
			refused = append(refused, table.Clean(u.Name+": "+u.Why))
			if u.Hint != "" {
				hints = append(hints, table.Clean(u.Name+": "+u.Hint))
			}
		case seed.UpgradeNow, seed.UpgradeOrdered:
			todo = append(todo, u)
		default:
			fmt.Fprintln(a.err, table.Clean(u.Name+": "+u.Why))
		}
	}
	if len(refused) > 0 {
		return still{"nothing was changed: " + strings.Join(refused, "; "), cmp.Or(strings.Join(hints, "; "), "look at all of them: slipway upgrade --dry-run")}
	}
	if len(todo) > 0 && !yes {
		printUpgrade(a.err, p)
		return still{"nothing was changed: each of these nodes restarts, one after the other", strings.Join(append([]string{"slipway upgrade"}, append(refs, "--yes")...), " ")}
	}
	done := []seed.Machine{}
	for _, u := range todo {
		m, err := a.upgradeOne(ctx, c, u)
		if err != nil {
			return err
		}
		done = append(done, m)
		if a.output != "json" {
			fmt.Fprintln(a.out, table.Clean(fmt.Sprintf("%s has %s", m.Name, m.Bundle)))
		}
	}
	if a.output != "json" {
		fmt.Fprintf(a.out, "%d nodes upgraded to %s\n", len(done), table.Clean(p.Bundle))
		return nil
	}
	return a.show(done, nil)
}

func (a *app) upgradeOne(ctx context.Context, c *operator.Client, u seed.UpgradeNode) (m seed.Machine, err error) {
	err = a.narrated(ctx, c, u.ID, func() error {
		if m, err = c.Machine(ctx, u.ID); err == nil && u.Step == seed.UpgradeNow {
			m, err = c.Upgrade(ctx, u.ID)
		}
		if err == nil {
			m, err = a.obeyed(ctx, c, m, "slipway upgrade goes on where this stopped")
		}
		return err
	})
	return m, err
}

// narrated shows a machine's steps while something is done.
func (a *app) narrated(ctx context.Context, c *operator.Client, id string, do func() error) error {
	before, err := c.Timeline(ctx, id)
	if err != nil {
		return err
	}
	var after uint64
	if len(before) > 0 {
		after = before[len(before)-1].Seq
	}
	name := id
	if m, err := c.Machine(ctx, id); err == nil {
		name = operator.Name(m)
	}
	say := func(s seed.Step) error {
		after = s.Seq
		if s.Machine == id {
			s.Time = s.Time.Local()
			a.tell(table.Line(s, name))
		}
		return nil
	}
	told, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Events(told, after, true, say) // its end is the wait's to report
	}()
	err = do()
	stop()
	<-ended
	_ = c.Events(ctx, after, false, say) // what came while it was stopped
	return err
}

// patience is how long a node may take to ask for its order, and silence how long one
// that was told may say nothing, before that is worth a line.
const (
	patience = 45 * time.Second
	silence  = 5 * time.Minute
)

// standstill is what there is to say while a machine's order has not ended; "" for nothing.
func standstill(m seed.Machine, began, now time.Time) string {
	name, o := table.Clean(operator.Name(m)), m.Order
	if o.Told.IsZero() {
		if now.Sub(began) < patience {
			return ""
		}
		return fmt.Sprintf("%s has not asked for its order yet: is it on, and does it reach the seed? To take the order back: slipway withdraw %s", name, name)
	}
	heard := o.Told
	if m.Step.Time.After(heard) {
		heard = m.Step.Time
	}
	switch {
	case !o.Ended.IsZero() && now.Sub(o.Ended) > patience:
		return name + " has reset itself; its name is free when the API server has deleted its Node: is the control plane up?"
	case !o.Ended.IsZero() || now.Sub(heard) < silence:
		return ""
	}
	text := fmt.Sprintf("%s was told at %s, and nothing was heard of it since %s: look at its screen", name, o.Told.Local().Format(time.TimeOnly), heard.Local().Format(time.TimeOnly))
	if m.Role == configs.RoleControlPlane {
		return text
	}
	return text + "; if the machine is gone for good: slipway remove " + name + " --force"
}

// obeyed waits until a machine's order has ended. Interrupted, it says that the
// order stands, and how it goes on.
func (a *app) obeyed(ctx context.Context, c *operator.Client, m seed.Machine, goesOn string) (seed.Machine, error) {
	if m.Order == nil {
		return m, nil
	}
	order, began, said := m.Order.ID, time.Now(), ""
	for {
		name := table.Clean(operator.Name(m))
		switch o := m.Order; {
		case o == nil || o.ID != order:
			return m, still{name + " has another order now, or none", "slipway nodes " + name}
		case o.State == handoff.Done && !(o.Forget && o.Leave): // its name is free when its Node is gone
			return m, nil
		case !o.Open() && o.State != handoff.Done:
			text := fmt.Sprintf("%s: %s: %s", name, o, o.Text)
			if o.Code != "" {
				text += " (" + o.Code + ")"
			}
			return m, still{table.Clean(text), table.Clean(o.Hint)}
		}
		if text := standstill(m, began, time.Now()); text != "" && text != said {
			said = text
			a.tell(text)
		}
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
		next, err := c.Machine(ctx, m.ID)
		if ctx.Err() != nil {
			a.tell(fmt.Sprintf("the order of %s stands; %s. To take it back, as long as it was not told: slipway withdraw %s", name, goesOn, name))
			return m, ctx.Err()
		}
		if err != nil {
			return m, errors.Join(err, still{"the order of " + name + " stands", ""})
		}
		m = next
	}
}
