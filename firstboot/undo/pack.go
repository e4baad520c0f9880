package undo

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/disks"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/images/bootdisk"
)

// Pack makes a saved beginning of what a disk holds in some places.
func Pack(head handoff.Saved, disk io.ReaderAt, at []bootdisk.Extent) ([]byte, error) {
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
	if err != nil {
		return nil, err
	}
	head.Format, head.Places = handoff.SavedFormat, nil
	for _, e := range at {
		if n, err := io.Copy(z, io.NewSectionReader(disk, e.At, e.Size)); err != nil || n != e.Size {
			return nil, fmt.Errorf("reading %d bytes at %d: %w", e.Size, e.At, errors.Join(io.ErrUnexpectedEOF, err, z.Close()))
		}
		head.Places = append(head.Places, handoff.Place{At: e.At, Size: e.Size})
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(packed.Bytes())
	head.SHA256 = hex.EncodeToString(sum[:])
	line, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	return append(append(line, '\n'), packed.Bytes()...), nil
}

// Unpack is what Pack was given, once it is known to be whole.
func Unpack(raw []byte) (head handoff.Saved, at []bootdisk.Extent, data []byte, err error) {
	line, packed, ok := bytes.Cut(raw, []byte("\n"))
	if !ok || len(line) > handoff.MaxSavedHead {
		return head, nil, nil, errors.New("no saved beginning: it does not begin with a line of JSON")
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return head, nil, nil, fmt.Errorf("no saved beginning: %w", err)
	}
	if head.Format != handoff.SavedFormat {
		return head, nil, nil, fmt.Errorf("saved beginning of format %d, want %d", head.Format, handoff.SavedFormat)
	}
	if sum := sha256.Sum256(packed); hex.EncodeToString(sum[:]) != head.SHA256 {
		return head, nil, nil, fmt.Errorf("digest mismatch: got %x, want %s", sum, head.SHA256)
	}
	all, end := int64(0), int64(0)
	for _, p := range head.Places {
		if p.Size <= 0 || p.At < end || p.Size > handoff.MaxPlaces {
			return head, nil, nil, fmt.Errorf("a place of %d bytes at %d", p.Size, p.At)
		}
		all, end = all+p.Size, p.At+p.Size
		at = append(at, bootdisk.Extent{At: p.At, Size: p.Size})
	}
	if all > handoff.MaxPlaces {
		return head, nil, nil, fmt.Errorf("%d bytes, want at most %d", all, handoff.MaxPlaces)
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(handoff.MaxPlaces+1))
	if err != nil {
		return head, nil, nil, err
	}
	defer z.Close()
	if data, err = z.DecodeAll(packed, nil); err == nil && int64(len(data)) != all {
		err = fmt.Errorf("%d bytes, want %d", len(data), all)
	}
	return head, at, data, err
}

// worth adds to the places that are overwritten those that tell what was on the
// disk: both ends of every partition, as many as there is room for. They are not
// needed to undo a wipe, and all that there is when it is too late for that.
// missed counts the partitions that there was no room for.
func worth(disk io.ReaderAt, size, sector int64, at []bootdisk.Extent) (out []bootdisk.Extent, missed int) {
	out = install.Merge(slices.Clone(at))
	t, _ := disks.ReadTable(disk, size, sector)
	for _, p := range t.Parts {
		if most := uint64(size / sector); p.Count == 0 || p.Start > most || p.Count > most-p.Start {
			continue
		}
		first, n := int64(p.Start)*sector, int64(p.Count)*sector
		edge := min(n, disks.Edge)
		ends := []bootdisk.Extent{{At: first, Size: edge}, {At: first + n - edge, Size: edge}}
		if !readable(disk, ends) {
			continue
		}
		more := install.Merge(slices.Concat(out, ends))
		if total(more) > handoff.MaxPlaces {
			missed++
			continue
		}
		out = more
	}
	return out, missed
}

func readable(disk io.ReaderAt, at []bootdisk.Extent) bool {
	for _, e := range at {
		if n, err := io.Copy(io.Discard, io.NewSectionReader(disk, e.At, e.Size)); err != nil || n != e.Size {
			return false
		}
	}
	return true
}

func total(at []bootdisk.Extent) (n int64) {
	for _, e := range at {
		n += e.Size
	}
	return n
}
