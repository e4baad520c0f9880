package store

import (
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"slipway.dev/slipway/bundle/lock"
)

// ChunkError says that a blob's bytes are not what the manifest names.
type ChunkError struct {
	Blob      lock.Blob
	At        int64       // first plain byte of the chunk
	Got, Want lock.Digest // of the chunk; Got is empty when it could not be unpacked
	Err       error       // why not
}

func (e *ChunkError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("blob %q: unpacking the chunk at byte %d: %v", e.Blob.Name, e.At, e.Err)
	}
	return fmt.Sprintf("blob %q: digest mismatch in the chunk at byte %d: got %s, want %s", e.Blob.Name, e.At, e.Got, e.Want)
}

func (e *ChunkError) Unwrap() error { return e.Err }

// SizeError says that a blob's file is longer or shorter than the manifest says.
type SizeError struct {
	Blob lock.Blob
	Got  int64 // bytes
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("blob %q: size mismatch: got %d bytes, want %d", e.Blob.Name, e.Got, e.Blob.StoredSize())
}

// Reader gives the plain chunks of a blob, plain or in frames, each verified
// before it is handed out. It may be used from several goroutines.
type Reader struct {
	blob   lock.Blob
	from   io.ReaderAt
	starts []int64 // of the frames
	zstd   *zstd.Decoder
}

// NewReader reads a blob from the bytes that are stored for it.
func NewReader(from io.ReaderAt, b lock.Blob) (*Reader, error) {
	r := &Reader{blob: b, from: from}
	if len(b.Frames) == 0 {
		return r, nil
	}
	var at int64
	for _, n := range b.Frames {
		r.starts = append(r.starts, at)
		at += n
	}
	var err error
	// A frame that grows beyond its chunk is an error, not memory.
	r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(lock.ChunkSize), zstd.WithDecoderConcurrency(0))
	return r, err
}

// Close frees what unpacking needed.
func (r *Reader) Close() {
	if r.zstd != nil {
		r.zstd.Close()
	}
}

// Name is the blob's.
func (r *Reader) Name() string { return r.blob.Name }

// Count is the number of chunks.
func (r *Reader) Count() int { return len(r.blob.Chunks) }

// Chunk reads chunk i and verifies it; the result may use buf's memory. An
// error is a ChunkError when the bytes are wrong, and the source's otherwise.
func (r *Reader) Chunk(i int, buf []byte) ([]byte, error) {
	at := int64(i) * lock.ChunkSize
	size := min(lock.ChunkSize, r.blob.Size-at)
	var plain []byte
	if r.zstd == nil {
		plain = sized(buf, size)
		if err := readFull(r.from, plain, at); err != nil {
			return nil, fmt.Errorf("blob %q: reading at byte %d: %w", r.blob.Name, at, err)
		}
	} else {
		packed := make([]byte, r.blob.Frames[i])
		if err := readFull(r.from, packed, r.starts[i]); err != nil {
			return nil, fmt.Errorf("blob %q: reading frame %d: %w", r.blob.Name, i, err)
		}
		var err error
		if plain, err = r.zstd.DecodeAll(packed, sized(buf, size)[:0]); err != nil {
			return nil, &ChunkError{Blob: r.blob, At: at, Want: r.blob.Chunks[i], Err: err}
		}
	}
	if got := lock.SumBytes(plain); got != r.blob.Chunks[i] {
		return nil, &ChunkError{Blob: r.blob, At: at, Got: got, Want: r.blob.Chunks[i]}
	}
	return plain, nil
}

// Held reports that from, plain bytes of unknown worth, holds chunk i, and
// returns it in buf's memory. A nil from holds nothing.
func (r *Reader) Held(i int, from io.ReaderAt, buf []byte) ([]byte, bool) {
	if from == nil {
		return nil, false
	}
	at := int64(i) * lock.ChunkSize
	plain := sized(buf, min(lock.ChunkSize, r.blob.Size-at))
	if readFull(from, plain, at) != nil || lock.SumBytes(plain) != r.blob.Chunks[i] {
		return nil, false
	}
	return plain, true
}

func sized(buf []byte, n int64) []byte {
	if int64(cap(buf)) >= n {
		return buf[:n]
	}
	return make([]byte, n)
}

func readFull(from io.ReaderAt, p []byte, at int64) error {
	n, err := from.ReadAt(p, at)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
