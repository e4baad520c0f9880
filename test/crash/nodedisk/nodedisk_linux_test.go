package nodedisk

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/medium"
	"slipway.dev/slipway/test/crash"
	"slipway.dev/slipway/test/crash/ext4"
	"slipway.dev/slipway/test/crash/fusedisk"
)

var (
	points = flag.Int("points", 300, "how many power cuts to judge")
	seed   = flag.Uint64("seed", 1, "of the choice of points")
	proofs = flag.Int("proofs", 6, "how many of them the installer itself goes on with")
)

const size = 8 << 30

// host is what the tests below want of it.
type host struct {
	t    *testing.T
	dir  string
	loop map[string]string // devices by what they stand for
	all  []string
}

func newHost(t *testing.T) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: block devices cannot be made")
	}
	if _, err := os.Stat("/" + layout.Mke2fs); err != nil {
		t.Skipf("no e2fsprogs: %v", err)
	}
	dir, err := os.MkdirTemp("/dev/shm", "nodedisk-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &host{t: t, dir: dir, loop: map[string]string{}}
}

func (h *host) losetup(args ...string) string {
	h.t.Helper()
	out, err := exec.Command("losetup", append([]string{"-f", "--show"}, args...)...).CombinedOutput()
	if err != nil {
		h.t.Skipf("this host gives no loop device: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	h.all = append(h.all, dev)
	return dev
}

func (h *host) release() {
	for i := len(h.all) - 1; i >= 0; i-- {
		if out, err := exec.Command("losetup", "-d", h.all[i]).CombinedOutput(); err != nil {
			h.t.Errorf("losetup -d %s: %v: %s", h.all[i], err, out)
		}
		// A device that somebody else still has open is let go of later.
		held := filepath.Join("/sys/block", filepath.Base(h.all[i]), "loop/backing_file")
		for range 2400 {
			if _, err := os.Stat(held); err != nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if _, err := os.Stat(held); err == nil {
			h.t.Errorf("%s is still held", h.all[i])
		}
	}
	h.all = nil
}

// partition stands a loop device in for a partition.
func (h *host) partition(_ context.Context, disk string, p bootdisk.Partition) (string, error) {
	key := fmt.Sprint(disk, p.First)
	if h.loop[key] == "" {
		h.loop[key] = h.losetup("-o", fmt.Sprint(p.First), "--sizelimit", fmt.Sprint(p.Size), disk)
	}
	return h.loop[key], nil
}

func (h *host) machine() install.Machine {
	return install.Machine{Partition: h.partition, Sys: "/sys", Dev: "/dev", Mounts: h.t.TempDir(), Arch: arch.AMD64,
		Load: func(string) error { return nil }, Tell: func(s string) { h.t.Log(s) },
		Run: func(ctx context.Context, argv []string) error {
			if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
				return fmt.Errorf("%q: %w: %s", argv, err, out)
			}
			return nil
		}}
}

// bundle is a medium in a directory with what a bundle has at least. Another
// serial number has other kernels and another first layer.
func bundle(t *testing.T, serial byte) (b install.Bundle, dir string) {
	t.Helper()
	dir = t.TempDir()
	rng, same := rand.NewChaCha8([32]byte{serial}), rand.NewChaCha8([32]byte{})
	m := &lock.Manifest{Format: lock.ManifestFormat, Name: "test", Serial: uint64(serial), Arch: arch.AMD64}
	put := func(name string, raw []byte) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	add := func(name string, role lock.Role, n int) {
		raw := make([]byte, n)
		if strings.HasPrefix(name, "boot/") || name == "layers/0" {
			rng.Read(raw)
		} else {
			same.Read(raw)
		}
		chunks, err := lock.Chunks(bytes.NewReader(raw), int64(n))
		if err != nil {
			t.Fatal(err)
		}
		x := lock.Blob{Name: name, Role: role, Size: int64(n), SHA256: lock.SumBytes(raw), Chunks: chunks}
		put(medium.Path(x), raw)
		m.Blobs = append(m.Blobs, x)
	}
	add("boot/vmlinuz", lock.RoleKernel, 3<<20+17)
	add("boot/initrd.img", lock.RoleInitramfs, 5<<20+1)
	add("system.erofs", lock.RoleSystem, 20<<20)
	for _, n := range []string{"shimx64.efi", "grubx64.efi", "mmx64.efi", "isohdpfx.bin", "isolinux.bin", "ldlinux.c32"} {
		add("disk/"+n, lock.RoleDiskLoader, 40000)
	}
	for i := range 12 {
		add(fmt.Sprintf("layers/%d", i), lock.RoleLayer, 300000*(i+1)+i)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	put(layout.Manifest, raw)
	put(layout.Signature, []byte("signed"))
	return install.Bundle{Manifest: m, Raw: raw, Signature: []byte("signed"), From: blobs.Dir(dir)}, dir
}

// record keeps what is written to a disk's file while something happens to it
// as a block device.
func record(t *testing.T, h *host, disk *os.File, name string, happens func(dev string)) *crash.Log {
	t.Helper()
	log := h.create(name)
	fuse, err := fusedisk.Mount(t.TempDir(), size, disk, log)
	if err != nil {
		t.Skipf("this host mounts no FUSE: %v", err)
	}
	func() {
		defer func() { // also after a failure: nothing else ends a loop device
			h.release()
			if err := fuse.Close(); err != nil {
				t.Error(err)
			}
		}()
		h.loop = map[string]string{}
		happens(h.losetup(fuse.Path))
	}()
	return parse(t, log)
}

func (h *host) create(name string) *os.File {
	h.t.Helper()
	f, err := os.Create(filepath.Join(h.dir, name))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { f.Close() })
	return f
}

func parse(t *testing.T, log *os.File) *crash.Log {
	t.Helper()
	info, err := log.Stat()
	if err != nil {
		t.Fatal(err)
	}
	l, err := crash.Parse(log, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// installOn does what a machine does that starts from its install medium. It
// says whether there was nothing to do.
func installOn(t *testing.T, h *host, dev string, j *Node, b install.Bundle) bool {
	t.Helper()
	d, err := install.Begin(t.Context(), h.machine(), dev, install.Owner{Node: "node-1", Instance: "test"}, j.Content, j.Loaders)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Unmount()
	if d.Active && d.Record.Progress == install.Installed {
		return true
	}
	steps := []func() error{
		func() error { return d.KeepConfig(j.Config) },
		func() error { return d.Fill(t.Context(), bootdisk.A, b, func(int64, int64) {}) },
		func() error { return d.Startable(bootdisk.A, b.Manifest, boot.Cmdline{Consoles: []string{"ttyS0"}}) },
		func() error { return d.Finish(bootdisk.A, b.Manifest) },
	}
	if d.Record.Progress == install.Installed {
		steps = steps[3:]
	}
	for _, step := range steps {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return false
}

// prove lets the installer go on with images: one that was judged to start has
// nothing left to do, and any other starts afterwards.
func prove(t *testing.T, h *host, j *Node, b install.Bundle, l *crash.Log, results []crash.Result) {
	t.Helper()
	for i, x := range results {
		// Never the same file again: a loop device may let go of it late.
		file := filepath.Join(h.dir, fmt.Sprintf("proof%d.img", i))
		if err := l.Image(nil, size, x.Point).WriteFile(file); err != nil {
			t.Fatal(err)
		}
		func() {
			defer h.release()
			h.loop = map[string]string{}
			if done := installOn(t, h, h.losetup(file), j, b); done != (x.Verdict.Outcome == crash.New) {
				t.Errorf("point %s was judged %s, but the installer had nothing to do: %t", x.Point, x.Verdict.Outcome, done)
			}
		}()
		after, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		// An image of no writes over the disk as it is now.
		empty, err := crash.Parse(bytes.NewReader(emptyLog(t)), 512)
		if err != nil {
			t.Fatal(err)
		}
		fresh := &Node{Geometry: j.Geometry, ID: j.ID, Slots: j.Slots, Loaders: j.Loaders, Content: j.Content, Config: j.Config, Scratch: h.dir}
		v, err := fresh.Judge(empty.Image(after, size, crash.Point{Kind: crash.Boundary, Discards: crash.Zeros}))
		if err != nil || v.Outcome != crash.New {
			t.Errorf("point %s, %s: afterwards %v, %v", x.Point, x.Verdict.Outcome, v, err)
		}
		t.Logf("point %s: %s; the installer went on", x.Point, x.Verdict.Outcome)
		after.Close()
		os.Remove(file)
	}
}

// spread takes a half of what starts and a half of what does not: of the first,
// those before all whose superblock is torn.
func spread(l *crash.Log, j *Node, results []crash.Result, n int) []crash.Result {
	var torn, starts, rest []crash.Result
	for _, x := range results {
		m := l.Image(nil, size, x.Point)
		switch {
		case x.Verdict.Outcome == crash.Resumes:
			rest = append(rest, x)
		case x.Verdict.Outcome == crash.New && j.superblocks(m):
			starts = append(starts, x)
		case x.Verdict.Outcome == crash.New:
			torn = append(torn, x)
		}
	}
	pick := func(all []crash.Result, n int) (out []crash.Result) {
		for i := range min(n, len(all)) {
			out = append(out, all[i*len(all)/min(n, len(all))])
		}
		return out
	}
	a := pick(torn, (n+3)/4)
	return append(append(a, pick(starts, n/2-len(a))...), pick(rest, n-n/2)...)
}

// superblocks says whether both volumes can be read as they are.
func (j *Node) superblocks(m *crash.Image) bool {
	found, err := bootdisk.Read(m, j.Geometry)
	if err != nil {
		return false
	}
	for _, p := range []bootdisk.Partition{found.Disk.Store(), found.Disk.State()} {
		if _, err := ext4.Open(io.NewSectionReader(m, p.First, p.Size)); err != nil {
			return false
		}
	}
	return true
}

func emptyLog(t *testing.T) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	crash.NewWriter(f, 512)
	b := make([]byte, 512)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCrashedInstall takes the power from the installer at every kind of moment.
func TestCrashedInstall(t *testing.T) {
	h := newHost(t)
	b, dir := bundle(t, 1)
	j := &Node{Geometry: bootdisk.Geometry{Size: size, Sector: 512}, ID: install.Owner{Node: "node-1", Instance: "test"}.ID(),
		Config: map[string][]byte{"user-data": []byte("#cloud-config\n"), "meta-data": []byte("instance-id: test\n")}, Scratch: h.dir}
	if err := j.ReadMedium(dir); err != nil {
		t.Fatal(err)
	}
	l := record(t, h, h.create("disk"), "log", func(dev string) { installOn(t, h, dev, j, b) })
	report, err := l.Run(t.Context(), nil, size, l.Points(*points, *seed), j.Judge, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d: %s%d contents digested, e2fsck asked %d times", *seed, report, j.Digested.Load(), j.Checks.Load())
	if n := report.Bricked(); len(n) > 0 {
		t.Errorf("%d images are bricked", len(n))
	}
	for _, o := range []crash.Outcome{crash.New, crash.Resumes} {
		if report.Count(o) == 0 {
			t.Errorf("no image is %s: nothing was tried", o)
		}
	}

	prove(t, h, j, b, l, spread(l, j, report.Results, *proofs))

	// The same writes without a flush are what an installer that forgets to
	// sync leaves: a judge that finds nothing there finds nothing anywhere.
	bad := withoutFlushes(t, h, l)
	report, err = bad.Run(t.Context(), nil, size, bad.Points(60, *seed), j.Judge, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Bricked()) == 0 {
		t.Errorf("nothing is bricked without flushes:\n%s", report)
	}
}

func withoutFlushes(t *testing.T, h *host, l *crash.Log) *crash.Log {
	t.Helper()
	f := h.create("unflushed")
	w := crash.NewWriter(f, l.SectorSize)
	for i, e := range l.Entries {
		if e.Len == 0 {
			continue
		}
		data, err := l.Read(i)
		if err == nil {
			err = w.Add(e.Off, e.Len, e.Flags&^crash.Flush, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return parse(t, f)
}

// TestCrashedUpgrade takes the power while a second bundle is put into the other
// slot of an installed disk, and a third over the first: something starts at any
// moment, and what starts is whole.
func TestCrashedUpgrade(t *testing.T) {
	h := newHost(t)
	b, dir := bundle(t, 1)
	j := &Node{Geometry: bootdisk.Geometry{Size: size, Sector: 512}, ID: install.Owner{Node: "node-1", Instance: "test"}.ID(),
		Config: map[string][]byte{"user-data": []byte("#cloud-config\n")}, Scratch: h.dir}
	if err := j.ReadMedium(dir); err != nil {
		t.Fatal(err)
	}
	disk := h.create("disk")
	record(t, h, disk, "install", func(dev string) { installOn(t, h, dev, j, b) })
	for i, s := range []bootdisk.Slot{bootdisk.B, bootdisk.A} {
		next, _ := bundle(t, byte(2+i))
		before := h.create("before")
		if err := crash.Sparse(before, disk, size); err != nil {
			t.Fatal(err)
		}
		l := record(t, h, disk, "upgrade", func(dev string) { upgrade(t, h, dev, s, next) })
		n := &Node{Geometry: j.Geometry, ID: j.ID, Before: s.Other(), Loaders: j.Loaders, Content: j.Content, Config: j.Config, Scratch: h.dir,
			Slots: map[bootdisk.Slot]Bundle{s.Other(): j.Slots[s.Other()], s: {next.Manifest, next.Raw, next.Signature}}}
		report, err := l.Run(t.Context(), before, size, l.Points(max(*points/3, 60), *seed), n.Judge, os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("slot %s, seed %d: %s%d contents digested, e2fsck asked %d times", s, *seed, report, n.Digested.Load(), n.Checks.Load())
		if bad := report.Bricked(); len(bad) > 0 {
			t.Errorf("%d images are bricked", len(bad))
		}
		if report.Count(crash.Old) == 0 || report.Count(crash.New) == 0 {
			t.Error("nothing was tried")
		}
		j.Slots = n.Slots
	}
}

func upgrade(t *testing.T, h *host, dev string, s bootdisk.Slot, b install.Bundle) {
	t.Helper()
	found := install.Find([]string{dev})
	if len(found) != 1 {
		t.Fatalf("found %v", found)
	}
	d, err := install.Open(t.Context(), h.machine(), found[0])
	if err != nil {
		t.Fatal(err)
	}
	defer d.Unmount()
	for _, step := range []func() error{
		func() error {
			return d.Offer(t.Context(), install.Trial{Slot: s, Limit: time.Minute}, b, boot.Cmdline{Consoles: []string{"ttyS0"}}, func(int64, int64) {})
		},
		func() error { return try(d) },
		func() error { return d.Confirm(b.Manifest) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}

// try is install.Try without the kexec.
func try(d *install.Disk) error {
	d.Record.Trial.Step = install.Trying
	raw, err := json.Marshal(d.Record)
	if err != nil {
		return err
	}
	return install.WriteFile(filepath.Join(d.Store, "install.json"), raw, 0o644)
}
