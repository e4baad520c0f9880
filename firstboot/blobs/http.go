package blobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/images/medium"
)

// Seed is a source behind HTTP: whoever serves a netboot directory or an ISO's
// content, read with ranges (RFC 9110 section 14), so that a blob goes on where
// a connection broke. It waits for a seed that is away as long as ctx lives.
type Seed struct {
	Base    string // URL of the directory that holds layout.Dir
	client  *http.Client
	waiting func(cause error)
}

// NewSeed reads from the directory at a URL without a final slash. waiting is
// told, from several goroutines, why a request is tried again. No proxy is
// used: there is none between a node and its seed.
func NewSeed(base string, waiting func(cause error)) *Seed {
	return &Seed{Base: base, waiting: waiting,
		client: &http.Client{Transport: &http.Transport{MaxConnsPerHost: maxConns, MaxIdleConnsPerHost: maxConns, ResponseHeaderTimeout: 30 * time.Second, DisableCompression: true}}}
}

// maxConns is at one time, however many processors read: a seed closes what one
// address opens beyond 32, and has hundreds of nodes.
const maxConns = 8

// stall is how long one chunk may take: at 100 kB/s a frame of 4 MiB needs 40 s.
const stall = 2 * time.Minute

// StatusError is an answer that will not get better by asking again.
type StatusError struct {
	URL  string
	Code int
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s: the seed answered %d %s", e.URL, e.Code, http.StatusText(e.Code))
}

// IsNotFound reports that the server has no such file.
func IsNotFound(err error) bool {
	status, ok := errors.AsType[*StatusError](err)
	return ok && status.Code == http.StatusNotFound
}

// Local implements Source: nothing is here.
func (s *Seed) Local(lock.Blob) string { return "" }

// Open implements Source.
func (s *Seed) Open(ctx context.Context, b lock.Blob) (File, error) {
	return &remote{ctx: ctx, seed: s, url: s.Base + "/" + medium.Path(b), blob: b}, nil
}

// Get fetches a small file whole, at most limit bytes, once; an error may be temporary.
func (s *Seed) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	url := s.Base + "/" + name
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, &StatusError{URL: url, Code: resp.StatusCode}
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", url, limit)
	}
	return raw, err
}

// remote reads ranges of one blob.
type remote struct {
	ctx  context.Context // of the one Bring this lives in
	seed *Seed
	url  string
	blob lock.Blob
}

func (r *remote) Close() error { return nil }

// ReadAt asks until it has all of p: what arrived stays, the rest is asked again.
func (r *remote) ReadAt(p []byte, at int64) (int, error) {
	got := 0
	for wait := time.Second; ; wait = min(2*wait, 10*time.Second) {
		n, err := r.read(p[got:], at+int64(got))
		if got += n; got == len(p) {
			return got, nil
		}
		if IsNotFound(err) {
			return got, &MissingError{Blob: r.blob, Err: err}
		}
		if r.ctx.Err() != nil {
			return got, r.ctx.Err()
		}
		if n > 0 {
			wait = time.Second
		}
		r.seed.waiting(fmt.Errorf("blob %q at byte %d: %w", r.blob.Name, at+int64(got), err))
		select {
		case <-r.ctx.Done():
			return got, r.ctx.Err()
		case <-time.After(wait):
		}
	}
}

// read makes one request for the range and reads as far as it goes.
func (r *remote) read(p []byte, at int64) (int, error) {
	ctx, cancel := context.WithTimeout(r.ctx, stall)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		return 0, err
	}
	want := fmt.Sprintf("bytes %d-%d/", at, at+int64(len(p))-1)
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, at+int64(len(p))-1))
	resp, err := r.seed.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent {
		return 0, &StatusError{URL: r.url, Code: resp.StatusCode}
	}
	// A server that answers with another range would be taken for a wrong digest.
	if got := resp.Header.Get("Content-Range"); !strings.HasPrefix(got, want) {
		return 0, fmt.Errorf("%s: asked for %q, got %q", r.url, want, got)
	}
	return io.ReadFull(resp.Body, p)
}
