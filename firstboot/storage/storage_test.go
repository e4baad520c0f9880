package storage

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/firstboot/disks"
)

func parse(t *testing.T, text string) *configs.Storage {
	t.Helper()
	u, err := configs.ParseUserData("user-data", []byte("#cloud-config\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	return &u.Storage
}

// setup runs real programs and remembers what it said.
func setup(t *testing.T) (Setup, *[]string) {
	said := &[]string{}
	return Setup{Root: t.TempDir(), Proc: "/proc", Sys: "/sys", Report: func(s string) { *said = append(*said, s) },
		Run: func(ctx context.Context, argv []string) error {
			out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%q: %w: %s", argv, err, out)
			}
			return nil
		}}, said
}

// alias makes configs, which know /dev alone, lead to an image.
func alias(t *testing.T, image, text string) *configs.Storage {
	c := parse(t, "device_aliases: {img: /dev/image}\n"+text)
	c.DeviceAliases["img"] = image
	return c
}

func image(t *testing.T, size int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	return name
}

func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs %s: %v", p, err)
		}
	}
}

func TestPlan(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		in           string
		size, sector int64
		want         string
	}{
		"whole, mbr":     {"{layout: true}", 100 * mib, 512, "mbr [{2048 202752 83}]"},
		"whole, gpt":     {"{table_type: gpt, layout: true}", 100 * mib, 512, "gpt [{2048 200704 " + linuxGUID + "}]"},
		"whole, gpt, 4K": {"{table_type: gpt, layout: true}", 100 * mib, 4096, "gpt [{256 25088 " + linuxGUID + "}]"},
		"thirds":         {"{layout: [33, [33, 82], 34]}", 1000 * mib, 512, "mbr [{2048 673792 83} {675840 675840 82} {1351680 696320 83}]"},
		"half":           {"{layout: [50]}", 1000 * mib, 512, "mbr [{2048 1021952 83}]"},
		"swap by code":   {"{table_type: gpt, layout: [[100, 8200]]}", 10 * mib, 512, "gpt [{2048 16384 0657FD6D-A4AB-43C4-84E5-0933C84B4F4F}]"},
		"none":           {"{layout: false}", 10 * mib, 512, "mbr []"},
		"too small":      {"{layout: true}", mib, 512, "1048576 bytes are too few for partitions"},
		"tiny part":      {"{layout: [1, 99]}", 10 * mib, 512, "layout[0]: 1 percent of 10485760 bytes are less than a partition can be"},
		"beyond mbr":     {"{layout: true}", 3 << 40, 512, "a table of type mbr does not reach beyond 4294967295 sectors: write table_type: gpt"},
		"unknown code":   {"{table_type: gpt, layout: [[100, A501]]}", 10 * mib, 512, `layout[0]: type "A501": write its GUID`},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := plan(parse(t, "disk_setup: {/dev/sdb: "+c.in+"}").DiskSetup["/dev/sdb"], c.size, c.sector)
			got := fmt.Sprintf("%s %v", p.kind, p.parts)
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// sfdisk reads the tables and finds nothing to complain of.
func TestPartition(t *testing.T) {
	needs(t, "sfdisk")
	for _, kind := range []string{"gpt", "mbr"} {
		t.Run(kind, func(t *testing.T) {
			img := image(t, 64<<20)
			c := alias(t, img, "disk_setup: {img: {table_type: "+kind+", layout: [25, [25, 82], 50]}}")
			s, said := setup(t)
			for range 2 {
				if err := s.Apply(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			if len(*said) != 1 {
				t.Errorf("said %q", *said)
			}
			out, err := exec.Command("sfdisk", "--verify", img).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "No errors detected") {
				t.Errorf("%v: %s", err, out)
			}
			out, err = exec.Command("sfdisk", "--dump", img).CombinedOutput()
			if err != nil || strings.Count(string(out), "start=") != 3 || !strings.Contains(string(out), "label: "+strings.Replace(kind, "mbr", "dos", 1)) {
				t.Errorf("%v: %s", err, out)
			}
			c = alias(t, img, "disk_setup: {img: {table_type: "+kind+", layout: true}}")
			want := "disk_setup: img: the disk holds a partition table (" + kind + "): write overwrite: true if that may be lost"
			if err := s.Apply(t.Context(), c); err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
}

// A power cut after any write leaves a disk that the next boot finishes.
func TestPowerCut(t *testing.T) {
	const size = 16 << 20
	c := configs.DiskSetup{TableType: "gpt", Layout: configs.Layout{Parts: []configs.Part{{Percent: 100}}}}
	p, err := plan(c, size, 512)
	if err != nil {
		t.Fatal(err)
	}
	all := p.regions("img", size, 512)
	for n := range len(all) + 1 {
		img := image(t, size)
		f, err := os.OpenFile(img, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all[:n] {
			if _, err := f.WriteAt(r.data, r.off); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
		s, _ := setup(t)
		if err := s.Apply(t.Context(), alias(t, img, "disk_setup: {img: {table_type: gpt, layout: true}}")); err != nil {
			t.Errorf("after %d writes: %v", n, err)
		}
	}
}

// Foreign data is left alone, to the byte, unless overwrite is set; slipway's
// own volumes are left alone even then.
func TestForeign(t *testing.T) {
	for name, c := range map[string]struct {
		at        int64
		data      string
		overwrite bool
		want      string
	}{
		"a byte at the start": {5, "x", false, "the disk holds unknown data: write overwrite: true if that may be lost"},
		"a byte at the end":   {16<<20 - 1, "x", false, "the disk holds unknown data: write overwrite: true if that may be lost"},
		"xfs":                 {0, "XFSB", false, "the disk holds xfs: write overwrite: true if that may be lost"},
		"LVM":                 {512, "LABELONE", false, "the disk holds LVM physical volume: write overwrite: true if that may be lost"},
		"LUKS":                {0, "LUKS\xba\xbe", false, "the disk holds LUKS: write overwrite: true if that may be lost"},
		"ISO":                 {0x8000, "\x01CD001", false, "the disk holds iso9660: write overwrite: true if that may be lost"},
		"the boot medium":     {0x8000, "\x01CD001" + strings.Repeat(" ", 34) + "SLIPWAY" + strings.Repeat(" ", 30), true, `it holds iso9660 "SLIPWAY", which is slipway's own`},
		"xfs, overwrite":      {0, "XFSB", true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			img := image(t, 16<<20)
			f, err := os.OpenFile(img, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte(c.data), c.at); err != nil {
				t.Fatal(err)
			}
			f.Close()
			before, _ := os.ReadFile(img)
			s, _ := setup(t)
			err = s.Apply(t.Context(), alias(t, img, fmt.Sprintf("disk_setup: {img: {table_type: gpt, layout: true, overwrite: %v}}", c.overwrite)))
			after, _ := os.ReadFile(img)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || err.Error() != "disk_setup: img: "+c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if !slices.Equal(before, after) {
				t.Error("the disk was changed")
			}
		})
	}
}

func TestFormat(t *testing.T) {
	for kind, program := range map[string]string{"ext4": mkfsExt, "ext3": mkfsExt, "ext2": mkfsExt, "xfs": mkfsXFS, "vfat": mkfsVFAT, "swap": mkswap} {
		t.Run(kind, func(t *testing.T) {
			needs(t, program)
			img := image(t, 320<<20)
			c := alias(t, img, "fs_setup: [{label: DATA-1, filesystem: "+kind+", device: img, partition: none}]")
			s, said := setup(t)
			for range 2 {
				if err := s.Apply(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			if len(*said) != 1 {
				t.Errorf("said %q", *said)
			}
			if found, err := look(img); err != nil || (found != disks.Found{Kind: kind, Label: "DATA-1"}) {
				t.Errorf("%v, %v", found, err)
			}
			other := alias(t, img, "fs_setup: [{label: OTHER, filesystem: "+kind+", device: img, partition: none}]")
			want := fmt.Sprintf("fs_setup[0]: %s holds %s \"DATA-1\" and not %s \"OTHER\": write overwrite: true if that may be lost", img, kind, kind)
			if err := s.Apply(t.Context(), other); err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
			other.FSSetup[0].Overwrite = true
			if err := s.Apply(t.Context(), other); err != nil {
				t.Error(err)
			}
			other.FSSetup[0] = configs.FSSetup{Filesystem: kind, Device: "img", Label: "ANY"}
			if err := s.Apply(t.Context(), other); err != nil { // any takes what is of the kind
				t.Error(err)
			}
		})
	}
}

// The whole of it on a loop device: partitions, file systems, mounts, twice.
func TestLoop(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: loop devices and mounts")
	}
	needs(t, "losetup", "mount", "umount", mkfsExt, mkswap)
	img := image(t, 128<<20)
	out, err := exec.Command("losetup", "--find", "--show", "--partscan", img).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %v: %s", err, out)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", loop).Run() })
	s, said := setup(t)
	table := "disk_setup: {img: {table_type: gpt, layout: [50, 30, 20]}}\n"
	if err := s.Apply(t.Context(), alias(t, loop, table)); err != nil {
		t.Fatal(err)
	}
	d, err := openDisk(loop, false)
	if err != nil {
		t.Fatal(err)
	}
	parts, _ := readTable(d)
	d.Close()
	for i, p := range parts.parts {
		node(t, loop, i+1, p)
	}
	c := alias(t, loop, table+`fs_setup:
- {label: one, filesystem: ext4, device: img, partition: auto}
- {label: two, filesystem: ext4, device: img.2}
- {label: three, filesystem: swap, device: img, partition: auto}
mounts:
- [img.1, /srv/one, ext4, "defaults,noatime,nofail"]
- [img.2, /srv/two, auto, ro]
- [/dev/nowhere, /srv/nowhere]
- [img.3, none, swap, "sw,noauto"]
`)
	t.Cleanup(func() { _ = exec.Command("umount", s.Root+"/srv/one", s.Root+"/srv/two").Run() })
	for i := range 2 {
		if err := s.Apply(t.Context(), c); err != nil {
			t.Fatalf("time %d: %v", i+1, err)
		}
	}
	t.Logf("said %q", *said)
	for n, want := range []string{`ext4 "one"`, `ext4 "two"`, `swap "three"`} {
		if f, err := look(configs.PartitionPath(loop, n+1)); err != nil || f.String() != want {
			t.Errorf("partition %d: %s, %v, want %s", n+1, f, err, want)
		}
	}
	if err := os.WriteFile(s.Root+"/srv/one/file", []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(s.Root+"/srv/two/file", nil, 0o600); err == nil {
		t.Error("/srv/two is not mounted read-only")
	}
	c.DiskSetup["img"] = configs.DiskSetup{TableType: "gpt", Layout: configs.Layout{Parts: []configs.Part{{Percent: 100}}}, Overwrite: true}
	if err := s.Apply(t.Context(), c); err == nil || !strings.Contains(err.Error(), loop+"p1 is in use") {
		t.Errorf("a mounted disk: got %v", err)
	}
}

// node makes what a kernel that knows partition tables, and a /dev of its own,
// make by themselves.
func node(t *testing.T, disk string, n int, p part) {
	t.Helper()
	dev := configs.PartitionPath(disk, n)
	if _, err := os.Stat(dev); err == nil {
		return
	}
	sys := "/sys/class/block/" + filepath.Base(dev) + "/dev"
	if _, err := os.Stat(sys); err != nil {
		needs(t, "addpart", "delpart")
		if out, err := exec.Command("addpart", disk, fmt.Sprint(n), fmt.Sprint(p.start), fmt.Sprint(p.count)).CombinedOutput(); err != nil {
			t.Skipf("partitions of loop devices do not appear here: %v: %s", err, out)
		}
		t.Cleanup(func() { _ = exec.Command("delpart", disk, fmt.Sprint(n)).Run() })
	}
	if _, err := os.Stat(dev); err == nil {
		return
	}
	raw, err := os.ReadFile(sys)
	if err != nil {
		t.Skipf("partitions of loop devices do not appear here: %v", err)
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(raw), "%d:%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(dev, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
		t.Skipf("device nodes cannot be made here: %v", err)
	}
	t.Cleanup(func() { _ = os.Remove(dev) })
}

func TestFstab(t *testing.T) {
	c := parse(t, `mount_default_fields: [null, null, ext4, "defaults,noauto"]
mounts:
- [sdb, /srv/b]
- [/dev/nvme0n1.2, /srv/n, xfs, "noauto,ro", 1, 0]
- [sdc1, /srv/c]
- [sdc1]
- ["nfs.example:/x", /srv/nfs, nfs, noauto]
`)
	s, _ := setup(t)
	if err := os.MkdirAll(s.Root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Root+"/etc/fstab", []byte("# mine\nLABEL=x /x ext4 defaults 0 2\n/dev/old /old ext4 comment=cloudconfig 0 2"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Apply(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	want := "# mine\nLABEL=x /x ext4 defaults 0 2\n" +
		"/dev/sdb\t/srv/b\text4\tdefaults,noauto,comment=cloudconfig\t0\t2\n" +
		"/dev/nvme0n1p2\t/srv/n\txfs\tnoauto,ro,comment=cloudconfig\t1\t0\n" +
		"nfs.example:/x\t/srv/nfs\tnfs\tnoauto,comment=cloudconfig\t0\t2\n"
	if got, _ := os.ReadFile(s.Root + "/etc/fstab"); string(got) != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestAutoSwap(t *testing.T) {
	const gib = 1 << 30
	for _, c := range [][4]int64{{2, 100, 0, 2}, {8, 100, 0, 4}, {64, 100, 0, 8}, {2, 4, 0, 1}, {8, 100, 1, 1}, {8, 2, 3, 1}} {
		if got := autoSwap(c[0]*gib, c[1]*gib, c[2]*gib); got/gib != c[3] {
			t.Errorf("%d GiB of memory, %d free, %d at most: got %d MiB, want %d GiB", c[0], c[1], c[2], got>>20, c[3])
		}
	}
}

func TestSwapNeedsADisk(t *testing.T) {
	s, _ := setup(t)
	s.Root = "/dev/shm/slipway-test"
	if err := os.MkdirAll(s.Root, 0o700); err != nil {
		t.Skipf("needs a tmpfs at /dev/shm: %v", err)
	}
	defer os.RemoveAll(s.Root)
	err := s.Apply(t.Context(), parse(t, "swap: {filename: /swap, size: 1M}"))
	if err == nil || err.Error() != "swap: /dev/shm/slipway-test/swap: the directory is in memory, and a swap file needs a disk: mount one there" {
		t.Errorf("got %v", err)
	}
}

func TestFindByID(t *testing.T) {
	s, _ := setup(t)
	s.Sys = t.TempDir()
	for name, text := range map[string]string{
		"vdb/serial": "data1\n", "vdc/serial": "data11", "sda/device/wwid": "naa.5000c500a1", "nvme0n1/wwid": "eui.0025385b", "nvme0n1/device/serial": "S4 X",
		"vdx/serial": "twin", "vdy/serial": "twin", "loop0/size": "0",
	} {
		p := filepath.Join(s.Sys, "block", name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"virtio-data1": "/dev/vdb", "virtio-data11-part2": "/dev/vdc2", "wwn-0x5000c500a1-part1": "/dev/sda1",
		"nvme-eui.0025385b-part3": "/dev/nvme0n1p3", "nvme-Model_S4_X": "/dev/nvme0n1",
		"virtio-ata1": "lstat /dev/disk: no such file or directory", "virtio-twin": "/dev/disk/by-id/virtio-twin could be /dev/vdx or /dev/vdy",
	} {
		got, err := s.find("/dev/disk/by-id/" + name)
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, strings.TrimSuffix(want, ": no such file or directory")) {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}
