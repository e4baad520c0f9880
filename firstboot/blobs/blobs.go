// Package blobs gives a node its content by digest and checks every byte of it
// before it is used.
//
// It neither fetches nor mounts, and trusts only the manifest it is given.
package blobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/images/layout"
)

// Store is where a node's blobs are: the boot medium today, a disk later.
type Store interface {
	// Path is the file that holds the blob; it need not exist.
	Path(d lock.Digest) string
}

// Dir is a store below a directory that has layout.Dir in it.
type Dir string

// Path implements Store.
func (d Dir) Path(x lock.Digest) string { return filepath.Join(string(d), layout.Blobs, string(x)) }

// DigestError is a blob whose content is not what the manifest says.
type DigestError struct {
	Blob      lock.Blob
	Path      string
	GotBytes  int64
	At        int64       // first byte of the chunk
	Got, Want lock.Digest // of the chunk
}

func (e *DigestError) Error() string {
	if e.GotBytes != e.Blob.Size {
		return fmt.Sprintf("blob %q: size mismatch: got %d bytes, want %d", e.Blob.Name, e.GotBytes, e.Blob.Size)
	}
	return fmt.Sprintf("blob %q: digest mismatch in the chunk at byte %d: got %s, want %s", e.Blob.Name, e.At, e.Got, e.Want)
}

// MissingError is a blob that the store does not have.
type MissingError struct {
	Blob lock.Blob
	Err  error
}

func (e *MissingError) Error() string { return fmt.Sprintf("blob %q: %v", e.Blob.Name, e.Err) }
func (e *MissingError) Unwrap() error { return e.Err }

// Verify reads the whole blob, which leaves it in the page cache, and compares
// its size and the digest of each chunk, with as many goroutines as
// processors: hashing is what costs, on machines without SHA instructions most
// of all. progress, if not nil, gets the bytes so far, one call at a time.
func Verify(ctx context.Context, s Store, b lock.Blob, progress func(done int64)) error {
	f, err := os.Open(s.Path(b.SHA256))
	if errors.Is(err, os.ErrNotExist) {
		return &MissingError{Blob: b, Err: err}
	}
	if err != nil {
		return fmt.Errorf("blob %q: %w", b.Name, err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Size() != b.Size {
		return cmp.Or(err, error(&DigestError{Blob: b, Path: f.Name(), GotBytes: size(fi)}))
	}
	var mu sync.Mutex
	var done int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, want := range b.Chunks {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			n, err := chunk(gctx, f, b, i, want)
			mu.Lock()
			defer mu.Unlock()
			if done += n; progress != nil && err == nil {
				progress(done)
			}
			return err
		})
	}
	// A loop that ctx cut short has no error of its own and proved nothing.
	return cmp.Or(g.Wait(), ctx.Err())
}

func chunk(ctx context.Context, f *os.File, b lock.Blob, i int, want lock.Digest) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	at := int64(i) * lock.ChunkSize
	got, n, err := lock.Sum(io.NewSectionReader(f, at, lock.ChunkSize))
	if err != nil {
		return n, fmt.Errorf("blob %q: reading at byte %d: %w", b.Name, at+n, err)
	}
	if got != want {
		return n, &DigestError{Blob: b, Path: f.Name(), GotBytes: b.Size, At: at, Got: got, Want: want}
	}
	return n, nil
}

func size(fi os.FileInfo) int64 {
	if fi == nil {
		return 0
	}
	return fi.Size()
}

// VerifyAll verifies blobs one after the other and calls good for each that is
// right. The first error ends it.
func VerifyAll(ctx context.Context, s Store, all []lock.Blob, good func(lock.Blob) error) error {
	for _, b := range all {
		if err := Verify(ctx, s, b, nil); err != nil {
			return err
		}
		if err := good(b); err != nil {
			return err
		}
	}
	return nil
}

// LinkLayer makes the name that containerd's EROFS snapshotter looks for in a
// layer content cache: <dir>/sha256/<first 2>/<diffID>.erofs.
func LinkLayer(dir string, s Store, b lock.Blob) error {
	if b.Role != lock.RoleLayer || len(b.DiffID) < 2 {
		return nil
	}
	d := filepath.Join(dir, "sha256", string(b.DiffID[:2]))
	if err := os.MkdirAll(d, 0o755); err != nil {
		return err
	}
	name := filepath.Join(d, string(b.DiffID)+".erofs")
	if err := os.Symlink(s.Path(b.SHA256), name); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("layer %q: %w", b.Name, err)
	}
	return nil
}
