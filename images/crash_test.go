package images

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/store"
	finished "slipway.dev/slipway/images/medium"
)

var signer = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

// TestMain is also the process that TestKilledBuilds kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SLIPWAY_TEST_BUILD"); dir != "" {
		var serial uint64
		_, _ = fmt.Sscan(os.Getenv("SLIPWAY_TEST_SERIAL"), &serial)
		if err := small(dir, serial, true); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// small builds a bundle of a few megabytes, which differs by serial, below dir.
func small(dir string, serial uint64, pack bool) error {
	c := bootable(serial)
	c.Pack = pack
	prog, size, err := goProgram(dir)
	if err != nil {
		return err
	}
	for n, p := range c.Programs {
		p.Path, p.Size = prog, size
		c.Programs[n] = p
	}
	p, err := Assemble(c, modules)
	if err != nil {
		return err
	}
	s, err := store.New(filepath.Join(dir, "cache"))
	if err != nil {
		return err
	}
	out := filepath.Join(dir, "out")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	b := &Builder{Store: s, Cache: filepath.Join(dir, "cache"), Out: out, Key: signer, Report: func(string, int64, int64) {}}
	_, err = b.Build(context.Background(), p)
	return err
}

// goProgram is a small program with its modules written into it, as all programs are.
func goProgram(dir string) (name string, size int64, err error) {
	name = filepath.Join(dir, "program")
	fi, err := os.Stat(name)
	if err == nil {
		return name, fi.Size(), nil
	}
	source := filepath.Join(dir, "program.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		return "", 0, err
	}
	if out, err := exec.Command("go", "build", "-ldflags", "-s -w", "-o", name, source).CombinedOutput(); err != nil {
		return "", 0, fmt.Errorf("%w: %s", err, out)
	}
	fi, err = os.Stat(name)
	if err != nil {
		return "", 0, err
	}
	return name, fi.Size(), nil
}

// bootable is sample with loaders and a root of some megabytes.
func bootable(serial uint64) *Content {
	c := sample()
	c.Serial, c.PublicKey = serial, signer.Public().(ed25519.PublicKey)
	noise := bytes.Repeat(fmt.Appendf(nil, "serial %d ", serial), 600_000)
	c.System.Packages[0].Files = append(c.System.Packages[0].Files, deb.File{Path: "usr/share/noise", Mode: 0o644, Size: int64(len(noise)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(noise)), nil }})
	loader := Package{Name: "loaders", Version: "1"}
	for _, n := range []string{"usr/lib/ISOLINUX/isolinux.bin", "usr/lib/ISOLINUX/isohdpfx.bin", "usr/lib/syslinux/modules/bios/ldlinux.c32", "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed",
		"usr/lib/shim/shimx64.efi.signed", "usr/lib/shim/mmx64.efi.signed", "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "usr/lib/ipxe/undionly.kpxe"} {
		loader.Files = append(loader.Files, file(n, strings.Repeat("loader", 200)))
	}
	c.Loader = []Package{loader}
	return c
}

// serialOf verifies a finished medium whole and returns its serial.
func serialOf(dir, name string) (uint64, error) {
	m, err := finished.Open(filepath.Join(dir, "out", name))
	if err != nil {
		return 0, err
	}
	defer m.Close()
	man, err := m.Manifest(signer.Public().(ed25519.PublicKey))
	if err != nil {
		return 0, err
	}
	return man.Serial, m.Verify(context.Background(), man, nil)
}

// TestKilledBuilds ends builds with SIGKILL at random moments: the ISO is
// always a whole one, old or new, and the next build is whole again.
func TestKilledBuilds(t *testing.T) {
	dir := t.TempDir()
	if err := small(dir, 1, true); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := small(dir, 2, true); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	killed, old := 0, 0
	for i := range 30 {
		serial := uint64(3 + i)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "SLIPWAY_TEST_BUILD="+dir, fmt.Sprintf("SLIPWAY_TEST_SERIAL=%d", serial))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.Int64N(int64(2 * took))))
		_ = cmd.Process.Kill()
		if cmd.Wait() != nil {
			killed++
		}
		iso, err := serialOf(dir, "t-amd64.iso")
		if err != nil {
			t.Fatalf("after %d kills: %v", killed, err)
		}
		if iso != serial {
			old++
		}
	}
	if killed < 5 {
		t.Errorf("only %d of 30 builds were killed before they ended", killed)
	}
	t.Logf("%d of 30 builds killed, %d left the earlier ISO, all ISOs whole", killed, old)
	for _, name := range []string{".t-amd64.iso-1", ".t-amd64.manifest.json-2", ".t-amd64.cdx.json-3"} {
		if err := os.WriteFile(filepath.Join(dir, "out", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := small(dir, 99, true); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"t-amd64.iso", "t-amd64-netboot"} {
		if serial, err := serialOf(dir, name); err != nil || serial != 99 {
			t.Errorf("the build after: %s: serial %d, %v", name, serial, err)
		}
	}
	if litter, _ := filepath.Glob(filepath.Join(dir, "out", ".t-amd64*")); len(litter) > 0 {
		t.Errorf("killed builds left %q", litter)
	}
	left, err := filepath.Glob(filepath.Join(dir, "out", "t-amd64-netboot", "slipway", "blobs", "sha256", "*"))
	if err != nil || len(left) > 3 {
		t.Errorf("%d files in the netboot directory's blobs: %q", len(left), left)
	}
}

// TestFullDisk builds onto a file system with too little room: the error says
// how much is missing, and the earlier results are still right.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	for _, room := range []uint64{5, 35, 65} { // MiB left: none for the root, the ISO, the netboot files
		t.Run(fmt.Sprint(room), func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Mount("full", dir, "tmpfs", 0, "size=400m"); err != nil {
				t.Skipf("mounting a tmpfs: %v", err)
			}
			defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
			if err := small(dir, 1, false); err != nil {
				t.Fatal(err)
			}
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil {
				t.Fatal(err)
			}
			used := (st.Blocks - st.Bfree) * uint64(st.Bsize)
			if err := unix.Mount("full", dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", used+room<<20)); err != nil {
				t.Fatal(err)
			}
			err := small(dir, 2, false)
			var none *store.RoomError
			if !errors.As(err, &none) && !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("got %v, want an error about space", err)
			}
			t.Logf("%d MiB left: %v", room, err)
			if iso, err := serialOf(dir, "t-amd64.iso"); err != nil || iso == 0 {
				t.Errorf("the earlier ISO: serial %d, %v", iso, err)
			}
		})
	}
}

// A cache that lost a bit cannot reach a medium.
func TestDamagedCacheIsNamed(t *testing.T) {
	dir := t.TempDir()
	if err := small(dir, 1, false); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "out", "t-amd64.manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := lock.Open(signer.Public().(ed25519.PublicKey), raw, lock.Sign(signer, raw))
	if err != nil {
		t.Fatal(err)
	}
	sys, err := m.Find(lock.RoleSystem)
	if err != nil {
		t.Fatal(err)
	}
	// An image layer stays in the cache from build to build; here the same file plays its part.
	name := filepath.Join(dir, "cache", "blobs", "sha256", string(sys.SHA256))
	blob, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	blob[len(blob)/2] ^= 1
	layer := filepath.Join(dir, "layer")
	if err := os.WriteFile(layer, blob, 0o644); err != nil {
		t.Fatal(err)
	}
	s := Stored{Blob: sys, Path: layer}
	f, err := s.open()()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(io.Discard, f); err == nil || !strings.Contains(err.Error(), "digest mismatch: got ") {
		t.Errorf("got %v", err)
	}
}
