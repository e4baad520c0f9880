package web

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// image is a file on disk of which the served one is a part, as on an ISO.
func image(t testing.TB, before, file, after []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(name, bytes.Join([][]byte{before, file, after}, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestRegion(t *testing.T) {
	f := image(t, nil, make([]byte, 100), nil)
	section := io.NewSectionReader(f, 10, 50)
	memory := bytes.NewReader(make([]byte, 30))
	for _, c := range []struct {
		what string
		r    io.ReaderAt
		size int64
		at   int64 // -1: no region
	}{
		{"a file", f, 100, 0},
		{"a section", section, 50, 10},
		{"a section's section", io.NewSectionReader(section, 5, 20), 20, 15},
		{"shorter than its section", section, 9, 10},
		{"longer than its section", section, 51, -1},
		{"longer than the outer section", io.NewSectionReader(section, 45, 20), 20, -1},
		{"memory", memory, 30, 0},
		{"a section of memory", io.NewSectionReader(memory, 20, 5), 5, 20},
		{"anything else", strings.NewReader("x"), 1, -1},
	} {
		b := newBody(Content{Reader: c.r, Size: c.size}, func() {})
		if c.at < 0 && b.direct() || c.at >= 0 && (b.file == nil && b.memory != memory || b.at != c.at) {
			t.Errorf("%s: %v %v at %d, want %d", c.what, b.file, b.memory, b.at, c.at)
		}
	}
}

// Requests share one open file and want different parts of it at a time.
func TestFileRegions(t *testing.T) {
	want := content(3_000_001)
	f := image(t, content(5000), want, content(7000))
	s := start(t, &Handler{Files: func(string) (Content, bool) {
		return Content{Reader: io.NewSectionReader(f, 5000, int64(len(want))), Size: int64(len(want))}, true
	}}, Limits{})
	var all sync.WaitGroup
	for i := range 16 {
		c := s.dial(t)
		all.Go(func() {
			for n := range 20 {
				from := (i*20 + n) * 7919 % len(want)
				to := min(len(want), from+1+n*65_000)
				resp, body := ask(t, c, "GET", "/f", fmt.Sprintf("Range: bytes=%d-%d\r\n", from, to-1))
				if resp.StatusCode != 206 || body != string(want[from:to]) {
					t.Errorf("%d to %d: status %d, %d bytes, equal %v", from, to, resp.StatusCode, len(body), body == string(want[from:to]))
				}
			}
		})
	}
	all.Wait()
	for range 16 * 20 {
		if e := s.next(t); e.Err != nil || e.Status != 206 || e.Bytes == 0 {
			t.Errorf("event %+v", e)
		}
	}
	c := s.dial(t)
	if _, body := ask(t, c, "GET", "/f", ""); body != string(want) {
		t.Errorf("whole: %d bytes", len(body))
	}
	if e := s.next(t); e.Bytes != int64(len(want)) || e.Size != e.Bytes {
		t.Errorf("event %+v", e)
	}
	if _, body := ask(t, c, "GET", "/f", "Range: bytes=0-1,9-10\r\n"); !strings.Contains(body, string(want[0:2])) || !strings.Contains(body, string(want[9:11])) {
		t.Errorf("two ranges: %q", body)
	}
	if resp, body := ask(t, c, "HEAD", "/f", ""); body != "" || resp.ContentLength != int64(len(want)) {
		t.Errorf("HEAD: %d bytes of %d", len(body), resp.ContentLength)
	}
}

// On Linux the kernel sends what is in a file; elsewhere nothing, and all is copied.
func TestSendTo(t *testing.T) {
	want := content(900_000)
	f := image(t, []byte("before"), want, []byte("after"))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	got := make(chan []byte, 1)
	go func() {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Error(err)
			got <- nil
			return
		}
		all, _ := io.ReadAll(c)
		got <- all
	}()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(want))
	b := newBody(Content{Reader: io.NewSectionReader(f, 6, size), Size: size}, func() {})
	if _, err := b.Seek(100, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	n, err := b.sendTo(c.(*net.TCPConn), size-200)
	c.Close()
	if err != nil || runtime.GOOS == "linux" && n != size-200 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if all := <-got; !bytes.Equal(all, want[100:100+n]) {
		t.Errorf("%d bytes came of %d", len(all), n)
	}
	if at, _ := b.Seek(0, io.SeekCurrent); at != 100+n {
		t.Errorf("the body stands at %d", at)
	}
}

// A medium that is shorter than its directory says, or was closed.
func TestFileEndsEarly(t *testing.T) {
	for _, c := range []struct {
		what  string
		spoil func(*os.File) error
		want  string
		bytes int64
	}{
		{"cut short", func(f *os.File) error { return os.Truncate(f.Name(), 100_000) }, `reading "f": EOF`, 100_000},
		{"closed", (*os.File).Close, `file already closed`, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			f := image(t, nil, content(1<<20), nil)
			if err := c.spoil(f); err != nil {
				t.Fatal(err)
			}
			s := start(t, &Handler{Files: func(string) (Content, bool) { return Content{Reader: f, Size: 1 << 20}, true }}, Limits{})
			resp, err := http.Get("http://" + s.addr + "/f")
			if err == nil {
				n, err := io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err == nil || n != c.bytes {
					t.Errorf("read %d bytes, %v: want an unexpected end after %d", n, err, c.bytes)
				}
			} else if c.bytes > 0 {
				t.Fatal(err)
			}
			if e := s.next(t); e.Err == nil || !strings.Contains(e.Err.Error(), c.want) || e.Bytes != c.bytes {
				t.Errorf("event %+v", e)
			}
		})
	}
}

// The limits hold for files as they do for memory.
func TestStalledReaderOfAFile(t *testing.T) {
	big := content(16 << 20)
	f := image(t, nil, big, nil)
	h := func(stall time.Duration) *Handler {
		return &Handler{Files: func(string) (Content, bool) { return Content{Reader: f, Size: int64(len(big))}, true }, Stall: stall}
	}
	stalls(t, int64(len(big)), h)
	t.Run("goes away", func(t *testing.T) {
		s := start(t, h(time.Minute), Limits{})
		gone := s.dial(t)
		io.WriteString(gone, "GET /f HTTP/1.1\r\nHost: seed\r\n\r\n")
		io.ReadFull(gone, make([]byte, 1000))
		gone.Close()
		if e := s.next(t); e.Err == nil || errors.Is(e.Err, os.ErrDeadlineExceeded) || e.Bytes >= int64(len(big)) {
			t.Errorf("event of a client that went away: %+v", e)
		}
	})
}
