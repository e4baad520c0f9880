package isofs_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/images/iso9660"
	"slipway.dev/slipway/images/isofs"
)

// sparse keeps what is not zero, by megabyte.
type sparse struct {
	chunks map[int64][]byte
	at     int64
}

func (s *sparse) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := min(len(p)-done, int(1<<20-s.at%(1<<20)))
		part := p[done : done+n]
		if len(bytes.Trim(part, "\x00")) > 0 {
			c := s.chunks[s.at>>20]
			if c == nil {
				c = make([]byte, 1<<20)
				s.chunks[s.at>>20] = c
			}
			copy(c[s.at%(1<<20):], part)
		}
		done += n
		s.at += int64(n)
	}
	return len(p), nil
}

func (s *sparse) ReadAt(p []byte, at int64) (int, error) {
	for done := 0; done < len(p); {
		n := min(len(p)-done, int(1<<20-at%(1<<20)))
		if c := s.chunks[at>>20]; c != nil {
			copy(p[done:done+n], c[at%(1<<20):])
		} else {
			clear(p[done : done+n])
		}
		done += n
		at += int64(n)
	}
	return len(p), nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func write(t testing.TB, files ...iso9660.File) *sparse {
	t.Helper()
	im, err := iso9660.Plan(iso9660.Volume{ID: "SLIPWAY", Time: time.Unix(1e9, 0), Files: files})
	if err != nil {
		t.Fatal(err)
	}
	s := &sparse{chunks: map[int64][]byte{}}
	if err := im.Write(context.Background(), s, nil); err != nil {
		t.Fatal(err)
	}
	return s
}

func text(name, content string) iso9660.File {
	return iso9660.File{Path: name, Mode: 0o444, Size: int64(len(content)), Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }}
}

// A file of 5 GiB is longer than one extent can say (ECMA-119 9.1.4: 32 bits).
func TestFileOfFiveGiBIsFoundWhole(t *testing.T) {
	const size = 5 << 30
	s := write(t, text("a/first", "1"), text("slipway/blobs/sha256/"+strings.Repeat("b", 64)+".zst", "packed"), iso9660.File{Path: "large", Mode: 0o444, Size: size, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(strings.NewReader("begin"), io.LimitReader(zeros{}, size-8), strings.NewReader("end"))), nil
	}})
	im, err := isofs.Read(s, s.at)
	if err != nil {
		t.Fatal(err)
	}
	f := im.Files["large"]
	if f.Size != size || im.Label != "SLIPWAY" || len(im.Files) != 3 {
		t.Fatalf("got %+v of %d files on %q", f, len(im.Files), im.Label)
	}
	ends := make([]byte, 8)
	_, _ = s.ReadAt(ends[:5], f.At)
	_, _ = s.ReadAt(ends[5:], f.At+size-3)
	if string(ends) != "beginend" {
		t.Errorf("the file reads %q … %q", ends[:5], ends[5:])
	}
	if f := im.Files["slipway/blobs/sha256/"+strings.Repeat("b", 64)+".zst"]; f.Size != 6 {
		t.Errorf("a long name: %+v", f)
	}
}

func TestDamagedImagesAreRefused(t *testing.T) {
	good := func() *sparse { return write(t, text("d/file", strings.Repeat("x", 5000))) }
	for name, c := range map[string]struct {
		spoil func(*sparse) int64
		want  string
	}{
		"no volume":    {func(s *sparse) int64 { s.chunks[0][16*2048+1] = 'X'; return s.at }, "no ISO 9660 volume"},
		"cut short":    {func(s *sparse) int64 { return 19 * 2048 }, "do not fit into the image"},
		"a loop":       {func(s *sparse) int64 { loop(s.chunks[0]); return s.at }, "nested too deep, or in itself"},
		"a huge root":  {func(s *sparse) int64 { copy(s.chunks[0][16*2048+156+10:], "\xff\xff\xff\x7f"); return s.at }, "do not fit into the image"},
		"short record": {func(s *sparse) int64 { s.chunks[0][rootOf(s.chunks[0])] = 5; return s.at }, "a record of 5 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			s := good()
			size := c.spoil(s)
			if _, err := isofs.Read(s, size); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func rootOf(b []byte) int {
	p := b[16*2048+156:]
	return (int(p[2]) | int(p[3])<<8) * 2048
}

// loop makes the directory d point at the root.
func loop(b []byte) {
	at := rootOf(b)
	for b[at+32] == 1 && b[at+33] <= 1 {
		at += int(b[at])
	}
	copy(b[at+2:at+6], b[16*2048+156+2:])
}

func FuzzRead(f *testing.F) {
	s := write(f, text("a/b", "1"), text("c", "2"))
	raw := make([]byte, s.at)
	_, _ = s.ReadAt(raw, 0)
	f.Add(raw)
	f.Add(raw[:40000])
	f.Fuzz(func(t *testing.T, b []byte) {
		im, err := isofs.Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for name, file := range im.Files {
			if file.At < 0 || file.At+file.Size > int64(len(b)) || strings.HasPrefix(name, "/") || strings.Contains("/"+name+"/", "/../") {
				t.Errorf("%q at %+v of %d bytes", name, file, len(b))
			}
		}
	})
}
