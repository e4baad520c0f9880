package combined

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/medium"
)

var (
	key = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	pub = key.Public().(ed25519.PublicKey)
)

// blob makes an entry of a manifest and the bytes stored for it.
func blob(t *testing.T, name string, role lock.Role, plain []byte, pack bool) (lock.Blob, []byte) {
	t.Helper()
	b := lock.Blob{Name: name, Role: role, Size: int64(len(plain)), SHA256: lock.SumBytes(plain)}
	var err error
	if b.Chunks, err = lock.Chunks(bytes.NewReader(plain), b.Size); err != nil {
		t.Fatal(err)
	}
	if !pack {
		return b, plain
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var stored []byte
	for at := 0; at < len(plain); at += lock.ChunkSize {
		f := enc.EncodeAll(plain[at:min(len(plain), at+lock.ChunkSize)], nil)
		stored, b.Frames = append(stored, f...), append(b.Frames, int64(len(f)))
	}
	return b, stored
}

const sharedSize = lock.ChunkSize + 77

// part is the netboot directory of one architecture, and its loaders. Both have
// one blob in common, which this one may name twice.
func part(t *testing.T, a arch.Arch, change func(*lock.Manifest)) (Part, string) {
	t.Helper()
	m := &lock.Manifest{Format: lock.ManifestFormat, Name: "t", Serial: 7, Arch: a, Built: time.Unix(1e9, 0).UTC(), Kubernetes: "v1.37.1"}
	dir := t.TempDir()
	put := func(name string, raw []byte) {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, raw, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	own := func(n int) []byte { return bytes.Repeat([]byte(a+"!"), n) }
	for _, c := range []struct {
		name  string
		role  lock.Role
		plain []byte
		pack  bool
	}{{"boot/vmlinuz", lock.RoleKernel, own(1000), false}, {"boot/initrd.img", lock.RoleInitramfs, own(2000), false}, {"netboot/cmdline", lock.RoleLoader, own(3), false},
		{"system.erofs", lock.RoleSystem, own(2_000_000), true}, {"layers/own", lock.RoleLayer, own(900_000), false},
		{"layers/shared", lock.RoleLayer, make([]byte, sharedSize), false}, {"layers/again", lock.RoleLayer, make([]byte, sharedSize), false}} {
		b, stored := blob(t, c.name, c.role, c.plain, c.pack)
		m.Blobs = append(m.Blobs, b)
		put(medium.Path(b), stored)
	}
	if change != nil {
		change(m)
	}
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	put(layout.Manifest, raw)
	put(layout.Signature, lock.Sign(key, raw))
	md, err := medium.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { md.Close() })
	pkg := images.Package{Name: "loaders"}
	for _, n := range []string{"usr/lib/ISOLINUX/isolinux.bin", "usr/lib/ISOLINUX/isohdpfx.bin", "usr/lib/syslinux/modules/bios/ldlinux.c32", "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed",
		"usr/lib/grub/arm64-efi-signed/gcdaa64.efi.signed", "usr/lib/shim/shim" + a.EFI() + ".efi.signed", "usr/lib/shim/mm" + a.EFI() + ".efi.signed"} {
		text := strings.Repeat("loader", 200)
		pkg.Files = append(pkg.Files, deb.File{Path: n, Mode: 0o644, Size: int64(len(text)), Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }})
	}
	return Part{Medium: md, Loader: []images.Package{pkg}, Boot: images.Boot{Cmdline: boot.Cmdline{Consoles: []string{a.Console()}},
		NoCloud: map[string][]byte{"user-data": []byte("#cloud-config\n")}}}, dir
}

func quiet(string, int64, int64) {}

func write(t *testing.T, parts ...Part) (images.Artefact, *Image, error) {
	t.Helper()
	im, err := Plan(parts, pub)
	if err != nil {
		return images.Artefact{}, nil, err
	}
	a, err := im.Write(t.Context(), filepath.Join(t.TempDir(), "x.iso"), quiet)
	return a, im, err
}

func TestCombined(t *testing.T) {
	amd, _ := part(t, arch.AMD64, nil)
	arm, _ := part(t, arch.ARM64, nil)
	one, im, err := write(t, amd, arm)
	if err != nil {
		t.Fatal(err)
	}
	if im.Shared != sharedSize {
		t.Errorf("%d bytes are shared, want %d", im.Shared, int64(sharedSize))
	}
	if two, _, err := write(t, amd, arm); err != nil || two.SHA256 != one.SHA256 {
		t.Errorf("another image of the same media: %s and %s, %v", one.SHA256, two.SHA256, err)
	}
	m, err := medium.Open(one.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	parts, err := m.Parts()
	if err != nil || len(parts) != 2 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	for i, from := range []Part{amd, arm} {
		man, err := parts[i].Manifest(pub)
		if err != nil {
			t.Fatal(err)
		}
		if err := parts[i].Verify(t.Context(), man, nil); err != nil {
			t.Errorf("%s: %v", man.Arch, err)
		}
		for _, name := range []string{layout.Manifest, layout.Signature} {
			got, err1 := parts[i].ReadFile(name)
			want, err2 := from.Medium.ReadFile(name)
			if err1 != nil || err2 != nil || !bytes.Equal(got, want) {
				t.Errorf("%s of %s is not the medium's own: %v, %v", name, man.Arch, err1, err2)
			}
		}
		if text, err := parts[i].ReadFile(layout.Seed + "/user-data"); err != nil || string(text) != "#cloud-config\n" {
			t.Errorf("config: %q, %v", text, err)
		}
	}
}

func TestCombinedRefuses(t *testing.T) {
	amd, _ := part(t, arch.AMD64, nil)
	again, _ := part(t, arch.AMD64, nil)
	newer, _ := part(t, arch.ARM64, func(m *lock.Manifest) { m.Serial++ })
	for want, parts := range map[string][]Part{
		"want media of at least two architectures, got 1": {amd},
		"two media for amd64":                             {amd, again},
		`the media are of different bundles: "t" serial 7, Kubernetes v1.37.1, and "t" serial 8, Kubernetes v1.37.1`: {amd, newer},
	} {
		if _, _, err := write(t, parts...); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

// A medium that lost a bit ends the write with the blob's name, packed or not.
func TestCombinedVerifiesWhatItWrites(t *testing.T) {
	for _, name := range []string{"system.erofs", "layers/own", "boot/vmlinuz"} {
		amd, _ := part(t, arch.AMD64, nil)
		arm, dir := part(t, arch.ARM64, nil)
		man, err := arm.Medium.Manifest(pub)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range man.Blobs {
			if b.Name != name {
				continue
			}
			file := filepath.Join(dir, medium.Path(b))
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			raw[len(raw)/2] ^= 4
			if err := os.WriteFile(file, raw, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := write(t, amd, arm); err == nil || !strings.Contains(err.Error(), `blob "`+name+`": `) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
