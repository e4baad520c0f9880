package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/test/crash"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
)

// TestDamagedBlobIsRefusedByName flips one bit of a blob on the medium: the
// node must name it and use nothing of it.
func TestDamagedBlobIsRefusedByName(t *testing.T) {
	for _, role := range []lock.Role{lock.RoleSystem, lock.RoleLayer} {
		t.Run(string(role), func(t *testing.T) {
			image, name := damaged(t, role)
			_, port := network(t)
			vm := start(t, qemu.Machine{Memory: 4096, Boot: qemu.CD(image), NICs: []*lan.Port{port}, CIDATA: newLogin(t).cidata("node-1"), Tolerate: failed("SW-STORE-DIGEST")})
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
	m, starts, err := contents(original)
	if err != nil {
		t.Fatal(err)
	}
	blob := m.Blobs[slices.IndexFunc(m.Blobs, func(b lock.Blob) bool { return b.Role == role })]
	at := starts[blob.SHA256] + blob.Size/2
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

// copyFile copies what a sparse file holds.
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
	fi, err := src.Stat()
	if err == nil {
		err = crash.Sparse(dst, src, fi.Size())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// openImage reads the file system of an ISO; the file stays open as long as the process.
func openImage(image string) (*iso9660.FileSystem, error) {
	b, err := file.OpenFromPath(image, true)
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(image)
	if err != nil {
		return nil, err
	}
	return iso9660.Read(b, fi.Size(), 0, 2048)
}

// offsets are the bytes at which the files of a directory begin, by digest name.
func offsets(fsys *iso9660.FileSystem, dir string) (map[lock.Digest]int64, error) {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	out := map[lock.Digest]int64{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		st, ok := info.Sys().(*iso9660.StatT)
		if !ok {
			return nil, fmt.Errorf("%s: no location in %T", e.Name(), info.Sys())
		}
		out[lock.Digest(e.Name())] = int64(st.Location) * 2048
	}
	return out, nil
}
