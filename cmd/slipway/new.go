package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/examples"
)

// starters are the files that each kind of project begins with.
var starters = map[string][]string{
	"bundle":  {"bundle.yaml", "user-data", "meta-data", "network-config"},
	"cluster": {"cluster.yaml"},
}

func (a *app) newCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "new {bundle | cluster} [DIR]",
		Short: "Write commented files to begin with",
		Long: `New writes the starting files of a bundle (what goes into the images) or of a
cluster (one customer's site) into a directory. It never overwrites a file.`,
		Example:   "  slipway new bundle site/\n  $EDITOR site/bundle.yaml\n  slipway check site/bundle.yaml\n  slipway new cluster site/",
		ValidArgs: []string{"bundle", "cluster"},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) > 2 || starters[args[0]] == nil {
				return usageError{fmt.Errorf("slipway new: want bundle or cluster, and a directory, got %q", args)}
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 2 {
				dir = args[1]
			}
			return a.writeStarters(args[0], dir)
		},
	}
}

func (a *app) writeStarters(kind, dir string) error {
	var wrote []string
	for _, name := range starters[kind] {
		to := filepath.Join(dir, name)
		if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s exists; nothing was written", to)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range starters[kind] {
		raw, err := examples.Files.ReadFile(name)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, name)
		if err := lock.WriteFile(to, raw, 0o644); err != nil {
			return err
		}
		wrote = append(wrote, to)
	}
	return a.show(wrote, func() { fmt.Fprintln(a.out, strings.Join(wrote, "\n")) })
}
