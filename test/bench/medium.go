package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/iso9660"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/medium"
)

// sizes in bytes of what the sample medium holds: a layer, one of a size that a
// hundred machines can fetch in a measurement, and the early files.
const (
	largeBlob = 256 << 20
	smallBlob = 32 << 20
	initramfs = 40 << 20
	kernel    = 12 << 20
	loader    = 4 << 20
)

// sampleKey signs a medium that nobody boots.
func sampleKey() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) }

// sample is a medium twice, as a directory and as an ISO of it.
type sample struct {
	root         string // parent of the directory, which is named after the architecture as over HTTP
	dir, iso     string
	large, small lock.Blob
}

func (s sample) path(b lock.Blob) string { return "/" + string(arch.AMD64) + "/" + medium.Path(b) }

// makeSample writes both.
func makeSample(ctx context.Context, dir string) (sample, error) {
	s := sample{root: dir, dir: filepath.Join(dir, string(arch.AMD64)), iso: filepath.Join(dir, "sample.iso")}
	m := &lock.Manifest{Format: lock.ManifestFormat, Name: "bench", Serial: 1, Arch: arch.AMD64, Built: time.Unix(1e9, 0).UTC(), Kubernetes: "v1.37.1"}
	v := iso9660.Volume{ID: layout.Volume, Time: time.Unix(1e9, 0)}
	for i, c := range []struct {
		name string
		role lock.Role
		size int64 // of random bytes
	}{
		{"boot/vmlinuz", lock.RoleKernel, kernel}, {"boot/initrd.img", lock.RoleInitramfs, initramfs},
		{"netboot/shimx64.efi", lock.RoleLoader, loader}, {"netboot/cmdline", lock.RoleLoader, 0},
		{"layers/large", lock.RoleLayer, largeBlob}, {"layers/small", lock.RoleLayer, smallBlob},
	} {
		b, err := s.addBlob(&v, c.name, c.role, io.LimitReader(rand.NewChaCha8([32]byte{byte(i)}), c.size))
		if err != nil {
			return s, err
		}
		m.Blobs = append(m.Blobs, b)
	}
	s.large, s.small = m.Blobs[4], m.Blobs[5]
	raw, err := m.Encode()
	if err != nil {
		return s, err
	}
	for name, b := range map[string][]byte{layout.Manifest: raw, layout.Signature: lock.Sign(sampleKey(), raw)} {
		if _, err := s.add(&v, name, bytes.NewReader(b)); err != nil {
			return s, err
		}
	}
	im, err := iso9660.Plan(v)
	if err != nil {
		return s, err
	}
	f, err := os.Create(s.iso)
	if err != nil {
		return s, err
	}
	return s, errors.Join(im.Write(ctx, f, nil), f.Close())
}

// add writes a file and returns its name on disk.
func (s sample) add(v *iso9660.Volume, name string, from io.Reader) (string, error) {
	p := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return "", err
	}
	f, err := os.Create(p)
	if err != nil {
		return "", err
	}
	size, err := io.Copy(f, from)
	v.Files = append(v.Files, iso9660.File{Path: name, Mode: 0o444, Size: size, Open: func() (io.ReadCloser, error) { return os.Open(p) }})
	return p, errors.Join(err, f.Close())
}

// addBlob writes a blob under the name of its digest.
func (s sample) addBlob(v *iso9660.Volume, name string, role lock.Role, from io.Reader) (lock.Blob, error) {
	b := lock.Blob{Name: name, Role: role}
	raw, err := io.ReadAll(from)
	if err != nil {
		return b, err
	}
	b.Size, b.SHA256 = int64(len(raw)), lock.SumBytes(raw)
	if b.Chunks, err = lock.Chunks(bytes.NewReader(raw), b.Size); err != nil {
		return b, err
	}
	_, err = s.add(v, medium.Path(b), bytes.NewReader(raw))
	return b, err
}
