package firstboot

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/disks"
	"slipway.dev/slipway/firstboot/enrol"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/undo"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/medium"
)

// served is a signed bundle in a directory that a seed would serve.
type served struct {
	dir, url string
	key      ed25519.PublicKey
	bundle   install.Bundle
}

func (s served) file(t *testing.T, r lock.Role) string {
	t.Helper()
	b, err := s.bundle.Manifest.Find(r)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(s.dir, filepath.FromSlash(medium.Path(b)))
}

func serveBundle(t *testing.T, serial uint64, sign ed25519.PrivateKey) served {
	t.Helper()
	dir := t.TempDir()
	m := &lock.Manifest{Format: lock.ManifestFormat, Name: "test", Serial: serial, Arch: arch.AMD64, Kubernetes: "v1.34.0"}
	for name, role := range map[string]lock.Role{"boot/vmlinuz": lock.RoleKernel, "boot/initrd.img": lock.RoleInitramfs, "system.erofs": lock.RoleSystem,
		"disk/shimx64.efi": lock.RoleDiskLoader, "disk/grubx64.efi": lock.RoleDiskLoader, "disk/mmx64.efi": lock.RoleDiskLoader,
		"disk/isohdpfx.bin": lock.RoleDiskLoader, "disk/isolinux.bin": lock.RoleDiskLoader, "disk/ldlinux.c32": lock.RoleDiskLoader} {
		raw := []byte(strings.Repeat(name, 1000))
		chunks, err := lock.Chunks(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			t.Fatal(err)
		}
		m.Blobs = append(m.Blobs, lock.Blob{Name: name, Role: role, Size: int64(len(raw)), SHA256: lock.SumBytes(raw), Chunks: chunks})
		writeTo(t, filepath.Join(dir, filepath.FromSlash(medium.Path(m.Blobs[len(m.Blobs)-1]))), raw)
	}
	slices.SortFunc(m.Blobs, func(a, b lock.Blob) int { return strings.Compare(a.Name, b.Name) })
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	sig := lock.Sign(sign, raw)
	writeTo(t, filepath.Join(dir, layout.Manifest), raw)
	writeTo(t, filepath.Join(dir, layout.Signature), sig)
	srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(srv.Close)
	return served{dir, srv.URL, sign.Public().(ed25519.PublicKey), install.Bundle{Manifest: m, Raw: raw, Signature: sig, From: blobs.Dir(dir)}}
}

func writeTo(t *testing.T, name string, raw []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

func loopDevice(t *testing.T, args ...string) string {
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

func emptyDisk(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: block devices cannot be made")
	}
	name := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, 12<<30)); err != nil {
		t.Fatal(err)
	}
	return loopDevice(t, name)
}

// bench is a machine of loop devices whose ends are only written down.
type bench struct {
	*Node
	ended []Power
	said  boot.Cmdline
	kexec error
	rec   *recorder
}

// agrees is a seed that keeps whatever a wipe destroys and never stops one.
type agrees struct{}

func (agrees) Save(context.Context, []byte) (handoff.Window, error) {
	return handoff.Window{ID: "saved"}, nil
}

func (agrees) Wiping(context.Context, handoff.Wiping) (w handoff.Window, err error) { return w, nil }

func (agrees) Saved(context.Context, string) ([]byte, error) {
	return nil, errors.New("nobody asked to undo it")
}

func newBench(t *testing.T, key ed25519.PublicKey, serial uint64, all ...string) *bench {
	t.Helper()
	if _, err := os.Stat("/" + layout.Mke2fs); err != nil {
		t.Skipf("no e2fsprogs: %v", err)
	}
	b := &bench{Node: New(t.Context()), rec: &recorder{}}
	b.Report = report.New(b.rec, true, func() float64 { return 0 })
	b.key, b.Hostname = key, "node-1"
	b.User, b.Meta = &configs.UserData{}, &configs.MetaData{InstanceID: "i-1"}
	b.Manifest = &lock.Manifest{Name: "test", Serial: serial, Arch: arch.AMD64}
	b.end = func(p Power) { b.ended = append(b.ended, p) }
	parts := map[string]string{}
	mounts := t.TempDir()
	b.hardware = hardware{scratch: filepath.Join(t.TempDir(), "installer"), unmount: func() {}, keeper: func() undo.Seed { return agrees{} },
		disks: func() (out []disks.Disk, err error) {
			for _, p := range all {
				out = append(out, disks.Disk{Name: filepath.Base(p), Path: p, Size: 12 << 30, Sector: 512, Type: "virtio", Serial: "S-" + filepath.Base(p),
					Holds: []disks.Holding{{Where: "whole disk", What: "a partition table (gpt)"}}})
			}
			return out, nil
		},
		machine: func() install.Machine {
			return install.Machine{Sys: "/sys", Dev: "/dev", Mounts: mounts, Arch: arch.AMD64, Load: func(string) error { return nil }, Tell: func(s string) { t.Log(s) },
				Partition: func(_ context.Context, disk string, p bootdisk.Partition) (string, error) {
					k := fmt.Sprint(disk, p.First)
					if parts[k] == "" {
						parts[k] = loopDevice(t, "-o", fmt.Sprint(p.First), "--sizelimit", fmt.Sprint(p.Size), disk)
					}
					return parts[k], nil
				},
				Run: func(ctx context.Context, argv []string) error {
					out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
					if err != nil {
						return fmt.Errorf("%q: %w: %s", argv, err, out)
					}
					return nil
				}}
		},
		kexec: func(m *lock.Manifest, at func(lock.Blob) string, c boot.Cmdline) error {
			for _, r := range []lock.Role{lock.RoleKernel, lock.RoleInitramfs} {
				x, err := m.Find(r)
				if err != nil {
					return err
				}
				if raw, err := os.ReadFile(at(x)); err != nil || lock.SumBytes(raw) != x.SHA256 {
					t.Errorf("blob %q is not there to be loaded: %v", x.Name, err)
				}
			}
			b.said = c
			return b.kexec
		}}
	t.Cleanup(func() {
		if b.disk != nil {
			b.disk.Unmount()
		}
	})
	return b
}

// install makes the machine's disk one that starts, of a node that is enrolled.
func (b *bench) install(t *testing.T, dev string, s served, kept *enrol.Kept) {
	t.Helper()
	loaders := map[string][]byte{}
	for _, x := range s.bundle.Manifest.Blobs {
		if name, ok := strings.CutPrefix(x.Name, "disk/"); ok {
			raw, err := os.ReadFile(s.bundle.From.Local(x))
			if err != nil {
				t.Fatal(err)
			}
			loaders[name] = raw
		}
	}
	d, err := install.Begin(t.Context(), b.hardware.machine(), dev, b.owner(), 1<<20, loaders)
	if err != nil {
		t.Fatal(err)
	}
	b.disk = d
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	step(d.KeepConfig(map[string][]byte{"user-data": []byte("#cloud-config\n{}\n")}))
	if kept != nil {
		step(d.KeepEnrolment(kept))
	}
	step(d.Fill(t.Context(), bootdisk.A, s.bundle, func(int64, int64) {}))
	step(d.Startable(bootdisk.A, s.bundle.Manifest, boot.Cmdline{}))
	step(d.Finish(bootdisk.A, s.bundle.Manifest))
}

// again is the next start of the same machine, before it knows its disk.
func (b *bench) again(t *testing.T, key ed25519.PublicKey) *bench {
	t.Helper()
	if b.disk != nil {
		b.disk.Unmount()
		b.disk = nil
	}
	next := newBench(t, key, b.Manifest.Serial)
	hw := b.hardware
	hw.kexec = next.hardware.kexec
	next.hardware = hw
	return next
}

func keptBy(seed string) *enrol.Kept { return &enrol.Kept{Seed: seed, CA: []byte("the seed's CA")} }

func codeOf(err error) string {
	if f, ok := errors.AsType[*report.Failure](err); ok {
		return f.Code
	}
	return fmt.Sprint(err)
}

func TestReimage(t *testing.T) {
	_, sign, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, others, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	dev := emptyDisk(t)
	s := serveBundle(t, 7, sign)
	kept := keptBy("https://192.0.2.1:8443")
	b := newBench(t, s.key, 7, dev)
	b.Cmdline = boot.Cmdline{Consoles: []string{"ttyS0"}, Disk: "x", Slot: "a", Extra: []string{"BOOT_IMAGE=/x", "quiet"}}
	b.install(t, dev, s, kept)
	order := handoff.Order{ID: "o1", Verb: handoff.Reimage, Store: s.url + "/", Token: "0123456789abcdef"}
	marked := func() install.Mark {
		t.Helper()
		m, err := b.disk.Mark()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for name, c := range map[string]struct {
		change func(*handoff.Order)
		code   string
	}{
		"no token":                 {func(o *handoff.Order) { o.Token = "" }, "SW-REIMAGE-ORDER"},
		"a token with an argument": {func(o *handoff.Order) { o.Token = "x init=/bin/sh" }, "SW-REIMAGE-ORDER"},
		"no URL":                   {func(o *handoff.Order) { o.Store = "/dev/sr0" }, "SW-REIMAGE-ORDER"},
		"an older bundle":          {func(o *handoff.Order) { o.Store = serveBundle(t, 6, sign).url }, "SW-REIMAGE-SERIAL"},
		"another key's bundle":     {func(o *handoff.Order) { o.Store = serveBundle(t, 8, others).url }, "SW-MEDIUM-REFUSED"},
		"nothing is served":        {func(o *handoff.Order) { o.Store = s.url + "/nowhere" }, "SW-SEED-MANIFEST"},
		"a damaged kernel": {func(o *handoff.Order) {
			bad := serveBundle(t, 8, sign)
			writeTo(t, bad.file(t, lock.RoleKernel), []byte(strings.Repeat("boot/vmlinux", 1000)))
			o.Store = bad.url
		}, "SW-REIMAGE-FETCH"},
		"a kernel that starts no other": {func(*handoff.Order) { b.kexec = fmt.Errorf("kexec_file_load: %w", unix.EPERM) }, "SW-REIMAGE-KEXEC"},
	} {
		t.Run(name, func(t *testing.T) {
			o := order
			b.kexec = nil
			c.change(&o)
			if err := b.reimage(t.Context(), o); codeOf(err) != c.code {
				t.Errorf("it ends with %v, want %s", err, c.code)
			}
			if m := marked(); m.Verb != "" || len(b.ended) != 0 || !b.disk.Active {
				t.Errorf("the node is not as it was: mark %+v, ended %v", m, b.ended)
			}
		})
	}
	b.kexec = nil
	var during install.Mark
	b.end = func(p Power) { b.ended, during = append(b.ended, p), marked() }
	err = b.reimage(t.Context(), order)
	if !slices.Equal(b.ended, []Power{Kexec}) || err == nil { // this machine stayed
		t.Errorf("ended %v, %v", b.ended, err)
	}
	if want := (install.Mark{Verb: install.Reimage, Order: "o1", Store: s.url, Token: order.Token}); during != want {
		t.Errorf("mark %+v, want %+v", during, want)
	}
	want := boot.Cmdline{Consoles: []string{"ttyS0"}, Extra: []string{"quiet"}, Store: s.url, Seed: kept.Seed, Pin: kept.Pin(), Reimage: order.Token}
	if b.said.String() != want.String() {
		t.Errorf("the installer is told %q, want %q", b.said, want)
	}
	if m := marked(); m.Verb != "" {
		t.Errorf("the machine stayed and is marked %+v", m)
	}
	if _, err := os.Stat(b.hardware.scratch); err == nil {
		t.Error("the installer's files are still there")
	}
	b.disk.Unmount()
	b.disk = nil
	if err := b.reimage(t.Context(), order); codeOf(err) != "SW-REIMAGE-DISK" {
		t.Errorf("without a disk: %v", err)
	}
}

func TestReimageNeedsASeed(t *testing.T) {
	_, sign, _ := ed25519.GenerateKey(nil)
	dev := emptyDisk(t)
	s := serveBundle(t, 7, sign)
	b := newBench(t, s.key, 7, dev)
	b.install(t, dev, s, nil)
	if err := b.reimage(t.Context(), handoff.Order{Store: s.url, Token: "t"}); codeOf(err) != "SW-REIMAGE-SEED" || len(b.ended) != 0 {
		t.Errorf("%v, ended %v", err, b.ended)
	}
}

// The power goes after the mark: the start from the disk goes on with the reimage.
func TestReimageAfterAPowerCut(t *testing.T) {
	_, sign, _ := ed25519.GenerateKey(nil)
	dev := emptyDisk(t)
	s := serveBundle(t, 7, sign)
	b := newBench(t, s.key, 7, dev)
	b.install(t, dev, s, keptBy("https://192.0.2.1:8443"))
	if err := b.disk.KeepMark(install.Mark{Verb: install.Reimage, Store: s.url, Token: "t1"}); err != nil {
		t.Fatal(err)
	}
	if err := installPhase(t.Context(), b.Node); err == nil || !slices.Equal(b.ended, []Power{Kexec}) {
		t.Errorf("%v, ended %v", err, b.ended)
	}
	if b.said.Reimage != "t1" || b.said.Store != s.url || b.disk.Record.Ends != install.Reimage {
		t.Errorf("told %q, record %+v", b.said, b.disk.Record)
	}
}

// installer is the machine's start of the installer, up to its config.
func (b *bench) installer(t *testing.T, s served, cmdline boot.Cmdline, path string) {
	t.Helper()
	b.Cmdline = cmdline
	if err := b.knownDisk(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Meta.InstanceID = "i-2" // a new enrolment is a new instance
	b.bundle, b.Manifest = s.bundle, s.bundle.Manifest
	b.Store = &blobs.Store{Source: s.bundle.From}
	b.User.Slipway.Install.Disk = configs.DiskRules{{Path: configs.Glob(path)}}
}

func TestInstallerOfAReimage(t *testing.T) {
	_, sign, _ := ed25519.GenerateKey(nil)
	s := serveBundle(t, 7, sign)
	kept := keptBy("https://192.0.2.1:8443")
	at := boot.Cmdline{Seed: kept.Seed, Pin: kept.Pin(), Reimage: "t1"}
	mark := install.Mark{Verb: install.Reimage, Store: s.url, Token: "t1"}
	t.Run("its own disk is written anew without consent", func(t *testing.T) {
		dev := emptyDisk(t)
		old := newBench(t, s.key, 7, dev)
		old.install(t, dev, s, kept)
		if err := old.disk.KeepMark(mark); err != nil {
			t.Fatal(err)
		}
		b := old.again(t, s.key)
		b.installer(t, s, at, dev)
		if b.disk != nil || b.old.marked != dev || b.Cmdline.Reimage != "t1" {
			t.Fatalf("disk %v, old %+v, token %q", b.disk, b.old, b.Cmdline.Reimage)
		}
		d, err := b.beginInstall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b.disk = d
		if d.Record.Progress != install.Writing || d.Active || d.Record.Instance != "i-2" {
			t.Errorf("record %+v, active %t", d.Record, d.Active)
		}
		// The next start finds a disk that is being written, as after any installation.
		if err := d.KeepEnrolment(kept); err != nil {
			t.Fatal(err)
		}
		next := b.again(t, s.key)
		next.Cmdline = at
		if err := next.knownDisk(t.Context()); err != nil || next.disk == nil || !next.writing() || next.old.marked != "" {
			t.Errorf("the start after that: %v, disk %+v, old %+v", err, next.disk, next.old)
		}
	})
	t.Run("without the token the mark has it", func(t *testing.T) {
		dev := emptyDisk(t)
		old := newBench(t, s.key, 7, dev)
		old.install(t, dev, s, kept)
		if err := errors.Join(old.disk.KeepMark(mark), old.disk.Deactivate()); err != nil {
			t.Fatal(err)
		}
		b := old.again(t, s.key)
		b.installer(t, s, boot.Cmdline{Seed: kept.Seed}, dev)
		if b.Cmdline.Reimage != "t1" || b.Cmdline.Pin != kept.Pin() || b.old.marked != dev || b.disk != nil {
			t.Errorf("cmdline %q, old %+v, disk %v", b.Cmdline, b.old, b.disk)
		}
	})
	t.Run("no other disk", func(t *testing.T) {
		dev, other := emptyDisk(t), emptyDisk(t)
		old := newBench(t, s.key, 7, dev, other)
		old.install(t, dev, s, kept)
		if err := old.disk.KeepMark(mark); err != nil {
			t.Fatal(err)
		}
		b := old.again(t, s.key)
		b.installer(t, s, at, other)
		if _, err := b.beginInstall(t.Context()); codeOf(err) != "SW-REIMAGE-OTHER" {
			t.Errorf("another disk: %v", err)
		}
		b.User.Slipway.Install.Disk = nil
		if err := installPhase(t.Context(), b.Node); codeOf(err) != "SW-REIMAGE-OTHER" {
			t.Errorf("no disk: %v", err)
		}
		if install.Noted(other) != nil || len(install.Find([]string{other})) != 0 {
			t.Error("it was written")
		}
	})
	t.Run("without a mark the disk is this machine's and stays", func(t *testing.T) {
		dev := emptyDisk(t)
		old := newBench(t, s.key, 7, dev)
		old.install(t, dev, s, kept)
		b := old.again(t, s.key)
		b.Cmdline = at
		if err := b.knownDisk(t.Context()); err != nil || b.disk == nil || !b.disk.Active || b.old.marked != "" {
			t.Errorf("%v, disk %+v, old %+v", err, b.disk, b.old)
		}
	})
	t.Run("another node's disk needs consent, marked or not", func(t *testing.T) {
		dev := emptyDisk(t)
		old := newBench(t, s.key, 7, dev)
		old.install(t, dev, s, &enrol.Kept{Seed: "https://192.0.2.9:8443", CA: []byte("another seed's CA")})
		if err := old.disk.KeepMark(mark); err != nil {
			t.Fatal(err)
		}
		b := old.again(t, s.key)
		b.installer(t, s, at, dev)
		if _, err := b.beginInstall(t.Context()); codeOf(err) != "SW-DISK-DATA" || b.old.marked != "" {
			t.Errorf("%v, old %+v", err, b.old)
		}
	})
}

// realKept is of a client whom a seed has answered.
func realKept(t *testing.T) enrol.Kept {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return enrol.Kept{Seed: "https://192.0.2.1:8443", CA: []byte("the seed's CA"), Key: der, Cert: []byte("a certificate")}
}

// The power goes while the disk is divided: the note says who was at it, and its
// file systems, which are not there, stop nobody.
func TestInstallerAfterAPowerCut(t *testing.T) {
	_, sign, _ := ed25519.GenerateKey(nil)
	s := serveBundle(t, 7, sign)
	dev := emptyDisk(t)
	b := newBench(t, s.key, 7, dev)
	var err error
	kept := realKept(t)
	b.Cmdline = boot.Cmdline{Seed: kept.Seed, Pin: kept.Pin()}
	if b.enrol, err = enrol.Resume(kept, func(handoff.Event) {}); err != nil {
		t.Fatal(err)
	}
	b.bundle, b.Manifest, b.Store = s.bundle, s.bundle.Manifest, &blobs.Store{Source: s.bundle.From}
	b.User.Slipway.Install = configs.Install{Disk: configs.DiskRules{{Path: configs.Glob(dev)}}, Wipe: configs.DiskNames{"S-" + filepath.Base(dev)}}
	d, err := b.beginInstall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw := install.Noted(dev)
	var noted enrol.Kept
	if err := json.Unmarshal(raw, &noted); err != nil || !bytes.Equal(noted.Key, kept.Key) {
		t.Fatalf("noted %q: %v", raw, err)
	}
	d.Unmount()
	for _, off := range []int64{513 << 20, 513<<20 + 128<<20} { // the store's superblocks are gone
		f, err := os.OpenFile(dev, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, 1<<20), off); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	next := b.again(t, s.key)
	next.installer(t, s, b.Cmdline, dev)
	next.Meta.InstanceID = "i-1" // the same key is the same instance
	if next.disk != nil || next.enrol == nil || next.old.noted != dev {
		t.Fatalf("disk %+v, old %+v", next.disk, next.old)
	}
	if next.disk, err = next.beginInstall(t.Context()); err != nil {
		t.Errorf("without consent: %v", err)
	}
	// A seed that does not want it gets a new machine at the next try.
	next.forgetNoted(t.Context())
	if next.enrol != nil || next.old.has(dev) {
		t.Errorf("old %+v", next.old)
	}
	next.noted()
	if next.enrol != nil {
		t.Error("the note is believed again")
	}
}

func hintOf(err error) string {
	if f, ok := errors.AsType[*report.Failure](err); ok {
		return f.Hint
	}
	return ""
}
