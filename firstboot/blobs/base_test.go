package blobs

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"slipway.dev/slipway/bundle/lock"
)

// random is bytes that no two seeds share.
func random(seed uint64, n int) []byte {
	out := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(out)
	return out
}

func blocks(t *testing.T, b []byte) []byte {
	t.Helper()
	list, err := lock.Blocks(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestCopyTakesWhatTheBaseHas holds that only blocks that the older version does
// not have are asked of the source, and that an older version that is not what its
// list says costs a chunk and no more.
func TestCopyTakesWhatTheBaseHas(t *testing.T) {
	const block = lock.BlockSize
	old := random(1, 3*lock.ChunkSize)
	fresh := random(2, 16*block)
	// A block at the front, by which all else moves; a run without one of its
	// blocks; two changes with little between them; an end that is no block.
	now := bytes.Join([][]byte{fresh[:block], old[:lock.ChunkSize], old[lock.ChunkSize+block : 2*lock.ChunkSize], fresh[block : 2*block],
		old[2*lock.ChunkSize : 2*lock.ChunkSize+2*block], fresh[2*block : 3*block], old[2*lock.ChunkSize:], fresh[3*block : 3*block+100]}, nil)
	d, all := filled(t, string(now))
	b := all[0]
	damaged := bytes.Clone(old)
	damaged[lock.ChunkSize/2] ^= 1
	packed, frames := b, []byte(nil)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(now); at += lock.ChunkSize {
		f := enc.EncodeAll(now[at:min(len(now), at+lock.ChunkSize)], nil)
		frames, packed.Frames = append(frames, f...), append(packed.Frames, int64(len(f)))
	}
	if err := os.WriteFile(d.Source.Local(packed), frames, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		blob lock.Blob
		base *Base
		want int64 // bytes asked of the source
	}{
		{"no base", b, nil, b.Size},
		{"the older version", b, NewBase(bytes.NewReader(old), blocks(t, old), blocks(t, now)), 1*block + 4*block + 100},
		{"nothing in common", b, NewBase(bytes.NewReader(fresh), nil, blocks(t, now)), b.Size},
		{"the older version is damaged", b, NewBase(bytes.NewReader(damaged), blocks(t, old), blocks(t, now)), lock.ChunkSize + 1*block + 4*block + 100},
		{"the older version is cut short", b, NewBase(bytes.NewReader(old[:lock.ChunkSize]), blocks(t, old), blocks(t, now)), -1},
		{"a list that is cut short", b, NewBase(bytes.NewReader(old), blocks(t, old), blocks(t, now)[:99]), -1},
		{"lists of something else", b, NewBase(bytes.NewReader(old), blocks(t, now), blocks(t, old)), -1},
		{"the source is packed", packed, NewBase(bytes.NewReader(old), blocks(t, old), blocks(t, now)), packed.Frames[0] + packed.Frames[2] + packed.Frames[3]},
	} {
		t.Run(tc.name, func(t *testing.T) {
			to := filepath.Join(t.TempDir(), "blob")
			c := &counting{Source: d.Source}
			if err := Copy(t.Context(), c, tc.blob, tc.base, to, nil); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(to)
			if err != nil || !bytes.Equal(got, now) {
				t.Errorf("%d bytes that differ (%v)", len(got), err)
			}
			if tc.want >= 0 && c.bytes != tc.want {
				t.Errorf("%d bytes asked of the source, want %d", c.bytes, tc.want)
			}
		})
	}
}
