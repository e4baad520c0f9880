package bootdisk

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/isofs"
)

// tool is a program of the host, or a printed reason to go without it.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path
		}
	}
	t.Skipf("%s is not installed (Debian package %q); only this comparison needs it", name, pkg)
	return ""
}

// fsck checks the EFI system partition of an image.
func (m *image) fsck(fsck string) {
	m.t.Helper()
	m.write(m.disk.Activate()[0])
	out, err := exec.Command(fsck, "-n", "-v", m.esp.Name()).CombinedOutput()
	if err != nil {
		m.t.Errorf("%v\n%s", err, out)
	}
}

func TestFsckIsClean(t *testing.T) {
	fsck := tool(t, "fsck.fat", "dosfstools")
	for _, k := range kinds {
		t.Run(k.String(), func(t *testing.T) {
			m := newImage(t, k.plan(t))
			m.format()
			m.fsck(fsck)
			m.fill(A, noise(7, 100_000), noise(8, 3_000_000), "quiet")
			m.fsck(fsck)
			m.fill(B, noise(9, 9_000_001), noise(10, 1), "quiet")
			m.fsck(fsck)
			m.write(m.disk.Default(B)...)
			m.fsck(fsck)
		})
	}
}

// files are what both loaders' volumes have to give back.
func (m *image) files() map[string][]byte {
	l, efi := testLoaders(m.disk.arch), strings.ToUpper(m.disk.arch.EFI())
	return map[string][]byte{
		"/EFI/BOOT/BOOT" + efi + ".EFI": l["shim"+m.disk.arch.EFI()+".efi"], "/EFI/BOOT/GRUB" + efi + ".EFI": l["grub"+m.disk.arch.EFI()+".efi"],
		"/EFI/BOOT/MM" + efi + ".EFI": l["mm"+m.disk.arch.EFI()+".efi"], "/EFI/DEBIAN/GRUB.CFG": []byte(grubConfig), "/EFI/DEBIAN/DEFAULT.CFG": grubDefault(B),
		"/A/VMLINUZ": noise(7, 100_000), "/A/INITRD.IMG": noise(8, 3_000_000), "/A/GRUB.CFG": []byte(grubSlot(A, "for a")),
		"/B/VMLINUZ": noise(9, 4096), "/B/INITRD.IMG": noise(10, 1), "/B/GRUB.CFG": []byte(grubSlot(B, "for b")),
	}
}

func newFilled(t *testing.T, k kind) *image {
	m := newImage(t, k.plan(t))
	m.format()
	m.fill(A, noise(7, 100_000), noise(8, 3_000_000), "for a")
	m.fill(B, noise(9, 4096), noise(10, 1), "for b")
	m.write(m.disk.Default(B)...)
	m.write(m.disk.Activate()...)
	return m
}

func TestMtoolsReadTheFiles(t *testing.T) {
	mtype := tool(t, "mtype", "mtools")
	for _, k := range kinds {
		t.Run(k.String(), func(t *testing.T) {
			m := newFilled(t, k)
			for name, want := range m.files() {
				out, err := exec.Command(mtype, "-i", m.esp.Name(), "::"+name).Output()
				if err != nil || !bytes.Equal(out, want) {
					t.Errorf("%s: %d bytes, want %d (%v)", name, len(out), len(want), err)
				}
			}
		})
	}
}

// TestKernelReadsTheFiles mounts the FAT as an installed node does.
func TestKernelReadsTheFiles(t *testing.T) {
	m := newFilled(t, kind{arch.AMD64, 512})
	dir := t.TempDir()
	if out, err := exec.Command(tool(t, "mount", "mount"), "-t", "vfat", "-o", "loop,ro", m.esp.Name(), dir).CombinedOutput(); err != nil {
		t.Skipf("this host mounts no FAT for us: %v %s", err, bytes.TrimSpace(out))
	}
	defer func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, out)
		}
	}()
	out, err := exec.Command("cat", dir+"/a/initrd.img").Output()
	if err != nil || !bytes.Equal(out, noise(8, 3_000_000)) {
		t.Errorf("%d bytes (%v)", len(out), err)
	}
}

func TestISOReadersFindTheFiles(t *testing.T) {
	m := newFilled(t, kind{arch.AMD64, 512})
	l := testLoaders(arch.AMD64)
	want := map[string][]byte{
		"isolinux/isolinux.bin": infoTable(l[isolinuxName]), "isolinux/ldlinux.c32": l[libraryName], "isolinux/isolinux.cfg": []byte(isolinuxConfig), "isolinux/default.cfg": isolinuxDefault(B),
		"a/vmlinuz": noise(7, 100_000), "a/initrd.img": noise(8, 3_000_000), "a/slot.cfg": []byte(isolinuxSlot(A, "for a")),
		"b/vmlinuz": noise(9, 4096), "b/initrd.img": noise(10, 1), "b/slot.cfg": []byte(isolinuxSlot(B, "for b")),
	}
	im, err := isofs.Read(m.f, testSize)
	if err != nil {
		t.Fatal(err)
	}
	if im.Label != VolumeID || len(im.Files) != len(want) {
		t.Errorf("label %q, %d files, want %d", im.Label, len(im.Files), len(want))
	}
	for name, raw := range want {
		f := im.Files[name]
		got := make([]byte, f.Size)
		if _, err := m.f.ReadAt(got, f.At); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%s: %d bytes at %d, want %d (%v)", name, f.Size, f.At, len(raw), err)
		}
	}
	xorriso := tool(t, "xorriso", "xorriso")
	out, err := exec.Command(xorriso, "-indev", "stdio:"+m.f.Name(), "-find", "/", "-exec", "report_lba").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	k, _ := m.disk.Area(B)
	for _, part := range []string{fmt.Sprintf("%8d ,        2 ,     4096 , '/B/VMLINUZ'", k.At/isoSector), "'/A/SLOT.CFG'", "'/ISOLINUX/LDLINUX.C32'", "Volume id    : '" + VolumeID + "'"} {
		if !strings.Contains(string(out), part) {
			t.Errorf("xorriso does not say %q:\n%s", part, out)
		}
	}
}

func TestSgdiskVerifiesTheTable(t *testing.T) {
	sgdisk := tool(t, "sgdisk", "gdisk")
	for _, k := range []kind{{arch.AMD64, 512}, {arch.ARM64, 512}} { // it takes images as disks of 512-byte sectors
		m := newFilled(t, k)
		out, err := exec.Command(sgdisk, "-v", "-p", m.f.Name()).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "No problems found") || !strings.Contains(string(out), NameState) {
			t.Errorf("%v: %v\n%s", k, err, out)
		}
	}
}

func TestAnotherReaderFindsThePartitions(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.String(), func(t *testing.T) {
			m := newFilled(t, k)
			b, err := file.OpenFromPath(m.f.Name(), true)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			table, err := gpt.Read(b, k.sector, k.sector)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.ToLower(table.GUID); got != testID.String() {
				t.Errorf("disk %s, want %s", got, testID)
			}
			for _, p := range m.disk.Partitions() {
				i := slices.IndexFunc(table.Partitions, func(g *gpt.Partition) bool { return g.Index == p.Number })
				if i < 0 {
					t.Fatalf("no partition %d", p.Number)
				}
				g := table.Partitions[i]
				if s := int64(k.sector); g.Name != p.Name || int64(g.Start)*s != p.First || int64(g.Size) != p.Size || !strings.EqualFold(string(g.Type), p.Type.String()) || !strings.EqualFold(g.GUID, p.ID.String()) {
					t.Errorf("%+v, want %+v", g, p)
				}
			}
			if err := table.Verify(b, uint64(testSize)); err != nil {
				t.Errorf("verify: %v", err)
			}
		})
	}
}
