package oci

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"time"

	"crypto/sha256"
	"encoding/hex"

	"slipway.dev/slipway/bundle/lock"
)

// Epoch is the time of every file and every image: an image is a function of
// its content alone. Not 0, which some programs take for "unknown".
func Epoch() time.Time { return time.Unix(1, 0).UTC() }

// WriteTar writes entries as the tar whose digest is the layer's diffID: sorted
// by path, times fixed to Epoch, owners as numbers, POSIX pax headers only where
// ustar cannot hold the value (extended attributes, long names).
func WriteTar(ctx context.Context, w io.Writer, entries []Entry) error {
	sorted, err := canonical(entries)
	if err != nil {
		return err
	}
	return writeTar(ctx, w, sorted)
}

func writeTar(ctx context.Context, w io.Writer, sorted []Entry) error {
	tw := tar.NewWriter(w)
	buf := make([]byte, 256<<10)
	for _, e := range sorted {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := tw.WriteHeader(header(e)); err != nil {
			return fmt.Errorf("tar header of /%s: %w", e.Path, err)
		}
		if !e.Mode.IsRegular() || e.Size == 0 {
			continue
		}
		if err := copyContent(tw, e, buf); err != nil {
			return fmt.Errorf("adding /%s: %w", e.Path, err)
		}
	}
	return tw.Close()
}

func header(e Entry) *tar.Header {
	h := &tar.Header{Name: e.Path, Uid: e.UID, Gid: e.GID, ModTime: Epoch(), Mode: int64(e.Mode.Perm())}
	for bit, v := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if e.Mode&bit != 0 {
			h.Mode |= v
		}
	}
	switch e.Mode.Type() {
	case fs.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
	case fs.ModeSymlink:
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.Link, 0o777
	default:
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	}
	for k, v := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+k] = v // star's keyword, the one OCI runtimes read
	}
	return h
}

// copyContent copies exactly e.Size bytes; a source that is shorter or longer is an error.
func copyContent(w io.Writer, e Entry, buf []byte) error {
	r, err := e.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.LimitReader(r, e.Size)}, buf)
	if err != nil {
		return err
	}
	if n != e.Size {
		return fmt.Errorf("content is %d bytes, want %d", n, e.Size)
	}
	if n, _ := io.ReadFull(r, buf[:1]); n != 0 {
		return fmt.Errorf("content is longer than the %d bytes announced", e.Size)
	}
	return nil
}

// digestTar is the sha256 and length of the canonical tar, which is never stored.
func digestTar(ctx context.Context, sorted []Entry) (lock.Digest, int64, error) {
	h := sha256.New()
	var n counter
	if err := writeTar(ctx, io.MultiWriter(h, &n), sorted); err != nil {
		return "", 0, err
	}
	return lock.Digest(hex.EncodeToString(h.Sum(nil))), int64(n), nil
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
