package combined

import (
	"io"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/store"
	"slipway.dev/slipway/images/medium"
)

// stored reads a blob as it is on the part's medium. Every chunk is verified
// before it goes out: what is written is what was verified.
func (p Part) stored(b lock.Blob) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		f, size, err := p.Medium.Open(medium.Path(b))
		if err != nil {
			return nil, err
		}
		if size != b.StoredSize() {
			f.Close()
			return nil, &store.SizeError{Blob: b, Got: size}
		}
		r := &verifying{file: f, blob: b}
		if r.check, err = store.NewReader(&r.piece, b); err != nil {
			f.Close()
			return nil, err
		}
		return r, nil
	}
}

// verifying gives the stored bytes of a blob chunk by chunk.
type verifying struct {
	file  medium.File
	blob  lock.Blob
	check *store.Reader
	piece piece  // the stored bytes of the chunk
	rest  []byte // of them, not yet read
	plain []byte
	next  int
}

func (v *verifying) Read(p []byte) (int, error) {
	for len(v.rest) == 0 {
		if v.next == len(v.blob.Chunks) {
			return 0, io.EOF
		}
		if err := v.load(); err != nil {
			return 0, err
		}
	}
	n := copy(p, v.rest)
	v.rest = v.rest[n:]
	return n, nil
}

// load reads the next chunk and verifies what was read.
func (v *verifying) load() error {
	v.piece.at += int64(len(v.piece.bytes))
	size := min(lock.ChunkSize, v.blob.StoredSize()-v.piece.at)
	if len(v.blob.Frames) > 0 {
		size = v.blob.Frames[v.next]
	}
	if int64(cap(v.piece.bytes)) < size {
		v.piece.bytes = make([]byte, size)
	}
	v.piece.bytes = v.piece.bytes[:size]
	if _, err := v.file.ReadAt(v.piece.bytes, v.piece.at); err != nil && err != io.EOF {
		return err
	}
	var err error
	v.plain, err = v.check.Chunk(v.next, v.plain)
	v.rest, v.next = v.piece.bytes, v.next+1
	return err
}

func (v *verifying) Close() error {
	v.check.Close()
	return v.file.Close()
}

// piece is one part of a file, in memory.
type piece struct {
	at    int64
	bytes []byte
}

func (p *piece) ReadAt(b []byte, at int64) (int, error) {
	if at < p.at || at > p.at+int64(len(p.bytes)) {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(b, p.bytes[at-p.at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
