// Package store is a content-addressed directory: every file is named by the
// sha256 of its bytes and is verified when it is put in.
//
// It does not know what the content means or where it came from.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"slipway.dev/slipway/bundle/lock"
)

// Store is a directory with blobs/sha256/<64 hex>.
type Store struct{ dir string }

// New uses (and makes) a directory, and clears away what killed Puts left.
func New(dir string) (*Store, error) {
	s := &Store{dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	s.sweep(24 * time.Hour)
	return s, nil
}

// sweep removes what processes that were killed left half written. Younger
// files may belong to one that is running.
func (s *Store) sweep(age time.Duration) {
	for _, pat := range []string{".put-*", "erofs-mkfs-*"} {
		old, _ := filepath.Glob(filepath.Join(s.dir, pat))
		for _, name := range old {
			if fi, err := os.Lstat(name); err == nil && time.Since(fi.ModTime()) > age {
				_ = os.Remove(name)
			}
		}
	}
}

// Path is where a blob is, or would be.
func (s *Store) Path(d lock.Digest) string {
	return filepath.Join(s.dir, "blobs", "sha256", string(d))
}

// Has reports whether the blob is there with this size (bytes); it does not
// read the content, Verify does.
func (s *Store) Has(d lock.Digest, size int64) bool {
	fi, err := os.Stat(s.Path(d))
	if err != nil || !fi.Mode().IsRegular() || fi.Size() != size {
		return false
	}
	touch(s.Path(d), fi)
	return true
}

// Put copies r into the store and returns its digest and size. When want is
// not empty, content with another digest is refused and nothing is kept.
func (s *Store) Put(ctx context.Context, r io.Reader, want lock.Digest) (lock.Digest, int64, error) {
	return s.PutFunc(want, func(f *os.File) error {
		_, err := io.CopyBuffer(struct{ io.Writer }{f}, ctxReader{ctx, r}, make([]byte, 1<<20))
		return err
	})
}

// PutFunc lets write produce the content in a temporary file of the store's
// file system, then names it by its digest. The rename is the commit: a crash
// leaves no blob under a wrong name.
func (s *Store) PutFunc(want lock.Digest, write func(*os.File) error) (lock.Digest, int64, error) {
	f, err := os.CreateTemp(s.dir, ".put-*")
	if err != nil {
		return "", 0, fmt.Errorf("store: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := write(f); err != nil {
		return "", 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", 0, err
	}
	got, size, err := lock.Sum(f)
	if err != nil {
		return "", 0, err
	}
	if want != "" && got != want {
		return "", 0, &MismatchError{Got: got, Want: want, Size: size}
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return "", 0, fmt.Errorf("store: %w", err)
	}
	if err := os.Rename(f.Name(), s.Path(got)); err != nil {
		return "", 0, fmt.Errorf("store: %w", err)
	}
	return got, size, nil
}

// Open opens a blob for reading without verifying it again.
func (s *Store) Open(d lock.Digest) (*os.File, error) {
	f, err := os.Open(s.Path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("store: blob %s is not there: %w", d.Short(), err)
	}
	return f, err
}

// Verify reads the blob and compares its digest.
func (s *Store) Verify(d lock.Digest) error {
	f, err := s.Open(d)
	if err != nil {
		return err
	}
	defer f.Close()
	got, size, err := lock.Sum(f)
	if err != nil {
		return err
	}
	if got != d {
		return &MismatchError{Got: got, Want: d, Size: size}
	}
	return nil
}

// MismatchError says that content is not what its name promises.
type MismatchError struct {
	Got, Want lock.Digest
	Size      int64 // bytes read
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("digest mismatch: got %s (%d bytes), want %s", e.Got, e.Size, e.Want)
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
