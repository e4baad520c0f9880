package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) fetchCommand() *cobra.Command {
	var f projectFlags
	cmd := &cobra.Command{
		Use:   "fetch",
		Short: "Bring and compile everything that the lock names, so that nothing after it needs a network",
		Long: `Fetch downloads Debian packages and Go modules, compiles programs and makes image
layers, and refuses what is not what the lock says. What is in the cache already
is not fetched again, and a download that broke off goes on where it stopped.
It makes the lock when there is none.`,
		Example: "  slipway fetch -f bundle.yaml\n  slipway build -f bundle.yaml --offline",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			proj, p, err := a.open(&f)
			if err != nil {
				return err
			}
			defer p.Done()
			l, err := a.ensureLock(cmd.Context(), proj)
			if err != nil {
				return err
			}
			archs, err := f.architectures(proj)
			if err != nil {
				return err
			}
			type line struct {
				Arch     string `json:"arch"`
				Packages int    `json:"packages"`
				Programs int    `json:"programs"`
				Images   int    `json:"images"`
			}
			var all []line
			for _, ar := range archs {
				parts, err := proj.Fetch(cmd.Context(), l, ar)
				if err != nil {
					return fmt.Errorf("%s: %w", ar, err)
				}
				all = append(all, line{ar.String(), len(parts.Debs), len(parts.Programs), len(parts.Images)})
			}
			p.Done()
			return a.show(all, func() {
				for _, l := range all {
					fmt.Fprintf(a.out, "%s: %d packages, %d programs, %d images are here\n", l.Arch, l.Packages, l.Programs, l.Images)
				}
			})
		},
	}
	f.register(cmd)
	f.narrow(cmd)
	return cmd
}
