package images

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/store"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/bootmedia"
	"slipway.dev/slipway/images/erofs"
)

// Builder makes the plan real.
type Builder struct {
	Store  *store.Store // receives the blobs that are made
	Cache  string       // directory that remembers what was computed of blobs
	Out    string       // directory of the results
	Key    ed25519.PrivateKey
	Report func(step string, done, total int64) // bytes; total 0 when not known
}

// Artefact is a file that Build left.
type Artefact struct {
	Path   string      `json:"path"`
	Size   int64       `json:"size"` // bytes
	SHA256 lock.Digest `json:"sha256"`
}

// Result is what Build left in the output directory.
type Result struct {
	ISO      Artefact
	Netboot  string     // directory
	All      []Artefact // the ISO, the netboot files, manifest, signature and SBOM
	Manifest *lock.Manifest
}

// Build writes the system root, the initramfs, the signed manifest, the ISO,
// the netboot directory and the SBOM. Every file appears under its name only
// when it is complete.
func (b *Builder) Build(ctx context.Context, p *Plan) (*Result, error) {
	sys, err := b.system(p)
	if err != nil {
		return nil, fmt.Errorf("building system.erofs: %w", err)
	}
	blocks, err := b.blocks(ctx, sys)
	if err != nil {
		return nil, fmt.Errorf("listing the blocks of system.erofs: %w", err)
	}
	kern, err := b.copy(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	ram, err := b.initramfs(p)
	if err != nil {
		return nil, fmt.Errorf("building initramfs: %w", err)
	}
	blobs := append([]Stored{sys, blocks, kern, ram}, p.Content.Blobs...)
	net, err := b.loaders(ctx, p.Content)
	if err != nil {
		return nil, fmt.Errorf("loaders: %w", err)
	}
	blobs = append(blobs, net...)
	if err := b.divide(ctx, p, blobs); err != nil {
		return nil, err
	}
	m, raw, err := manifest(p, blobs)
	if err != nil {
		return nil, err
	}
	return b.media(ctx, &medium{plan: p, blobs: blobs, manifest: raw, signature: lock.Sign(b.Key, raw)}, m)
}

// media writes everything that has a name in the output directory.
func (b *Builder) media(ctx context.Context, med *medium, m *lock.Manifest) (*Result, error) {
	c := med.plan.Content
	base := filepath.Join(b.Out, fmt.Sprintf("%s-%s", c.Name, c.Arch))
	res := &Result{Manifest: m, Netboot: base + "-netboot"}
	if err := removeTemporary(base); err != nil {
		return nil, err
	}
	var err error
	if res.ISO, err = b.iso(ctx, med, base+".iso"); err != nil {
		return nil, fmt.Errorf("building %s: %w", filepath.Base(base)+".iso", err)
	}
	res.All = append(res.All, res.ISO)
	netboot, err := b.netboot(ctx, med, res.Netboot)
	if err != nil {
		return nil, fmt.Errorf("building %s: %w", filepath.Base(res.Netboot), err)
	}
	bom, err := sbom(med.plan)
	if err != nil {
		return nil, fmt.Errorf("building the SBOM: %w", err)
	}
	for _, f := range []struct {
		name string
		raw  []byte
	}{{base + ".manifest.json", med.manifest}, {base + ".manifest.sig", med.signature}, {base + ".cdx.json", bom}} {
		if err := lock.WriteFile(f.name, f.raw, 0o644); err != nil {
			return nil, err
		}
		res.All = append(res.All, Artefact{f.name, int64(len(f.raw)), lock.SumBytes(f.raw)})
	}
	res.All = append(res.All, netboot...)
	return res, nil
}

// removeTemporary removes the temporary files that a killed build left beside base, the
// name that all artefacts begin with: up to a gigabyte that nobody finds.
func removeTemporary(base string) error {
	old, err := filepath.Glob(filepath.Join(filepath.Dir(base), "."+filepath.Base(base)+".*-*"))
	for _, o := range old {
		err = errors.Join(err, os.Remove(o))
	}
	return err
}

func (b *Builder) system(p *Plan) (Stored, error) {
	b.Report("writing the system root", 0, 0)
	d, n, err := b.Store.PutFunc("", func(f *os.File) error {
		return erofs.Write(f, p.System, p.Content.Built, filepath.Dir(f.Name()))
	})
	return b.stored("system.erofs", lock.RoleSystem, d, n), err
}

// blocks lists the blocks of a blob, by which a node that has another version of
// it brings only what changed.
func (b *Builder) blocks(ctx context.Context, s Stored) (Stored, error) {
	f, err := os.Open(s.Path)
	if err != nil {
		return Stored{}, err
	}
	defer f.Close()
	list, err := lock.Blocks(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return Stored{}, err
	}
	d, n, err := b.Store.Put(ctx, bytes.NewReader(list), "")
	return b.stored(lock.BlocksName(s.Name), lock.RoleBlocks, d, n), err
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

// loaders are the files that firmware asks a seed for, under the names it asks
// for, and those that an installation puts on a node's disk.
func (b *Builder) loaders(ctx context.Context, c *Content) ([]Stored, error) {
	src := LoaderFiles(c.Loader)
	network, err := bootmedia.Network(c.Arch, c.Boot.Cmdline, src)
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	disk, err := bootmedia.Disk(c.Arch, src)
	if err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	var out []Stored
	for _, kind := range []struct {
		dir   string
		role  lock.Role
		files []bootmedia.Loader
	}{{"netboot/", lock.RoleLoader, network}, {"disk/", lock.RoleDiskLoader, disk}} {
		for _, f := range kind.files {
			d, n, err := b.Store.Put(ctx, bytes.NewReader(f.Content), "")
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.Name, err)
			}
			out = append(out, b.stored(kind.dir+f.Name, kind.role, d, n))
		}
	}
	return out, nil
}

func (b *Builder) stored(name string, r lock.Role, d lock.Digest, n int64) Stored {
	return Stored{Blob: lock.Blob{Name: name, Role: r, Size: n, SHA256: d}, Path: b.Store.Path(d)}
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
