// Package boot says what a machine boots over the network and has every file of
// it: loaders, their configuration, kernel and initramfs, the signed manifest
// and the blobs that it names.
//
// All names are in one map made at start from signed manifests; there is no path
// to escape from, and nothing a machine sends is ever part of a text. The
// package opens no socket, and does not know which machines are welcome, where
// in a boot one of them is, or what a node's config holds.
package boot

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/medium"
	"slipway.dev/slipway/pxe"
	"slipway.dev/slipway/pxe/tftp"
	"slipway.dev/slipway/pxe/web"
)

// Medium is one opened medium and the manifest that was verified on it. It
// stays open for as long as its blobs are served.
type Medium struct {
	*medium.Medium
	Manifest *lock.Manifest
}

// Options say where machines find the seed and what their kernels are told.
type Options struct {
	HTTP     netip.AddrPort // of the HTTP server, IPv4; the TFTP server has the same address
	Seed     string         // slipway.seed=: https URL to enrol at, "" for none
	Pin      string         // slipway.pin=
	Consoles []string       // console=, in order; nil: those of the bundle
	Extra    []string       // kernel arguments after the bundle's
	// Progress gets the bytes that were read and verified so far; nil: silent.
	Progress func(done, total int64)
}

// Kind is what a served file is for.
type Kind string

// The kinds in the order in which a machine asks for them.
const (
	Loader    Kind = "loader"
	Config    Kind = "config" // of a loader
	Kernel    Kind = "kernel"
	Initramfs Kind = "initramfs"
	Manifest  Kind = "manifest" // and its signature: PID 1 runs
	Blob      Kind = "blob"
)

// file is one name.
type file struct {
	web.Content
	kind Kind
	arch arch.Arch // empty: of all
}

// Boot answers for a set of media, one per architecture.
type Boot struct {
	base  string // http://10.0.0.1:8080
	files map[string]file
	archs []arch.Arch
}

// New reads and verifies what machines run before they can verify anything
// themselves: loaders, kernel and initramfs, some 60 MB per architecture. These
// bytes stay in memory and are what is served, whatever happens to the medium.
// Blobs are served from the medium; each node verifies them.
func New(ctx context.Context, media []Medium, o Options) (*Boot, error) {
	if !o.HTTP.IsValid() || !o.HTTP.Addr().Is4() || o.HTTP.Addr().IsUnspecified() || o.HTTP.Port() == 0 {
		return nil, fmt.Errorf("network boot: HTTP server at %q: want an IPv4 address and a port", o.HTTP)
	}
	b := &Boot{base: origin(o.HTTP), files: map[string]file{}}
	p := &progress{tell: o.Progress, total: total(media)}
	lines := map[arch.Arch]boot.Cmdline{}
	for _, m := range media {
		a := m.Manifest.Arch
		if err := same(media[0].Manifest, m.Manifest); err != nil {
			return nil, fmt.Errorf("network boot: %w", err)
		}
		if slices.Contains(b.archs, a) {
			return nil, fmt.Errorf("network boot: two media for %s: serve one of them", a)
		}
		c, err := b.add(ctx, m, p)
		if err != nil {
			return nil, fmt.Errorf("network boot: bundle %q for %s: %w", m.Manifest.Name, a, err)
		}
		if lines[a], err = o.complete(c, Store(o.HTTP, a)); err != nil {
			return nil, fmt.Errorf("network boot: bundle %q for %s: %w", m.Manifest.Name, a, err)
		}
		b.archs = append(b.archs, a)
	}
	if len(b.archs) == 0 {
		return nil, fmt.Errorf("network boot: no medium to serve")
	}
	slices.Sort(b.archs)
	b.addScripts(o.HTTP, lines)
	return b, nil
}

// same refuses media of two bundles, or of two releases of one: machines of one
// cluster would run different versions of everything.
func same(a, b *lock.Manifest) error {
	if a.Name == b.Name && a.Serial == b.Serial && a.Kubernetes == b.Kubernetes {
		return nil
	}
	text := func(m *lock.Manifest) string {
		return fmt.Sprintf("%q serial %d with Kubernetes %s for %s", m.Name, m.Serial, m.Kubernetes, m.Arch)
	}
	return fmt.Errorf("media of different bundles: %s and %s: build both from one bundle.yaml", text(a), text(b))
}

// complete adds to a bundle's command line what only the seed knows.
func (o Options) complete(c boot.Cmdline, store string) (boot.Cmdline, error) {
	c.Store, c.Seed, c.Pin = store, o.Seed, o.Pin
	if o.Consoles != nil {
		c.Consoles = o.Consoles
	}
	c.Extra = append(slices.Clone(c.Extra), o.Extra...)
	if u, err := url.Parse(o.Seed); o.Seed != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		return c, fmt.Errorf("seed %q: want an https URL", o.Seed)
	}
	for _, arg := range strings.Fields(c.String()) {
		if err := scriptable(arg); err != nil {
			return c, err
		}
	}
	if n := len(c.String()); n > maxCmdline {
		return c, fmt.Errorf("kernel command line of %d bytes, want at most %d", n, maxCmdline)
	}
	return c, nil
}

// maxCmdline leaves room for what loaders put in front: the kernel takes 2048
// bytes (COMMAND_LINE_SIZE of x86 and arm64).
const maxCmdline = 1900

// Store is where the bundle for an architecture is, as slipway.store= has it, on
// an HTTP server at an address.
func Store(at netip.AddrPort, a arch.Arch) string { return origin(at) + "/" + string(a) }

func origin(a netip.AddrPort) string {
	if a.Port() == 80 {
		return "http://" + a.Addr().String()
	}
	return "http://" + a.String()
}

// Decide tells what a machine boots by what its firmware can do. It knows
// nothing of the machine's standing: whoever does asks it last.
func (b *Boot) Decide(m pxe.Machine) pxe.Boot {
	if !m.Netboot() {
		return pxe.Boot{}
	}
	if !slices.Contains(b.archs, m.Arch) {
		return pxe.Boot{Ignore: true, Reason: fmt.Sprintf("no medium for %s is served, only for %v", m.Arch, b.archs)}
	}
	if m.IPXE {
		return pxe.Boot{URL: b.base + "/" + script(m.Arch)}
	}
	switch m.Firmware {
	case pxe.BIOS:
		return pxe.Boot{File: "undionly.kpxe"}
	case pxe.UEFI:
		return pxe.Boot{File: shim(m.Arch)}
	case pxe.UEFIHTTP:
		return pxe.Boot{URL: b.base + "/" + shim(m.Arch)}
	}
	return pxe.Boot{Ignore: true, Reason: fmt.Sprintf("no loader for firmware %q", m.Firmware)}
}

func shim(a arch.Arch) string { return "shim" + a.EFI() + ".efi" }

// script is iPXE's for one architecture.
func script(a arch.Arch) string { return string(a) + "/boot.ipxe" }

// TFTP are the files that a machine can need before it speaks HTTP. Manifests
// and blobs are not among them.
func (b *Boot) TFTP() tftp.Files {
	return func(name string) (io.ReaderAt, int64, bool) {
		f, ok := b.files[name]
		if !ok || f.kind == Blob || f.kind == Manifest {
			return nil, 0, false
		}
		return f.Reader, f.Size, true
	}
}

// HTTP are all files.
func (b *Boot) HTTP() web.Files {
	return func(name string) (web.Content, bool) {
		f, ok := b.files[name]
		return f.Content, ok
	}
}

// Kind is what the file of a name is for, "" for a name that is not served.
func (b *Boot) Kind(name string) Kind { return b.files[name].kind }

// Archs are the architectures that have a medium.
func (b *Boot) Archs() []arch.Arch { return slices.Clone(b.archs) }

// Names are all names that are served, sorted.
func (b *Boot) Names() []string {
	out := make([]string, 0, len(b.files))
	for n := range b.files {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}
