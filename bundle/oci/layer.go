package oci

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/erofs/go-erofs"
	"golang.org/x/sync/errgroup"

	"slipway.dev/slipway/bundle/lock"
)

// Layer is one image layer: the tar that image documents speak of, and the
// EROFS blob that a node mounts in its place.
type Layer struct {
	DiffID  lock.Digest // sha256 of the canonical tar
	TarSize int64       // bytes of the tar
	File    string      // path of the EROFS blob
	Size    int64       // bytes of the blob
	SHA256  lock.Digest // of the blob
}

// CachePath is where containerd's erofs snapshotter looks for the layer below a
// directory of layer_content_caches (docs/snapshotters/erofs.md, Layer Content Cache).
func (l Layer) CachePath() string { return CachePath(l.DiffID) }

// CachePath is Layer.CachePath for a diffID alone: "sha256/<xx>/<64 hex>.erofs".
func CachePath(diffID lock.Digest) string {
	return filepath.Join("sha256", string(diffID[:2]), string(diffID)+".erofs")
}

// BuildLayer writes dir/<diffID>.erofs and returns what it made. The contents
// are read twice at the same time, once into the tar's digest and once into the
// blob, and neither goes through a temporary copy. The blob is then read back:
// its own canonical tar must have the same digest, so that names, modes,
// setuid, owners, extended attributes and contents are those that were given.
//
// The same entries give the same blob. Only a complete blob gets its name.
func BuildLayer(ctx context.Context, entries []Entry, dir string) (Layer, error) {
	sorted, err := canonical(entries)
	if err != nil {
		return Layer{}, fmt.Errorf("building a layer: %w", err)
	}
	f, err := os.CreateTemp(dir, ".layer-*")
	if err != nil {
		return Layer{}, fmt.Errorf("building a layer: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var l Layer
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { l.DiffID, l.TarSize, err = digestTar(gctx, sorted); return err })
	g.Go(func() error { return writeErofs(gctx, f, sorted) })
	if err := g.Wait(); err != nil {
		return Layer{}, fmt.Errorf("building a layer: %w", err)
	}
	if err := l.seal(ctx, f); err != nil {
		return Layer{}, fmt.Errorf("building layer %s: %w", l.DiffID.Short(), err)
	}
	l.File = filepath.Join(dir, string(l.DiffID)+".erofs")
	if err := os.Rename(f.Name(), l.File); err != nil {
		return Layer{}, fmt.Errorf("building layer %s: %w", l.DiffID.Short(), err)
	}
	return l, nil
}

// seal reads the blob back, digests it and makes it durable.
func (l *Layer) seal(ctx context.Context, f *os.File) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return verifyErofs(gctx, f, l.DiffID) })
	g.Go(func() (err error) {
		r, err := os.Open(f.Name())
		if err != nil {
			return err
		}
		defer r.Close()
		l.SHA256, l.Size, err = lock.Sum(r)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

func writeErofs(ctx context.Context, f *os.File, sorted []Entry) error {
	w := erofs.Create(f, erofs.WithBuildTime(uint64(Epoch().Unix()), 0))
	if err := w.CopyFrom(newTree(ctx, sorted)); err != nil {
		return err
	}
	return w.Close()
}

// verifyErofs compares the blob with the layer it stands for.
func verifyErofs(ctx context.Context, f *os.File, want lock.Digest) error {
	entries, err := ReadErofs(f)
	if err != nil {
		return fmt.Errorf("reading the blob back: %w", err)
	}
	sorted, err := canonical(entries)
	if err != nil {
		return fmt.Errorf("reading the blob back: %w", err)
	}
	got, _, err := digestTar(ctx, sorted)
	if err != nil {
		return fmt.Errorf("reading the blob back: %w", err)
	}
	if got != want {
		return fmt.Errorf("the blob holds another tree: got diffID %s, want %s", got, want)
	}
	return nil
}
