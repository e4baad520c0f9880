package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/store"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/bootmedia"
	"slipway.dev/slipway/images/iso9660"
	"slipway.dev/slipway/images/layout"
	finished "slipway.dev/slipway/images/medium"
)

// medium is what an ISO carries besides its loaders.
type medium struct {
	plan      *Plan
	blobs     []Stored
	manifest  []byte
	signature []byte
}

// files lists slipway's own part of the medium: the signed manifest, the blobs
// by digest, network loaders, and baked-in config. Kernel and initramfs are where loaders look.
func (m *medium) files() []iso9660.File {
	out := []iso9660.File{
		memory(layout.Manifest, m.manifest),
		memory(layout.Signature, m.signature),
	}
	seen := map[string]bool{}
	for _, b := range m.blobs {
		at := finished.Path(b.Blob)
		if b.Role == lock.RoleKernel || b.Role == lock.RoleInitramfs || seen[at] {
			continue
		}
		seen[at] = true
		out = append(out, iso9660.File{Path: at, Mode: 0o444, Size: b.StoredSize(), Open: b.open()})
	}
	for _, name := range sorted(m.plan.Content.Boot.NoCloud) {
		out = append(out, memory(layout.Seed+"/"+name, m.plan.Content.Boot.NoCloud[name]))
	}
	return out
}

// payload is what every loader starts, at the names that loaders' entries have.
func (m *medium) payload() ([]iso9660.File, error) {
	var out []iso9660.File
	for name, r := range map[string]lock.Role{boot.Kernel: lock.RoleKernel, boot.Initramfs: lock.RoleInitramfs} {
		b, err := m.role(r)
		if err != nil {
			return nil, err
		}
		out = append(out, iso9660.File{Path: name, Mode: 0o444, Size: b.Size, Open: b.open()})
	}
	return out, nil
}

func memory(name string, raw []byte) iso9660.File {
	return iso9660.File{Path: name, Mode: 0o444, Size: int64(len(raw)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(raw))), nil }}
}

func (m *medium) role(r lock.Role) (Stored, error) {
	i := slices.IndexFunc(m.blobs, func(b Stored) bool { return b.Role == r })
	if i < 0 {
		return Stored{}, fmt.Errorf("no blob of role %q", r)
	}
	return m.blobs[i], nil
}

// image plans the ISO.
func (m *medium) image() (*iso9660.Image, error) {
	c := m.plan.Content
	product := fmt.Sprintf("slipway %s %s, Kubernetes %s, %s", c.Name, c.Arch, c.Kubernetes, c.Built.UTC().Format("2006-01-02"))
	loaders, err := bootmedia.Make(c.Arch, product, c.Boot.Cmdline, LoaderFiles(c.Loader))
	if err != nil {
		return nil, fmt.Errorf("loaders: %w", err)
	}
	files := append(m.files(), loaders.Files...)
	payload, err := m.payload()
	if err != nil {
		return nil, err
	}
	files = append(files, payload...)
	// Placed in the order of paths, whatever order they were listed in.
	slices.SortFunc(files, func(a, b iso9660.File) int { return strings.Compare(a.Path, b.Path) })
	return iso9660.Plan(iso9660.Volume{ID: layout.Volume, Time: c.Built, Files: files, Boot: loaders.Boot})
}

// LoaderFiles finds a file by its path in the loader packages.
func LoaderFiles(pkgs []Package) bootmedia.Source {
	return func(name string) ([]byte, error) {
		for _, p := range pkgs {
			for _, f := range p.Files {
				if f.Path != name || f.Open == nil {
					continue
				}
				r, err := f.Open()
				if err != nil {
					return nil, err
				}
				defer r.Close()
				return io.ReadAll(r)
			}
		}
		return nil, fmt.Errorf("no loader package brings /%s", name)
	}
}

func (b *Builder) iso(ctx context.Context, m *medium, name string) (Artefact, error) {
	im, err := m.image()
	if err != nil {
		return Artefact{}, err
	}
	return WriteISO(ctx, im, name, b.Report)
}

// WriteISO writes an image beside its name, hashes it while it is written, and
// renames it when it is whole.
func WriteISO(ctx context.Context, im *iso9660.Image, name string, report func(step string, done, total int64)) (Artefact, error) {
	if err := store.Room(filepath.Dir(name), im.Size()); err != nil {
		return Artefact{}, err
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return Artefact{}, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	step := "writing " + filepath.Base(name)
	report(step, 0, im.Size())
	h := newBackground()
	err = im.Write(ctx, io.MultiWriter(f, h), func(n int64) { report(step, n, im.Size()) })
	out := Artefact{Path: name, Size: im.Size(), SHA256: h.sum()}
	if err != nil {
		return out, err
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return out, err
	}
	return out, os.Rename(f.Name(), name)
}
