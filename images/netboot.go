package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/store"
	"slipway.dev/slipway/images/iso9660"
	"slipway.dev/slipway/images/layout"
	finished "slipway.dev/slipway/images/medium"
)

// netboot writes the medium's content as a directory for any HTTP server: the
// kernel, the initramfs and the tree below layout.Dir, named as on the ISO.
// Blobs that are there already and right stay; the manifest is replaced after
// all its blobs are there, and what no manifest names any more goes last.
func (b *Builder) netboot(ctx context.Context, m *medium, dir string) ([]Artefact, error) {
	payload, err := m.payload()
	if err != nil {
		return nil, err
	}
	files := append(payload, m.files()...)
	sums := map[string]lock.Digest{}
	for _, s := range m.blobs {
		sums[finished.Path(s.Blob)] = s.sum()
	}
	// Blobs first, then what points at them.
	slices.SortStableFunc(files, func(a, b iso9660.File) int { return strings.Compare(rank(a.Path), rank(b.Path)) })
	var total, done int64
	for _, f := range files {
		total += f.Size
	}
	step := "writing " + filepath.Base(dir)
	b.Report(step, 0, total)
	var out []Artefact
	keep := map[string]bool{}
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name := filepath.Join(dir, filepath.FromSlash(f.Path))
		keep[name] = true
		sum, err := placeFile(name, f, sums[f.Path])
		if err != nil {
			return nil, fmt.Errorf("adding %s: %w", f.Path, err)
		}
		out = append(out, Artefact{name, f.Size, sum})
		done += f.Size
		b.Report(step, done, total)
	}
	slices.SortFunc(out, func(a, b Artefact) int { return strings.Compare(a.Path, b.Path) })
	return out, sweep(dir, keep)
}

func rank(name string) string {
	if strings.HasPrefix(name, layout.Blobs) || strings.HasPrefix(name, layout.Netboot) {
		return "0" + name
	}
	return "1" + name
}

// placeFile writes one file beside its name and renames it, unless a file with
// the same content is there. want may be empty for files that have no digest yet.
func placeFile(name string, f iso9660.File, want lock.Digest) (lock.Digest, error) {
	if want != "" {
		if old, err := os.Open(name); err == nil {
			sum, _, err := lock.Sum(old)
			old.Close()
			if err == nil && sum == want {
				return sum, nil
			}
		}
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return "", err
	}
	if err := store.Room(filepath.Dir(name), f.Size); err != nil {
		return "", err
	}
	in, err := f.Open()
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	h := newBackground()
	_, err = io.CopyBuffer(io.MultiWriter(out, h), struct{ io.Reader }{in}, make([]byte, 1<<20))
	sum := h.sum()
	if err != nil {
		return "", err
	}
	if err := errors.Join(out.Chmod(0o644), out.Sync(), out.Close()); err != nil {
		return "", err
	}
	return sum, os.Rename(out.Name(), name)
}

// sweep removes the regular files below dir that are not kept.
func sweep(dir string, keep map[string]bool) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || keep[name] {
			return err
		}
		return os.Remove(name)
	})
}
