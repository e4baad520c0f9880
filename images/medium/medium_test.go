package medium

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/iso9660"
	"slipway.dev/slipway/images/layout"
)

var key = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

// sample returns the files of a medium: a kernel, a packed and a plain blob.
func sample(t *testing.T) (map[string][]byte, *lock.Manifest) {
	t.Helper()
	m := &lock.Manifest{Format: lock.ManifestFormat, Name: "t", Serial: 7, Arch: arch.AMD64, Built: time.Unix(1e9, 0).UTC(), Kubernetes: "v1.37.1"}
	files := map[string][]byte{}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		role lock.Role
		size int
		pack bool
	}{{"boot/vmlinuz", lock.RoleKernel, 4000, false}, {"images.tar", lock.RoleImages, 70_000, false}, {"system.erofs", lock.RoleSystem, lock.ChunkSize + 9, true}, {"netboot/shimx64.efi", lock.RoleLoader, 900, false}} {
		plain := bytes.Repeat([]byte(c.name+"\n"), c.size/len(c.name))
		b := lock.Blob{Name: c.name, Role: c.role, Size: int64(len(plain)), SHA256: lock.SumBytes(plain)}
		if b.Chunks, err = lock.Chunks(bytes.NewReader(plain), b.Size); err != nil {
			t.Fatal(err)
		}
		stored := plain
		if c.pack {
			stored = nil
			for at := 0; at < len(plain); at += lock.ChunkSize {
				f := enc.EncodeAll(plain[at:min(len(plain), at+lock.ChunkSize)], nil)
				stored, b.Frames = append(stored, f...), append(b.Frames, int64(len(f)))
			}
		}
		m.Blobs = append(m.Blobs, b)
		files[Path(b)] = stored
	}
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	files[layout.Manifest], files[layout.Signature] = raw, lock.Sign(key, raw)
	return files, m
}

func directory(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, raw := range files {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, raw, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func image(t *testing.T, files map[string][]byte) string {
	t.Helper()
	v := iso9660.Volume{ID: layout.Volume, Time: time.Unix(1e9, 0)}
	for name, raw := range files {
		v.Files = append(v.Files, iso9660.File{Path: name, Mode: 0o444, Size: int64(len(raw)), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }})
	}
	im, err := iso9660.Plan(v)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "x.iso")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(im.Write(t.Context(), f, nil), f.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}

func verify(t *testing.T, name string, pub ed25519.PublicKey) error {
	t.Helper()
	m, err := Open(name)
	if err != nil {
		return err
	}
	defer m.Close()
	man, err := m.Manifest(pub)
	if err != nil {
		return err
	}
	return m.Verify(t.Context(), man, nil)
}

func TestVerify(t *testing.T) {
	pub := key.Public().(ed25519.PublicKey)
	for kind, write := range map[string]func(*testing.T, map[string][]byte) string{"directory": directory, "ISO": image} {
		for _, c := range []struct {
			name  string
			spoil func(map[string][]byte, string)
			want  string
		}{
			{"good", func(map[string][]byte, string) {}, ""},
			{"a flipped bit in a frame", func(f map[string][]byte, packed string) { f[packed][len(f[packed])/2] ^= 4 }, `blob "system.erofs": `},
			{"a flipped bit in the kernel", func(f map[string][]byte, _ string) { f["boot/vmlinuz"][99] ^= 4 }, `blob "boot/vmlinuz": digest mismatch in the chunk at byte 0: got `},
			{"a short blob", func(f map[string][]byte, packed string) { f[packed] = f[packed][1:] }, `blob "system.erofs": size mismatch: got `},
			{"a missing blob", func(f map[string][]byte, packed string) { delete(f, packed) }, `blob "system.erofs": `},
			{"a changed manifest", func(f map[string][]byte, _ string) {
				f[layout.Manifest] = bytes.Replace(f[layout.Manifest], []byte(`"serial": 7`), []byte(`"serial": 8`), 1)
			}, "signature does not match key"},
			{"no manifest", func(f map[string][]byte, _ string) { delete(f, layout.Manifest) }, layout.Manifest},
		} {
			t.Run(kind+"/"+c.name, func(t *testing.T) {
				files, m := sample(t)
				c.spoil(files, Path(m.Blobs[2]))
				err := verify(t, write(t, files), pub)
				if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("got %v, want %q", err, c.want)
				}
			})
		}
	}
}

func TestPathsDoNotLeaveADirectory(t *testing.T) {
	files, _ := sample(t)
	dir := directory(t, files)
	outside := filepath.Join(filepath.Dir(dir), "secret")
	if err := os.WriteFile(outside, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(outside)
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	m, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, name := range []string{"../secret", "link", "slipway/../../secret", outside, "slipway"} {
		if f, _, err := m.Open(name); err == nil {
			f.Close()
			t.Errorf("%q was opened", name)
		}
	}
	if _, _, err := m.Open("nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// A web server sends a file of an image from where it is in the image.
func TestFilesOfAnImageSayWhereTheyAre(t *testing.T) {
	files, man := sample(t)
	m, err := Open(image(t, files))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, b := range man.Blobs {
		f, size, err := m.Open(Path(b))
		if err != nil {
			t.Fatal(err)
		}
		s, ok := f.(interface {
			Outer() (io.ReaderAt, int64, int64)
		})
		if !ok {
			t.Fatalf("%s: %T has no Outer", b.Name, f)
		}
		outer, at, n := s.Outer()
		got := make([]byte, size)
		if _, err := outer.ReadAt(got, at); err != nil || n != size || outer != io.ReaderAt(m.file) || !bytes.Equal(got, files[Path(b)]) {
			t.Errorf("%s: %d bytes at %d of %T, %v", b.Name, n, at, outer, err)
		}
	}
}
