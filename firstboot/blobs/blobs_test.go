package blobs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/images/layout"
)

func store(t *testing.T, contents ...string) (Dir, []lock.Blob) {
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
		if err := os.WriteFile(d.Path(b.SHA256), []byte(c), 0o644); err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return d, out
}

func TestVerify(t *testing.T) {
	d, b := store(t, strings.Repeat("content", 900_000))
	var last int64
	if err := Verify(t.Context(), d, b[0], func(n int64) { last = n }); err != nil || last != b[0].Size {
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
			d, b := store(t, strings.Repeat("content", 900_000))
			if err := breakIt.do(d.Path(b[0].SHA256)); err != nil {
				t.Fatal(err)
			}
			err := Verify(t.Context(), d, b[0], nil)
			if err == nil || !strings.HasPrefix(err.Error(), breakIt.want) {
				t.Errorf("got %v, want %s", err, breakIt.want)
			}
			if e, ok := errors.AsType[*DigestError](err); ok && (e.Blob.Name != "layers/a" || e.Got == e.Blob.SHA256) {
				t.Errorf("got %+v", e)
			}
		})
	}
}

func TestOnlyVerifiedLayersAreLinked(t *testing.T) {
	d, b := store(t, "one", "two", "three")
	if err := os.WriteFile(d.Path(b[1].SHA256), []byte("TWO"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	err := VerifyAll(t.Context(), d, b, func(x lock.Blob) error { return LinkLayer(out, d, x) })
	if e, ok := errors.AsType[*DigestError](err); !ok || e.Blob.Name != "layers/b" {
		t.Fatalf("got %v", err)
	}
	link := func(x lock.Blob) string {
		return filepath.Join(out, "sha256", string(x.DiffID[:2]), string(x.DiffID)+".erofs")
	}
	if _, err := os.Lstat(link(b[1])); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the wrong layer is there: %v", err)
	}
	if err := LinkLayer(out, d, b[0]); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(link(b[0])); string(raw) != "one" || err != nil {
		t.Errorf("layer reads %q, %v", raw, err)
	}
}

func TestVerifyThatIsCutShortProvesNothing(t *testing.T) {
	d, b := store(t, "content")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Verify(ctx, d, b[0], nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
