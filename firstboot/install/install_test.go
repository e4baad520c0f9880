package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/medium"
)

// loopDisk is a sparse file as a real block device.
func loopDisk(t *testing.T, size int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: block devices cannot be made")
	}
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	return loop(t, name)
}

func loop(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("losetup", append([]string{"-f", "--show"}, args...)...).CombinedOutput()
	if err != nil {
		t.Skipf("this host gives no loop device: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup -d %s: %v: %s", dev, err, out)
		}
	})
	return dev
}

// machine stands a loop device in for each partition: not every kernel that a
// test runs on reads partition tables.
func machine(t *testing.T) Machine {
	t.Helper()
	parts := map[string]string{}
	if _, err := os.Stat("/" + layout.Mke2fs); err != nil {
		t.Skipf("no e2fsprogs: %v", err)
	}
	find := func(_ context.Context, disk string, p bootdisk.Partition) (string, error) {
		key := fmt.Sprint(disk, p.First)
		if parts[key] == "" {
			parts[key] = loop(t, "-o", fmt.Sprint(p.First), "--sizelimit", fmt.Sprint(p.Size), disk)
		}
		return parts[key], nil
	}
	return Machine{Partition: find, Sys: "/sys", Dev: "/dev", Mounts: t.TempDir(), Arch: arch.AMD64, Load: func(string) error { return nil },
		Tell: func(s string) { t.Log(s) },
		Run: func(ctx context.Context, argv []string) error {
			out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%q: %w: %s", argv, err, out)
			}
			return nil
		}}
}

// bundle is a medium in a directory with what a bundle has at least.
func bundle(t *testing.T, system string) Bundle {
	t.Helper()
	dir := t.TempDir()
	m := &lock.Manifest{Format: lock.ManifestFormat, Name: "test", Serial: 7, Arch: arch.AMD64}
	add := func(name string, role lock.Role, content string) {
		raw := []byte(content)
		chunks, err := lock.Chunks(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			t.Fatal(err)
		}
		b := lock.Blob{Name: name, Role: role, Size: int64(len(raw)), SHA256: lock.SumBytes(raw), Chunks: chunks}
		at := filepath.Join(dir, medium.Path(b))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, raw, 0o644); err != nil {
			t.Fatal(err)
		}
		m.Blobs = append(m.Blobs, b)
	}
	add("boot/vmlinuz", lock.RoleKernel, strings.Repeat("kernel", 1000))
	add("boot/initrd.img", lock.RoleInitramfs, strings.Repeat("initramfs", 9999))
	add("system.erofs", lock.RoleSystem, system)
	for _, n := range []string{"shimx64.efi", "grubx64.efi", "mmx64.efi", "isohdpfx.bin", "isolinux.bin", "ldlinux.c32"} {
		add("disk/"+n, lock.RoleDiskLoader, strings.Repeat(n, 100))
	}
	list, err := lock.Blocks(strings.NewReader(system))
	if err != nil {
		t.Fatal(err)
	}
	add(lock.BlocksName("system.erofs"), lock.RoleBlocks, string(list))
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return Bundle{Manifest: m, Raw: raw, Signature: []byte("signed"), From: blobs.Dir(dir)}
}

func loaders(t *testing.T, b Bundle) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, x := range b.Manifest.Blobs {
		if x.Role != lock.RoleDiskLoader {
			continue
		}
		raw, err := os.ReadFile(b.From.Local(x))
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimPrefix(x.Name, "disk/")] = raw
	}
	return out
}

const enough = 12 << 30

func begin(t *testing.T, m Machine, dev string, o Owner, b Bundle) *Disk {
	t.Helper()
	d, err := Begin(t.Context(), m, dev, o, 1<<20, loaders(t, b))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Unmount)
	return d
}

func read(t *testing.T, dev string) *bootdisk.Found {
	t.Helper()
	d, err := open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f, err := bootdisk.Read(d, d.geometry)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestInstallThenFind(t *testing.T) {
	m, dev := machine(t), loopDisk(t, enough)
	o, b := Owner{"node-1", "i-1"}, bundle(t, "one system")
	d := begin(t, m, dev, o, b)
	if err := d.KeepConfig(map[string][]byte{"user-data": []byte("#cloud-config\n")}); err != nil {
		t.Fatal(err)
	}
	var total int64
	if err := d.Fill(t.Context(), bootdisk.A, b, func(done, all int64) { total = done }); err != nil {
		t.Fatal(err)
	}
	if err := d.Startable(bootdisk.A, b.Manifest, boot.Cmdline{Consoles: []string{"ttyS0"}}); err != nil {
		t.Fatal(err)
	}
	if f := read(t, dev); f.Active {
		t.Fatal("the disk starts before it was finished")
	}
	if err := d.Finish(bootdisk.A, b.Manifest); err != nil {
		t.Fatal(err)
	}
	f := read(t, dev)
	if want := "console=ttyS0 slipway.disk=" + o.ID().String() + " slipway.slot=a"; !f.Active || !f.Table || f.Boot() != bootdisk.A || f.Slots[bootdisk.A].Cmdline != want {
		t.Errorf("the disk says %+v", f)
	}
	d.Unmount()

	found := Find([]string{dev, "/dev/null"})
	if len(found) != 1 || found[0].ID != o.ID() || !found[0].Active {
		t.Fatalf("found %+v", found)
	}
	again, err := Open(t.Context(), m, found[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Unmount)
	if again.Record.Progress != Installed || again.Record.Node != "node-1" || again.Record.Bundle != "test 7" {
		t.Errorf("record %+v", again.Record)
	}
	files, err := again.Config()
	if err != nil || string(files["user-data"]) != "#cloud-config\n" {
		t.Errorf("config %q, %v", files, err)
	}
	sys, _ := b.Manifest.Find(lock.RoleSystem)
	if raw, err := os.ReadFile(again.Blob(bootdisk.A, sys)); string(raw) != "one system" || err != nil {
		t.Errorf("system %q, %v", raw, err)
	}
	var want int64
	for _, x := range b.Manifest.Blobs {
		want += x.Size
	}
	if total != want {
		t.Errorf("progress ended at %d of %d bytes", total, want)
	}
}

func TestTheOtherSlotSharesWhatIsEqual(t *testing.T) {
	m, dev := machine(t), loopDisk(t, enough)
	one, two := bundle(t, "one system"), bundle(t, "another system")
	d := begin(t, m, dev, Owner{"node-1", "i-1"}, one)
	quiet := func(int64, int64) {}
	for s, b := range map[bootdisk.Slot]Bundle{bootdisk.A: one} {
		if err := d.Fill(t.Context(), s, b, quiet); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Fill(t.Context(), bootdisk.B, two, quiet); err != nil {
		t.Fatal(err)
	}
	for i, x := range two.Manifest.Blobs {
		a, err := os.Stat(d.Blob(bootdisk.A, one.Manifest.Blobs[i]))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.Stat(d.Blob(bootdisk.B, x))
		if err != nil {
			t.Fatal(err)
		}
		if same := os.SameFile(a, b); same == (x.Role == lock.RoleSystem || x.Role == lock.RoleBlocks) {
			t.Errorf("%s: one file for both slots: %t", x.Name, same)
		}
	}
}

func TestBeginAgain(t *testing.T) {
	m, dev := machine(t), loopDisk(t, enough)
	o, b := Owner{"node-1", "i-1"}, bundle(t, "one system")
	d := begin(t, m, dev, o, b)
	if err := os.WriteFile(filepath.Join(d.State, "kept"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Unmount()
	d = begin(t, m, dev, o, b)
	if _, err := os.Stat(filepath.Join(d.State, "kept")); err != nil {
		t.Errorf("the second try did not go on with the first: %v", err)
	}
	// Without the record the first try got no further than its file systems.
	if err := os.Remove(filepath.Join(d.Store, recordFile)); err != nil {
		t.Fatal(err)
	}
	d.Unmount()
	if _, err := Open(t.Context(), m, Find([]string{dev})[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a disk that was only begun opens: %v", err)
	}
	d = begin(t, m, dev, o, b)
	if _, err := os.Stat(filepath.Join(d.State, "kept")); err == nil {
		t.Error("the file systems were not made again")
	}
	d.Unmount()
	d = begin(t, m, dev, Owner{"node-2", "i-2"}, b)
	if d.Record.Node != "node-2" || d.ID == o.ID() {
		t.Errorf("another node's disk is %+v", d.Record)
	}
}

// mounted says how often a directory is mounted on.
func mounted(t *testing.T, dir string) int {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(raw), " "+dir+" ")
}

// A power cut between the two file systems leaves one that mounts. It must not
// stay mounted when the disk is begun again: the kernel would refuse its table.
func TestHalfOfTheVolumes(t *testing.T) {
	m, dev := machine(t), loopDisk(t, enough)
	o, b := Owner{"node-1", "i-1"}, bundle(t, "one system")
	d := begin(t, m, dev, o, b)
	state, err := m.partition(t.Context(), dev, d.plan.State())
	if err != nil {
		t.Fatal(err)
	}
	d.Unmount()
	f, err := os.OpenFile(state, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range marks(d.plan.State()) { // as Begin leaves them before mke2fs
		if _, err := f.WriteAt(w.Data, w.At-d.plan.State().First); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), m, Find([]string{dev})[0]); err == nil {
		t.Error("a disk without a state volume opens")
	}
	if n := mounted(t, d.Store); n != 0 {
		t.Fatalf("the store is mounted %d times after that", n)
	}
	d = begin(t, m, dev, o, b)
	if s, v := mounted(t, d.Store), mounted(t, d.State); s != 1 || v != 1 {
		t.Errorf("store and state are mounted %d and %d times, want each once", s, v)
	}
}

func TestRefusals(t *testing.T) {
	m := machine(t)
	b := bundle(t, "system")
	code := func(err error) string {
		f, _ := errors.AsType[*report.Failure](err)
		if f == nil {
			return fmt.Sprint(err)
		}
		return f.Code
	}
	small := loopDisk(t, 3<<30)
	if _, err := Begin(t.Context(), m, small, Owner{"n", "i"}, 1<<20, loaders(t, b)); code(err) != "SW-INSTALL-SMALL" {
		t.Errorf("a small disk: %v", err)
	}
	if _, err := Begin(t.Context(), m, "/dev/nothing", Owner{"n", "i"}, 1<<20, loaders(t, b)); code(err) != "SW-INSTALL-GONE" {
		t.Errorf("no disk: %v", err)
	}
	dev := loopDisk(t, enough)
	d := begin(t, m, dev, Owner{"n", "i"}, b)
	sys, _ := b.Manifest.Find(lock.RoleSystem)
	if err := os.WriteFile(b.From.Local(sys), []byte("sYstem"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := d.Fill(t.Context(), bootdisk.A, b, func(int64, int64) {}); err == nil || !strings.Contains(err.Error(), "digest mismatch") {
		t.Errorf("a source that is wrong: %v", err)
	}
	if err := d.Startable(bootdisk.A, b.Manifest, boot.Cmdline{Extra: []string{`a"b`}}); err == nil {
		t.Error("a command line that no loader passes on")
	}
	// An installed node's disk that cannot be used is not made anew.
	good := bundle(t, "system")
	if err := d.Fill(t.Context(), bootdisk.A, good, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	if err := d.Startable(bootdisk.A, good.Manifest, boot.Cmdline{}); err != nil {
		t.Fatal(err)
	}
	if err := d.Finish(bootdisk.A, good.Manifest); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.Store, recordFile), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.Unmount()
	if _, err := Begin(t.Context(), m, dev, Owner{"n", "i"}, 1<<20, loaders(t, b)); code(err) != "SW-INSTALL-STORE" {
		t.Errorf("a damaged installation: %v", err)
	}
}
