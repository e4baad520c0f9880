package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/drive"
	"slipway.dev/slipway/pxe/seed/operator"
)

// driveFlags say which seed knows the nodes and with which key to log in.
type driveFlags struct {
	seedFlags
	identity, user string
	port           uint16
}

func (f *driveFlags) register(cmd *cobra.Command) {
	f.seedFlags.register(cmd)
	cmd.Flags().StringVar(&f.identity, "identity", "", "private key to log in with (default: those of ssh-agent, or of ~/.ssh)")
	cmd.Flags().StringVar(&f.user, "user", "root", "account on the nodes")
	cmd.Flags().Uint16Var(&f.port, "port", drive.Port, "where sshd listens on the nodes")
}

func (f *driveFlags) driver() (*drive.Driver, error) {
	d := &drive.Driver{User: f.user}
	home, err := os.UserHomeDir()
	socket := os.Getenv("SSH_AUTH_SOCK")
	switch {
	case f.identity != "":
		d.Keys = drive.Identity(f.identity)
	case socket != "":
		d.Keys = drive.Agent(socket)
	case err != nil:
		return nil, usageError{fmt.Errorf("%w (or give --identity FILE)", err)}
	default:
		d.Keys = drive.Home(home)
	}
	return d, nil
}

// target is the machine as sshd's client needs it.
func (f *driveFlags) target(m seed.Machine) drive.Node {
	n := drive.Node{Name: m.Name, HostKeys: strings.Fields(m.HostKeys)}
	if n.Name == "" {
		n.Name = m.ID
	}
	if m.Address.IsValid() {
		n.Address = netip.AddrPortFrom(m.Address, f.port)
	}
	return n
}

func (a *app) logsCommand() *cobra.Command {
	var f driveFlags
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs NODE [SERVICE]",
		Short: "Show the log of a service of a node, or which services have one",
		Long: `logs asks the seed on this machine where NODE is (a node's name, the MAC it boots
from, or its code) and logs in there with your own SSH key. The host key must be
the one that the node told the seed.`,
		Example: `  slipway logs worker-1
  slipway logs worker-1 kubelet -f`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return usageError{fmt.Errorf("logs wants NODE and at most one SERVICE, got %d arguments", len(args))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			defer c.Close()
			d, err := f.driver()
			if err != nil {
				return err
			}
			m, err := c.Machine(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			unit := ""
			if len(args) == 2 {
				unit = args[1]
			}
			return d.Logs(cmd.Context(), f.target(m), unit, follow, a.out)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is added, until interrupted")
	return cmd
}

func (a *app) supportCommand() *cobra.Command {
	var f driveFlags
	var out string
	cmd := &cobra.Command{
		Use:   "support-bundle [NODE]...",
		Short: "Collect what the seed and the nodes say of themselves in one archive",
		Long: `support-bundle writes a tar.gz with the seed's status and timeline and, of each
node (all of them, or those named), its status, events, logs, kernel messages and
addresses. Tokens, keys and passwords are masked; look at it before you send it.
A node that cannot be asked is a file that says why.`,
		Example: `  slipway support-bundle
  slipway support-bundle --out - worker-1 | tar tz`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.support(cmd.Context(), &f, out, args) },
	}
	f.register(cmd)
	cmd.Flags().StringVar(&out, "out", "", "file to write, - for stdout (default: slipway-support-CLUSTER-TIME.tar.gz)")
	return cmd
}

// supportResult is what support-bundle says on stdout.
type supportResult struct {
	File  string           `json:"file"`
	Nodes []supportProblem `json:"nodes"`
}

type supportProblem struct {
	Node    string `json:"node"`
	Problem string `json:"problem,omitempty"`
}

func (a *app) support(ctx context.Context, f *driveFlags, out string, names []string) error {
	c, err := f.client()
	if err != nil {
		return err
	}
	defer c.Close()
	d, err := f.driver()
	if err != nil {
		return err
	}
	status, files, machines, err := snapshot(ctx, c)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		machines = nil
		for _, n := range names {
			m, err := c.Machine(ctx, n)
			if err != nil {
				return err
			}
			machines = append(machines, m)
		}
	}
	now := time.Now().UTC()
	b := drive.Bundle{Name: "slipway-support-" + status.Cluster + "-" + now.Format("20060102T150405Z"), Time: now.Truncate(time.Second), Seed: files}
	result := supportResult{File: out, Nodes: []supportProblem{}}
	b.Tell = func(n drive.Node, err error) {
		p := supportProblem{Node: n.Name}
		text := "done"
		if err != nil {
			p.Problem = err.Error()
			text = p.Problem
		}
		result.Nodes = append(result.Nodes, p)
		fmt.Fprintf(a.err, "%s: %s\n", n.Name, text)
	}
	for _, m := range machines {
		if m.Name != "" || len(names) > 0 { // others have no system to ask
			b.Nodes = append(b.Nodes, f.target(m))
		}
	}
	if out == "-" {
		return d.SupportBundle(ctx, b, a.out)
	}
	if out == "" {
		result.File = b.Name + ".tar.gz"
	}
	if err := create(result.File, func(w io.Writer) error { return d.SupportBundle(ctx, b, w) }); err != nil {
		return err
	}
	return a.show(result, func() { fmt.Fprintln(a.out, result.File) })
}

// create makes a file that is there whole, for its owner alone, or not at all.
func create(name string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".slipway-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return os.Rename(f.Name(), name)
}

// snapshot asks the seed for everything it knows.
func snapshot(ctx context.Context, c *operator.Client) (seed.Status, []drive.File, []seed.Machine, error) {
	status, err := c.Status(ctx)
	if err != nil {
		return status, nil, nil, err
	}
	machines, err := c.Machines(ctx)
	if err != nil {
		return status, nil, nil, err
	}
	var timeline bytes.Buffer
	lines := json.NewEncoder(&timeline)
	if err := c.Events(ctx, 0, false, func(s seed.Step) error { return lines.Encode(s) }); err != nil {
		return status, nil, nil, err
	}
	files := []drive.File{{Name: "timeline.jsonl", Data: timeline.Bytes()},
		{Name: "machine.txt", Data: fmt.Appendf(nil, "%s/%s, %s, slipway built with %s\n", runtime.GOOS, runtime.GOARCH, time.Now().Format(time.RFC3339), runtime.Version())}}
	for name, x := range map[string]any{"status.json": status, "nodes.json": machines} {
		raw, err := json.MarshalIndent(x, "", "  ")
		if err != nil {
			return status, nil, nil, err
		}
		files = append(files, drive.File{Name: name, Data: append(raw, '\n')})
	}
	return status, files, machines, nil
}
