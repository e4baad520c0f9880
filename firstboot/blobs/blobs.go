// Package blobs gives a node its content by digest and checks every byte of it
// before it is used: in place on a medium that holds it plain, and otherwise
// brought chunk by chunk into memory, from a medium or from a seed.
//
// It mounts nothing, and trusts only the manifest it is given.
package blobs

import (
	"bytes"
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
	"slipway.dev/slipway/bundle/store"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/medium"
)

// File is an open blob as its source stores it.
type File interface {
	io.ReaderAt
	io.Closer
}

// Source is where blobs come from.
type Source interface {
	// Open returns the bytes stored for a blob, packed or plain. A blob that is
	// not there is a MissingError; a length other than the manifest's, where
	// the source knows it, a store.SizeError.
	Open(ctx context.Context, b lock.Blob) (File, error)
	// Local is the file that holds the blob, "" when there is no such file here.
	Local(b lock.Blob) string
}

// Dir is a source below a directory that has layout.Dir in it: a mounted medium.
type Dir string

// Local implements Source.
func (d Dir) Local(b lock.Blob) string {
	return filepath.Join(string(d), filepath.FromSlash(medium.Path(b)))
}

// Open implements Source.
func (d Dir) Open(_ context.Context, b lock.Blob) (File, error) { return openFile(b, d.Local(b)) }

// Part is one architecture's part of a combined medium.
type Part struct{ Dir, Arch string }

// Local implements Source.
func (p Part) Local(b lock.Blob) string {
	return filepath.Join(p.Dir, filepath.FromSlash(layout.For(p.Arch, medium.Path(b))))
}

// Open implements Source.
func (p Part) Open(_ context.Context, b lock.Blob) (File, error) { return openFile(b, p.Local(b)) }

func openFile(b lock.Blob, name string) (File, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &MissingError{Blob: b, Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("blob %q: %w", b.Name, err)
	}
	fi, err := f.Stat()
	if err == nil && fi.Size() != b.StoredSize() {
		err = &store.SizeError{Blob: b, Got: fi.Size()}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// MissingError is a blob that the source does not have.
type MissingError struct {
	Blob lock.Blob
	Err  error
}

func (e *MissingError) Error() string { return fmt.Sprintf("blob %q: %v", e.Blob.Name, e.Err) }
func (e *MissingError) Unwrap() error { return e.Err }

// Store is a node's blobs: those that a local source holds plain stay there,
// all others are brought into Memory.
type Store struct {
	Source Source
	// Memory is a directory on a file system that EROFS can be mounted from: a
	// ramfs, because tmpfs cannot (it has no read_folio, which Linux 6.12 asks for).
	Memory string
}

func (s *Store) inPlace(b lock.Blob) bool { return len(b.Frames) == 0 && s.Source.Local(b) != "" }

// Path is the plain file of a blob once Bring has returned.
func (s *Store) Path(b lock.Blob) string {
	if s.inPlace(b) {
		return s.Source.Local(b)
	}
	return filepath.Join(s.Memory, string(b.SHA256))
}

// Needs is how many bytes of memory the blobs will take.
func (s *Store) Needs(all []lock.Blob) (n int64) {
	for _, b := range all {
		if !s.inPlace(b) {
			n += b.Size
		}
	}
	return n
}

// Bring makes the blob usable at its Path: it reads all of it and compares the
// digest of each chunk, with as many goroutines as processors: hashing is what
// costs, on machines without SHA instructions most of all. A blob read in place
// is in the page cache afterwards. progress, if not nil, gets the plain bytes so
// far, one call at a time. Nothing has the blob's name before all of it is right.
func (s *Store) Bring(ctx context.Context, b lock.Blob, progress func(done int64)) error {
	from, err := s.Source.Open(ctx, b)
	if err != nil {
		return err
	}
	defer from.Close()
	r, err := store.NewReader(from, b)
	if err != nil {
		return err
	}
	defer r.Close()
	if s.inPlace(b) {
		return chunks(ctx, r, nil, nil, nil, progress)
	}
	name := s.Path(b)
	if _, err := os.Stat(name); err == nil {
		return nil // an image layer that two images share
	}
	if err := os.MkdirAll(s.Memory, 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(name+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o444)
	if err != nil {
		return err
	}
	err = chunks(ctx, r, nil, nil, out, progress)
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, os.Remove(name+".part"))
	}
	return os.Rename(name+".part", name)
}

// chunks verifies all chunks and, with out, writes each to its place. Those that
// have, when there is one, holds already are neither read from their source nor
// written; those that like holds are not read from there.
func chunks(ctx context.Context, r *store.Reader, have, like io.ReaderAt, out io.WriterAt, progress func(int64)) error {
	var mu sync.Mutex
	var done int64
	width := min(runtime.GOMAXPROCS(0), 8) // eight compare faster than any disk reads
	buffers := make(chan []byte, width)
	for range width {
		buffers <- make([]byte, lock.ChunkSize)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(width)
	for i := range r.Count() {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			if gctx.Err() != nil {
				return gctx.Err()
			}
			buf := <-buffers
			defer func() { buffers <- buf }()
			var err error
			plain, held := r.Held(i, have, buf)
			if !held {
				plain, err = either(r, i, like, buf)
			}
			if err == nil && !held && out != nil {
				_, err = out.WriteAt(plain, int64(i)*lock.ChunkSize)
				err = written(r, err)
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if done += int64(len(plain)); progress != nil {
				progress(done)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err() // a loop that ctx cut short has no error of its own and proved nothing
}

// either is a chunk as like holds it, or else as its source does.
func either(r *store.Reader, i int, like io.ReaderAt, buf []byte) ([]byte, error) {
	if plain, ok := r.Held(i, like, buf); ok {
		return plain, nil
	}
	return r.Chunk(i, buf)
}

// LinkLayer makes the name that containerd's EROFS snapshotter looks for in a
// layer content cache: <dir>/sha256/<first 2>/<diffID>.erofs.
func (s *Store) LinkLayer(dir string, b lock.Blob) error {
	if b.Role != lock.RoleLayer || len(b.DiffID) < 2 {
		return nil
	}
	d := filepath.Join(dir, "sha256", string(b.DiffID[:2]))
	if err := os.MkdirAll(d, 0o755); err != nil {
		return err
	}
	name := filepath.Join(d, string(b.DiffID)+".erofs")
	if err := os.Symlink(s.Path(b), name); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("layer %q: %w", b.Name, err)
	}
	return nil
}

// Read returns a small blob whole and verified, wherever it is.
func (s *Store) Read(ctx context.Context, b lock.Blob) ([]byte, error) {
	from, err := s.Source.Open(ctx, b)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	r, err := store.NewReader(from, b)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var out bytes.Buffer
	for i := range r.Count() {
		plain, err := r.Chunk(i, nil)
		if err != nil {
			return nil, err
		}
		out.Write(plain)
	}
	return out.Bytes(), nil
}
