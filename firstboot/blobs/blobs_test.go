package blobs

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/store"
	"slipway.dev/slipway/images/layout"
)

func filled(t *testing.T, contents ...string) (*Store, []lock.Blob) {
	t.Helper()
	d := Dir(t.TempDir())
	if err := os.MkdirAll(filepath.Join(string(d), layout.Blobs), 0o755); err != nil {
		t.Fatal(err)
	}
	var out []lock.Blob
	for i, c := range contents {
		b := lock.Blob{Name: "layers/" + string(rune('a'+i)), Role: lock.RoleLayer, Size: int64(len(c)), SHA256: lock.SumBytes([]byte(c)), DiffID: lock.SumBytes([]byte("tar" + c))}
		var err error
		if b.Chunks, err = lock.Chunks(strings.NewReader(c), b.Size); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(d.Local(b), []byte(c), 0o644); err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return &Store{Source: d, Memory: t.TempDir()}, out
}

func TestBringInPlace(t *testing.T) {
	d, b := filled(t, strings.Repeat("content", 900_000))
	var last int64
	if err := d.Bring(t.Context(), b[0], func(n int64) { last = n }); err != nil || last != b[0].Size {
		t.Errorf("got %v after %d bytes", err, last)
	}
	for name, breakIt := range map[string]struct {
		do   func(string) error
		want string
	}{
		"a flipped bit": {func(p string) error {
			raw, err := os.ReadFile(p)
			raw[5234567] ^= 1
			return errors.Join(err, os.WriteFile(p, raw, 0o644))
		}, `blob "layers/a": digest mismatch in the chunk at byte 4194304: got `},
		"cut short": {func(p string) error { return os.Truncate(p, 99) }, `blob "layers/a": size mismatch: got 99 bytes, want 6300000`},
		"gone":      {os.Remove, `blob "layers/a": open `},
	} {
		t.Run(name, func(t *testing.T) {
			d, b := filled(t, strings.Repeat("content", 900_000))
			if err := breakIt.do(d.Path(b[0])); err != nil {
				t.Fatal(err)
			}
			err := d.Bring(t.Context(), b[0], nil)
			if err == nil || !strings.HasPrefix(err.Error(), breakIt.want) {
				t.Errorf("got %v, want %s", err, breakIt.want)
			}
			if e, ok := errors.AsType[*store.ChunkError](err); ok && (e.Blob.Name != "layers/a" || e.Got == e.Blob.SHA256) {
				t.Errorf("got %+v", e)
			}
		})
	}
}

func TestOnlyVerifiedLayersAreLinked(t *testing.T) {
	d, b := filled(t, "one", "two", "three")
	if err := os.WriteFile(d.Path(b[1]), []byte("TWO"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	var err error
	for _, x := range b {
		if err = d.Bring(t.Context(), x, nil); err != nil {
			break
		}
		if err := d.LinkLayer(out, x); err != nil {
			t.Fatal(err)
		}
	}
	if e, ok := errors.AsType[*store.ChunkError](err); !ok || e.Blob.Name != "layers/b" {
		t.Fatalf("got %v", err)
	}
	link := func(x lock.Blob) string {
		return filepath.Join(out, "sha256", string(x.DiffID[:2]), string(x.DiffID)+".erofs")
	}
	if _, err := os.Lstat(link(b[1])); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the wrong layer is there: %v", err)
	}
	if err := d.LinkLayer(out, b[0]); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(link(b[0])); string(raw) != "one" || err != nil {
		t.Errorf("layer reads %q, %v", raw, err)
	}
}

func TestBringThatIsCutShortProvesNothing(t *testing.T) {
	d, b := filled(t, "content")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Bring(ctx, b[0], nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// packed returns a store over an HTTP server with one blob in frames, and a
// hook that may spoil each answer.
func packed(t *testing.T, plain []byte, spoil func(w http.ResponseWriter, r *http.Request) bool) (*Store, lock.Blob) {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := lock.Blob{Name: "system.erofs", Size: int64(len(plain)), SHA256: lock.SumBytes(plain)}
	var stored []byte
	for at := 0; at < len(plain); at += lock.ChunkSize {
		c := plain[at:min(len(plain), at+lock.ChunkSize)]
		f := enc.EncodeAll(c, nil)
		stored = append(stored, f...)
		b.Frames, b.Chunks = append(b.Frames, int64(len(f))), append(b.Chunks, lock.SumBytes(c))
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/x/"+layout.Blobs+"/"+string(b.SHA256)+".zst" {
			http.NotFound(w, r)
			return
		}
		if !spoil(w, r) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(stored))
		}
	}))
	t.Cleanup(srv.Close)
	return &Store{Source: NewSeed(srv.URL+"/x", func(error) {}), Memory: t.TempDir()}, b
}

func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * i >> 7)
	}
	return b
}

func TestBringFromASeedThatBreaksOff(t *testing.T) {
	plain := noise(2*lock.ChunkSize + 77)
	var requests atomic.Int32
	s, b := packed(t, plain, func(w http.ResponseWriter, r *http.Request) bool {
		if n := requests.Add(1); n == 1 { // promises a range and sends half a kilobyte of it
			var from, to int64
			_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/999999", from, to))
			w.Header().Set("Content-Length", fmt.Sprint(to-from+1))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(make([]byte, 0))
			panic(http.ErrAbortHandler)
		} else if n == 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	})
	if err := s.Bring(t.Context(), b, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(s.Path(b)); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if n := requests.Load(); n < 5 {
		t.Errorf("%d requests, want three frames and two more", n)
	}
}

func TestBringRefusesWhatASeedMakesUp(t *testing.T) {
	plain := noise(lock.ChunkSize + 5)
	for name, spoil := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"another content": func(w http.ResponseWriter, r *http.Request) bool {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(make([]byte, 1<<20)))
			return true
		},
		"a bomb": func(w http.ResponseWriter, r *http.Request) bool {
			enc, _ := zstd.NewWriter(nil)
			bomb := enc.EncodeAll(make([]byte, 64<<20), nil)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(append(bomb, make([]byte, 1<<20)...)))
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, b := packed(t, plain, spoil)
			err := s.Bring(t.Context(), b, nil)
			if _, ok := errors.AsType[*store.ChunkError](err); !ok {
				t.Errorf("got %v", err)
			}
			if left, _ := os.ReadDir(s.Memory); len(left) > 0 {
				t.Errorf("%s was left in memory", left[0].Name())
			}
		})
	}
	s, b := packed(t, plain, func(http.ResponseWriter, *http.Request) bool { return false })
	b.SHA256 = lock.SumBytes(nil)
	if err := s.Bring(t.Context(), b, nil); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a blob that is not there: %v", err)
	}
	// A server that ignores ranges would send the start of the file for every frame.
	s, b = packed(t, plain, func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusOK); return true })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Bring(ctx, b, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server without ranges: %v", err)
	}
}

// TestSeedIsSpared: a machine of many processors stays within what a seed lets
// one address open.
func TestSeedIsSpared(t *testing.T) {
	var mu sync.Mutex
	open, most := 0, 0
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(20 * time.Millisecond)
		w.Write([]byte("x"))
	}))
	h.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch st {
		case http.StateNew:
			open++
		case http.StateClosed:
			open--
		}
		most = max(most, open)
	}
	h.Start()
	defer h.Close()
	s := NewSeed(h.URL, func(error) {})
	var g errgroup.Group
	for range 64 {
		g.Go(func() error {
			_, err := s.Get(t.Context(), "x", 10)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if most > 16 {
		t.Errorf("%d connections at one time", most)
	}
}

// counting counts what is asked of a source.
type counting struct {
	Source
	mu    sync.Mutex
	bytes int64
}

type countedFile struct {
	File
	c *counting
}

func (c *counting) Open(ctx context.Context, b lock.Blob) (File, error) {
	f, err := c.Source.Open(ctx, b)
	return countedFile{f, c}, err
}

func (f countedFile) ReadAt(p []byte, at int64) (int, error) {
	f.c.mu.Lock()
	f.c.bytes += int64(len(p))
	f.c.mu.Unlock()
	return f.File.ReadAt(p, at)
}

func TestCopyGoesOnWhereItStopped(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), (2*lock.ChunkSize+4096)/16)
	d, b := filled(t, string(big))
	for _, tc := range []struct {
		name string
		part []byte
		want int64 // bytes asked of the source
	}{
		{"nothing there", nil, int64(len(big))},
		{"half of it", big[:lock.ChunkSize+100], int64(len(big)) - lock.ChunkSize},
		{"all of it, one bit wrong", append([]byte{'1'}, big[1:]...), lock.ChunkSize},
		{"longer than it", append(bytes.Clone(big), "rubbish"...), 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			to := filepath.Join(t.TempDir(), "slot", "blob")
			if tc.part != nil {
				if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(to+".part", tc.part, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			c := &counting{Source: d.Source}
			if err := Copy(t.Context(), c, b[0], nil, to, nil); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(to)
			if err != nil || !bytes.Equal(got, big) || c.bytes != tc.want {
				t.Errorf("%d bytes (%v), %d asked of the source, want %d", len(got), err, c.bytes, tc.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	to := filepath.Join(t.TempDir(), "blob")
	if err := Copy(ctx, d.Source, b[0], nil, to, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
	if _, err := os.Stat(to); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it has its name all the same: %v", err)
	}
}
