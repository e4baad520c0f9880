package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/operator"
	"slipway.dev/slipway/pxe/seed/operator/table"
)

func (a *app) undoWipeCommand() *cobra.Command {
	var f seedFlags
	var yes bool
	cmd := &cobra.Command{
		Use:   "undo-wipe REF",
		Short: "Give back a disk whose wipe has just begun",
		Long: `Undo-wipe takes back the consent to write a disk that held others' data. Before the
first write a node saves at the seed what it overwrites first: partition tables,
superblocks, both ends of the disk; after a consent by --wipe it waits half a minute
more. Until file systems are made, every byte is written back and read back. After
that it is refused, and says where the saved tables are.

It acts at once and asks nothing. The machine holds then; its next start waits for
approval.`,
		Example: "  slipway undo-wipe worker-2\n  slipway undo-wipe 52:54:00:12:34:56",
		Args:    oneArg("REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			defer c.Close()
			return a.undoWipe(cmd.Context(), c, args[0])
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "accepted, as by the verbs that ask; this one never does")
	return cmd
}

func (a *app) undoWipe(ctx context.Context, c *operator.Client, ref string) error {
	_, ref, err := find(ctx, c, ref)
	if err != nil {
		return err
	}
	m, err := c.UndoWipe(ctx, ref)
	if err != nil {
		return err
	}
	err = a.narrated(ctx, c, m.ID, func() error {
		m, err = a.givenBack(ctx, c, m)
		return err
	})
	if err != nil {
		return err
	}
	return a.show(m, func() {
		fmt.Fprintln(a.out, table.Clean(fmt.Sprintf("%s: disk %s: %s", operator.Name(m), cmp.Or(m.Wipe.Disk.Serial, m.Wipe.Disk.Name), m.Wipe.Text)))
	})
}

// givenBack waits until the machine says that its disk is as it was.
func (a *app) givenBack(ctx context.Context, c *operator.Client, m seed.Machine) (seed.Machine, error) {
	began, warned := time.Now(), false
	for {
		name := table.Clean(operator.Name(m))
		switch w := m.Wipe; {
		case w == nil || !w.Large.IsZero():
			return m, still{name + " writes its disk", "slipway nodes " + name}
		case !w.Ended.IsZero():
			return m, nil
		case !warned && time.Since(began) > patience:
			warned = true
			a.tell(name + " has not answered yet: is it on, and does it reach the seed? It writes nothing more before it has asked")
		}
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
		next, err := c.Machine(ctx, m.ID)
		if ctx.Err() != nil {
			a.tell(name + " has still to undo it, and does when it asks")
			return m, ctx.Err()
		}
		if err != nil {
			return m, err
		}
		m = next
	}
}
