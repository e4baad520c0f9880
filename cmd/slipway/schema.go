package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"slipway.dev/slipway/configs"
)

func (a *app) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of user-data, for editors",
		Long: `Schema prints the JSON Schema (draft 2020-12) of what a node takes as user-data.
An editor completes and checks keys with it; slipway check checks more.`,
		Example: `  slipway schema > user-data.schema.json
  # then, in the file: # yaml-language-server: $schema=user-data.schema.json`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			raw, err := configs.Schema()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "%s\n", raw)
			return err
		},
	}
}
