package blobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/store"
)

// WriteError is an error of the place that a blob is written to, not of where it
// comes from.
type WriteError struct {
	Blob string
	Err  error
}

func (e *WriteError) Error() string { return fmt.Sprintf("writing blob %q: %v", e.Blob, e.Err) }
func (e *WriteError) Unwrap() error { return e.Err }

func written(r *store.Reader, err error) error {
	if err == nil {
		return nil
	}
	return &WriteError{r.Name(), err}
}

// Copy brings a blob plain to a file on a disk and returns when the disk has it.
// It goes on with what an interrupted copy left in name.part: a chunk that is
// right there is not asked of the source again, nor are blocks that base has,
// unless that is nil. The name appears when all of it is right; progress gets the
// bytes that are. What was written is dropped from the page cache, so that whoever
// reads it next reads the disk. An error of the disk is a WriteError.
func Copy(ctx context.Context, from Source, b lock.Blob, base *Base, name string, progress func(done int64)) error {
	if fi, err := os.Stat(name); err == nil && fi.Size() == b.Size {
		if progress != nil {
			progress(b.Size)
		}
		return nil
	}
	in, err := from.Open(ctx, b)
	if err != nil {
		return err
	}
	defer in.Close()
	r, err := store.NewReader(in, b)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return written(r, err)
	}
	out, err := os.OpenFile(name+".part", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return written(r, err)
	}
	var rest io.ReaderAt // what is packed has no blocks to ask for
	if len(b.Frames) == 0 {
		rest = in
	}
	err = fill(ctx, r, base.over(rest), out, b, progress)
	if err = errors.Join(err, written(r, out.Close())); err != nil {
		return err
	}
	return written(r, os.Rename(name+".part", name))
}

// fill makes the file the blob.
func fill(ctx context.Context, r *store.Reader, like io.ReaderAt, out *os.File, b lock.Blob, progress func(int64)) error {
	old, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return written(r, err)
	}
	// All the room at once, or the error now; a file system that cannot says so later.
	if err := unix.Fallocate(int(out.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, max(b.Size, 1)); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return written(r, err)
	}
	var have io.ReaderAt
	if old > 0 {
		have = out
	}
	if err := chunks(ctx, r, have, like, eager{out}, progress); err != nil {
		return err
	}
	if err := out.Truncate(b.Size); err != nil {
		return written(r, err)
	}
	if err := out.Sync(); err != nil {
		return written(r, err)
	}
	return written(r, unix.Fadvise(int(out.Fd()), 0, 0, unix.FADV_DONTNEED))
}

// eager begins to write to the disk at once (sync_file_range(2)), while the next
// chunk is read and compared; the kernel alone begins seconds later. What the disk
// has is known only after Sync.
type eager struct{ *os.File }

func (e eager) WriteAt(p []byte, at int64) (int, error) {
	n, err := e.File.WriteAt(p, at)
	if err == nil {
		_ = unix.SyncFileRange(int(e.Fd()), at, int64(n), unix.SYNC_FILE_RANGE_WRITE)
	}
	return n, err
}
