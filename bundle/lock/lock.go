package lock

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"time"

	"slipway.dev/slipway/configs/arch"
)

// LockFormat is the version of slipway.lock's shape.
const LockFormat = 1

// Lock is slipway.lock: everything that a bundle is made of, with sizes and
// digests, and the digest of the bundle.yaml that it was resolved from.
type Lock struct {
	Format    int        `json:"format"`
	Config    Digest     `json:"config"`    // of the parts of bundle.yaml that decide what follows
	Resolved  time.Time  `json:"resolved"`  // time of the newest package index: the image's own clock
	Toolchain string     `json:"toolchain"` // of the Go programs: "go1.26.0"
	Debs      []Deb      `json:"debs"`      // sorted by architecture, name
	Programs  []GoBinary `json:"programs"`  // sorted by architecture, name
	Images    []Image    `json:"images"`    // sorted by architecture, ref
}

// Deb is one Debian package.
type Deb struct {
	Name    string    `json:"name"`
	Version string    `json:"version"`
	Arch    arch.Arch `json:"arch"` // of the bundle; the package itself may be "all"
	URL     string    `json:"url"`
	Size    int64     `json:"size"` // bytes
	SHA256  Digest    `json:"sha256"`
	// Sets says where the package goes: "system", "loader", or an image's base ("netbase").
	Sets []string `json:"sets"`
	// Control is the stanza of the package index, for dependency data and /var/lib/dpkg/status.
	Control string `json:"control"`
}

// GoBinary is a program built from a Go module.
type GoBinary struct {
	Name    string    `json:"name"`
	Arch    arch.Arch `json:"arch"`
	Module  string    `json:"module"`
	Version string    `json:"version"`
	Sum     string    `json:"sum"` // go.sum's h1: of the module
	Package string    `json:"package"`
	Size    int64     `json:"size"`
	SHA256  Digest    `json:"sha256"`
}

// Image is a container image baked into the bundle.
type Image struct {
	Ref    string    `json:"ref"` // as a pod names it: "registry.k8s.io/pause:3.10.2"
	Arch   arch.Arch `json:"arch"`
	Digest Digest    `json:"digest"` // of the OCI manifest
	Layers []Digest  `json:"layers"` // diffIDs, lowest first
}

// In reports whether the package belongs to a set.
func (d Deb) In(set string) bool {
	for _, s := range d.Sets {
		if s == set {
			return true
		}
	}
	return false
}

// Encode sorts and renders the lock.
func (l *Lock) Encode() ([]byte, error) {
	sort.Slice(l.Debs, func(i, j int) bool { return key(l.Debs[i].Arch, l.Debs[i].Name) < key(l.Debs[j].Arch, l.Debs[j].Name) })
	sort.Slice(l.Programs, func(i, j int) bool {
		return key(l.Programs[i].Arch, l.Programs[i].Name) < key(l.Programs[j].Arch, l.Programs[j].Name)
	})
	sort.Slice(l.Images, func(i, j int) bool {
		return key(l.Images[i].Arch, l.Images[i].Ref) < key(l.Images[j].Arch, l.Images[j].Ref)
	})
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding lock: %w", err)
	}
	return append(b, '\n'), nil
}

func key(a arch.Arch, name string) string { return string(a) + "\x00" + name }

// Write puts the lock into a file: written beside it, synced, renamed.
func (l *Lock) Write(name string) error {
	raw, err := l.Encode()
	if err != nil {
		return err
	}
	return WriteFile(name, raw, 0o644)
}

// WriteFile replaces a file as a whole: a crash leaves the old or the new one.
func WriteFile(name string, raw []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(raw); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// Read parses a lock file.
func Read(name string) (*Lock, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var l Lock
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if l.Format != LockFormat {
		return nil, fmt.Errorf("%s: format %d, this program reads %d", name, l.Format, LockFormat)
	}
	for _, p := range l.Debs {
		if _, err := ParseDigest(string(p.SHA256)); err != nil {
			return nil, fmt.Errorf("%s: package %q: %w", name, p.Name, err)
		}
	}
	for _, p := range l.Programs {
		if _, err := ParseDigest(string(p.SHA256)); err != nil {
			return nil, fmt.Errorf("%s: program %q: %w", name, p.Name, err)
		}
	}
	return &l, nil
}
