package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed/operator"
	"slipway.dev/slipway/pxe/seed/operator/table"
)

func (a *app) disksCommand() *cobra.Command {
	var f seedFlags
	cmd := &cobra.Command{
		Use:   "disks REF",
		Short: "Show the disks of a machine and what they hold",
		Long: `Disks shows what a machine told of its disks when it enrolled. REF is a MAC, a node
name or a code. By size, type, model, serial number and WWN a rule chooses the disk
that the node is installed on (install.disk in cluster.yaml); what a disk holds is
lost only if that is agreed to by name (install.wipe, or slipway approve --wipe).`,
		Example: "  slipway disks 7K3-M9Q\n  slipway disks cp-1 -o json | jq '.[].serial'",
		Args:    oneArg("REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			defer c.Close()
			m, _, err := find(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			name := table.Clean(operator.Name(m))
			if m.Facts == nil {
				return still{name + " has told nothing of its disks yet", "wait until it has enrolled: slipway nodes"}
			}
			disks := append([]handoff.Disk{}, m.Facts.Disks...) // [], never null
			return a.show(disks, func() {
				if len(disks) == 0 {
					fmt.Fprintf(a.out, "%s sees no disk\n", name)
					return
				}
				printDisks(a.out, disks)
			})
		},
	}
	f.register(cmd)
	return cmd
}

// printDisks has a line for each disk, and more for what else it holds.
func printDisks(w io.Writer, disks []handoff.Disk) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(cells ...string) {
		for i, c := range cells {
			if cells[i] = table.Clean(c); cells[i] == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	row("NAME", "SIZE", "TYPE", "MODEL", "SERIAL", "WWN", "HOLDS")
	for _, d := range disks {
		holds := d.Holds
		if len(holds) == 0 {
			holds = []string{"nothing"}
		}
		serial := d.Serial
		if d.Path != "" { // what names it in its place
			serial = d.Path
		}
		names := d.Name
		if d.Also != "" {
			names += ", " + d.Also
		}
		row(names, size(d.Size), d.Type, d.Model, serial, d.WWN, holds[0])
		for _, h := range holds[1:] {
			fmt.Fprintln(t, strings.Repeat("\t", 6)+table.Clean(h))
		}
	}
	_ = t.Flush()
}
