package main

import (
	"bufio"
	"crypto/ed25519"
	"errors"

	"github.com/spf13/cobra"

	"slipway.dev/slipway/cmd/slipway/content"
)

func (a *app) planCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Print every name, mode, owner, size and origin that a build would write, and write nothing",
		Long: `Plan prints the root, the initramfs, the command line and the blobs of each
architecture, one line per name, in the same order each time: compare two with
diff(1) to see what a change of bundle.yaml does.`,
		Example: "  slipway plan -f bundle.yaml >before\n  slipway plan -f bundle.yaml | diff before -",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.output != "text" {
				return usageError{errors.New("a plan is text: one line per name, for diff(1)")}
			}
			proj, p, err := a.open(&f.projectFlags)
			if err != nil {
				return err
			}
			defer p.Done()
			key, err := a.signingKey(f.key)
			if err != nil {
				return err
			}
			l, err := proj.Locked()
			if err != nil {
				return err
			}
			archs, err := f.architectures(proj)
			if err != nil {
				return err
			}
			w := bufio.NewWriter(a.out)
			for _, ar := range archs {
				parts, err := proj.Fetch(cmd.Context(), l, ar)
				if err != nil {
					return err
				}
				plan, err := content.Assemble(cmd.Context(), proj, parts, key.Public().(ed25519.PublicKey), a.cacheDir, p.Step)
				if err != nil {
					return err
				}
				if err := plan.Print(w); err != nil {
					return err
				}
			}
			return w.Flush()
		},
	}
	f.projectFlags.register(cmd)
	f.narrow(cmd)
	cmd.Flags().StringVar(&f.key, "key", "", "ed25519 signing key, whose public half goes into the initramfs")
	return cmd
}
