package medium

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/layout"
)

// combined returns the files of a combined medium: two manifests, blobs once.
func combined(t *testing.T) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, a := range arch.All() {
		files, m := sample(t)
		m.Arch = a
		raw, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		files[layout.Manifest], files[layout.Signature] = raw, lock.Sign(key, raw)
		for name, content := range files {
			out[layout.For(string(a), name)] = content
		}
	}
	return out
}

func TestPartsOfACombinedMedium(t *testing.T) {
	pub := key.Public().(ed25519.PublicKey)
	for kind, write := range map[string]func(*testing.T, map[string][]byte) string{"directory": directory, "ISO": image} {
		t.Run(kind, func(t *testing.T) {
			m, err := Open(write(t, combined(t)))
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			parts, err := m.Parts()
			if err != nil || len(parts) != 2 {
				t.Fatalf("%d parts, %v", len(parts), err)
			}
			for i, a := range arch.All() {
				man, err := parts[i].Manifest(pub)
				if err != nil || man.Arch != a {
					t.Fatalf("part %d: %+v, %v", i, man, err)
				}
				if err := parts[i].Verify(t.Context(), man, nil); err != nil {
					t.Error(err)
				}
			}
			if _, err := m.Manifest(pub); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a combined medium has no manifest of its own: %v", err)
			}
		})
	}
}

func TestPartsOfAnOrdinaryMedium(t *testing.T) {
	files, _ := sample(t)
	m, err := Open(directory(t, files))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	parts, err := m.Parts()
	if err != nil || len(parts) != 1 || parts[0] != m {
		t.Errorf("%v, %v", parts, err)
	}
}

// A signed manifest in the other's place would boot a machine with content it cannot run.
func TestPartsAreWhatTheirNamesSay(t *testing.T) {
	files := combined(t)
	for _, name := range []string{layout.Manifest, layout.Signature} {
		files[layout.For(string(arch.ARM64), name)] = bytes.Clone(files[layout.For(string(arch.AMD64), name)])
	}
	m, err := Open(directory(t, files))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	parts, err := m.Parts()
	if err != nil || len(parts) != 2 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	if _, err := parts[1].Manifest(key.Public().(ed25519.PublicKey)); err == nil || !strings.Contains(err.Error(), "the manifest for arm64 is one for amd64") {
		t.Errorf("got %v", err)
	}
}
