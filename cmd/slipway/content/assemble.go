package content

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"slipway.dev/slipway/bundle"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/images"
	"slipway.dev/slipway/images/kmod"
	"slipway.dev/slipway/images/rootfs"
)

// Assemble lays out the images of one architecture; nothing but the cache is
// written.
func Assemble(ctx context.Context, proj *bundle.Project, parts *bundle.Parts, key ed25519.PublicKey, cache string, report bundle.Report) (*images.Plan, error) {
	report("unpacking packages", 0, 0)
	c, err := Of(ctx, proj, parts, key)
	if err != nil {
		return nil, err
	}
	return images.Assemble(c, func(t *rootfs.Tree, release string) ([]kmod.Module, error) {
		return modules(t, release, parts.Debs, cache, report)
	})
}

// modules reads what the kernel's modules say of themselves, once per kernel
// package: unpacking four thousand of them takes seconds.
func modules(t *rootfs.Tree, release string, debs []lock.Deb, cache string, report bundle.Report) ([]kmod.Module, error) {
	i := slices.IndexFunc(debs, func(d lock.Deb) bool { return d.In(bundle.SetSystem) && d.Name == "linux-image-"+release })
	if i < 0 {
		return kmod.Read(t, release)
	}
	name := filepath.Join(cache, fmt.Sprintf("modules-%d-%s.json", kmod.Format, debs[i].SHA256))
	var mods []kmod.Module
	if raw, err := os.ReadFile(name); err == nil && json.Unmarshal(raw, &mods) == nil {
		return mods, nil
	}
	report("reading kernel modules", 0, 0)
	mods, err := kmod.Read(t, release)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(mods)
	if err != nil {
		return nil, err
	}
	return mods, lock.WriteFile(name, raw, 0o644)
}
