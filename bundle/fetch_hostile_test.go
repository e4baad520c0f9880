package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/store"
)

// answers is a server that gives each request the next answer, the last one to
// all that follow, and remembers the ranges that it was asked for.
type answers struct {
	mu     sync.Mutex
	next   []http.HandlerFunc
	ranges []string
}

func (a *answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.ranges = append(a.ranges, r.Header.Get("Range"))
	h := a.next[0]
	if len(a.next) > 1 {
		a.next = a.next[1:]
	}
	a.mu.Unlock()
	h(w, r)
}

const size = 64 << 10

func body() string { return strings.Repeat("0123456789abcdef", size/16) }

func whole(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
}

func ranged(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "x", time.Time{}, strings.NewReader(s))
	}
}

// cut announces everything and sends n bytes.
func cut(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = io.WriteString(w, body()[:n])
	}
}

// partial answers 206 with a Content-Range that is not what was asked for.
func partial(header, s string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Range", header)
		w.WriteHeader(http.StatusPartialContent)
		_, _ = io.WriteString(w, s)
	}
}

func TestFetchFromBadServers(t *testing.T) {
	evil := strings.Repeat("x", size)
	const all = size
	for _, c := range []struct {
		name   string
		part   string // left by an earlier run
		server []http.HandlerFunc
		want   string   // of the error; "" is good
		ranges []string // asked for; nil: not looked at
	}{
		{"plain", "", []http.HandlerFunc{whole(body())}, "", []string{""}},
		{"continues", body()[:100], []http.HandlerFunc{ranged(body())}, "", []string{"bytes=100-"}},
		{"ignores ranges", body()[:100], []http.HandlerFunc{whole(body())}, "", []string{"bytes=100-"}},
		{"broken off three times", "", []http.HandlerFunc{cut(10), whole(body()[:0]), cut(20000), ranged(body())}, "", nil},
		{"the part is whole", body(), []http.HandlerFunc{whole("never asked")}, "", nil},
		{"the part is too long", body() + "x", []http.HandlerFunc{ranged(body())}, "", []string{""}},
		{"the part is of another file", evil[:100], []http.HandlerFunc{ranged(body())}, "", []string{"bytes=100-", ""}},
		{"a whole part of another file", evil, []http.HandlerFunc{ranged(body())}, "", []string{""}},
		{"always short", "", []http.HandlerFunc{cut(10)}, "unexpected EOF", nil},
		{"short and says so", "", []http.HandlerFunc{whole(body()[:10])}, fmt.Sprintf("got 10 bytes, want %d", all), nil},
		{"too long", "", []http.HandlerFunc{whole(body() + "x")}, fmt.Sprintf("got %d bytes, want %d", all+1, all), nil},
		{"another file", "", []http.HandlerFunc{whole(evil)}, "digest mismatch: got " + string(lock.SumBytes([]byte(evil))), []string{""}},
		{"another place", body()[:100], []http.HandlerFunc{partial("bytes 0-9/65536", "0123456789")}, `Content-Range "bytes 0-9/65536", asked for bytes 100- of 65536`, nil},
		{"another size", body()[:100], []http.HandlerFunc{partial("bytes 100-199/200", "x")}, `Content-Range "bytes 100-199/200", asked for bytes 100- of 65536`, nil},
		{"no place", body()[:100], []http.HandlerFunc{partial("", "x")}, `Content-Range "": unexpected EOF`, nil},
		{"down", "", []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }}, "the server answered 502 Bad Gateway", []string{"", "", "", "", ""}},
		{"gone", "", []http.HandlerFunc{http.NotFound}, "the server answered 404 Not Found", []string{""}},
		{"a page in between", "", []http.HandlerFunc{whole("<html>log in to the hotel's network</html>")}, "bytes, want 65536", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			handler := &answers{next: c.server}
			srv := httptest.NewServer(handler)
			defer srv.Close()
			f := newFetcher(t)
			want := lock.SumBytes([]byte(body()))
			if c.part != "" {
				mustWrite(t, filepath.Join(f.Parts, string(want)), c.part)
			}
			err := f.Debs(context.Background(), []lock.Deb{{Name: "x", Version: "1", URL: srv.URL + "/x.deb", Size: all, SHA256: want}})
			if (c.want == "") != f.Store.Has(want, all) {
				t.Errorf("in the store: %t", f.Store.Has(want, all))
			}
			if c.want == "" {
				if err == nil {
					err = f.Store.Verify(want)
				}
				if err != nil {
					t.Error(err)
				}
			} else if err == nil || !strings.HasPrefix(err.Error(), `fetching package "x" 1: `) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			if c.ranges != nil && strings.Join(handler.ranges, "|") != strings.Join(c.ranges, "|") {
				t.Errorf("asked for %q, want %q", handler.ranges, c.ranges)
			}
		})
	}
}

func mustWrite(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestFetchOnAFullDisk: asking again does not make a disk larger; what is here
// stays, and the download goes on when there is room.
func TestFetchOnAFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	handler := &answers{next: []http.HandlerFunc{ranged(body())}}
	srv := httptest.NewServer(handler)
	defer srv.Close()
	f := newFetcher(t)
	f.Parts = t.TempDir()
	if err := syscall.Mount("tmpfs", f.Parts, "tmpfs", 0, "size=32k"); err != nil {
		t.Skipf("mounting a small tmpfs: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(f.Parts, 0); err != nil {
			t.Error(err)
		}
	}()
	want := lock.SumBytes([]byte(body()))
	debs := []lock.Deb{{Name: "x", Version: "1", URL: srv.URL + "/x.deb", Size: size, SHA256: want}}
	err := f.Debs(context.Background(), debs)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "of 65536 bytes are here: write "+f.Parts) || len(handler.ranges) != 1 {
		t.Errorf("got %v after %d requests", err, len(handler.ranges))
	}
	if err := syscall.Mount("", f.Parts, "", syscall.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if err := f.Debs(context.Background(), debs); err != nil || !strings.HasPrefix(handler.ranges[1], "bytes=") {
		t.Errorf("with room: %v, asked for %q", err, handler.ranges)
	}
}

// A full store keeps the finished part for the next run.
func TestFetchIntoAFullStore(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	srv := httptest.NewServer(whole(body()))
	defer srv.Close()
	f := newFetcher(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=32k"); err != nil {
		t.Skipf("mounting a small tmpfs: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	var err error
	if f.Store, err = store.New(dir); err != nil {
		t.Fatal(err)
	}
	want := lock.SumBytes([]byte(body()))
	err = f.Debs(context.Background(), []lock.Deb{{Name: "x", Version: "1", URL: srv.URL + "/x.deb", Size: size, SHA256: want}})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if fi, err := os.Stat(filepath.Join(f.Parts, string(want))); err != nil || fi.Size() != size {
		t.Errorf("the part: %v, %v", fi, err)
	}
}
