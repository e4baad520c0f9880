// Package combined makes one ISO that boots several architectures out of the
// finished media of each: their signed manifests as they are, what differs
// below the architecture's name, and every blob once.
//
// It signs nothing and builds nothing: whoever has the media of one bundle and
// the loaders' packages can combine them, and the same media give the same ISO.
package combined

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/images"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/bootmedia"
	"slipway.dev/slipway/images/iso9660"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/medium"
)

// Part is the finished medium of one architecture and what its loaders are made of.
type Part struct {
	Medium *medium.Medium // stays open until the image is written
	Boot   images.Boot
	Loader []images.Package
}

// Image is a planned combined ISO.
type Image struct {
	*iso9660.Image
	Shared int64 // bytes of blobs that more than one architecture uses, stored once

	files map[string]bool
	list  []iso9660.File
}

// Plan opens and verifies the manifests, with pub, and places everything. The
// parts must be of one bundle.
func Plan(parts []Part, pub ed25519.PublicKey) (*Image, error) {
	im := &Image{files: map[string]bool{}}
	var entries []bootmedia.Entry
	var first *lock.Manifest
	var newest time.Time
	for _, p := range parts {
		m, err := im.add(p, pub)
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = m
		}
		if m.Name != first.Name || m.Serial != first.Serial || m.Kubernetes != first.Kubernetes {
			return nil, fmt.Errorf("the media are of different bundles: %q serial %d, Kubernetes %s, and %q serial %d, Kubernetes %s", first.Name, first.Serial, first.Kubernetes, m.Name, m.Serial, m.Kubernetes)
		}
		if m.Built.After(newest) {
			newest = m.Built
		}
		entries = append(entries, bootmedia.Entry{Arch: m.Arch, Kernel: layout.For(string(m.Arch), boot.Kernel), Initramfs: layout.For(string(m.Arch), boot.Initramfs),
			Cmdline: p.Boot.Cmdline, Source: images.LoaderFiles(p.Loader)})
	}
	if len(entries) < 2 {
		return nil, fmt.Errorf("want media of at least two architectures, got %d", len(entries))
	}
	product := fmt.Sprintf("slipway %s, Kubernetes %s, %s", first.Name, first.Kubernetes, newest.UTC().Format("2006-01-02"))
	loaders, err := bootmedia.Combine(product, entries)
	if err != nil {
		return nil, fmt.Errorf("loaders: %w", err)
	}
	files := append(im.list, loaders.Files...)
	// Placed in the order of paths, whatever order they were listed in.
	slices.SortFunc(files, func(a, b iso9660.File) int { return strings.Compare(a.Path, b.Path) })
	im.Image, err = iso9660.Plan(iso9660.Volume{ID: layout.Volume, Time: newest, Files: files, Boot: loaders.Boot})
	return im, err
}

// add lists what a part brings.
func (im *Image) add(p Part, pub ed25519.PublicKey) (*lock.Manifest, error) {
	raw, err := p.Medium.ReadFile(layout.Manifest)
	if err != nil {
		return nil, err
	}
	sig, err := p.Medium.ReadFile(layout.Signature)
	if err != nil {
		return nil, err
	}
	m, err := lock.Open(pub, raw, sig)
	if err != nil {
		return nil, err
	}
	at := func(name string) string { return layout.For(string(m.Arch), name) }
	if im.files[at(layout.Manifest)] {
		return nil, fmt.Errorf("two media for %s", m.Arch)
	}
	im.put(at(layout.Manifest), int64(len(raw)), inMemory(raw))
	im.put(at(layout.Signature), int64(len(sig)), inMemory(sig))
	mine := map[string]bool{} // one bundle may name a blob twice
	for _, b := range m.Blobs {
		name := at(medium.Path(b))
		if !mine[name] && im.files[name] {
			im.Shared += b.StoredSize()
		}
		if mine[name] = true; !im.files[name] {
			im.put(name, b.StoredSize(), p.stored(b))
		}
	}
	for name, text := range p.Boot.NoCloud {
		if f := layout.Seed + "/" + name; !im.files[f] { // one bundle.yaml, one config
			im.put(f, int64(len(text)), inMemory(text))
		}
	}
	return m, nil
}

func (im *Image) put(name string, size int64, open func() (io.ReadCloser, error)) {
	im.files[name] = true
	im.list = append(im.list, iso9660.File{Path: name, Mode: 0o444, Size: size, Open: open})
}

func inMemory(raw []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }
}

// Write streams the ISO to a file; the Artefact has its digest. report is told
// the bytes written.
func (im *Image) Write(ctx context.Context, name string, report func(step string, done, total int64)) (images.Artefact, error) {
	return images.WriteISO(ctx, im.Image, name, report)
}
