package crash

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Flags of a log entry (drivers/md/dm-log-writes.c).
const (
	Flush    = 1 << 0
	FUA      = 1 << 1
	Discard  = 1 << 2
	Mark     = 1 << 3
	Metadata = 1 << 4 // a hint by the file system, no promise

	knownFlags = Flush | FUA | Discard | Mark | Metadata
)

const (
	magic     = 0x6a736677736872
	pageSize  = 4096
	superSize = 8 + 8 + 8 + 4
	entrySize = 8 + 8 + 8 + 8
)

// Entry is one request in the log.
type Entry struct {
	Off, Len int64 // bytes on the disk; Len 0 for a flush alone and for a mark
	Flags    uint64
	Data     int64  // where its data begins in the log; 0 when it has none
	Mark     string // text of a mark
}

// Epoch is what was requested between two flushes: Entries[Start:End].
type Epoch struct{ Start, End int }

// Log is a parsed recording. Its data stays in the file it was read from.
type Log struct {
	SectorSize int // bytes, the unit of the log
	// Atomic is the number of bytes a disk writes whole or not at all;
	// SectorSize unless the caller knows better.
	Atomic  int
	Entries []Entry
	Epochs  []Epoch
	// Beyond counts entries found after those the superblock vouches for: a
	// killed QEMU leaves it behind.
	Beyond int

	data  io.ReaderAt
	pages map[int64][]int32 // entries that touch a page of 4096 bytes, in order
}

// Parse reads a log of so many bytes. Every entry the superblock counts must be
// there; after them it walks on until the first that is empty or incomplete.
func Parse(r io.ReaderAt, size int64) (*Log, error) {
	var super [superSize]byte
	if size < superSize {
		return nil, fmt.Errorf("write log: %d bytes hold no superblock", size)
	}
	if _, err := r.ReadAt(super[:], 0); err != nil {
		return nil, fmt.Errorf("write log: superblock: %w", err)
	}
	le := binary.LittleEndian
	if m, v := le.Uint64(super[0:]), le.Uint64(super[8:]); m != magic || v != 1 {
		return nil, fmt.Errorf("write log: magic %#x version %d, want %#x version 1", m, v, uint64(magic))
	}
	promised, ss := le.Uint64(super[16:]), int64(le.Uint32(super[24:]))
	if ss < 512 || ss > pageSize || ss&(ss-1) != 0 {
		return nil, fmt.Errorf("write log: sector size %d, want a power of two from 512 to %d", ss, pageSize)
	}
	l := &Log{SectorSize: int(ss), Atomic: int(ss), data: r}
	for at := ss; ; {
		e, next, err := readEntry(r, at, ss, size)
		if err != nil {
			if uint64(len(l.Entries)) < promised {
				return nil, fmt.Errorf("write log: entry %d of %d: %w", len(l.Entries), promised, err)
			}
			break
		}
		l.Entries = append(l.Entries, e)
		at = next
	}
	l.Beyond = len(l.Entries) - int(promised)
	l.cutEpochs()
	l.index()
	return l, nil
}

var errEnd = errors.New("the log ends here")

// readEntry reads the entry at a byte of the log and says where the next is.
func readEntry(r io.ReaderAt, at, ss, size int64) (e Entry, next int64, err error) {
	if at > size-ss {
		return e, 0, errEnd
	}
	var b [pageSize]byte
	head := b[:ss]
	if n, err := r.ReadAt(head, at); n < len(head) {
		return e, 0, err
	}
	le := binary.LittleEndian
	sector, n, flags, dataLen := le.Uint64(head), le.Uint64(head[8:]), le.Uint64(head[16:]), le.Uint64(head[24:])
	const most = 1 << 50 // bytes; keeps the sums below within 63 bits
	limit := uint64(most / ss)
	next = at + ss
	switch {
	case flags&^knownFlags != 0:
		return e, 0, fmt.Errorf("unknown flags %#x", flags)
	case sector > limit || n > limit:
		return e, 0, fmt.Errorf("sector %d, %d sectors: out of any disk", sector, n)
	case flags&Mark != 0:
		// The text follows the header within its sector.
		if dataLen > uint64(ss-entrySize) {
			return e, 0, fmt.Errorf("mark of %d bytes", dataLen)
		}
		return Entry{Flags: flags, Mark: string(head[entrySize : entrySize+dataLen])}, next, nil
	case n == 0 && flags&(Flush|FUA) == 0:
		return e, 0, errEnd
	}
	e = Entry{Off: int64(sector) * ss, Len: int64(n) * ss, Flags: flags}
	if flags&Discard == 0 && n > 0 {
		e.Data = next
		next += e.Len
		if next > size {
			return e, 0, fmt.Errorf("data of %d bytes goes beyond the log's end", e.Len)
		}
	}
	return e, next, nil
}

// cutEpochs ends an epoch at each flush. A flush carried by a write comes
// before the write (REQ_PREFLUSH).
func (l *Log) cutEpochs() {
	start := 0
	for i, e := range l.Entries {
		if e.Flags&Flush == 0 {
			continue
		}
		l.Epochs = append(l.Epochs, Epoch{start, i})
		start = i
		if e.Len == 0 {
			start++
		}
	}
	l.Epochs = append(l.Epochs, Epoch{start, len(l.Entries)})
}

func (l *Log) index() {
	l.pages = map[int64][]int32{}
	for i, e := range l.Entries {
		// A discard may name terabytes: it is looked for apart, see Image.
		if e.Len == 0 || e.Flags&Discard != 0 {
			continue
		}
		for p := e.Off / pageSize; p*pageSize < e.Off+e.Len; p++ {
			l.pages[p] = append(l.pages[p], int32(i))
		}
	}
}

// Bytes is how much data the log's writes carry.
func (l *Log) Bytes() (n int64) {
	for _, e := range l.Entries {
		if e.Data != 0 {
			n += e.Len
		}
	}
	return n
}

// Read is the data of an entry, nil if it has none.
func (l *Log) Read(i int) ([]byte, error) {
	e := l.Entries[i]
	if e.Data == 0 {
		return nil, nil
	}
	b := make([]byte, e.Len)
	_, err := l.data.ReadAt(b, e.Data)
	return b, err
}
