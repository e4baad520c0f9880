package crash

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// recorder makes a log as a kernel or QEMU would.
type recorder struct {
	ss      int
	entries int
	log     bytes.Buffer
}

func (r *recorder) add(off, length int, flags uint64, data []byte) {
	head := make([]byte, r.ss)
	le := binary.LittleEndian
	le.PutUint64(head, uint64(off/r.ss))
	le.PutUint64(head[8:], uint64(length/r.ss))
	le.PutUint64(head[16:], flags)
	if flags&Mark != 0 {
		le.PutUint64(head[24:], uint64(copy(head[entrySize:], data)))
		data = nil
	}
	r.log.Write(head)
	r.log.Write(data)
	r.entries++
}

func (r *recorder) write(off int, fill byte, length int) {
	r.add(off, length, 0, bytes.Repeat([]byte{fill}, length))
}
func (r *recorder) flush() { r.add(0, 0, Flush, nil) }

func (r *recorder) bytes() []byte {
	super := make([]byte, r.ss)
	le := binary.LittleEndian
	le.PutUint64(super, magic)
	le.PutUint64(super[8:], 1)
	le.PutUint64(super[16:], uint64(r.entries))
	le.PutUint32(super[24:], uint32(r.ss))
	return append(super, r.log.Bytes()...)
}

func (r *recorder) parse(t *testing.T) *Log {
	t.Helper()
	b := r.bytes()
	l, err := Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A writer puts 64 KiB of twos at 64 KiB over ones, then says so in a commit
// record; a reader believes the record.
const (
	dataAt, dataLen = 64 << 10, 64 << 10
	diskSize        = 1 << 20
)

func judgeCommit(commitLen int) Judge {
	return func(m *Image) (Verdict, error) {
		b := make([]byte, diskSize)
		if _, err := m.ReadAt(b, 0); err != nil {
			return Verdict{}, err
		}
		record, data := b[:commitLen], b[dataAt:dataAt+dataLen]
		switch {
		case bytes.Equal(record, make([]byte, commitLen)):
			return Verdict{Outcome: Resumes}, nil
		case !bytes.Equal(record, bytes.Repeat([]byte{7}, commitLen)):
			return Verdict{Bricked, "half a commit record"}, nil
		case !bytes.Equal(data, bytes.Repeat([]byte{2}, dataLen)):
			return Verdict{Bricked, "committed without its data"}, nil
		}
		return Verdict{Outcome: New}, nil
	}
}

func TestWriters(t *testing.T) {
	data := func(r *recorder) {
		for off := dataAt; off < dataAt+dataLen; off += 16 << 10 {
			r.write(off, 2, 16<<10)
		}
	}
	for _, tt := range []struct {
		name    string
		commit  int
		writer  func(*recorder)
		bricked bool
		fewest  int // different points it has at least
	}{
		{"right", 512, func(r *recorder) { data(r); r.flush(); r.write(0, 7, 512); r.flush() }, false, 200},
		{"right, FUA commit", 512, func(r *recorder) {
			data(r)
			r.flush()
			r.add(0, 512, FUA, bytes.Repeat([]byte{7}, 512))
			r.write(512<<10, 9, 4096)
		}, false, 200},
		{"right, preflush on the commit", 512, func(r *recorder) { data(r); r.add(0, 512, Flush|FUA, bytes.Repeat([]byte{7}, 512)) }, false, 200},
		{"no flush before the commit", 512, func(r *recorder) { data(r); r.write(0, 7, 512); r.flush() }, true, 200},
		{"FUA is no flush", 512, func(r *recorder) { data(r); r.add(0, 512, FUA, bytes.Repeat([]byte{7}, 512)); r.flush() }, true, 200},
		{"a commit of eight sectors", 4096, func(r *recorder) { data(r); r.flush(); r.write(0, 7, 4096); r.flush() }, true, 200},
		{"discards its data after the commit", 512, func(r *recorder) {
			data(r)
			r.flush()
			r.write(0, 7, 512)
			r.flush()
			r.add(dataAt, 4096, Discard, nil)
			r.flush()
		}, true, 200},
		{"trusts a discard to make zeros", 512, func(r *recorder) {
			r.write(0, 3, 512)
			r.flush()
			r.add(0, 512, Discard, nil)
			r.flush()
		}, true, 4},
		{"commits one sector twice, data flushed between", 512, func(r *recorder) {
			data(r)
			r.flush()
			r.write(0, 7, 512)
			r.write(0, 7, 512)
			r.flush()
		}, false, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &recorder{ss: 512}
			tt.writer(r)
			l := r.parse(t)
			points := l.Points(400, 1)
			if len(points) < tt.fewest {
				t.Errorf("%d points, want %d or more", len(points), tt.fewest)
			}
			base := bytes.NewReader(bytes.Repeat([]byte{0}, diskSize))
			report, err := l.Run(t.Context(), base, diskSize, points, judgeCommit(tt.commit), io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if bad := report.Bricked(); (len(bad) > 0) != tt.bricked {
				t.Errorf("%d bricked, want any: %t\n%s", len(bad), tt.bricked, report)
			}
			for _, bad := range report.Bricked() {
				p, err := l.ParsePoint(bad.Point.String())
				if err != nil || p != bad.Point {
					t.Fatalf("%s: parsed as %v, %v", bad.Point, p, err)
				}
				if v, err := judgeCommit(tt.commit)(l.Image(base, diskSize, p)); err != nil || v != bad.Verdict {
					t.Fatalf("%s: again: %v, %v", p, v, err)
				}
			}
		})
	}
}

// TestJudgeError: a judge that cannot judge ends the run, and is not a verdict.
func TestJudgeError(t *testing.T) {
	r := &recorder{ss: 512}
	r.write(0, 1, 512)
	l := r.parse(t)
	_, err := l.Run(t.Context(), nil, diskSize, l.Points(10, 1), func(*Image) (Verdict, error) { return Verdict{}, io.ErrUnexpectedEOF }, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "judging point 0:boundary:0:zeros:0: unexpected EOF") {
		t.Errorf("got %v", err)
	}
}

// random is a log of everything at random, and what it was made of.
func random(rng *rand.Rand, ss int) *recorder {
	r := &recorder{ss: ss}
	for i := range 60 {
		off, n := rng.IntN(64)*ss, (1+rng.IntN(20))*ss
		data := make([]byte, n)
		for k := range data {
			data[k] = byte(1 + i)
		}
		switch rng.IntN(8) {
		case 0:
			r.flush()
		case 1:
			r.add(off, n, Discard, nil)
		case 2:
			r.add(off, n, FUA, data)
		case 3:
			r.add(off, n, Flush|FUA, data)
		case 4:
			r.add(0, 0, Mark, []byte("here"))
		default:
			r.add(off, n, 0, data)
		}
	}
	return r
}

// TestImageAgainstCopy compares the overlay with a disk that is written
// sector by sector, and checks that no image leaves the legal set.
func TestImageAgainstCopy(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const size = 64 << 10
	base := bytes.Repeat([]byte{0xee}, size-1000) // shorter than the disk
	for round := range 16 {
		r := random(rng, []int{512, 4096}[round%2])
		l := r.parse(t)
		if l.Entries[0].Flags == Mark && l.Entries[0].Mark != "here" {
			t.Fatalf("mark %q", l.Entries[0].Mark)
		}
		for _, p := range l.Points(80, uint64(round)) {
			m := l.Image(bytes.NewReader(base), size, p)
			want := make([]byte, size)
			copy(want, base)
			for i := range l.Entries[:l.Epochs[p.Epoch].End] {
				apply(l, m, i, want)
			}
			got := make([]byte, size)
			if n, err := m.ReadAt(got, 0); n != size || err != nil {
				t.Fatalf("point %s: %d, %v", p, n, err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("point %s: differs", p)
			}
			from := rng.IntN(size)
			part := make([]byte, 1+rng.IntN(5000))
			n, err := m.ReadAt(part, int64(from))
			if !bytes.Equal(part[:n], want[from:min(from+len(part), size)]) || (err == io.EOF) != (n < len(part)) {
				t.Fatalf("point %s: %d bytes at %d: %v", p, len(part), from, err)
			}
			legal(t, l, m, p)
			if round < 4 {
				file := filepath.Join(t.TempDir(), "disk.img")
				if err := m.WriteFile(file); err != nil {
					t.Fatal(err)
				}
				if b, err := os.ReadFile(file); err != nil || !bytes.Equal(b, want) {
					t.Fatalf("point %s: file differs: %v", p, err)
				}
				if err := m.WritePart(file, 8192, 20480); err != nil {
					t.Fatal(err)
				}
				if b, err := os.ReadFile(file); err != nil || !bytes.Equal(b, want[8192:28672]) {
					t.Fatalf("point %s: part of a file differs: %v", p, err)
				}
			}
		}
	}
}

func apply(l *Log, m *Image, i int, disk []byte) {
	e := l.Entries[i]
	data := make([]byte, e.Len)
	switch {
	case e.Flags&Discard != 0 && m.Point.Discards == Ignored:
		return
	case e.Flags&Discard != 0 && m.Point.Discards == Rubbish:
		for k := range data {
			data[k] = byte(mix(m.Point.Seed + uint64(e.Off) + uint64(k)))
		}
	case e.Flags&Discard == 0:
		l.data.ReadAt(data, e.Data)
	}
	for s := int64(0); s < e.Len; s += int64(l.SectorSize) {
		if e.Off+s < int64(len(disk)) && (i < m.durable || m.fates[i-m.durable].has(s/int64(l.SectorSize))) {
			copy(disk[e.Off+s:], data[s:s+int64(l.SectorSize)])
		}
	}
}

// legal: no FUA write is missing that something later did not wait for.
func legal(t *testing.T, l *Log, m *Image, p Point) {
	t.Helper()
	start, missing := m.durable, -1
	for i, f := range m.fates {
		e := l.Entries[start+i]
		if f.how != none && missing >= 0 && e.Len > 0 {
			t.Fatalf("point %s: request %d is there, though FUA request %d before it is not", p, i, missing)
		}
		if e.Flags&FUA != 0 && f.how != whole && missing < 0 {
			missing = i
		}
	}
}

func TestOrigin(t *testing.T) {
	r := &recorder{ss: 512}
	r.write(0, 1, 8192)
	r.flush()
	r.write(4096, 2, 4096)
	r.write(65536, 2, 4096)
	l := r.parse(t)
	full := l.Image(nil, diskSize, Point{Epoch: 1, Kind: Prefix, Cut: 2, Discards: Zeros})
	none := l.Image(nil, diskSize, Point{Epoch: 1, Kind: Boundary, Discards: Zeros})
	for _, tt := range []struct {
		off, n int64
		same   bool
	}{{0, 4096, true}, {0, 4608, false}, {8192, 4096, true}, {65536, 512, false}, {70000, 100000, true}} {
		a, _ := full.Origin(tt.off, tt.n)
		b, _ := none.Origin(tt.off, tt.n)
		if (a == b) != tt.same {
			t.Errorf("%d bytes at %d: same %t, want %t", tt.n, tt.off, a == b, tt.same)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good := func() *recorder {
		r := &recorder{ss: 512}
		r.write(4096, 1, 1024)
		r.flush()
		return r
	}
	whole := good().bytes()
	for _, tt := range []struct {
		name, want string
		log        func() []byte
	}{
		{"empty", "0 bytes hold no superblock", func() []byte { return nil }},
		{"magic", "want 0x6a736677736872 version 1", func() []byte { return make([]byte, 512) }},
		{"sector size", "sector size 100", func() []byte { r := good(); r.ss = 512; b := r.bytes(); b[24], b[25] = 100, 0; return b }},
		{"entries missing", "entry 2 of 9", func() []byte { r := good(); r.entries = 9; return r.bytes() }},
		{"data cut off", "entry 0 of 2: data of 1024 bytes goes beyond", func() []byte { return whole[:1500] }},
		{"flags", "entry 2 of 3: unknown flags 0x100", func() []byte { r := good(); r.add(0, 0, 0x100, nil); return r.bytes() }},
		{"huge", "out of any disk", func() []byte { r := good(); r.add(1<<52, 0, Flush, nil); return r.bytes() }},
	} {
		b := tt.log()
		if _, err := Parse(bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestBeyond: a killed QEMU wrote entries its superblock does not count.
func TestBeyond(t *testing.T) {
	r := &recorder{ss: 512}
	r.write(0, 1, 512)
	r.flush()
	r.write(0, 1, 512)
	r.write(0, 1, 4096)
	r.entries = 1
	b := r.bytes()
	b = append(b[:len(b)-512], make([]byte, 0)...) // the last write's data is incomplete
	l, err := Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil || len(l.Entries) != 3 || l.Beyond != 2 || len(l.Epochs) != 2 {
		t.Errorf("got %+v, %v", l, err)
	}
}

func TestPointsAreStable(t *testing.T) {
	l := random(rand.New(rand.NewPCG(3, 4)), 512).parse(t)
	a, b, c := l.Points(100, 5), l.Points(100, 5), l.Points(100, 6)
	if fmt.Sprint(a) != fmt.Sprint(b) {
		t.Error("the same seed gave other points")
	}
	if fmt.Sprint(a) == fmt.Sprint(c) {
		t.Error("another seed gave the same points")
	}
	if _, err := l.ParsePoint("9999:boundary:0:zeros:0"); err == nil {
		t.Error("a point of no epoch was parsed")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(random(rand.New(rand.NewPCG(1, 1)), 512).bytes())
	f.Add(random(rand.New(rand.NewPCG(1, 1)), 4096).bytes()[:8000])
	f.Add([]byte("rhswfsj"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Parse(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		var data int64
		for _, e := range l.Entries {
			if e.Off < 0 || e.Len < 0 || e.Data != 0 && e.Data+e.Len > int64(len(b)) {
				t.Fatalf("entry %+v of a log of %d bytes", e, len(b))
			}
			data += e.Len
		}
		if data < 0 {
			t.Fatal("overflow")
		}
		buf := make([]byte, 8192)
		for _, p := range l.Points(20, 1) {
			if _, err := l.Image(nil, 1<<20, p).ReadAt(buf, 512); err != nil {
				t.Fatalf("point %s: %v", p, err)
			}
		}
	})
}
