package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/store"
)

// Report tells how far a long step is: done of total bytes, with total 0 when
// nothing is counted, and CountPackages when done counts packages.
type Report func(step string, done, total int64)

// CountPackages is the total of a step that counts compiled packages: the go
// tool does not say how many there will be.
const CountPackages = -1

// fetchTries is how often one file is asked for before its error counts: a
// mirror that closes a connection is common, one that does so five times is down.
const fetchTries = 5

// Fetcher downloads files into a store, resumes what was interrupted and
// refuses what is not named by its digest.
type Fetcher struct {
	Store *store.Store
	Parts string // directory of unfinished downloads
	// Offline refuses to download: what is not in the store is an error.
	Offline bool
	Client  *http.Client
	Pause   time.Duration // before the second try; longer before each further one
	Log     *slog.Logger
	Report  Report
}

// Debs brings every package of the lock that is not in the store yet.
func (f *Fetcher) Debs(ctx context.Context, debs []lock.Deb) error {
	var todo []lock.Deb
	var total int64
	seen := map[lock.Digest]bool{}
	for _, d := range debs {
		if seen[d.SHA256] || f.Store.Has(d.SHA256, d.Size) {
			continue
		}
		seen[d.SHA256] = true
		todo = append(todo, d)
		total += d.Size
	}
	if len(todo) == 0 {
		return nil
	}
	if f.Offline {
		return fmt.Errorf("%d Debian packages are not in the store, first %q %s: %w", len(todo), todo[0].Name, todo[0].Version, fs.ErrNotExist)
	}
	step := fmt.Sprintf("downloading %d Debian packages", len(todo))
	f.Report(step, 0, total)
	var done atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, d := range todo {
		g.Go(func() error {
			err := f.one(ctx, d.URL, d.Size, d.SHA256, func(n int64) { f.Report(step, done.Add(n), total) })
			if err != nil {
				return fmt.Errorf("fetching package %q %s: %w", d.Name, d.Version, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// one downloads a file of known size and digest, continuing a part that an
// earlier run left. A file that was put together of two runs and is not the one
// that was asked for is loaded once more, whole: the mirror's copy, or the part,
// may have changed in between.
func (f *Fetcher) one(ctx context.Context, url string, size int64, want lock.Digest, progress func(int64)) error {
	part := filepath.Join(f.Parts, string(want))
	if err := os.MkdirAll(f.Parts, 0o755); err != nil {
		return err
	}
	old, err := os.Stat(part)
	continued := err == nil && old.Size() > 0
	err = f.load(ctx, url, part, size, want, progress)
	var mismatch *store.MismatchError
	if continued && errors.As(err, &mismatch) {
		f.Log.Warn("the continued download is not the file, loading it whole", "url", url, "cause", err)
		err = f.load(ctx, url, part, size, want, progress)
	}
	return err
}

// load brings a file into the store. Its part is gone afterwards, unless the
// line broke off or the disk is full.
func (f *Fetcher) load(ctx context.Context, url, part string, size int64, want lock.Digest, progress func(int64)) error {
	if err := f.insist(ctx, url, part, size, progress); err != nil {
		return err
	}
	file, err := os.Open(part)
	if err != nil {
		return err
	}
	defer file.Close()
	_, _, err = f.Store.Put(ctx, file, want)
	var mismatch *store.MismatchError
	if err != nil && !errors.As(err, &mismatch) {
		return err // this machine's fault: the part is as good as it was
	}
	return errors.Join(err, os.Remove(part))
}

// insist asks again when the line or the server fails, and only then.
func (f *Fetcher) insist(ctx context.Context, url, part string, size int64, progress func(int64)) error {
	for try := 1; ; try++ {
		err := f.resume(ctx, url, part, size, progress)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var status *statusError
		var local *fs.PathError
		if errors.As(err, &local) || errors.As(err, &status) && status.code < 500 || try == fetchTries {
			return err
		}
		f.Log.Warn("download broke off, trying again", "url", url, "try", try, "of", fetchTries, "cause", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(try) * f.Pause):
		}
	}
}

// resume asks for the rest of a file (RFC 9110 section 14) and appends it.
func (f *Fetcher) resume(ctx context.Context, url, part string, size int64, progress func(int64)) error {
	file, err := os.OpenFile(part, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	have, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if have > size {
		have = 0
	}
	if have == size && size > 0 {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	resp, err := f.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusPartialContent:
		if err := continues(resp.Header.Get("Content-Range"), have, size); err != nil {
			return fmt.Errorf("%s: %w", url, err)
		}
	case http.StatusOK:
		have = 0 // the server sends all of it
	default:
		return &statusError{url: url, code: resp.StatusCode}
	}
	if err := file.Truncate(have); err != nil {
		return err
	}
	if _, err := file.Seek(have, io.SeekStart); err != nil {
		return err
	}
	n, err := io.Copy(file, io.LimitReader(&counted{resp.Body, progress}, size-have+1))
	var local *fs.PathError
	if errors.As(err, &local) {
		return fmt.Errorf("%d of %d bytes are here: %w", have+n, size, err)
	}
	if err != nil {
		return err
	}
	if have+n > size { // kept, it would be too long for ever
		if err := file.Truncate(0); err != nil {
			return err
		}
	}
	if have+n != size {
		return fmt.Errorf("%s: got %d bytes, want %d", url, have+n, size)
	}
	return nil
}

// continues checks that a partial answer begins where the part ends and is of a
// file of this size (RFC 9110 section 14.4); a size of * is not told.
func continues(header string, have, size int64) error {
	var first, last int64
	var total string
	if _, err := fmt.Sscanf(header, "bytes %d-%d/%s", &first, &last, &total); err != nil {
		return fmt.Errorf("Content-Range %q: %w", header, err)
	}
	if first != have || last >= size || total != "*" && total != strconv.FormatInt(size, 10) {
		return fmt.Errorf("Content-Range %q, asked for bytes %d- of %d", header, have, size)
	}
	return nil
}

// get downloads a small file whole, at most limit bytes.
func (f *Fetcher) get(ctx context.Context, url string, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := f.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, &statusError{url: url, code: resp.StatusCode}
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", url, limit)
	}
	return raw, nil
}

// statusError is an answer other than success.
type statusError struct {
	url  string
	code int
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s: the server answered %d %s", e.url, e.code, http.StatusText(e.code))
}

// Hint tells what to do about a package that the mirror no longer has.
func (e *statusError) Hint() string {
	if e.code == http.StatusNotFound {
		return "the mirror has moved on since the lock was made: run `slipway lock` again"
	}
	return ""
}

type counted struct {
	r io.Reader
	f func(int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.f(int64(n))
	return n, err
}

func isNotFound(err error) bool {
	var s *statusError
	return errors.As(err, &s) && s.code == http.StatusNotFound
}
