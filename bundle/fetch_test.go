package bundle

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/store"
)

func newFetcher(t *testing.T) *Fetcher {
	t.Helper()
	dir := t.TempDir()
	s, err := store.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &Fetcher{Store: s, Parts: filepath.Join(dir, "parts"), Client: http.DefaultClient,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Report: func(string, int64, int64) {}}
}

func TestFetchResumesABrokenDownload(t *testing.T) {
	body := strings.Repeat("0123456789abcdef", 4096)
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 { // half of it, then the line goes down
			w.Header().Set("Content-Length", "65536")
			_, _ = io.WriteString(w, body[:30000])
			return
		}
		if got := r.Header.Get("Range"); got == "" || got == "bytes=0-" {
			t.Errorf("second request asks for everything: Range %q", got)
		}
		http.ServeContent(w, r, "x", time.Time{}, strings.NewReader(body))
	}))
	defer srv.Close()
	f := newFetcher(t)
	want := lock.SumBytes([]byte(body))
	err := f.Debs(context.Background(), []lock.Deb{{Name: "x", Version: "1", URL: srv.URL + "/x.deb", Size: int64(len(body)), SHA256: want}})
	if err != nil || !f.Store.Has(want, int64(len(body))) {
		t.Fatalf("Debs: %v", err)
	}
	if left, _ := os.ReadDir(f.Parts); len(left) != 0 {
		t.Errorf("parts left: %v", left)
	}
}

func TestFetchRefusesWhatIsNotNamed(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/gone" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, "evil")
	}))
	defer srv.Close()
	good := lock.SumBytes([]byte("good"))
	for name, c := range map[string]struct {
		deb  lock.Deb
		want string
	}{
		"other bytes": {lock.Deb{Name: "x", Version: "1", URL: srv.URL + "/x", Size: 4, SHA256: good},
			`fetching package "x" 1: digest mismatch: got ` + string(lock.SumBytes([]byte("evil"))) + ` (4 bytes), want ` + string(good)},
		"too long": {lock.Deb{Name: "x", Version: "1", URL: srv.URL + "/x", Size: 3, SHA256: good}, "got 4 bytes, want 3"},
		"gone":     {lock.Deb{Name: "x", Version: "1", URL: srv.URL + "/gone", Size: 4, SHA256: good}, "the server answered 404 Not Found"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFetcher(t)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if name == "too long" {
				f.Log = slog.New(cancelOnWarn{slog.NewTextHandler(io.Discard, nil), cancel})
			}
			err := f.Debs(ctx, []lock.Deb{c.deb})
			if name == "too long" {
				if err == nil || f.Store.Has(good, 3) {
					t.Errorf("kept: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}

// cancelOnWarn ends a fetch at its first retry, so that the test need not wait for all of them.
type cancelOnWarn struct {
	slog.Handler
	cancel func()
}

func (c cancelOnWarn) Handle(ctx context.Context, r slog.Record) error {
	c.cancel()
	return c.Handler.Handle(ctx, r)
}
