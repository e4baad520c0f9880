package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"slipway.dev/slipway/bundle"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/images"
	"slipway.dev/slipway/images/kmod"
	"slipway.dev/slipway/images/rootfs"
)

// buildFlags are those of verbs that end in an ISO.
type buildFlags struct {
	projectFlags
	out, key string
}

func (f *buildFlags) register(cmd *cobra.Command) {
	f.projectFlags.register(cmd)
	cmd.Flags().StringVarP(&f.out, "out", "o", "out", "directory of the results")
	cmd.Flags().StringVar(&f.key, "key", "", "ed25519 signing key (default: made on first use in the user's config directory)")
	cmd.Flags().Lookup("lock").Usage = "the lock file (default: slipway.lock in the output directory)"
}

func (a *app) buildCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:     "build",
		Short:   "Build the ISO of a bundle, running whatever is missing before it",
		Example: "  slipway build -f configs/examples/bundle.yaml -o out/",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			res, err := a.build(cmd.Context(), &f)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.out, "%s  %s  %s\n", res.ISO, size(res.Size), res.SHA256)
			return nil
		},
	}
	f.register(cmd)
	return cmd
}

// built is the record of the last build beside its ISO: the same inputs need
// no second one.
type built struct {
	Inputs lock.Digest `json:"inputs"`
	ISO    string      `json:"iso"`
	Size   int64       `json:"size"`
	SHA256 lock.Digest `json:"sha256"`
}

func (a *app) build(ctx context.Context, f *buildFlags) (*built, error) {
	if f.lock == "" {
		f.lock = filepath.Join(f.out, "slipway.lock")
	}
	if err := os.MkdirAll(f.out, 0o755); err != nil {
		return nil, err
	}
	key, err := a.signingKey(f.key)
	if err != nil {
		return nil, err
	}
	proj, p, err := a.open(&f.projectFlags)
	if err != nil {
		return nil, err
	}
	defer p.Done()
	l, err := a.ensureLock(ctx, proj)
	if err != nil {
		return nil, err
	}
	var last *built
	for _, ar := range proj.Bundle.Spec.Architectures {
		parts, err := proj.Fetch(ctx, l, ar)
		if err != nil {
			return nil, err
		}
		if last, err = a.buildArch(ctx, proj, parts, f.out, key, p); err != nil {
			return nil, fmt.Errorf("%s: %w", ar, err)
		}
	}
	return last, nil
}

func (a *app) buildArch(ctx context.Context, proj *bundle.Project, parts *bundle.Parts, out string, key ed25519.PrivateKey, p *progress) (*built, error) {
	record := filepath.Join(out, fmt.Sprintf(".built-%s.json", parts.Arch))
	inputs, err := inputsOf(proj, parts, key)
	if err != nil {
		return nil, err
	}
	if b, ok := upToDate(record, inputs); ok {
		fmt.Fprintf(a.err, "%s is up to date\n", b.ISO)
		return b, nil
	}
	p.Step("unpacking packages", 0, 0)
	c, err := content(ctx, proj, parts, key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	plan, err := images.Assemble(c, func(t *rootfs.Tree, release string) ([]kmod.Module, error) {
		return a.modules(t, release, parts.Debs, p)
	})
	if err != nil {
		return nil, err
	}
	b := &images.Builder{Store: proj.Store, Out: out, Key: key, Report: p.Step}
	res, err := b.Build(ctx, plan)
	if err != nil {
		return nil, err
	}
	done := &built{Inputs: inputs, ISO: res.ISO, Size: res.Size, SHA256: res.SHA256}
	raw, err := json.Marshal(done)
	if err != nil {
		return nil, err
	}
	return done, lock.WriteFile(record, raw, 0o644)
}

// modules reads what the kernel's modules say of themselves, once per kernel
// package: unpacking four thousand of them takes seconds.
func (a *app) modules(t *rootfs.Tree, release string, debs []lock.Deb, p *progress) ([]kmod.Module, error) {
	i := slices.IndexFunc(debs, func(d lock.Deb) bool { return d.In(bundle.SetSystem) && d.Name == "linux-image-"+release })
	if i < 0 {
		return kmod.Read(t, release)
	}
	name := filepath.Join(a.cacheDir, "modules-"+string(debs[i].SHA256)+".json")
	var mods []kmod.Module
	if raw, err := os.ReadFile(name); err == nil && json.Unmarshal(raw, &mods) == nil {
		return mods, nil
	}
	p.Step("reading kernel modules", 0, 0)
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

// inputsOf names everything that decides the bytes of an ISO: the bundle, its
// packages, programs and images, the config files, the key, and this builder.
func inputsOf(proj *bundle.Project, parts *bundle.Parts, key ed25519.PrivateKey) (lock.Digest, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	f, err := os.Open(self)
	if err != nil {
		return "", err
	}
	defer f.Close()
	builder, _, err := lock.Sum(f)
	if err != nil {
		return "", err
	}
	boot, err := bootOf(proj, parts)
	if err != nil {
		return "", err
	}
	raw, err := json.Marshal([]any{proj.Digest, parts, boot, key.Public(), builder})
	return lock.SumBytes(raw), err
}

func upToDate(record string, inputs lock.Digest) (*built, bool) {
	raw, err := os.ReadFile(record)
	if err != nil {
		return nil, false
	}
	var b built
	if json.Unmarshal(raw, &b) != nil || b.Inputs != inputs {
		return nil, false
	}
	fi, err := os.Stat(b.ISO)
	return &b, err == nil && fi.Size() == b.Size
}
