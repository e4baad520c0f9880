// Package audit holds the example's real root against images/audit and then
// starts every program of it. It holds tests only.
//
// It does not boot the root: test/qemu/scenario does.
package audit

import (
	"crypto/ed25519"
	"debug/elf"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"slipway.dev/slipway/bundle"
	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/cmd/slipway/content"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images"
	"slipway.dev/slipway/images/audit"
	"slipway.dev/slipway/images/rootfs"
)

const source = "../.."

// root is one architecture of a bundle.
type root struct {
	file, lock string // left, or used, by the build of the ISOs that tests boot
	arch       arch.Arch
}

var (
	example = root{source + "/configs/examples/bundle.yaml", source + "/out/test/slipway.lock", arch.AMD64}
	second  = root{source + "/out/test/both/config/bundle.yaml", source + "/out/test/both.lock", arch.ARM64}
)

var machines = map[arch.Arch]elf.Machine{arch.AMD64: elf.EM_X86_64, arch.ARM64: elf.EM_AARCH64}

// TestExampleRoot: nothing is wrong with the example's root that nobody looked
// at, and what images/audit takes for sound does start.
func TestExampleRoot(t *testing.T) { example.test(t) }

// TestARM64Root is the same for the other architecture, whose programs this
// machine starts under emulation.
func TestARM64Root(t *testing.T) { second.test(t) }

func (r root) test(t *testing.T) {
	p, scripts := r.assembled(t)
	found := audit.Check(p.System, machines[p.Content.Arch])
	t.Run("check", func(t *testing.T) {
		rest, unused := audit.Unexpected(found, audit.Reviewed())
		for _, f := range rest {
			t.Error(f)
		}
		for _, a := range unused {
			if !present(p.System, a) {
				continue // of a group that is not enabled
			}
			t.Errorf("nothing is wrong any more with %s (%q): take it out of audit.Reviewed", a.Path, a.Problem)
		}
		t.Logf("%d names, %d findings, %d of them accepted", p.System.Len(), len(found), len(found)-len(rest))
	})
	t.Run("scripts", func(t *testing.T) {
		for _, name := range deb.Unreviewed(scripts) {
			t.Errorf("package %q has maintainer scripts that bundle/deb does not know: %q", name, scripts[name])
		}
	})
	t.Run("start", func(t *testing.T) { startAll(t, p, found) })
}

// present says whether the root has anything that an acceptance is about.
func present(t *rootfs.Tree, a audit.Accepted) bool {
	found := false
	_ = t.Walk(func(e rootfs.Entry) error {
		found = found || !e.Mode.IsDir() && a.Covers(audit.Finding{Path: e.Path, Problem: a.Problem})
		return nil
	})
	return found
}

// assembled lays out a root's images from what is in the cache alone, and
// skips the test when too little is there. scripts are the maintainer scripts
// of the root's packages.
func (r root) assembled(t *testing.T) (p *images.Plan, scripts map[string][]string) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skipf("no cache: %v", err)
	}
	cache = filepath.Join(cache, "slipway")
	here, err := filepath.Abs(source)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.file); err != nil {
		t.Skipf("no bundle for %s (go run ./test/run -isos makes it): %v", r.arch, err)
	}
	o := bundle.Options{File: r.file, Lock: r.lock, Cache: cache, Source: here, AptDir: "/etc/apt", Offline: true,
		Log: slog.New(slog.DiscardHandler), Report: func(string, int64, int64) {}}
	proj, err := bundle.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	l := r.locked(t, proj)
	parts, err := proj.Fetch(t.Context(), l, r.arch)
	if bundle.IsMissing(err) {
		t.Skipf("the cache is cold: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	scripts = map[string][]string{}
	for _, d := range parts.Debs {
		if !d.In(bundle.SetSystem) {
			continue
		}
		un, err := bundle.UnpackDeb(proj.Unpack, proj.Store, d)
		if err != nil {
			t.Fatal(err)
		}
		scripts[d.Name] = un.Scripts
	}
	p, err = content.Assemble(t.Context(), proj, parts, make(ed25519.PublicKey, ed25519.PublicKeySize), cache, o.Report)
	if err != nil {
		t.Fatal(err)
	}
	return p, scripts
}

// locked reads the lock of the tests; without one it makes its own, for which
// everything must be in the cache already.
func (r root) locked(t *testing.T, proj *bundle.Project) *lock.Lock {
	t.Helper()
	l, err := proj.Locked()
	var stale *bundle.StaleError
	if err == nil {
		return l
	}
	if !bundle.IsMissing(err) && !errors.As(err, &stale) {
		t.Fatal(err)
	}
	proj.Lock = filepath.Join(t.TempDir(), "slipway.lock")
	l, err = proj.MakeLock(t.Context())
	if err != nil {
		t.Skipf("no lock for the example (go run ./test/run -isos makes %s), and none can be made: %v", r.lock, err)
	}
	return l
}
