package qemu

import (
	"bytes"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
)

func TestCIDATAReadsBack(t *testing.T) {
	image := filepath.Join(t.TempDir(), "cidata.img")
	files := map[string][]byte{
		"user-data": []byte("#cloud-config\n"), "meta-data": []byte("instance-id: cp-1\n"),
		"network-config": nil, "slipway/extra.yaml": bytes.Repeat([]byte("x"), 100_000),
	}
	if err := WriteCIDATA(image, files); err != nil {
		t.Fatal(err)
	}
	b, err := file.OpenFromPath(image, true)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	v, err := fat32.Read(b, cidataSize, 0, 512)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(v.Label()); got != "CIDATA" {
		t.Errorf("label %q, want CIDATA", got)
	}
	for name, want := range files {
		if got, err := fs.ReadFile(v, name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %d bytes, %v; want %d", name, len(got), err, len(want))
		}
	}
}

func TestCIDATARefusesPaths(t *testing.T) {
	for _, name := range []string{"/etc/passwd", "../x", "a//b", "."} {
		err := WriteCIDATA(filepath.Join(t.TempDir(), "x.img"), map[string][]byte{name: nil})
		if err == nil || !strings.Contains(err.Error(), "clean relative path") {
			t.Errorf("%q: got %v", name, err)
		}
	}
}
