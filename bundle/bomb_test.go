package bundle

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/store"
)

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestTenGigabytesOfZeros: a .deb of some hundred kilobytes that would become
// 10 GB is refused by name, with flat memory and nothing left on the disk.
func TestTenGigabytesOfZeros(t *testing.T) {
	var data bytes.Buffer
	z, err := zstd.NewWriter(&data, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	const size = 10_000_000_000
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./zeros", Mode: 0o644, Size: size}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(zeros{}, size), make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	stanza := "Package: bomb\nVersion: 1\nArchitecture: all\nInstalled-Size: 100\nDescription: small\n"
	var control bytes.Buffer
	c := tar.NewWriter(&control)
	if err := c.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./control", Mode: 0o644, Size: int64(len(stanza))}); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, stanza)
	_ = c.Close()
	var raw bytes.Buffer
	raw.WriteString("!<arch>\n")
	for _, m := range []struct {
		name string
		body []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar", control.Bytes()}, {"data.tar.zst", data.Bytes()}} {
		fmt.Fprintf(&raw, "%-16s%-12d%-6d%-6d%-8s%-10d`\n%s%s", m.name, 0, 0, 0, "100644", len(m.body), m.body, strings.Repeat("\n", len(m.body)%2))
	}
	s, err := store.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := lock.Deb{Name: "bomb", Version: "1", Control: stanza}
	if d.SHA256, d.Size, err = s.Put(t.Context(), bytes.NewReader(raw.Bytes()), ""); err != nil {
		t.Fatal(err)
	}
	u := &deb.Unpacker{Cache: t.TempDir()}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = UnpackDeb(u, s, d)
	runtime.ReadMemStats(&after)
	if want := `deb "bomb_1": data.tar.zst: more than 67313664 bytes when decoded`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
		t.Errorf("unpacking allocated %d MB", grown>>20)
	}
	if left, _ := filepath.Glob(filepath.Join(u.Cache, "*")); len(left) > 0 {
		t.Errorf("left in the cache: %q", left)
	}
	if all, _ := os.ReadDir(u.Cache); len(all) > 0 {
		t.Errorf("left in the cache: %q", all[0].Name())
	}
	t.Logf("a .deb of %d bytes that becomes %d: %v", d.Size, int64(size), err)
}
