package images

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"os"
	"time"

	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/rootfs"
)

// Content is everything that goes into the images of one architecture. All of
// it is on this machine already and named by the lock.
type Content struct {
	Name       string
	Serial     uint64
	Arch       arch.Arch
	Kubernetes string    // "v1.37.1"
	Built      time.Time // time stamp of every file, and the floor of a node's clock
	System     Root
	Loader     []Package          // boot loaders: their files go to the medium, not into the root
	Programs   map[string]Program // by name
	Blobs      []Stored           // image layers and the image archive
	Debs       []lock.Deb         // of all sets
	Images     []lock.Image
	Boot       Boot
	Pack       bool // blobs travel as zstd frames
	PublicKey  ed25519.PublicKey
}

// Root is what the system root is made of.
type Root struct {
	Packages []Package
	Stanzas  []deb.Package // of the same packages, from the lock
	Overlay  func(*rootfs.Tree) error
}

// Boot is what a bundle adds to booting.
type Boot struct {
	Cmdline boot.Cmdline
	Modules []string          // kernel modules for the initramfs besides the usual
	NoCloud map[string][]byte // config baked into the medium: user-data, meta-data, network-config
}

// Package is an unpacked Debian package.
type Package struct {
	Name, Version string
	Files         []deb.File
	Scripts       []string // maintainer scripts, which nobody runs
}

// Program is a program that was built for the bundle.
type Program struct {
	lock.GoBinary
	Path string // on this machine
}

func (p Program) entry(at string) rootfs.Entry {
	return rootfs.Entry{Path: at, Mode: 0o755, Size: p.Size, Source: "program " + p.Name, Open: p.open}
}

func (p Program) open() (io.ReadCloser, error) { return os.Open(p.Path) }

// Stored is a blob of the manifest and where its plain bytes are on this machine.
type Stored struct {
	lock.Blob
	Path string

	file   string // what goes onto media when the blob is packed
	digest lock.Digest
}

// open reads what goes onto media, verified when it has been read whole.
func (s Stored) open() func() (io.ReadCloser, error) {
	if len(s.Frames) > 0 {
		return openChecked(s.file, s.digest)
	}
	return openChecked(s.Path, s.SHA256)
}

// sum is the digest of what goes onto media.
func (s Stored) sum() lock.Digest {
	if len(s.Frames) > 0 {
		return s.digest
	}
	return s.SHA256
}

// Unreviewed are the packages of the root whose maintainer scripts nobody has
// looked at: what these would have done is missing.
func (c *Content) Unreviewed() []string {
	scripts := map[string][]string{}
	for _, p := range c.System.Packages {
		scripts[p.Name] = p.Scripts
	}
	return deb.Unreviewed(scripts)
}

func (c *Content) program(name string) (Program, error) {
	p, ok := c.Programs[name]
	if !ok {
		return Program{}, fmt.Errorf("program %q is missing", name)
	}
	return p, nil
}
