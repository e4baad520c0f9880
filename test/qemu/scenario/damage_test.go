package scenario

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
	"slipway.dev/slipway/test/qemu/qemutest"
)

// TestDamagedBlobIsRefusedByName flips one bit of a blob on the medium: the
// node must name it and use nothing of it.
func TestDamagedBlobIsRefusedByName(t *testing.T) {
	for _, role := range []lock.Role{lock.RoleSystem, lock.RoleLayer} {
		t.Run(string(role), func(t *testing.T) {
			image, name := damaged(t, role)
			_, port := network(t)
			vm := qemutest.Start(t, qemu.Machine{Memory: 4096, Boot: qemu.CD(image), NICs: []*lan.Port{port}, CIDATA: newLogin(t).cidata("node-1")})
			e, err := vm.Wait(limit(t, 30*time.Minute), failed("SW-STORE-DIGEST"))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(e.Text, name) || e.Hint == "" {
				t.Errorf("the event does not name %q or the next step: %+v", name, e)
			}
			for _, seen := range vm.Console.Events() {
				if seen.Phase == "ready" || role == lock.RoleSystem && seen.Phase == "services" {
					t.Errorf("the node went on: %+v", seen)
				}
			}
			t.Logf("%s: %s", e.Code, e.Text)
		})
	}
}

// damaged copies the ISO, flips a bit in the middle of the first blob of a
// role, and returns the copy with the blob's name.
func damaged(t *testing.T, role lock.Role) (image, name string) {
	t.Helper()
	original := iso(t)
	image = filepath.Join(t.TempDir(), "damaged.iso")
	copyFile(t, image, original)
	blob := firstBlob(t, original, role)
	at := blobOffset(t, original, layout.Blobs+"/"+string(blob.SHA256)) + blob.Size/2
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	return image, blob.Name
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if _, err := io.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
}

func openISO(t *testing.T, image string) *iso9660.FileSystem {
	t.Helper()
	b, err := file.OpenFromPath(image, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	fi, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	fsys, err := iso9660.Read(b, fi.Size(), 0, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

func firstBlob(t *testing.T, image string, role lock.Role) lock.Blob {
	t.Helper()
	f, err := openISO(t, image).OpenFile("/"+layout.Manifest, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	var m lock.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	for _, b := range m.Blobs {
		if b.Role == role {
			return b
		}
	}
	t.Fatalf("no blob of role %q", role)
	return lock.Blob{}
}

func blobOffset(t *testing.T, image, name string) int64 {
	t.Helper()
	entries, err := openISO(t, image).ReadDir("/" + filepath.Dir(name))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(name) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		st, ok := info.Sys().(*iso9660.StatT)
		if !ok {
			t.Fatalf("no location of %s in %T", name, info.Sys())
		}
		return int64(st.Location) * 2048
	}
	t.Fatalf("%s is not on the medium", name)
	return 0
}
