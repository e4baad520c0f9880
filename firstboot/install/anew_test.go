package install

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/firstboot/disks"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/bootdisk"
)

// installedOn is a node's disk that starts by itself.
func installedOn(t *testing.T, m Machine, dev string, o Owner, b Bundle) *Disk {
	t.Helper()
	d := begin(t, m, dev, o, b)
	if err := d.KeepConfig(map[string][]byte{"user-data": []byte("#cloud-config\n")}); err != nil {
		t.Fatal(err)
	}
	if err := d.KeepEnrolment("the old key"); err != nil {
		t.Fatal(err)
	}
	if err := d.Fill(t.Context(), bootdisk.A, b, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	if err := d.Startable(bootdisk.A, b.Manifest, boot.Cmdline{}); err != nil {
		t.Fatal(err)
	}
	if err := d.Finish(bootdisk.A, b.Manifest); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestMark(t *testing.T) {
	m, dev := machine(t), loopDisk(t, enough)
	d := installedOn(t, m, dev, Owner{"node-1", "i-1"}, bundle(t, "system"))
	if got, err := d.Mark(); got.Verb != "" || err != nil {
		t.Errorf("a new disk has the mark %+v, %v", got, err)
	}
	want := Mark{Reimage, "o1", "http://192.0.2.1/x", "token"}
	if err := d.KeepMark(want); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(d.State, markFile)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the mark's file: %v, %v", fi, err)
	}
	if raw, err := os.ReadFile(filepath.Join(d.Store, recordFile)); err != nil || bytes.Contains(raw, []byte("token")) {
		t.Errorf("the record holds the token: %s, %v", raw, err)
	}
	d.Unmount()
	d, err := Open(t.Context(), m, Find([]string{dev})[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Unmount)
	if got, err := d.Mark(); got != want || err != nil {
		t.Errorf("read %+v, %v", got, err)
	}
	if err := d.DropMark(); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Mark(); got.Verb != "" || err != nil {
		t.Errorf("after dropping it: %+v, %v", got, err)
	}
	// A record that says more than there is stops; a reset goes on.
	d.Record.Ends = Reimage
	if _, err := d.Mark(); err == nil || !strings.Contains(err.Error(), markFile) {
		t.Errorf("a reimage whose order is lost: %v", err)
	}
	d.Record.Ends = Reset
	if got, err := d.Mark(); got.Verb != Reset || err != nil {
		t.Errorf("a reset whose order is gone: %+v, %v", got, err)
	}
}

// A marked disk begins anew although it starts, for its old owner and for the one
// that the new enrolment makes.
func TestMarkedDiskBeginsAnew(t *testing.T) {
	for name, o := range map[string]Owner{"the same instance": {"node-1", "i-1"}, "another instance": {"node-1", "i-2"}} {
		t.Run(name, func(t *testing.T) {
			m, dev := machine(t), loopDisk(t, enough)
			b := bundle(t, "system")
			d := installedOn(t, m, dev, Owner{"node-1", "i-1"}, b)
			if err := os.WriteFile(filepath.Join(d.State, "old"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := d.KeepMark(Mark{Verb: Reimage, Token: "t"}); err != nil {
				t.Fatal(err)
			}
			d.Unmount()
			m.Note = []byte("the new key")
			d = begin(t, m, dev, o, b)
			if f := read(t, dev); f.Active || f.Disk.ID() != o.ID() || len(f.Slots) != 0 {
				t.Errorf("the disk says %+v", f)
			}
			if _, err := os.Stat(filepath.Join(d.State, "old")); err == nil {
				t.Error("the old files are there")
			}
			if d.Record.Progress != Writing || d.Record.Ends != "" || d.Active {
				t.Errorf("record %+v, active %t", d.Record, d.Active)
			}
			if got := Noted(dev); string(got) != "the new key" {
				t.Errorf("noted %q", got)
			}
			if err := d.KeepEnrolment("the new key"); err != nil {
				t.Fatal(err)
			}
			if got := Noted(dev); got != nil {
				t.Errorf("noted %q after the enrolment was kept", got)
			}
			if raw := area(t, dev, bootdisk.Spare()); bytes.Contains(raw, []byte("key")) {
				t.Error("the note's text is still on the disk")
			}
			if err := d.Fill(t.Context(), bootdisk.A, b, func(int64, int64) {}); err != nil {
				t.Fatal(err)
			}
			if err := d.Startable(bootdisk.A, b.Manifest, boot.Cmdline{}); err != nil {
				t.Fatal(err)
			}
			if err := d.Finish(bootdisk.A, b.Manifest); err != nil {
				t.Fatal(err)
			}
			if f := read(t, dev); !f.Active || f.Boot() != bootdisk.A {
				t.Errorf("the disk that was made anew: %+v", f)
			}
		})
	}
}

// One without a mark goes on, as before.
func TestUnmarkedDiskStays(t *testing.T) {
	m, dev := machine(t), loopDisk(t, enough)
	b := bundle(t, "system")
	o := Owner{"node-1", "i-1"}
	installedOn(t, m, dev, o, b).Unmount()
	if d := begin(t, m, dev, o, b); d.Record.Progress != Installed || !d.Active {
		t.Errorf("record %+v, active %t", d.Record, d.Active)
	}
}

func area(t *testing.T, dev string, e bootdisk.Extent) []byte {
	t.Helper()
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, e.Size)
	if _, err := f.ReadAt(b, e.At); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNote(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dev, err := open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	id, other := Owner{"n", "i"}.ID(), Owner{"n", "i-2"}.ID()
	leave := func(text []byte) error {
		for _, g := range noteWrites(id, text, 512) {
			if err := dev.write(g); err != nil {
				return err
			}
		}
		return nil
	}
	for _, text := range []string{"", "x", strings.Repeat("long", 4000)} {
		if err := leave([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if got := Noted(name); string(got) != text || (got == nil) != (text == "") {
			t.Errorf("noted %d bytes, want %d", len(got), len(text))
		}
		if !NotedForIn(dev, id) || NotedForIn(dev, other) {
			t.Errorf("with %d bytes of text it is not noted for whom", len(text))
		}
	}
	if err := leave(bytes.Repeat([]byte("x"), 20000)); err != nil || Noted(name) != nil || !NotedForIn(dev, id) {
		t.Errorf("a text that does not fit: %v, noted %d bytes", err, len(Noted(name)))
	}
	for _, at := range []int64{0, int64(len(noteMark)) + 1, int64(noteSum) - 1, int64(noteHead) - 1, int64(noteHead) + 5} { // mark, GUID, length, sum, text
		if err := leave([]byte("something")); err != nil {
			t.Fatal(err)
		}
		if _, err := dev.WriteAt([]byte{0xff}, bootdisk.Spare().At+at); err != nil {
			t.Fatal(err)
		}
		if got := Noted(name); got != nil || NotedForIn(dev, id) {
			t.Errorf("with byte %d wrong it is %q", at, got)
		}
	}
}

func TestResetWipes(t *testing.T) {
	m, dev := machine(t), loopDisk(t, enough)
	d := installedOn(t, m, dev, Owner{"node-1", "i-1"}, bundle(t, "system"))
	secret := bytes.Repeat([]byte("it is a secret. "), 4096)
	for _, f := range []string{"overlay/etc/upper/kubernetes/pki/ca.key", "var/lib/etcd/member/wal", ownDir + "/more"} {
		f = filepath.Join(d.State, f)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, secret, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := syncFS(d.State); err != nil {
		t.Fatal(err)
	}
	if err := d.Deactivate(); err != nil {
		t.Fatal(err)
	}
	if f := read(t, dev); f.Active || d.Active || f.Boot() != bootdisk.A {
		t.Errorf("after it was deactivated the disk says %+v", f)
	}
	d.Unmount()
	if err := d.Shred(t.Context()); err != nil {
		t.Fatal(err)
	}
	state := d.plan.State()
	if raw := area(t, dev, bootdisk.Extent{At: state.First, Size: 512 << 20}); bytes.Contains(raw, secret[:64]) {
		t.Error("a secret is still on the disk")
	}
	if _, err := Open(t.Context(), m, Find([]string{dev})[0]); err != nil {
		t.Errorf("after shredding: %v", err)
	}
	d.Unmount()
	if _, err := d.Wipe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found := Find([]string{dev}); len(found) != 0 {
		t.Errorf("it is still a slipway disk: %+v", found)
	}
	for _, p := range append(d.plan.Partitions(), bootdisk.Partition{Size: enough}) {
		part, err := m.partition(t.Context(), dev, p)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(part)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if holds, err := disks.Probe(f, p.Size); err != nil || len(holds) != 0 {
			t.Errorf("%s holds %v, %v", p.Name, holds, err)
		}
	}
}

// A disk for data that is mounted below the node's own files is another's.
func TestShredStaysOnTheDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: nothing can be mounted")
	}
	dir := t.TempDir()
	own, other := filepath.Join(dir, "own"), filepath.Join(dir, "home", "data")
	for _, d := range []string{own, other} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("data", other, "tmpfs", 0, ""); err != nil {
		t.Skipf("this host mounts nothing: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(other, 0) })
	for _, f := range []string{filepath.Join(other, "kept"), filepath.Join(dir, "home", "gone")} {
		if err := os.WriteFile(f, []byte("data"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	if err := shred(filepath.Join(dir, "home"), st.Dev); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(filepath.Join(other, "kept")); string(raw) != "data" {
		t.Errorf("the other disk's file: %q, %v", raw, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "home", "gone")); err == nil {
		t.Error("the node's own file is there")
	}
}

// What Begin empties are all places where e2fsck finds a copy of a superblock.
func TestMarksAreTheSuperblocks(t *testing.T) {
	dev := loopDisk(t, 3<<30)
	for _, size := range []string{"1024", "2048", "4096"} {
		run := func(argv ...string) ([]byte, error) { return exec.Command(argv[0], argv[1:]...).CombinedOutput() }
		if out, err := run("mke2fs", "-q", "-F", "-t", "ext4", "-b", size, dev); err != nil {
			t.Skipf("mke2fs: %v: %s", err, out)
		}
		d, err := open(dev)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.write(marks(bootdisk.Partition{Size: 3 << 30})); err != nil {
			t.Fatal(err)
		}
		d.Close()
		if out, err := run("e2fsck", "-y", dev); err == nil || !strings.Contains(string(out), "Bad magic number") {
			t.Errorf("blocks of %s: e2fsck finds a file system: %v\n%s", size, err, out)
		}
	}
}

// TestBegunUntilRestored: from the first write on the disk does not look untouched,
// until all of it is as it was.
func TestBegunUntilRestored(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk")
	was := bytes.Repeat([]byte("somebody's data "), 256<<10) // 4 MiB
	if err := os.WriteFile(name, was, 0o600); err != nil {
		t.Fatal(err)
	}
	dev, err := open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	groups := append(noteWrites(Owner{"n", "i"}.ID(), []byte("who"), 512), []bootdisk.Write{{At: 0, Data: make([]byte, 2<<20)}, {At: 3 << 20, Data: make([]byte, 512)}})
	for i, g := range groups {
		if Begun(dev) != (i > 0) {
			t.Errorf("before group %d begun is %t", i, Begun(dev))
		}
		if err := dev.write(g); err != nil {
			t.Fatal(err)
		}
	}
	at := places(groups)
	var data []byte
	for _, e := range at {
		data = append(data, was[e.At:e.At+e.Size]...)
	}
	if err := Restore(name, int64(len(was))+512, at, data); err == nil {
		t.Error("a disk of another size was written")
	}
	if err := Restore(name, int64(len(was)), at, data); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, was) || Begun(dev) {
		t.Errorf("the disk is as it was: %t, begun: %t, %v", bytes.Equal(got, was), Begun(dev), err)
	}
}
