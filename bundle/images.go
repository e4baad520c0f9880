package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/bundle/gobuild"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/oci"
	"slipway.dev/slipway/bundle/store"
	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/arch"
)

// ImageMaker makes every container image of a bundle out of built programs and
// Debian packages. A layer is made once per content and kept.
type ImageMaker struct {
	Dir    string // of finished layers, by diffID
	Store  *store.Store
	Unpack *deb.Unpacker
	Go     *gobuild.Builder
	Report Report
}

// Images makes the images of one architecture, sorted by reference.
func (m *ImageMaker) Images(ctx context.Context, b *configs.Bundle, debs []lock.Deb, progs []Program, a arch.Arch) ([]oci.Image, error) {
	if err := os.MkdirAll(m.Dir, 0o755); err != nil {
		return nil, err
	}
	m.Report("making container images for "+a.String(), 0, 0)
	specs, err := m.specs(ctx, b)
	if err != nil {
		return nil, err
	}
	base, err := m.packageLayer(ctx, SetNetbase, debs, a)
	if err != nil {
		return nil, err
	}
	content := map[string]oci.Content{}
	digest := map[string]lock.Digest{}
	for _, p := range progs {
		content[p.Name] = oci.Content{Size: p.Size, Open: func() (io.ReadCloser, error) { return os.Open(p.Path) }}
		digest[p.Name] = p.SHA256
	}
	out := make([]oci.Image, len(specs)+len(b.Spec.Images))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, s := range specs {
		g.Go(func() error {
			l, err := m.programLayer(ctx, s, content, digest)
			if err != nil {
				return fmt.Errorf("image %q: %w", s.Ref, err)
			}
			out[i] = oci.Image{Ref: s.Ref, Arch: a, Layers: []oci.Layer{l}, Config: s.Config}
			if s.Base == oci.Netbase {
				out[i].Layers = []oci.Layer{base, l}
			}
			return nil
		})
	}
	for i, img := range b.Spec.Images {
		g.Go(func() error {
			made, err := m.userImage(ctx, img, debs, a)
			if err != nil {
				return fmt.Errorf("image %q: %w", img.Name, err)
			}
			out[len(specs)+i] = made
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(x, y oci.Image) int { return strings.Compare(string(x.Ref), string(y.Ref)) })
	return out, nil
}

// specs derives the list of images from kubeadm's own source.
func (m *ImageMaker) specs(ctx context.Context, b *configs.Bundle) ([]oci.Spec, error) {
	info, err := m.Go.Download(ctx, kubernetesPath, b.Spec.Kubernetes.Version)
	if err != nil {
		return nil, err
	}
	refs, err := oci.KubeadmImages(info.Dir, b.Spec.Kubernetes.Version)
	if err != nil {
		return nil, err
	}
	flannel, err := oci.ParseRef("ghcr.io/flannel-io/flannel:" + b.Spec.Components.Flannel)
	if err != nil {
		return nil, err
	}
	return oci.KubernetesImages(refs, flannel)
}

func (m *ImageMaker) programLayer(ctx context.Context, s oci.Spec, content map[string]oci.Content, digest map[string]lock.Digest) (oci.Layer, error) {
	entries, err := s.Entries(content)
	if err != nil {
		return oci.Layer{}, err
	}
	var names []string
	for _, p := range s.Programs {
		names = append(names, p.Path+" "+string(digest[p.Name]))
	}
	return m.layer(ctx, names, entries)
}

func (m *ImageMaker) userImage(ctx context.Context, img configs.Image, debs []lock.Deb, a arch.Arch) (oci.Image, error) {
	ref, err := oci.ParseRef(img.Name)
	if err != nil {
		return oci.Image{}, err
	}
	l, err := m.packageLayer(ctx, ImageSet(img.Name), debs, a)
	if err != nil {
		return oci.Image{}, err
	}
	return oci.Image{Ref: ref, Arch: a, Layers: []oci.Layer{l}, Config: oci.Config{Cmd: img.Command,
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}}}, nil
}

// packageLayer is one layer with the files of a set of packages.
func (m *ImageMaker) packageLayer(ctx context.Context, set string, debs []lock.Deb, a arch.Arch) (oci.Layer, error) {
	var names []string
	var files [][]deb.File
	for _, d := range debs {
		if d.Arch != a || !d.In(set) {
			continue
		}
		un, err := UnpackDeb(m.Unpack, m.Store, d)
		if err != nil {
			return oci.Layer{}, err
		}
		names = append(names, d.Name+" "+string(d.SHA256))
		files = append(files, un.Files)
	}
	entries, err := mergeFiles(files)
	if err != nil {
		return oci.Layer{}, fmt.Errorf("packages of %q: %w", set, err)
	}
	return m.layer(ctx, names, entries)
}

// UnpackDeb decodes a package of the lock out of the store. It may become twice
// as large as the signed index says (tar adds half a kilobyte to each name) and
// 64 MiB: a small file that grows without end is refused soon.
func UnpackDeb(u *deb.Unpacker, s *store.Store, d lock.Deb) (*deb.Archive, error) {
	p, err := deb.ParseStanza(d.Control)
	if err != nil {
		return nil, fmt.Errorf("package %q of the lock: %w", d.Name, err)
	}
	bounded := *u
	if p.InstalledSize > 0 {
		bounded.Limit = 2*p.InstalledSize + 64<<20
	}
	return bounded.Unpack(d.Name+"_"+d.Version, string(d.SHA256), func() (io.ReadCloser, error) { return s.Open(d.SHA256) })
}

// merged are Debian's usr-merge symlinks, which base-files brings to a system
// and an image without it lacks.
var merged = []string{"bin", "lib", "lib64", "sbin"}

// mergeFiles makes one layer of several packages' files.
func mergeFiles(pkgs [][]deb.File) ([]oci.Entry, error) {
	at := map[string]oci.Entry{}
	for _, n := range merged {
		at[n] = oci.Entry{Path: n, Mode: fs.ModeSymlink | 0o777, Link: "usr/" + n}
		at["usr/"+n] = oci.Dir("usr/"+n, 0o755)
	}
	for _, files := range pkgs {
		for _, f := range files {
			p := f.Path
			if first, _, _ := strings.Cut(p, "/"); slices.Contains(merged, first) {
				p = "usr/" + p
			}
			if p == "." || unread(p) {
				continue
			}
			old, ok := at[p]
			switch {
			case ok && old.Mode.IsDir() && f.Mode.IsDir():
			case ok:
				return nil, fmt.Errorf("/%s is in two packages", p)
			default:
				at[p] = oci.Entry{Path: p, Mode: f.Mode, UID: f.UID, GID: f.GID, Size: f.Size, Link: f.Link, Xattrs: f.Xattrs, Open: f.Open}
			}
		}
	}
	out := make([]oci.Entry, 0, len(at))
	for _, e := range at {
		out = append(out, e)
	}
	return out, nil
}

// unread are parts of packages that nothing in a container reads; licences stay.
func unread(p string) bool {
	if strings.HasPrefix(p, "usr/share/doc/") {
		return path.Base(p) != "copyright"
	}
	for _, d := range []string{"usr/share/man/", "usr/share/locale/", "usr/share/info/", "usr/share/lintian/", "usr/share/bash-completion/"} {
		if strings.HasPrefix(p, d) {
			return true
		}
	}
	return false
}

// layer builds a layer, or finds the one that was made from the same inputs.
func (m *ImageMaker) layer(ctx context.Context, inputs []string, entries []oci.Entry) (oci.Layer, error) {
	key := filepath.Join(m.Dir, "by-input-"+string(lock.SumBytes([]byte(layerRecipe+strings.Join(inputs, "\n"))))+".json")
	var l oci.Layer
	raw, err := os.ReadFile(key)
	if err == nil && json.Unmarshal(raw, &l) == nil {
		if fi, err := os.Stat(l.File); err == nil && fi.Size() == l.Size {
			return l, nil
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return l, err
	}
	if l, err = oci.BuildLayer(ctx, entries, m.Dir); err != nil {
		return l, err
	}
	if raw, err = json.Marshal(l); err != nil {
		return l, err
	}
	return l, lock.WriteFile(key, raw, 0o644)
}

// layerRecipe is part of every layer's key; change it when the way layers are
// made out of the same inputs changes.
const layerRecipe = "1\n"
