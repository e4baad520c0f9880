package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/operator"
	"slipway.dev/slipway/pxe/seed/operator/table"
)

// code reads a code as a person types it, in Crockford's way: case and dash do
// not matter, I and L are 1, O is 0. ok is false for what cannot be one.
func code(s string) (c string, ok bool) {
	s = strings.NewReplacer("-", "", "I", "1", "L", "1", "O", "0").Replace(strings.ToUpper(s))
	if len(s) != 6 || strings.Trim(s, "0123456789ABCDEFGHJKMNPQRSTVWXYZ") != "" {
		return "", false
	}
	return s[:3] + "-" + s[3:], true
}

// find is the machine that ref names, and ref as the seed knows it: as it is, as
// a MAC in another spelling, or as a code in another spelling. In this order: a
// node may well be called web-001.
func find(ctx context.Context, c *operator.Client, ref string) (seed.Machine, string, error) {
	m, err := c.Machine(ctx, ref)
	var refusal *handoff.Refusal
	if err == nil || !errors.As(err, &refusal) {
		return m, ref, err
	}
	other, _ := code(ref)
	if hw, e := net.ParseMAC(ref); e == nil {
		other = hw.String()
	}
	if other != "" && other != ref {
		if again, e := c.Machine(ctx, other); e == nil {
			return again, other, nil
		}
	}
	return m, ref, err
}

func (a *app) approveCommand() *cobra.Command {
	var f seedFlags
	var shown string
	var compared bool
	var wipe []string
	cmd := &cobra.Command{
		Use:   "approve CODE | REF...",
		Short: "Let machines that wait become nodes",
		Long: `Approve lets a machine in whose screen shows CODE: typed from the screen, the code
is the comparison, and a machine between the two cannot have it. Named otherwise (MAC
or node name), a machine's code is compared with --code, or asked for on a terminal.
Machines are approved one by one and never all at once; for that there is
approve: auto in cluster.yaml, with slipway arm.

A disk that holds something is not installed on. --wipe names disks of this machine
that may lose what they hold (slipway disks shows it), by serial number or WWN: at
this start of the machine, and at no later one.`,
		Example: `  slipway approve 7K3-M9Q
  slipway approve 7K3-M9Q --wipe S64FNE0R1
  slipway approve cp-1 --code 7K3-M9Q
  slipway approve 7K3-M9Q Q0W-4ZT`,
		RunE: func(cmd *cobra.Command, refs []string) error {
			if len(refs) == 0 {
				return usageError{errors.New("approve whom? give the code that the machine's screen shows")}
			}
			if shown != "" && len(refs) > 1 {
				return usageError{errors.New("--code belongs to one machine")}
			}
			if len(wipe) > 0 && len(refs) > 1 {
				return usageError{errors.New("--wipe belongs to one machine")}
			}
			if cmd.Flags().Changed("wipe") && len(wipe) == 0 {
				wipe = []string{""}
			}
			for _, name := range wipe {
				if err := configs.CheckDiskName(name); err != nil || name == "" {
					return usageError{fmt.Errorf("--wipe: %w", cmp.Or(err, errors.New("which disk?")))}
				}
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			defer c.Close()
			var all []seed.Machine
			var errs []error
			for _, ref := range refs {
				m, err := a.approve(cmd.Context(), c, ref, shown, compared, wipe)
				if err == nil {
					all = append(all, m)
				}
				errs = append(errs, err)
			}
			return a.decided(all, errs)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&shown, "code", "", "what the machine's screen shows")
	cmd.Flags().StringSliceVar(&wipe, "wipe", nil, "disks that may lose what they hold, by serial number or WWN")
	cmd.Flags().BoolVar(&compared, "compared", false, "say that you have compared the codes yourself; nobody asks then")
	return cmd
}

func (a *app) approve(ctx context.Context, c *operator.Client, ref, shown string, compared bool, wipe []string) (seed.Machine, error) {
	m, ref, err := find(ctx, c, ref)
	if err != nil {
		return m, err
	}
	typed, ok := code(cmp.Or(shown, ref))
	switch {
	case shown != "" && !ok:
		return m, usageError{fmt.Errorf("--code %q: a code is like 7K3-M9Q", shown)}
	case shown != "" || ok && ref != m.ID && ref != m.Name: // found by what its screen shows
	case compared:
		typed = ""
	default:
		if typed, err = a.askCode(m); err != nil {
			return m, err
		}
	}
	return c.Approve(ctx, ref, typed, wipe...)
}

// askCode lets the operator type what the machine's screen shows. The seed's own
// code is not printed, so that it is read from the screen.
func (a *app) askCode(m seed.Machine) (string, error) {
	name := table.Clean(operator.Name(m))
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return "", usageError{fmt.Errorf("%s: give the code that its screen shows with --code", name)}
	}
	fmt.Fprintf(a.err, "%s: %s\ncode on its screen: ", name, table.Clean(describe(m)))
	line, err := bufio.NewReader(io.LimitReader(os.Stdin, 256)).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%s: reading the code: %w", name, err)
	}
	typed, ok := code(strings.TrimSpace(line))
	if !ok {
		return "", fmt.Errorf("%s: %q is no code: one is like 7K3-M9Q", name, strings.TrimSpace(line))
	}
	return typed, nil
}

// describe is what a machine says of itself.
func describe(m seed.Machine) string {
	parts := []string{m.ID}
	if m.Address.IsValid() {
		parts = append(parts, m.Address.String())
	}
	if f := m.Facts; f != nil {
		parts = append(parts, strings.TrimSpace(f.Vendor+" "+f.Product), f.Serial, fmt.Sprintf("%d CPUs, %d GiB", f.CPUs, f.Memory>>30))
		for _, d := range f.Disks {
			parts = append(parts, d.Name+" "+size(d.Size))
		}
	}
	return strings.Join(parts, ", ")
}

// decided prints what became of machines; errors of some do not hide the others.
func (a *app) decided(all []seed.Machine, errs []error) error {
	err := a.show(all, func() {
		for _, m := range all {
			line := fmt.Sprintf("%s is %s", operator.Name(m), m.State)
			if m.Role != "" {
				line += ", " + string(m.Role)
			}
			if m.Name != "" {
				line += " (" + m.ID + ")"
			}
			fmt.Fprintln(a.out, table.Clean(line))
		}
	})
	return errors.Join(append(errs, err)...)
}

func (a *app) rejectCommand() *cobra.Command {
	var f seedFlags
	var reason string
	cmd := &cobra.Command{
		Use:     "reject REF --reason TEXT",
		Short:   "Turn a machine away",
		Example: `  slipway reject 52:54:00:12:34:56 --reason "not ours: lab printer"`,
		Args:    oneArg("REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.decide(cmd.Context(), &f, args[0], func(ctx context.Context, c *operator.Client, ref string) (seed.Machine, error) {
				return c.Reject(ctx, ref, reason)
			})
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the machine's screen and for the timeline")
	return cmd
}

func (a *app) assignCommand() *cobra.Command {
	var f seedFlags
	var name, role string
	cmd := &cobra.Command{
		Use:     "assign REF [--name NAME] [--role ROLE]",
		Short:   "Give a machine a name or a role before it has its config",
		Example: "  slipway assign 7K3-M9Q --name cp-2 --role control-plane\n  slipway approve 7K3-M9Q",
		Args:    oneArg("REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if name == "" && role == "" {
				return usageError{errors.New("assign what? give --name, --role or both")}
			}
			return a.decide(cmd.Context(), &f, args[0], func(ctx context.Context, c *operator.Client, ref string) (seed.Machine, error) {
				return c.Assign(ctx, ref, name, role)
			})
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&name, "name", "", "name of the node")
	cmd.Flags().StringVar(&role, "role", "", "control-plane or worker")
	return cmd
}

func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{fmt.Errorf("%s takes one %s, got %d", cmd.CommandPath(), what, len(args))}
		}
		return nil
	}
}

func (a *app) decide(ctx context.Context, f *seedFlags, ref string, do func(ctx context.Context, c *operator.Client, ref string) (seed.Machine, error)) error {
	c, err := f.client()
	if err != nil {
		return err
	}
	defer c.Close()
	_, ref, err = find(ctx, c, ref)
	if err != nil {
		return err
	}
	m, err := do(ctx, c, ref)
	if err != nil {
		return err
	}
	return a.decided([]seed.Machine{m}, nil)
}

func (a *app) armCommand() *cobra.Command {
	var f seedFlags
	cmd := &cobra.Command{
		Use:   "arm TIME | off",
		Short: "Let machines in without asking for a time, where cluster.yaml has approve: auto",
		Long: `Arm opens the window in which approve: auto lets machines in that fit a rule of
cluster.yaml. Whoever is on the wire in that time can become a node: keep it short.
Off closes it at once.`,
		Example: "  slipway arm 30m\n  slipway arm off",
		Args:    oneArg("TIME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d time.Duration
			if args[0] != "off" {
				var err error
				if d, err = time.ParseDuration(args[0]); err != nil || d <= 0 {
					return usageError{fmt.Errorf("arm %q: want a time like 30m, or off", args[0])}
				}
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			defer c.Close()
			s, err := c.Arm(cmd.Context(), d)
			if err != nil {
				return err
			}
			return a.show(s, func() {
				if s.Armed.IsZero() {
					fmt.Fprintln(a.out, "not armed: machines wait for slipway approve")
					return
				}
				fmt.Fprintf(a.out, "armed until %s\n", s.Armed.Local().Format(time.TimeOnly))
			})
		},
	}
	f.register(cmd)
	return cmd
}

func (a *app) kubeconfigCommand() *cobra.Command {
	var f seedFlags
	var wait bool
	var out string
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the cluster's kubeconfig, which lets its owner do everything",
		Example: `  slipway kubeconfig --wait --out site.kubeconfig
  slipway kubeconfig >site.conf`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			defer c.Close()
			config, err := a.kubeconfig(cmd.Context(), c, wait)
			if err != nil {
				return err
			}
			if out == "" {
				_, err = a.out.Write(config)
				return err
			}
			if err := writeSecret(out, config); err != nil {
				return err
			}
			return a.show(map[string]string{"file": out}, func() { fmt.Fprintln(a.out, out) })
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until there is a cluster")
	cmd.Flags().StringVar(&out, "out", "", "file to write, readable by its owner alone (default: standard output)")
	return cmd
}

// kubeconfig asks again while the seed refuses; each step of a machine may have
// made the cluster.
func (a *app) kubeconfig(ctx context.Context, c *operator.Client, wait bool) ([]byte, error) {
	for said := false; ; said = true {
		b, err := c.Kubeconfig(ctx)
		var refusal *handoff.Refusal
		if err == nil || !wait || !errors.As(err, &refusal) {
			return b, err
		}
		if !said {
			fmt.Fprintf(a.err, "%v; waiting for it\n", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// writeSecret makes a file with mode 0600 that is whole or not there. A file
// that holds something else stays: it may be the way to another cluster.
func writeSecret(name string, b []byte) error {
	switch old, err := os.ReadFile(name); {
	case err == nil && !bytes.Equal(old, b):
		return still{fmt.Sprintf("%s exists and holds something else; nothing was written", name), "choose another name with --out, or move that file away"}
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.Rename(f.Name(), name)
}
