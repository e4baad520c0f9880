package bundle

import (
	"context"
	"log/slog"

	"slipway.dev/slipway/bundle/gobuild"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/arch"
)

// ownModule is slipway itself: the node's PID 1 and the pod sandbox's pause.
const ownModule = "slipway.dev/slipway"

// Compiler builds every Go program of a bundle.
type Compiler struct {
	Go     *gobuild.Builder
	Source string // directory of slipway's own source
	Log    *slog.Logger
	Report Report
}

// Program is a built program with its entry for the lock.
type Program struct {
	lock.GoBinary
	Path string // on this machine
}

// Programs builds everything that runs on a node of one architecture and is
// not a Debian package. Modules are downloaded by the go tool with checksums on.
func (c *Compiler) Programs(ctx context.Context, b *configs.Bundle, a arch.Arch) ([]Program, error) {
	kube, _, err := kubernetesModule(ctx, c.Go, b.Spec.Kubernetes.Version)
	if err != nil {
		return nil, err
	}
	others, err := components(b.Spec.Components)
	if err != nil {
		return nil, err
	}
	own := component{name: "slipway", module: gobuild.Module{Path: ownModule, Version: "(source)", Dir: c.Source}, programs: []gobuild.Program{
		{Name: "slipway-init", Package: ownModule + "/cmd/slipway-init"}, {Name: "slipway", Package: ownModule + "/cmd/slipway"}, {Name: "pause", Package: ownModule + "/cmd/pause"}}}
	var all []Program
	for _, comp := range append([]component{kube}, append(others, own)...) {
		progs, err := c.component(ctx, comp, a)
		if err != nil {
			return nil, err
		}
		all = append(all, progs...)
	}
	return all, nil
}

func (c *Compiler) component(ctx context.Context, comp component, a arch.Arch) ([]Program, error) {
	sum := ""
	if comp.module.Dir == "" {
		info, err := c.Go.Download(ctx, comp.module.Path, comp.module.Version)
		if err != nil {
			return nil, err
		}
		sum = info.Sum
	}
	bins, err := c.Go.Build(ctx, comp.module, comp.programs, a)
	if err != nil {
		return nil, err
	}
	pkg := map[string]string{}
	for _, p := range comp.programs {
		pkg[p.Name] = p.Package
	}
	var out []Program
	for _, b := range bins {
		out = append(out, Program{Path: b.Path, GoBinary: lock.GoBinary{Name: b.Name, Arch: a, Module: comp.module.Path, Version: comp.module.Version,
			Sum: sum, Package: pkg[b.Name], Size: b.Size, SHA256: b.SHA256}})
	}
	return out, nil
}
