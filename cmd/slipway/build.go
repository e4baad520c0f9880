package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"slipway.dev/slipway/bundle"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/cmd/slipway/content"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images"
)

// buildFlags are those of verbs that end in an ISO.
type buildFlags struct {
	projectFlags
	out, key string
	combined bool
	first    bool // only the first architecture
}

func (f *buildFlags) register(cmd *cobra.Command) {
	f.projectFlags.register(cmd)
	f.narrow(cmd)
	cmd.Flags().StringVar(&f.out, "out", "out", "directory of the results")
	cmd.Flags().StringVar(&f.key, "key", "", "ed25519 signing key of `slipway keygen` (default: made on first use in the user's config directory)")
	cmd.Flags().Lookup("lock").Usage = "the lock file (default: slipway.lock in the output directory)"
}

func (a *app) buildCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build the ISO and the netboot files of a bundle, running whatever is missing before it",
		Long: `Build locks the bundle when it has no lock, fetches and compiles what is not in
the cache, and writes for every architecture the ISO, a netboot directory with
the same content, the signed manifest, and an SBOM; then SHA256SUMS of them all.
With the same lock the results are the same to the last bit. After
"slipway fetch" it needs no network.`,
		Example: `  slipway build -f configs/examples/bundle.yaml --out out/
  slipway build -f bundle.yaml --arch arm64 --key release.key
  slipway build -f bundle.yaml --combined
  (cd out && sha256sum -c SHA256SUMS)`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := a.build(cmd.Context(), &f)
			if err != nil {
				return err
			}
			return a.show(all, func() {
				for _, b := range all {
					fmt.Fprintf(a.out, "%s  %s  %s\n", b.ISO.Path, size(b.ISO.Size), b.ISO.SHA256)
					if len(b.Combined) > 0 {
						fmt.Fprintf(a.out, "boots %v; %s of blobs are of all and stored once\n", b.Combined, size(b.Shared))
					}
				}
			})
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&f.combined, "combined", false, "also one ISO that boots all the architectures, NAME-combined.iso")
	return cmd
}

// built is the record of the last build beside its ISO: the same inputs need
// no second one. Paths are relative to the output directory.
type built struct {
	Arch    arch.Arch         `json:"arch,omitempty"`
	Inputs  lock.Digest       `json:"inputs"`
	ISO     images.Artefact   `json:"iso"`
	Netboot string            `json:"netboot,omitempty"`
	Files   []images.Artefact `json:"files"`
	// Of the combined ISO: what it boots, and the bytes of blobs that more than one uses.
	Combined []arch.Arch `json:"combined,omitempty"`
	Shared   int64       `json:"shared,omitempty"`
}

func (a *app) build(ctx context.Context, f *buildFlags) ([]*built, error) {
	if f.lock == "" {
		f.lock = filepath.Join(f.out, "slipway.lock")
	}
	if err := os.MkdirAll(f.out, 0o755); err != nil {
		return nil, err
	}
	proj, p, err := a.open(&f.projectFlags)
	if err != nil {
		return nil, err
	}
	defer p.Done()
	key, err := a.signingKey(f.key)
	if err != nil {
		return nil, err
	}
	l, err := a.ensureLock(ctx, proj)
	if err != nil {
		return nil, err
	}
	archs, err := f.architectures(proj)
	if err != nil {
		return nil, err
	}
	if f.combined && len(archs) < 2 {
		return nil, usageError{fmt.Errorf("--combined: a medium for %v alone is what it is already; list more under spec.architectures of %s", archs, f.file)}
	}
	if f.first {
		archs = archs[:1]
	}
	var all []*built
	var each []*bundle.Parts
	for _, ar := range archs {
		parts, err := proj.Fetch(ctx, l, ar)
		if err != nil {
			return nil, err
		}
		one, err := a.buildArch(ctx, proj, parts, f.out, key, p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ar, err)
		}
		all, each = append(all, one), append(each, parts)
	}
	if f.combined {
		one, err := a.combine(ctx, proj, each, all, f.out, key, p)
		if err != nil {
			return nil, fmt.Errorf("combined ISO: %w", err)
		}
		all = append(all, one)
	}
	if err := writeSums(f.out, proj.Bundle.Spec.Architectures); err != nil {
		return nil, err
	}
	return all, a.trim(proj)
}

// cacheLimit holds three or four builds of both architectures. One more change
// to a program of the node makes another half gigabyte of system root.
const cacheLimit = 10 << 30

func (a *app) trim(proj *bundle.Project) error {
	n, err := proj.Store.Trim(cacheLimit)
	if n > 0 {
		a.logger().Info("trimmed the cache", "removed", size(n), "limit", size(cacheLimit))
	}
	if err != nil {
		return fmt.Errorf("trimming the cache: %w", err)
	}
	return nil
}

func (a *app) buildArch(ctx context.Context, proj *bundle.Project, parts *bundle.Parts, out string, key ed25519.PrivateKey, p *progress) (*built, error) {
	record := filepath.Join(out, recordName(string(parts.Arch)))
	inputs, err := inputsOf(proj, parts, key)
	if err != nil {
		return nil, err
	}
	if b, ok := upToDate(out, string(parts.Arch)); ok && b.Inputs == inputs {
		b.ISO.Path = filepath.Join(out, b.ISO.Path)
		fmt.Fprintf(a.err, "%s is up to date\n", b.ISO.Path)
		return b, nil
	}
	plan, err := content.Assemble(ctx, proj, parts, key.Public().(ed25519.PublicKey), a.cacheDir, p.Step)
	if err != nil {
		return nil, err
	}
	if odd := plan.Content.Unreviewed(); len(odd) > 0 {
		fmt.Fprintf(a.err, "warning: no script of a package is run, and nobody has looked at those of %s: start what they bring once on a node\n", strings.Join(odd, ", "))
	}
	b := &images.Builder{Store: proj.Store, Cache: a.cacheDir, Out: out, Key: key, Report: p.Step}
	res, err := b.Build(ctx, plan)
	if err != nil {
		return nil, err
	}
	done := &built{Arch: parts.Arch, Inputs: inputs, ISO: res.ISO, Netboot: res.Netboot, Files: res.All}
	if err := done.relative(out); err != nil {
		return nil, err
	}
	raw, err := json.MarshalIndent(done, "", " ")
	if err != nil {
		return nil, err
	}
	done.ISO.Path = res.ISO.Path
	return done, lock.WriteFile(record, raw, 0o644)
}

func recordName(name string) string { return fmt.Sprintf(".built-%s.json", name) }

func (b *built) relative(out string) error {
	for _, p := range append([]*string{&b.ISO.Path, &b.Netboot}, paths(b.Files)...) {
		if *p == "" { // a combined ISO has no netboot directory
			continue
		}
		rel, err := filepath.Rel(out, *p)
		if err != nil {
			return err
		}
		*p = filepath.ToSlash(rel)
	}
	return nil
}

func paths(all []images.Artefact) (out []*string) {
	for i := range all {
		out = append(out, &all[i].Path)
	}
	return out
}

// upToDate reads the record of the last build, if everything it left is there.
func upToDate(out, name string) (*built, bool) {
	raw, err := os.ReadFile(filepath.Join(out, recordName(name)))
	if err != nil {
		return nil, false
	}
	var b built
	if json.Unmarshal(raw, &b) != nil || len(b.Files) == 0 {
		return nil, false
	}
	for _, f := range b.Files {
		if fi, err := os.Stat(filepath.Join(out, f.Path)); err != nil || fi.Size() != f.Size {
			return nil, false
		}
	}
	return &b, true
}

// writeSums writes SHA256SUMS in the format of sha256sum(1), for every
// architecture of the bundle that has been built into the directory.
func writeSums(out string, all []arch.Arch) error {
	var s strings.Builder
	var isos []*built
	for _, ar := range all {
		b, ok := upToDate(out, string(ar))
		if !ok {
			continue
		}
		isos = append(isos, b)
		for _, f := range b.Files {
			fmt.Fprintf(&s, "%s  %s\n", f.SHA256, f.Path)
		}
	}
	if b, ok := upToDate(out, combinedRecord); ok && b.of(isos) {
		fmt.Fprintf(&s, "%s  %s\n", b.ISO.SHA256, b.ISO.Path)
	}
	name := filepath.Join(out, "SHA256SUMS")
	if old, err := os.ReadFile(name); err == nil && string(old) == s.String() {
		return nil
	}
	return lock.WriteFile(name, []byte(s.String()), 0o644)
}

// inputsOf names everything that decides the bytes of an ISO: the bundle, its
// packages, programs and images, the config and overlay files, the key, and
// this builder.
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
	boot, err := content.Boot(proj, parts)
	if err != nil {
		return "", err
	}
	over, err := content.Overlay(proj)
	if err != nil {
		return "", err
	}
	files, err := over.Digest()
	if err != nil {
		return "", err
	}
	raw, err := json.Marshal([]any{proj.Digest, parts, boot, files, key.Public(), builder})
	return lock.SumBytes(raw), err
}
