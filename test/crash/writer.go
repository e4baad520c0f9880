package crash

import (
	"encoding/binary"
	"io"
	"sync"
)

// Writer makes a log, for a disk that records itself. It may be used by several
// goroutines; the log has the requests in the order of the calls.
type Writer struct {
	mu      sync.Mutex
	w       io.WriterAt
	ss      int64
	at      int64
	entries uint64
	err     error
}

// NewWriter begins a log with sectors of so many bytes.
func NewWriter(w io.WriterAt, sectorSize int) *Writer {
	l := &Writer{w: w, ss: int64(sectorSize), at: int64(sectorSize)}
	l.super()
	return l
}

// Add appends a request that completed: data for a write of whole sectors, length
// for a discard, neither for a flush. The first error stays.
func (l *Writer) Add(off, length int64, flags uint64, data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if data != nil && flags&Mark == 0 {
		length = int64(len(data))
	}
	b := make([]byte, l.ss, l.ss+int64(len(data)))
	le := binary.LittleEndian
	le.PutUint64(b, uint64(off/l.ss))
	le.PutUint64(b[8:], uint64(length/l.ss))
	le.PutUint64(b[16:], flags)
	if flags&Mark != 0 {
		le.PutUint64(b[24:], uint64(copy(b[entrySize:], data)))
	} else {
		b = append(b, data...)
	}
	l.put(b, l.at)
	l.at += int64(len(b))
	l.entries++
	l.super()
	return l.err
}

func (l *Writer) super() {
	b := make([]byte, l.ss)
	le := binary.LittleEndian
	le.PutUint64(b, magic)
	le.PutUint64(b[8:], 1)
	le.PutUint64(b[16:], l.entries)
	le.PutUint32(b[24:], uint32(l.ss))
	l.put(b, 0)
}

func (l *Writer) put(b []byte, at int64) {
	if l.err == nil {
		_, l.err = l.w.WriteAt(b, at)
	}
}
