// Package medium opens what a build left, an ISO or a netboot directory, for
// reading: the signed manifest first, and everything else through it.
//
// It trusts no path: a blob is found by the digest that the manifest gives. It
// does not mount, serve or change anything.
package medium

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/store"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/isofs"
	"slipway.dev/slipway/images/layout"
)

// maxManifest bounds manifest.json; one for 100 GB of blobs has 2 MB.
const maxManifest = 64 << 20

// Medium is an ISO or a netboot directory, or one architecture's part of it.
type Medium struct {
	name  string
	image *isofs.Image // nil for a directory
	file  *os.File
	root  *os.Root
	arch  arch.Arch // of a part of a combined medium; names are those of a medium of its own
}

// Parts are the media of one architecture each that m consists of: m itself, or
// the parts of a combined one. They are open for as long as m is.
func (m *Medium) Parts() ([]*Medium, error) {
	var out []*Medium
	for _, a := range arch.All() {
		part := *m
		part.arch = a
		f, _, err := part.Open(layout.Manifest)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
		out = append(out, &part)
	}
	if out == nil {
		return []*Medium{m}, nil
	}
	return out, nil
}

// Open opens an ISO file or a directory that holds layout.Dir.
func Open(name string) (*Medium, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	m := &Medium{name: name}
	if fi.IsDir() {
		m.root, err = os.OpenRoot(name)
		return m, err
	}
	if m.file, err = os.Open(name); err != nil {
		return nil, err
	}
	size, err := m.file.Seek(0, io.SeekEnd) // of a block device too
	if err == nil {
		m.image, err = isofs.Read(m.file, size)
	}
	if err != nil {
		m.file.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

// Close ends reading.
func (m *Medium) Close() error {
	if m.root != nil {
		return m.root.Close()
	}
	return m.file.Close()
}

// File is an open file of a medium.
type File interface {
	io.ReaderAt
	io.Closer
}

// section is a file in an image. Its Outer tells a server where in the image.
type section struct{ *io.SectionReader }

func (section) Close() error { return nil }

// Open finds a file by its path on the medium and returns it with its size in
// bytes; fs.ErrNotExist when there is none.
func (m *Medium) Open(name string) (File, int64, error) {
	if m.arch != "" {
		name = layout.For(string(m.arch), name)
	}
	if m.root == nil {
		f, ok := m.image.Files[name]
		if !ok {
			return nil, 0, fmt.Errorf("%s: /%s: %w", m.name, name, fs.ErrNotExist)
		}
		return section{io.NewSectionReader(m.file, f.At, f.Size)}, f.Size, nil
	}
	f, err := m.root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s: /%s is not a file", m.name, name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, fi.Size(), nil
}

// ReadFile reads a small file whole.
func (m *Medium) ReadFile(name string) ([]byte, error) {
	f, size, err := m.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > maxManifest {
		return nil, fmt.Errorf("%s: /%s has %d bytes, want at most %d", m.name, name, size, maxManifest)
	}
	return io.ReadAll(io.NewSectionReader(f, 0, size))
}

// Manifest reads the manifest and verifies its signature with pub.
func (m *Medium) Manifest(pub ed25519.PublicKey) (*lock.Manifest, error) {
	raw, err := m.ReadFile(layout.Manifest)
	if err != nil {
		return nil, err
	}
	sig, err := m.ReadFile(layout.Signature)
	if err != nil {
		return nil, err
	}
	man, err := lock.Open(pub, raw, sig)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.name, err)
	}
	if m.arch != "" && man.Arch != m.arch {
		return nil, fmt.Errorf("%s: the manifest for %s is one for %s", m.name, m.arch, man.Arch)
	}
	return man, nil
}

// Path is where a blob of the manifest is on every medium. The kernel and the
// initramfs are where loaders look for them, network loaders under their names.
func Path(b lock.Blob) string {
	switch b.Role {
	case lock.RoleKernel:
		return boot.Kernel
	case lock.RoleInitramfs:
		return boot.Initramfs
	case lock.RoleLoader:
		return layout.Netboot + "/" + path.Base(b.Name)
	}
	return layout.Blobs + "/" + b.File()
}

// Verify reads every blob of the manifest and reports all that are missing or
// wrong. progress, if not nil, gets the plain bytes verified so far; it may be
// called from several goroutines.
func (m *Medium) Verify(ctx context.Context, man *lock.Manifest, progress func(done int64)) error {
	var done atomic.Int64
	var errs []error
	seen := map[string]bool{}
	for _, b := range man.Blobs {
		if seen[Path(b)] {
			continue
		}
		seen[Path(b)] = true
		errs = append(errs, m.verify(ctx, b, func(n int64) {
			if d := done.Add(n); progress != nil {
				progress(d)
			}
		}))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.Join(errs...)
}

func (m *Medium) verify(ctx context.Context, b lock.Blob, add func(int64)) error {
	f, size, err := m.Open(Path(b))
	if err != nil {
		return fmt.Errorf("blob %q: %w", b.Name, err)
	}
	defer f.Close()
	if size != b.StoredSize() {
		return &store.SizeError{Blob: b, Got: size}
	}
	r, err := store.NewReader(f, b)
	if err != nil {
		return err
	}
	defer r.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range r.Count() {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			plain, err := r.Chunk(i, nil)
			add(int64(len(plain)))
			return err
		})
	}
	return g.Wait()
}
