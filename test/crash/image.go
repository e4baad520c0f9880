package crash

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"
	"sort"
	"syscall"
)

// Image is the disk at a point: the disk before the recording under the writes
// that are there. It reads the log and the base, and copies neither. It may be
// read by several goroutines.
type Image struct {
	Point Point

	log      *Log
	base     io.ReaderAt
	size     int64
	durable  int // entries before this one are there
	fates    []fate
	discards []int32 // those that are there, in order
}

// Image makes a point's image over the disk as it was before the recording,
// which has size bytes and may be nil for a blank one.
func (l *Log) Image(base io.ReaderAt, size int64, p Point) *Image {
	m := &Image{Point: p, log: l, base: base, size: size, durable: l.Epochs[p.Epoch].Start, fates: l.fates(p)}
	for i := range l.Entries[:l.Epochs[p.Epoch].End] {
		if l.Entries[i].Flags&Discard != 0 && p.Discards != Ignored && (i < m.durable || m.fates[i-m.durable].how != none) {
			m.discards = append(m.discards, int32(i))
		}
	}
	return m
}

// Size is the disk's, in bytes.
func (m *Image) Size() int64 { return m.size }

// source of a sector: an entry, or the base.
const fromBase = int32(-1)

// has says whether the sector at a byte of the disk got what entry i wrote.
func (m *Image) has(i int32, off int64) bool {
	e := m.log.Entries[i]
	if off < e.Off || off >= e.Off+e.Len {
		return false
	}
	return int(i) < m.durable || m.fates[int(i)-m.durable].has(off/int64(m.log.Atomic)-e.Off/int64(m.log.Atomic))
}

// source finds the last entry that is there and wrote the sector at off.
func (m *Image) source(off int64) int32 {
	list := m.log.pages[off/pageSize]
	end := m.durable + len(m.fates)
	n := sort.Search(len(list), func(k int) bool { return int(list[k]) >= end })
	found := fromBase
	for k := n - 1; k >= 0; k-- {
		if m.has(list[k], off) {
			found = list[k]
			break
		}
	}
	for _, d := range slices.Backward(m.discards) {
		if d <= found {
			break
		}
		if m.has(d, off) {
			return d
		}
	}
	return found
}

// ReadAt reads the image (io.ReaderAt).
func (m *Image) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("reading at %d", off)
	}
	n := 0
	for n < len(b) && off < m.size {
		src, length := m.run(off, min(int64(len(b)-n), m.size-off))
		if err := m.fill(b[n:n+int(length)], off, src); err != nil {
			return n, fmt.Errorf("point %s: byte %d: %w", m.Point, off, err)
		}
		n, off = n+int(length), off+length
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// run is the source of the sector at off and how far the same source goes.
func (m *Image) run(off, most int64) (src int32, length int64) {
	ss := int64(m.log.SectorSize)
	src = m.source(off)
	end := off - off%ss + ss
	for end-off < most {
		if end%pageSize == 0 && m.page(end) == src {
			end += pageSize
			continue
		}
		if m.source(end) != src {
			break
		}
		end += ss
	}
	return src, min(end-off, most)
}

const notOne = int32(-2)

// page is the one source of a page, notOne where its sectors have to be asked:
// it is eight times faster, and nearly all pages have one.
func (m *Image) page(off int64) int32 {
	list := m.log.pages[off/pageSize]
	end := m.durable + len(m.fates)
	n := sort.Search(len(list), func(k int) bool { return int(list[k]) >= end })
	found := fromBase
	if n > 0 {
		found = list[n-1]
		e := m.log.Entries[found]
		if e.Off > off || e.Off+e.Len < off+pageSize || int(found) >= m.durable && m.fates[int(found)-m.durable].how != whole {
			return notOne
		}
	}
	if d := len(m.discards); d > 0 && m.discards[d-1] > found {
		return notOne
	}
	return found
}

func (m *Image) fill(b []byte, off int64, src int32) error {
	if src == fromBase {
		clear(b)
		if m.base == nil {
			return nil
		}
		// A base shorter than the disk reads as zeros behind its end.
		_, err := m.base.ReadAt(b, off)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return err
	}
	e := m.log.Entries[src]
	if e.Flags&Discard == 0 {
		_, err := m.log.data.ReadAt(b, e.Data+off-e.Off)
		return err
	}
	clear(b)
	if m.Point.Discards == Rubbish {
		for i := range b {
			b[i] = byte(mix(m.Point.Seed + uint64(off) + uint64(i)))
		}
	}
	return nil
}

// Origin is equal for two ranges of images of one log and one base that hold
// the same bytes for the same reason; it reads no data. A judge uses it to
// digest a file once and not at every point. Rubbish has no origin: ok is
// false.
func (m *Image) Origin(off, length int64) (sum uint64, ok bool) {
	h := fnv.New64a()
	for end := min(off+length, m.size); off < end; {
		src, n := m.run(off, end-off)
		if src != fromBase && m.log.Entries[src].Flags&Discard != 0 && m.Point.Discards == Rubbish {
			return 0, false
		}
		fmt.Fprintf(h, "%d %d %d\n", src, off, n)
		off += n
	}
	return h.Sum64(), true
}

// WriteFile makes the image a sparse raw file, for a machine to boot.
func (m *Image) WriteFile(path string) error { return m.WritePart(path, 0, m.size) }

// WritePart makes a part of the image, such as a partition, a sparse raw file.
// What the base holds is copied where it is not zeros. off is a multiple of 4096.
func (m *Image) WritePart(path string, off, length int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = m.writeSparse(f, off, length)
	return errors.Join(err, f.Truncate(length), f.Close())
}

// Disk is an image of so many bytes of a disk as it is.
func Disk(r io.ReaderAt, size int64) *Image {
	none := &Log{SectorSize: 512, Atomic: 512, Epochs: []Epoch{{}}}
	return none.Image(r, size, Point{Kind: Boundary, Discards: Zeros})
}

// Sparse copies so many bytes of a disk into an empty file, without its zeros.
func Sparse(to *os.File, from io.ReaderAt, size int64) error {
	m := Disk(from, size)
	return errors.Join(m.writeSparse(to, 0, size), to.Truncate(size))
}

func (m *Image) writeSparse(f *os.File, off, length int64) error {
	b, blank := make([]byte, 1<<20), make([]byte, 1<<16)
	for done := int64(0); done < length; done += int64(len(b)) {
		b = b[:min(int64(len(b)), length-done)]
		if len(m.discards) == 0 && !m.log.touches(off+done, off+done+int64(len(b))) && !m.based(off+done, int64(len(b))) {
			continue
		}
		n, err := m.ReadAt(b, off+done)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for at := 0; at < n; at += len(blank) {
			part := b[at:min(at+len(blank), n)]
			if slices.Equal(part, blank[:len(part)]) {
				continue
			}
			if _, err := f.WriteAt(part, done+int64(at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// based says whether the base may hold something there. lseek(2) finds a file's
// data where it can (SEEK_DATA is 3); nobody else uses the file's position.
func (m *Image) based(off, length int64) bool {
	f, ok := m.base.(*os.File)
	if m.base == nil || !ok {
		return m.base != nil
	}
	next, err := f.Seek(off, 3)
	return err == nil && next < off+length || err != nil && !errors.Is(err, syscall.ENXIO)
}

func (l *Log) touches(from, to int64) bool {
	for p := from / pageSize; p*pageSize < to; p++ {
		if len(l.pages[p]) > 0 {
			return true
		}
	}
	return false
}
