package firstboot

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/render"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/supervise"
	"slipway.dev/slipway/images/layout"
)

const (
	toolProgram = "/" + layout.Tool
	clusterFile = configDir + "/" + layout.Cluster
	trustedKey  = runDir + "/bundle.pub"
	stationDir  = "/var/lib/slipway/seed"
)

// becomeSeed turns a cluster.yaml beside (or in place of) user-data into this
// machine's own config: it is the site's seed, and its first control plane. Its
// own user-data, when there is one, is taken instead.
func (n *Node) becomeSeed(r raw) (raw, error) {
	text, ok := r.files[layout.Cluster]
	if !ok {
		return r, nil
	}
	c, err := configs.ParseCluster(layout.Cluster, text)
	if err != nil {
		return r, err
	}
	rule, err := firstControlPlane(c)
	if err != nil {
		return r, err
	}
	name := strings.ReplaceAll(rule.Name, "{n}", "1")
	made, err := render.Config(c, render.Node{Name: name, Role: rule.Role, Rule: rule.Name, Instance: c.Metadata.Name + "-" + name})
	if err != nil {
		return r, err
	}
	for _, f := range []string{"user-data", "meta-data"} {
		if _, own := r.files[f]; !own {
			r.files[f] = []byte(made.Files[f])
		}
	}
	r.source += ", as the seed of cluster " + c.Metadata.Name
	n.cluster, n.seedName = c, name
	return r, nil
}

// firstControlPlane is the rule that the seed's own machine takes the first place of.
func firstControlPlane(c *configs.Cluster) (configs.NodeRule, error) {
	for _, rule := range c.Spec.Nodes {
		if rule.Role == configs.RoleControlPlane {
			return rule, nil
		}
	}
	return configs.NodeRule{}, fmt.Errorf("%s: spec.nodes: no rule makes a control plane", layout.Cluster)
}

// station starts the seed on a machine that has a cluster.yaml. It serves the
// medium that this machine booted from.
func (n *Node) station(context.Context) error {
	if n.cluster == nil {
		return nil
	}
	medium := mediumDir
	if n.disk != nil {
		medium = n.disk.Slot(n.disk.Runs)
		if err := n.servable(); err != nil {
			return err
		}
	}
	if n.seed != nil && n.disk == nil {
		return report.Fail("SW-SEED-MEDIUM", "boot it from the ISO, or take cluster.yaml out of its config",
			fmt.Errorf("this machine was booted over the network: it has no medium to serve"))
	}
	if err := os.MkdirAll(stationDir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(trustedKey, []byte(hex.EncodeToString(n.key)+"\n"), 0o644); err != nil {
		return err
	}
	return n.Services.Add(n.life, supervise.Service{Name: "seed", Argv: []string{toolProgram, "serve", medium, "--cluster", clusterFile,
		"--state", stationDir, "--pub", trustedKey, "--interface", n.Address[0].Interface, "--page", "",
		"--self", n.seedName, "--kubeconfig", adminConf},
		Env: []string{"HOME=/root"},
		// The socket is the last that opens, and its name outlives a seed that was killed.
		Ready: func(ctx context.Context) error { return answers(ctx, "unix", stationDir+"/seed.sock") }})
}

// servable: a disk has every blob plain, and a manifest that says that they are
// packed is nobody's to change.
func (n *Node) servable() error {
	b, err := readBundle(n.disk.Slot(n.disk.Runs), n.key)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(b.Manifest.Blobs, func(b lock.Blob) bool { return len(b.Frames) > 0 }) {
		return report.Fail("SW-SEED-MEDIUM", "install it from an ISO that is not compressed, or run the seed without installing: leave spec.install out for this machine's rule",
			errors.New("this machine was installed from a compressed medium: nodes could not be served from its disk"))
	}
	return nil
}
