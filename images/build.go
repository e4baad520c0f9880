package images

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/store"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/erofs"
)

// Builder makes the plan real.
type Builder struct {
	Store  *store.Store // receives the blobs that are made
	Out    string       // directory of the results
	Key    ed25519.PrivateKey
	Report func(step string, done, total int64) // bytes; total 0 when not known
}

// Result is what Build left in the output directory.
type Result struct {
	ISO      string // path
	Size     int64
	SHA256   lock.Digest
	Manifest *lock.Manifest
}

// Build writes the system root, the initramfs, the signed manifest and the
// ISO. Every file appears under its name only when it is complete.
func (b *Builder) Build(ctx context.Context, p *Plan) (*Result, error) {
	sys, err := b.system(p)
	if err != nil {
		return nil, fmt.Errorf("building system.erofs: %w", err)
	}
	kern, err := b.copy(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	ram, err := b.initramfs(p)
	if err != nil {
		return nil, fmt.Errorf("building initramfs: %w", err)
	}
	blobs := append([]Stored{sys, kern, ram}, p.Content.Blobs...)
	if err := b.chunk(blobs); err != nil {
		return nil, err
	}
	m, raw, err := manifest(p, blobs)
	if err != nil {
		return nil, err
	}
	med := &medium{plan: p, blobs: blobs, manifest: raw, signature: lock.Sign(b.Key, raw)}
	name := filepath.Join(b.Out, fmt.Sprintf("%s-%s.iso", p.Content.Name, p.Content.Arch))
	digest, size, err := b.iso(ctx, med, name)
	if err != nil {
		return nil, fmt.Errorf("building %s: %w", filepath.Base(name), err)
	}
	return &Result{ISO: name, Size: size, SHA256: digest, Manifest: m}, nil
}

func (b *Builder) system(p *Plan) (Stored, error) {
	b.Report("writing the system root", 0, 0)
	d, n, err := b.Store.PutFunc("", func(f *os.File) error {
		return erofs.Write(f, p.System, p.Content.Built, filepath.Dir(f.Name()))
	})
	return b.stored("system.erofs", lock.RoleSystem, d, n), err
}

func (b *Builder) initramfs(p *Plan) (Stored, error) {
	b.Report("writing the initramfs", 0, 0)
	d, n, err := b.Store.PutFunc("", func(f *os.File) error { return writeInitramfs(f, p.Initramfs, p.Content.Built) })
	return b.stored(boot.Initramfs, lock.RoleInitramfs, d, n), err
}

func (b *Builder) copy(ctx context.Context, p *Plan) (Stored, error) {
	f, err := p.Kernel.Open()
	if err != nil {
		return Stored{}, err
	}
	defer f.Close()
	d, n, err := b.Store.Put(ctx, f, "")
	return b.stored(boot.Kernel, lock.RoleKernel, d, n), err
}

func (b *Builder) stored(name string, r lock.Role, d lock.Digest, n int64) Stored {
	return Stored{Blob: lock.Blob{Name: name, Role: r, Size: n, SHA256: d}, Path: b.Store.Path(d)}
}

// chunk digests the blobs piece by piece, for nodes that verify them so.
func (b *Builder) chunk(blobs []Stored) error {
	b.Report("digesting blobs", 0, 0)
	for i := range blobs {
		f, err := os.Open(blobs[i].Path)
		if err != nil {
			return err
		}
		blobs[i].Chunks, err = lock.Chunks(f, blobs[i].Size)
		f.Close()
		if err != nil {
			return fmt.Errorf("blob %q: %w", blobs[i].Name, err)
		}
	}
	return nil
}

// manifest lists the blobs once each: image layers that are equal are one blob.
func manifest(p *Plan, blobs []Stored) (*lock.Manifest, []byte, error) {
	c := p.Content
	m := &lock.Manifest{Format: lock.ManifestFormat, Name: c.Name, Serial: c.Serial, Arch: c.Arch, Built: c.Built.UTC(), Kubernetes: c.Kubernetes}
	for _, s := range blobs {
		m.Blobs = append(m.Blobs, s.Blob)
	}
	slices.SortFunc(m.Blobs, func(a, b lock.Blob) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Name, b.Name))
	})
	raw, err := m.Encode()
	return m, raw, err
}

func openPath(name string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return os.Open(name) }
}
