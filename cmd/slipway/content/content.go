// Package content is the glue between what bundle brought to this machine and
// what images lays out: the one place that knows both sides.
//
// It downloads nothing, decides nothing about either, and writes no image.
package content

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"slipway.dev/slipway/bundle"
	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/oci"
	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/images"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/rootfs"
	"slipway.dev/slipway/overlay"
)

// Of turns the parts of one architecture into what the image builder takes.
func Of(ctx context.Context, proj *bundle.Project, parts *bundle.Parts, key ed25519.PublicKey) (*images.Content, error) {
	b := proj.Bundle
	c := &images.Content{Name: b.Metadata.Name, Serial: b.Metadata.Serial, Arch: parts.Arch, Kubernetes: b.Spec.Kubernetes.Version,
		Built: parts.Built, PublicKey: key, Programs: map[string]images.Program{}, Debs: parts.Debs,
		Pack: b.Spec.Media.Compression == configs.CompressionZstd}
	for _, p := range parts.Programs {
		c.Programs[p.Name] = images.Program{GoBinary: p.GoBinary, Path: p.Path}
	}
	for _, img := range parts.Images {
		l, err := img.Locked()
		if err != nil {
			return nil, err
		}
		c.Images = append(c.Images, l)
	}
	var err error
	if c.System, err = systemRoot(proj, parts.Debs); err != nil {
		return nil, err
	}
	if c.Loader, err = Loaders(proj, parts); err != nil {
		return nil, err
	}
	if c.Blobs, err = blobs(ctx, proj, parts.Images); err != nil {
		return nil, err
	}
	c.Boot, err = Boot(proj, parts)
	return c, err
}

// Loaders are the packages that boot files are taken from.
func Loaders(proj *bundle.Project, parts *bundle.Parts) ([]images.Package, error) {
	return unpack(proj, parts.Debs, bundle.SetLoader)
}

func systemRoot(proj *bundle.Project, debs []lock.Deb) (images.Root, error) {
	pkgs, err := unpack(proj, debs, bundle.SetSystem)
	if err != nil {
		return images.Root{}, err
	}
	var stanzas []deb.Package
	for _, d := range debs {
		if !d.In(bundle.SetSystem) {
			continue
		}
		p, err := deb.ParseStanza(d.Control)
		if err != nil {
			return images.Root{}, fmt.Errorf("package %q of the lock: %w", d.Name, err)
		}
		stanzas = append(stanzas, p)
	}
	own, err := Overlay(proj)
	if err != nil {
		return images.Root{}, err
	}
	return images.Root{Packages: pkgs, Stanzas: stanzas, Overlay: func(t *rootfs.Tree) error { return errors.Join(overlay.Apply(t), own.Apply(t)) }}, nil
}

// unpack decodes the packages of a set, several at a time: xz is what costs. The
// largest come first, or the kernel's would be decoded alone at the end.
func unpack(proj *bundle.Project, debs []lock.Deb, set string) ([]images.Package, error) {
	mine := slices.DeleteFunc(slices.Clone(debs), func(d lock.Deb) bool { return !d.In(set) })
	out := make([]images.Package, len(mine))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	slices.SortFunc(mine, func(a, b lock.Deb) int { return cmp.Compare(b.Size, a.Size) })
	for i, d := range mine {
		g.Go(func() error {
			un, err := bundle.UnpackDeb(proj.Unpack, proj.Store, d)
			if err != nil {
				return err
			}
			out[i] = images.Package{Name: d.Name, Version: d.Version, Files: un.Files, Scripts: un.Scripts}
			return nil
		})
	}
	return out, g.Wait()
}

// blobs are the layers, each once, and the archive that names them.
func blobs(ctx context.Context, proj *bundle.Project, imgs []oci.Image) ([]images.Stored, error) {
	var out []images.Stored
	seen := map[lock.Digest]bool{}
	for _, img := range imgs {
		for _, l := range img.Layers {
			if seen[l.DiffID] {
				continue
			}
			seen[l.DiffID] = true
			out = append(out, images.Stored{Path: l.File, Blob: lock.Blob{Name: "layers/" + l.DiffID.Short() + ".erofs", Role: lock.RoleLayer,
				Size: l.Size, SHA256: l.SHA256, DiffID: l.DiffID}})
		}
	}
	var archive bytes.Buffer
	if err := oci.WriteMetadataArchive(&archive, imgs); err != nil {
		return nil, err
	}
	d, n, err := proj.Store.Put(ctx, &archive, "")
	return append(out, images.Stored{Path: proj.Store.Path(d), Blob: lock.Blob{Name: "images.tar", Role: lock.RoleImages, Size: n, SHA256: d}}), err
}

// Boot is what the bundle says about booting, with the config files it names.
func Boot(proj *bundle.Project, parts *bundle.Parts) (images.Boot, error) {
	spec := proj.Bundle.Spec
	out := images.Boot{Modules: spec.Kernel.Modules, NoCloud: map[string][]byte{},
		Cmdline: boot.Cmdline{Consoles: []string{"tty0", parts.Arch.Console()}, Extra: append([]string{"quiet"}, spec.Kernel.Arguments...)}}
	for _, f := range []struct {
		name, file string
		check      func(name string, raw []byte) error
	}{
		{"user-data", spec.NoCloud.UserData, checked(configs.ParseUserData)}, {"meta-data", spec.NoCloud.MetaData, checked(configs.ParseMetaData)},
		{"network-config", spec.NoCloud.NetworkConfig, checked(configs.ParseNetworkConfig)}, {layout.Cluster, spec.NoCloud.Cluster, checked(configs.ParseCluster)},
	} {
		if f.file == "" {
			continue
		}
		file := filepath.Join(filepath.Dir(proj.File), f.file)
		raw, err := os.ReadFile(file)
		if err != nil {
			return out, fmt.Errorf("%s: spec.nocloud: %w", proj.File, err)
		}
		// A node would say the same, at a site where nobody can build again.
		if err := f.check(file, raw); err != nil {
			return out, err
		}
		out.NoCloud[f.name] = raw
	}
	return out, nil
}

// checked is a parser of which only the verdict is wanted.
func checked[T any](parse func(string, []byte) (T, error)) func(string, []byte) error {
	return func(name string, raw []byte) error {
		_, err := parse(name, raw)
		return err
	}
}

// Overlay reads the bundle's own files.
func Overlay(proj *bundle.Project) (*overlay.Directory, error) {
	dir := proj.Bundle.Spec.Overlay
	if dir == "" {
		return &overlay.Directory{}, nil
	}
	d, err := overlay.Read(filepath.Join(filepath.Dir(proj.File), dir))
	if err != nil {
		return nil, fmt.Errorf("%s: spec.overlay: %w", proj.File, err)
	}
	return d, nil
}
