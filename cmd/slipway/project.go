package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"slipway.dev/slipway/bundle"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
)

// projectFlags are those of every verb that works on a bundle.yaml.
type projectFlags struct {
	file, lock, source string
	arch               []string
	offline            bool
}

func (f *projectFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.file, "file", "f", "bundle.yaml", "the bundle")
	cmd.Flags().StringVar(&f.lock, "lock", "", "the lock file (default: slipway.lock beside the bundle)")
	cmd.Flags().StringVar(&f.source, "source", ".", "directory of slipway's own source, for the programs of a node")
}

// narrow adds --arch to verbs that work on one architecture after the other.
func (f *projectFlags) narrow(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&f.arch, "arch", nil, "only these architectures of the bundle")
	cmd.Flags().BoolVar(&f.offline, "offline", false, "use what was fetched before and refuse the network")
}

func (f *projectFlags) architectures(proj *bundle.Project) ([]arch.Arch, error) {
	all := proj.Bundle.Spec.Architectures
	if len(f.arch) == 0 {
		return all, nil
	}
	var out []arch.Arch
	for _, name := range f.arch {
		if !slices.Contains(all, arch.Arch(name)) {
			return nil, usageError{fmt.Errorf("--arch %q: %s is for %q", name, f.file, all)}
		}
		out = append(out, arch.Arch(name))
	}
	return out, nil
}

// open reads the bundle and returns it with a progress display.
func (a *app) open(f *projectFlags) (*bundle.Project, *progress, error) {
	if f.lock == "" {
		f.lock = filepath.Join(filepath.Dir(f.file), "slipway.lock")
	}
	source, err := filepath.Abs(f.source)
	if err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat(filepath.Join(source, "cmd", "slipway-init")); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, usageError{fmt.Errorf("%s is not slipway's source (no cmd/slipway-init in it); give --source DIR", source)}
	}
	p := newProgress(a.err)
	proj, err := bundle.Open(bundle.Options{File: f.file, Lock: f.lock, Cache: a.cacheDir, Source: source, AptDir: "/etc/apt", Offline: f.offline, Log: a.logger(), Report: p.Step})
	return proj, p, err
}

// ensureLock reads the lock or, when there is none yet, makes it.
func (a *app) ensureLock(ctx context.Context, proj *bundle.Project) (*lock.Lock, error) {
	l, err := proj.Locked()
	if bundle.IsMissing(err) {
		return proj.MakeLock(ctx)
	}
	return l, err
}

func (a *app) lockCommand() *cobra.Command {
	var f projectFlags
	cmd := &cobra.Command{
		Use:   "lock",
		Short: "Resolve a bundle to exact contents and write slipway.lock",
		Example: `  slipway lock -f configs/examples/bundle.yaml
  slipway lock -f site/bundle.yaml --lock site/slipway.lock`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			proj, p, err := a.open(&f)
			if err != nil {
				return err
			}
			l, err := proj.MakeLock(cmd.Context())
			p.Done()
			if err != nil {
				return err
			}
			return a.show(map[string]any{"lock": proj.Lock, "packages": len(l.Debs), "programs": len(l.Programs), "images": len(l.Images)}, func() {
				fmt.Fprintf(a.out, "%s: %d packages, %d programs, %d images\n", proj.Lock, len(l.Debs), len(l.Programs), len(l.Images))
			})
		},
	}
	f.register(cmd)
	return cmd
}
