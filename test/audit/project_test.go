// Package audit looks at the root file system of a bundle as it is shipped:
// once without running anything, for every architecture, and once by starting
// every program in it. It holds tests only.
//
// It does not build the bundle: `make test` has, and says where its lock is.
package audit

import (
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"slipway.dev/slipway/bundle"
	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images"
	"slipway.dev/slipway/images/kmod"
	"slipway.dev/slipway/images/rootfs"
	"slipway.dev/slipway/overlay"
)

var (
	out  = flag.String("out", "", "output directory of `slipway build`")
	file = flag.String("f", "../../configs/examples/bundle.yaml", "the bundle it was built from")
)

// root is a system root with what the lock says of it.
type root struct {
	arch     arch.Arch
	tree     *rootfs.Tree
	packages []deb.Package
	scripts  map[string][]string // maintainer scripts by package
}

// project opens the bundle with its lock; everything it names is on this
// machine after a build.
func project(t *testing.T) (*bundle.Project, *lock.Lock) {
	t.Helper()
	if *out == "" {
		t.Skip("no bundle given: run `make test`, or build one and add -args -out DIR")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	p, err := bundle.Open(bundle.Options{File: *file, Lock: filepath.Join(*out, "slipway.lock"), Cache: filepath.Join(cache, "slipway"), Source: source,
		AptDir: "/etc/apt", Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Report: func(string, int64, int64) {}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := p.Locked()
	if err != nil {
		t.Fatal(err)
	}
	return p, l
}

// assembled is made once per architecture and shared by the tests, which only read it.
var assembled sync.Map

// assemble lays the system root out as `slipway build` does.
func assemble(t *testing.T, p *bundle.Project, l *lock.Lock, a arch.Arch) *root {
	t.Helper()
	if r, ok := assembled.Load(a); ok {
		return r.(*root)
	}
	parts, err := p.Fetch(t.Context(), l, a)
	if err != nil {
		t.Fatal(err)
	}
	r := &root{arch: a, scripts: map[string][]string{}}
	c := &images.Content{Name: "audit", Arch: a, Built: parts.Built, PublicKey: make([]byte, 32), Programs: map[string]images.Program{}}
	for _, prog := range parts.Programs {
		c.Programs[prog.Name] = images.Program{Name: prog.Name, Path: prog.Path, Size: prog.Size, SHA256: prog.SHA256}
	}
	for _, d := range parts.Debs {
		if !d.In(bundle.SetSystem) {
			continue
		}
		stanza, err := deb.ParseStanza(d.Control)
		if err != nil {
			t.Fatal(err)
		}
		un, err := bundle.UnpackDeb(p.Unpack, p.Store, d)
		if err != nil {
			t.Fatal(err)
		}
		r.packages = append(r.packages, stanza)
		r.scripts[d.Name] = un.Scripts
		c.System.Packages = append(c.System.Packages, images.Package{Name: d.Name, Version: d.Version, Files: un.Files})
	}
	c.System.Stanzas, c.System.Overlay = slices.Clone(r.packages), overlay.Apply
	plan, err := images.Assemble(c, func(*rootfs.Tree, string) ([]kmod.Module, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	r.tree = plan.System
	assembled.Store(a, r)
	return r
}
