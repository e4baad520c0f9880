package store

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// used is how often a blob that is asked for gets a new date: often enough to
// tell blobs of this week from those of last month.
const used = time.Hour

// touch notes that a blob is in use.
func touch(name string, fi fs.FileInfo) {
	if now := time.Now(); now.Sub(fi.ModTime()) > used {
		_ = os.Chtimes(name, now, now) // someone else's read-only store: nothing to note
	}
}

// Trim removes the blobs that were not used for the longest time until at most
// limit bytes are left. Blobs used within the last two hours stay in any case:
// a build that is running may need them. It returns the bytes removed.
func (s *Store) Trim(limit int64) (removed int64, err error) {
	type blob struct {
		name string
		size int64
		last time.Time
	}
	dir := filepath.Join(s.dir, "blobs", "sha256")
	list, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var all []blob
	var total int64
	for _, e := range list {
		fi, err := e.Info()
		if err != nil || !fi.Mode().IsRegular() {
			continue // another build removed it
		}
		all = append(all, blob{filepath.Join(dir, e.Name()), fi.Size(), fi.ModTime()})
		total += fi.Size()
	}
	slices.SortFunc(all, func(a, b blob) int { return cmp.Or(a.last.Compare(b.last), cmp.Compare(a.name, b.name)) })
	var errs []error
	for _, b := range all {
		if total <= limit || time.Since(b.last) < 2*used {
			break
		}
		if err := os.Remove(b.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		total -= b.size
		removed += b.size
	}
	return removed, errors.Join(errs...)
}
