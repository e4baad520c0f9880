package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"slipway.dev/slipway/configs"
)

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE...",
		Short: "Check bundle.yaml, cluster.yaml, user-data, vendor-data, meta-data and network-config files",
		Long: `Check reads each file as what its name or first line says it is, and prints
everything that is wrong with it, with line and column. Of user-data and
vendor-data in one directory it checks what they are together, too. It needs no
network.`,
		Example: `  slipway check bundle.yaml
  slipway check cidata/user-data cidata/network-config`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("slipway check needs at least one file")}
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			var errs []error
			for _, name := range args {
				raw, err := os.ReadFile(name)
				if err == nil {
					err = a.checkFile(name, raw)
				}
				errs = append(errs, err)
			}
			if err := errors.Join(errs...); err != nil {
				return err
			}
			return a.checkMerged(args)
		},
	}
}

func (a *app) checkFile(name string, raw []byte) error {
	var warnings []configs.Problem
	var err error
	kind := ""
	switch base := filepath.Base(name); {
	case strings.HasPrefix(base, "user-data") || strings.HasPrefix(base, "vendor-data") || strings.HasPrefix(string(raw), "#cloud-config"):
		kind = "user-data"
		if strings.HasPrefix(base, "vendor-data") {
			kind = "vendor-data"
		}
		var u *configs.UserData
		if u, err = configs.ParseUserData(name, raw); err == nil {
			warnings = u.Warnings
		}
	case strings.HasPrefix(base, "meta-data"):
		kind = "meta-data"
		var m *configs.MetaData
		if m, err = configs.ParseMetaData(name, raw); err == nil {
			warnings = m.Warnings
		}
	case strings.HasPrefix(base, "network-config"):
		kind = "network-config"
		var n *configs.Network
		if n, err = configs.ParseNetworkConfig(name, raw); err == nil {
			warnings = n.Warnings
		}
	case strings.HasPrefix(base, "cluster") || strings.Contains(string(raw), "\nkind: Cluster"):
		kind = configs.KindCluster
		_, err = configs.ParseCluster(name, raw)
	default:
		kind = configs.KindBundle
		_, err = configs.ParseBundle(name, raw)
	}
	if err != nil {
		return err
	}
	for _, w := range warnings {
		fmt.Fprintf(a.err, "warning: %v\n", w)
	}
	fmt.Fprintf(a.out, "%s: good %s\n", name, kind)
	return nil
}

// checkMerged checks each vendor-data with the user-data beside it, where both are given.
func (a *app) checkMerged(names []string) error {
	for _, v := range names {
		dir, base := filepath.Split(v)
		user := dir + strings.Replace(base, "vendor-data", "user-data", 1)
		if !strings.HasPrefix(base, "vendor-data") || !slices.Contains(names, user) {
			continue
		}
		u, err := os.ReadFile(user)
		if err != nil {
			return err
		}
		raw, err := os.ReadFile(v)
		if err != nil {
			return err
		}
		if _, err := configs.ParseMerged(configs.File{Name: user, Data: u}, configs.File{Name: v, Data: raw}); err != nil {
			return err
		}
		fmt.Fprintf(a.out, "%s and %s: good together\n", user, v)
	}
	return nil
}
