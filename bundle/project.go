package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/bundle/gobuild"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/oci"
	"slipway.dev/slipway/bundle/store"
	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/arch"
)

// Project is one bundle.yaml with its lock and this machine's cache.
type Project struct {
	File   string // bundle.yaml
	Lock   string // slipway.lock
	Bundle *configs.Bundle
	Digest lock.Digest // of bundle.yaml's bytes
	Basis  lock.Digest // of what in it decides the lock
	Store  *store.Store
	Unpack *deb.Unpacker

	resolver *Resolver
	compiler *Compiler
	maker    *ImageMaker
	report   Report
	offline  bool
}

// Options say where a project finds and keeps things.
type Options struct {
	File, Lock string
	Cache      string // directory shared by all bundles
	Source     string // slipway's own source
	AptDir     string // of this machine: /etc/apt
	Offline    bool   // use what is here and refuse the network
	Log        *slog.Logger
	Report     Report
}

// Open reads bundle.yaml and prepares the cache.
func Open(o Options) (*Project, error) {
	raw, err := os.ReadFile(o.File)
	if err != nil {
		return nil, err
	}
	b, err := configs.ParseBundle(o.File, raw)
	if err != nil {
		return nil, err
	}
	s, err := store.New(o.Cache)
	if err != nil {
		return nil, err
	}
	un := &deb.Unpacker{Cache: filepath.Join(o.Cache, "unpacked")}
	if err := os.MkdirAll(un.Cache, 0o755); err != nil {
		return nil, err
	}
	f := &Fetcher{Store: s, Parts: filepath.Join(o.Cache, "parts"), Client: &http.Client{}, Pause: time.Second, Offline: o.Offline, Log: o.Log, Report: o.Report}
	g := &gobuild.Builder{Cache: filepath.Join(o.Cache, "programs"), Log: o.Log, Offline: o.Offline, Progress: func(m gobuild.Module, a arch.Arch, packages int) {
		o.Report(fmt.Sprintf("compiling %s %s for %s", m.Path, m.Version, a), int64(packages), CountPackages)
	}}
	basis, err := basisOf(b)
	if err != nil {
		return nil, err
	}
	return &Project{File: o.File, Lock: o.Lock, Bundle: b, Digest: lock.SumBytes(raw), Basis: basis, Store: s, Unpack: un, report: o.Report, offline: o.Offline,
		resolver: &Resolver{Fetch: f, AptDir: o.AptDir, Dir: filepath.Dir(o.File), Report: o.Report},
		compiler: &Compiler{Go: g, Source: o.Source, Log: o.Log, Report: o.Report},
		maker:    &ImageMaker{Dir: filepath.Join(o.Cache, "layers"), Store: s, Unpack: un, Go: g, Report: o.Report}}, nil
}

// basisOf digests the parts of a bundle that say what to fetch and to compile.
// How images are written, the kernel's arguments and comments are none of them:
// to change these needs no new lock. The loaders' packages are in no bundle and
// in every lock.
func basisOf(b *configs.Bundle) (lock.Digest, error) {
	s := b.Spec
	raw, err := json.Marshal([]any{s.Architectures, s.Debian, s.Kubernetes, s.Components, s.Images, loaders})
	return lock.SumBytes(raw), err
}

// StaleError says that the lock was made from another bundle.yaml.
type StaleError struct{ Lock, File string }

func (e *StaleError) Error() string {
	return fmt.Sprintf("%s was made for other contents than %s asks for", e.Lock, e.File)
}

// Hint names the command that makes the lock anew.
func (e *StaleError) Hint() string {
	return fmt.Sprintf("look at what changed, then run `slipway lock -f %s`", e.File)
}

// Locked reads slipway.lock. A missing one is fs.ErrNotExist; one of another
// bundle.yaml is a StaleError.
func (p *Project) Locked() (*lock.Lock, error) {
	l, err := lock.Read(p.Lock)
	if err != nil {
		return nil, err
	}
	if l.Config != p.Basis {
		return nil, &StaleError{Lock: p.Lock, File: p.File}
	}
	return l, nil
}

// MakeLock resolves everything to the newest versions that bundle.yaml allows,
// brings it here, builds it and writes slipway.lock.
func (p *Project) MakeLock(ctx context.Context) (*lock.Lock, error) {
	res, err := p.resolver.Packages(ctx, p.Bundle)
	if err != nil {
		return nil, err
	}
	tool, err := p.compiler.Go.Toolchain(ctx)
	if err != nil {
		return nil, err
	}
	l := &lock.Lock{Format: lock.LockFormat, Config: p.Basis, Resolved: res.Date.UTC(), Toolchain: tool, Debs: res.Debs}
	for _, a := range p.Bundle.Spec.Architectures {
		parts, err := p.parts(ctx, l.Debs, a)
		if err != nil {
			return nil, err
		}
		for _, prog := range parts.Programs {
			if prog.Module != ownModule { // slipway's own programs change with its source, not with the lock
				l.Programs = append(l.Programs, prog.GoBinary)
			}
		}
		for _, img := range parts.Images {
			li, err := img.Locked()
			if err != nil {
				return nil, err
			}
			l.Images = append(l.Images, li)
		}
	}
	return l, l.Write(p.Lock)
}

// Parts is everything of one architecture, on this machine.
type Parts struct {
	Arch     arch.Arch
	Debs     []lock.Deb
	Programs []Program
	Images   []oci.Image
	Built    time.Time
}

// Fetch brings what the lock names and builds what is built, and refuses a
// result that is not the lock's.
func (p *Project) Fetch(ctx context.Context, l *lock.Lock, a arch.Arch) (*Parts, error) {
	parts, err := p.parts(ctx, l.Debs, a)
	if err != nil {
		if IsMissing(err) && p.offline {
			return nil, &hinted{err, fmt.Sprintf("run `slipway fetch -f %s` where the network is", p.File)}
		}
		return nil, err
	}
	parts.Built = l.Resolved
	return parts, errors.Join(p.samePrograms(ctx, l, parts), sameImages(l, parts))
}

func (p *Project) parts(ctx context.Context, debs []lock.Deb, a arch.Arch) (*Parts, error) {
	mine := slices.DeleteFunc(slices.Clone(debs), func(d lock.Deb) bool { return d.Arch != a })
	if err := p.resolver.Fetch.Debs(ctx, mine); err != nil {
		return nil, err
	}
	progs, err := p.compiler.Programs(ctx, p.Bundle, a)
	if err != nil {
		return nil, err
	}
	imgs, err := p.maker.Images(ctx, p.Bundle, mine, progs, a)
	if err != nil {
		return nil, err
	}
	return &Parts{Arch: a, Debs: mine, Programs: progs, Images: imgs}, nil
}

// Verify reads everything that the lock names for an architecture and compares
// digests; it returns how many items and bytes it read, and every problem.
func (p *Project) Verify(ctx context.Context, l *lock.Lock, a arch.Arch) (items int, bytes int64, err error) {
	parts, err := p.Fetch(ctx, l, a)
	if err != nil {
		return 0, 0, err
	}
	var errs []error
	one := func(what, path string, size int64, want lock.Digest) {
		items++
		bytes += size
		p.report("verifying "+a.String(), bytes, 0)
		errs = append(errs, verifyFile(what, path, size, want))
	}
	for _, d := range parts.Debs {
		one(fmt.Sprintf("package %q %s", d.Name, d.Version), p.Store.Path(d.SHA256), d.Size, d.SHA256)
	}
	for _, g := range parts.Programs {
		one(fmt.Sprintf("program %q", g.Name), g.Path, g.Size, g.SHA256)
	}
	seen := map[lock.Digest]bool{}
	for _, img := range parts.Images {
		for _, layer := range img.Layers {
			if seen[layer.SHA256] {
				continue
			}
			seen[layer.SHA256] = true
			one(fmt.Sprintf("a layer of image %q", img.Ref), layer.File, layer.Size, layer.SHA256)
		}
	}
	return items, bytes, errors.Join(errs...)
}

func verifyFile(what, path string, size int64, want lock.Digest) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer f.Close()
	got, n, err := lock.Sum(f)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %s: %w", what, path, err)
	case n != size || got != want:
		return &hinted{fmt.Errorf("%s: %s: digest mismatch: got %s (%d bytes), want %s (%d bytes)", what, path, got, n, want, size),
			"delete that file and run `slipway fetch` again"}
	}
	return nil
}

func (p *Project) samePrograms(ctx context.Context, l *lock.Lock, parts *Parts) error {
	tool, err := p.compiler.Go.Toolchain(ctx)
	if err != nil {
		return err
	}
	want := map[string]lock.Digest{}
	for _, g := range l.Programs {
		want[string(g.Arch)+" "+g.Name] = g.SHA256
	}
	var errs []error
	for _, g := range parts.Programs {
		if w := want[string(g.Arch)+" "+g.Name]; g.Module != ownModule && g.SHA256 != w {
			errs = append(errs, fmt.Errorf("program %q: digest mismatch: built %s with %s, locked %s with %s", g.Name, g.SHA256, tool, w, l.Toolchain))
		}
	}
	return errors.Join(errs...)
}

func sameImages(l *lock.Lock, parts *Parts) error {
	want := map[string]lock.Image{}
	for _, i := range l.Images {
		want[string(i.Arch)+" "+i.Ref] = i
	}
	var errs []error
	for _, i := range parts.Images {
		if strings.HasSuffix(i.Ref.Repository(), "/pause") || i.Ref.Name() == "pause" {
			continue // made of slipway's own source
		}
		got, err := i.Locked()
		if err != nil {
			return err
		}
		if w := want[string(got.Arch)+" "+got.Ref]; got.Digest != w.Digest {
			errs = append(errs, fmt.Errorf("image %q: digest mismatch: made %s, locked %s", got.Ref, got.Digest, w.Digest))
		}
	}
	return errors.Join(errs...)
}

// IsMissing reports that no lock has been written yet.
func IsMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
