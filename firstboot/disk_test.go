package firstboot

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/firstboot/disks"
	"slipway.dev/slipway/firstboot/enrol"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/bootdisk"
)

// The boot medium takes itself out of the choice, and no disk whose name it
// begins with.
func TestTheBootMediumIsNotChosen(t *testing.T) {
	n := New(t.Context())
	n.User, n.Meta = &configs.UserData{}, &configs.MetaData{}
	n.User.Slipway.Install.Disk = configs.DiskRules{{Type: "ssd"}}
	n.hardware.disks = func() ([]disks.Disk, error) {
		return []disks.Disk{{Name: "sda", Type: "ssd"}, {Name: "sdab", Type: "ssd"}, {Name: "sdb", Type: "ssd"}}, nil
	}
	for _, v := range []string{"sdab", "sdab1"} {
		n.volumes = []string{v}
		_, err := n.beginInstall(t.Context())
		if codeOf(err) != "SW-DISK-CHOICE" || !strings.Contains(err.Error(), "2 disks fit {type ssd} equally") || !strings.Contains(err.Error(), "sdab (0 B ssd): it is the boot medium") {
			t.Errorf("started from %s: %v", v, err)
		}
	}
}

// volumes are the superblocks of a disk's two volumes, which change with every
// mount for writing and every repair.
func volumes(t *testing.T, dev string) string {
	t.Helper()
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found, err := bootdisk.Read(f, bootdisk.Geometry{Size: 12 << 30, Sector: 512})
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for _, p := range []bootdisk.Partition{found.Disk.Store(), found.Disk.State()} {
		b := make([]byte, 1024)
		if _, err := f.ReadAt(b, p.First+1024); err != nil {
			t.Fatal(err)
		}
		out = append(out, b...)
	}
	return string(out)
}

// tear takes half of the state volume's superblock away, which e2fsck brings back.
func tear(t *testing.T, b *bench, dev string) {
	t.Helper()
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found, err := bootdisk.Read(f, bootdisk.Geometry{Size: 12 << 30, Sector: 512})
	if err != nil {
		t.Fatal(err)
	}
	part, err := b.hardware.machine().Partition(t.Context(), dev, found.Disk.State())
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.OpenFile(part, os.O_WRONLY, 0)
	if err == nil {
		_, err = p.WriteAt(make([]byte, 512), 1024+512)
		err = errors.Join(err, p.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// hall is a machine that sees nodes' disks in this order, installed under these seeds.
func hall(t *testing.T, seeds ...string) (b *bench, devs []string, key ed25519.PublicKey) {
	t.Helper()
	_, sign, _ := ed25519.GenerateKey(nil)
	s := serveBundle(t, 7, sign)
	for range seeds {
		devs = append(devs, emptyDisk(t))
	}
	b = newBench(t, s.key, 7, devs...)
	for i, seed := range seeds {
		b.Hostname = fmt.Sprintf("node-%d", i)
		b.install(t, devs[i], s, &enrol.Kept{Seed: seed, CA: []byte(seed)})
		b.disk.Unmount()
	}
	b.disk = nil
	return b, devs, s.key
}

// A machine that looks for its own disk leaves others' as they are, whichever
// comes first, and whether or not it has one.
func TestOthersDisksStayAsTheyAre(t *testing.T) {
	const own, other = "https://192.0.2.1:8443", "https://192.0.2.2:8443"
	for name, c := range map[string]struct {
		seeds []string
		want  int // of devs, -1 for none
	}{
		"first": {[]string{own, other}, 0}, "second": {[]string{other, own}, 1}, "none of two": {[]string{other, other}, -1}, "another's alone": {[]string{other}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			b, devs, key := hall(t, c.seeds...)
			before := map[string]string{}
			for _, dev := range devs {
				before[dev] = volumes(t, dev)
			}
			b = b.again(t, key)
			b.Cmdline = boot.Cmdline{Seed: own}
			if err := b.knownDisk(t.Context()); err != nil {
				t.Fatal(err)
			}
			if c.want < 0 && b.disk != nil || c.want >= 0 && (b.disk == nil || b.disk.Path != devs[c.want]) {
				t.Errorf("its disk is %+v, of %q", b.disk, devs)
			}
			for i, dev := range devs {
				if i != c.want && volumes(t, dev) != before[dev] {
					t.Errorf("disk %d is another node's, and was changed", i)
				}
			}
		})
	}
}

// Of two that fit neither is taken, or changed.
func TestTwoOwnDisks(t *testing.T) {
	b, devs, key := hall(t, "https://192.0.2.1:8443", "https://192.0.2.1:8443")
	before := volumes(t, devs[0]) + volumes(t, devs[1])
	b = b.again(t, key)
	b.Cmdline = boot.Cmdline{Seed: "https://192.0.2.1:8443"}
	if err := b.knownDisk(t.Context()); codeOf(err) != "SW-DISK-AMBIGUOUS" || b.disk != nil {
		t.Errorf("with a seed: %v, disk %+v", err, b.disk)
	}
	b.Cmdline = boot.Cmdline{}
	if d, err := b.installedDisk(t.Context()); codeOf(err) != "SW-DISK-AMBIGUOUS" || d != nil {
		t.Errorf("without a config: %v, disk %+v", err, d)
	}
	if volumes(t, devs[0])+volumes(t, devs[1]) != before {
		t.Error("one of them was changed")
	}
}

// A disk that cannot be read before it is repaired is the machine's own if there is
// no other.
func TestHurtDisk(t *testing.T) {
	t.Run("alone", func(t *testing.T) {
		b, devs, key := hall(t, "https://192.0.2.1:8443")
		b = b.again(t, key)
		tear(t, b, devs[0])
		b.Cmdline = boot.Cmdline{Seed: "https://192.0.2.1:8443"}
		if err := b.knownDisk(t.Context()); err != nil || b.disk == nil {
			t.Errorf("%v, disk %+v", err, b.disk)
		}
	})
	t.Run("with another's", func(t *testing.T) {
		b, devs, key := hall(t, "https://192.0.2.1:8443", "https://192.0.2.2:8443")
		b = b.again(t, key)
		tear(t, b, devs[0])
		before := volumes(t, devs[0]) + volumes(t, devs[1])
		b.Cmdline = boot.Cmdline{Seed: "https://192.0.2.1:8443"}
		if err := b.knownDisk(t.Context()); codeOf(err) != "SW-DISK-UNUSABLE" || b.disk != nil || !strings.Contains(err.Error(), devs[0]) {
			t.Errorf("%v, disk %+v", err, b.disk)
		}
		if volumes(t, devs[0])+volumes(t, devs[1]) != before {
			t.Error("one of them was changed")
		}
	})
}
