package disks

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// copyInto puts one image into another at a place.
func copyInto(t *testing.T, img string, off int64, from string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(img, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if _, err := io.Copy(io.NewOffsetWriter(dst, off), src); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, img string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if off < 0 {
		end, _ := f.Seek(0, io.SeekEnd)
		off += end
	}
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func holdingsOf(t *testing.T, img, name string, sector int) ([]Holding, []string) {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, _ := f.Seek(0, io.SeekEnd)
	all, err := Holdings(f, name, size, sector)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, h := range all {
		out = append(out, h.String())
	}
	return all, out
}

func ext4(t *testing.T, label string) string {
	t.Helper()
	img := image(t, 4<<20)
	run(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-L", label, img)
	return img
}

const gptScript = "label: gpt\nlabel-id: 01234567-89AB-4CDE-8F01-23456789ABCD\nsize=4M, name=boot\nsize=4M, name=\"SLIPWAY-STORE\"\nsize=4M\n"

func TestHoldingsOfTables(t *testing.T) {
	if program("sfdisk") == "" || program("mke2fs") == "" {
		t.Skip("no sfdisk or mke2fs on this machine")
	}
	const mib = 1 << 20
	gone := make([]byte, mib)
	for _, c := range []struct {
		name, disk, script string
		sector             int
		change             func(img string)
		want               []string
	}{
		{"GPT", "vda", "label: gpt\nsize=4M\nsize=4M\n", 512, func(img string) { copyInto(t, img, 5*mib, ext4(t, "root")) },
			[]string{"a partition table (gpt)", `vda2: ext4 "root"`}},
		{"GPT on NVMe, unknown data", "nvme0n1", "label: gpt\nsize=4M\n", 512, func(img string) { write(t, img, mib, []byte("x")) },
			[]string{"a partition table (gpt)", "nvme0n1p1: unknown data"}},
		{"only the copy of the GPT", "vda", "label: gpt\nsize=4M\n", 512, func(img string) { copyInto(t, img, mib, ext4(t, "root")); write(t, img, 0, gone) },
			[]string{"a partition table (gpt)", `vda1: ext4 "root"`}},
		{"GPT without MBR", "vda", "label: gpt\nsize=4M\n", 512, func(img string) { write(t, img, 0, gone[:512]) }, []string{"a partition table (gpt)"}},
		{"GPT with a damaged header and no copy", "vda", "label: gpt\nsize=4M\n", 512, func(img string) { write(t, img, 512+40, []byte{1}); write(t, img, -512, gone[:512]) },
			[]string{"a damaged partition table (gpt)"}},
		{"MBR with logical partitions", "sda", "label: dos\n1: size=4M, type=7\n2: size=12M, type=f\n5: size=2M\n6: size=4M\n", 512, func(img string) {
			copyInto(t, img, 9*mib, ext4(t, "deep"))
		}, []string{"a partition table (mbr)", `sda6: ext4 "deep"`}},
		{"slipway", "vda", gptScript, 512, nil, []string{"a node of slipway", "a partition table (gpt)"}},
		{"ZFS as it takes whole disks", "sda", "label: gpt\nsize=4M\n", 512, func(img string) {
			write(t, img, mib+(128<<10), []byte("\x0c\xb1\xba\x00\x00\x00\x00\x00"))
		}, []string{"a partition table (gpt)", "sda1: ZFS member"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := image(t, 64*mib)
			run(t, c.script, "sfdisk", "-q", "--no-reread", "--no-tell-kernel", img)
			if c.change != nil {
				c.change(img)
			}
			all, got := holdingsOf(t, img, c.disk, c.sector)
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if own := slices.ContainsFunc(all, func(h Holding) bool { return h.Slipway && h.GUID == "01234567-89AB-4CDE-8F01-23456789ABCD" }); own != (c.name == "slipway") {
				t.Errorf("slipway's: %v, %+v", own, all)
			}
		})
	}
}

// A table of 4096-byte sectors is found behind a drive of 512, and the other way round.
func TestSectorsOfAnotherDrive(t *testing.T) {
	const size = 64 << 20
	part := make([]byte, 128)
	copy(part, "0123456789abcdef")
	part[32], part[40] = 0xff, 0xff // LBA 255 alone
	gpt := make([]byte, 512)
	copy(gpt, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	gpt[72], gpt[80], gpt[84] = 2, 1, 128
	seal(gpt, part)
	b := put(size, map[int64]string{4096: string(gpt), 2 * 4096: string(part), 255 * 4096: "XFSB"})
	for _, sector := range []int{512, 4096, 520} {
		holds, err := Holdings(bytes.NewReader(b), "sda", size, sector)
		if err != nil || len(holds) != 2 || holds[1].String() != "sda1: xfs" {
			t.Errorf("behind sectors of %d: %v, %v", sector, holds, err)
		}
	}
}

// Real volumes need a block device to be made on.
func TestVolumesOfLVM(t *testing.T) {
	if program("pvcreate") == "" || program("losetup") == "" {
		t.Skip("no pvcreate or losetup on this machine")
	}
	img := image(t, 64<<20)
	out, err := exec.Command(program("losetup"), "--find", "--show", img).CombinedOutput()
	loop := strings.TrimSpace(string(out))
	if err != nil {
		t.Skipf("no loop device: %s", loop)
	}
	defer func() { run(t, "", "losetup", "-d", loop) }()
	lvm := []string{"--config", "devices { use_devicesfile=0 filter=[\"a|^" + loop + "$|\",\"r|.*|\"] } activation { udev_sync=0 udev_rules=0 }"}
	vg := "slipway-test-" + filepath.Base(filepath.Dir(filepath.Dir(img)))
	run(t, "", append(append([]string{"pvcreate"}, lvm...), "-q", "-y", loop)...)
	if got := probeFile(t, img); !slices.Equal(got, []string{"LVM physical volume"}) {
		t.Errorf("without a group: %q", got)
	}
	run(t, "", append(append([]string{"vgcreate"}, lvm...), "-q", vg, loop)...)
	defer func() { run(t, "", append(append([]string{"vgremove"}, lvm...), "-q", "-f", vg)...) }()
	if got := probeFile(t, img); !slices.Equal(got, []string{`LVM physical volume "` + vg + `"`}) {
		t.Errorf("with a group: %q", got)
	}
}

// A USB stick with a hybrid ISO is an ISO 9660 volume and a partitioned disk.
func TestHybridISO(t *testing.T) {
	if program("xorriso") == "" {
		t.Skip("no xorriso on this machine")
	}
	img := filepath.Join(t.TempDir(), "iso")
	run(t, "", "xorriso", "-as", "mkisofs", "-quiet", "-V", "LIVE", "-partition_offset", "16", "--protective-msdos-label", "-o", img, t.TempDir())
	_, got := holdingsOf(t, img, "sdb", 512)
	if want := []string{`iso9660 "LIVE"`, "a partition table (mbr)", `sdb1: iso9660 "LIVE"`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A disk of Windows: its table, the system partition, and volumes of each kind.
func TestWindows(t *testing.T) {
	if program("sfdisk") == "" || program("mkntfs") == "" || program("mkfs.vfat") == "" {
		t.Skip("no sfdisk, mkntfs or mkfs.vfat on this machine")
	}
	const mib = 1 << 20
	img, efi, c := image(t, 64*mib), image(t, 8*mib), image(t, 16*mib)
	run(t, "label: gpt\nsize=8M, type=U\nsize=1M, type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE\nsize=16M\nsize=8M\n", "sfdisk", "-q", "--no-reread", "--no-tell-kernel", img)
	run(t, "", "mkfs.vfat", "-n", "SYSTEM", efi)
	run(t, "", "mkntfs", "-q", "-F", "-f", c)
	copyInto(t, img, mib, efi)
	copyInto(t, img, 10*mib, c)
	write(t, img, 26*mib, []byte("\xeb\x58\x90-FVE-FS-"))
	_, got := holdingsOf(t, img, "nvme0n1", 512)
	if want := []string{"a partition table (gpt)", `nvme0n1p1: vfat "SYSTEM"`, "nvme0n1p3: ntfs", "nvme0n1p4: BitLocker volume"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzHoldings: no disk stops the machine that looks at it.
func FuzzHoldings(f *testing.F) {
	gpt := make([]byte, 512)
	copy(gpt, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	part := []byte(strings.Repeat("\xff", 128))
	gpt[72], gpt[80], gpt[84] = 2, 1, 128
	seal(gpt, part)
	f.Add(put(8192, map[int64]string{512: string(gpt), 1024: string(part)}))
	f.Add(put(8192, map[int64]string{446 + 4: "\x05\x00\x00\x00\x01\x00\x00\x00\xff", 510: "\x55\xaa", 512 + 462 + 4: "\x05\x00\x00\x00\x01", 1022: "\x55\xaa"}))
	f.Add(put(8192, map[int64]string{0: "LABELONE", 20: "\x20\x00\x00\x00", 88: "\x00\xff\xff\xff\xff\xff\xff\x7f"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Holdings(bytes.NewReader(b), "sda", int64(len(b)), 512); err != nil {
			t.Skip("not readable")
		}
	})
}
