package disks

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const imageSize = 320 << 20 // XFS refuses less than 300 MiB

func image(t *testing.T, size int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	return name
}

// program is the path of a program, "" if this machine has none; what sbin has
// is not on every PATH.
func program(name string) string {
	for _, dir := range []string{"/usr/sbin/", "/usr/bin/", "/sbin/"} {
		if _, err := os.Stat(dir + name); err == nil {
			return dir + name
		}
	}
	return ""
}

func run(t *testing.T, input string, argv ...string) {
	t.Helper()
	argv[0] = program(argv[0])
	c := exec.Command(argv[0], argv[1:]...)
	c.Stdin = strings.NewReader(input)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
}

func texts(found []Found) (out []string) {
	for _, f := range found {
		out = append(out, f.String())
	}
	return out
}

func probeFile(t *testing.T, name string) []string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, _ := f.Seek(0, io.SeekEnd)
	found, err := Probe(f, size)
	if err != nil {
		t.Fatal(err)
	}
	return texts(found)
}

// Formats as their own programs make them.
func TestProbeOfReal(t *testing.T) {
	for _, c := range []struct {
		argv []string // the image's name is added
		want string
	}{
		{[]string{"mke2fs", "-q", "-F", "-t", "ext4", "-L", "root"}, `ext4 "root"`},
		{[]string{"mke2fs", "-q", "-F", "-t", "ext3"}, "ext3"},
		{[]string{"mke2fs", "-q", "-F", "-t", "ext2", "-L", "0123456789abcdef"}, `ext2 "0123456789abcdef"`},
		{[]string{"mke2fs", "-q", "-F", "-O", "journal_dev"}, "ext journal"},
		{[]string{"mkfs.xfs", "-q", "-L", "data"}, `xfs "data"`},
		{[]string{"mkfs.vfat", "-n", "EFI"}, `vfat "EFI"`},
		{[]string{"mkfs.vfat", "-F", "32"}, "vfat"},
		{[]string{"mkswap", "-L", "sw"}, `swap "sw"`},
		{[]string{"mkswap", "-p", "65536"}, "swap"},
		{[]string{"mkfs.btrfs", "-q", "-L", "pool"}, `btrfs "pool"`},
		{[]string{"mkntfs", "-q", "-F", "-f"}, "ntfs"},
		{[]string{"mkfs.exfat"}, "exfat"},
		{[]string{"make-bcache", "-B"}, "bcache"},
		{[]string{"make-bcache", "-C"}, "bcache"},
	} {
		t.Run(c.want, func(t *testing.T) {
			if program(c.argv[0]) == "" {
				t.Skipf("no %s on this machine", c.argv[0])
			}
			img := image(t, imageSize)
			run(t, "", append(slices.Clone(c.argv), img)...)
			if got := probeFile(t, img); !slices.Equal(got, []string{c.want}) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	t.Run("LUKS", func(t *testing.T) {
		if program("cryptsetup") == "" {
			t.Skip("no cryptsetup on this machine")
		}
		for version, want := range map[string]string{"luks1": "LUKS", "luks2": `LUKS "vault"`} {
			img := image(t, 32<<20)
			argv := []string{"cryptsetup", "luksFormat", "--type", version, "--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}
			if version == "luks2" {
				argv = append(argv, "--label", "vault")
			}
			run(t, "secret", append(argv, img, "-")...)
			if got := probeFile(t, img); got[0] != want {
				t.Errorf("%s: got %q, want %q", version, got, want)
			}
		}
	})
}

// put is a disk in memory with bytes at places, negative ones from the end.
func put(size int64, at map[int64]string) []byte {
	b := make([]byte, size)
	for off, s := range at {
		if off < 0 {
			off += size
		}
		copy(b[off:], s)
	}
	return b
}

const bigText = 8 << 20

// Formats whose programs need devices or another system, written as their
// documents have them.
func TestProbeOfWritten(t *testing.T) {
	md1 := "\xfc\x4e\x2b\xa9\x01\x00\x00\x00" + strings.Repeat("\x00", 24) + "host:0\x00"
	label := func(order binary.ByteOrder) string {
		b := make([]byte, 256<<10)
		copy(b[16<<10:], "\x01\x01\x00\x00"+strings.Repeat("\x00", 8)+"\x00\x00\x00\x24\x00\x00\x00\x20\x00\x00\x00\x04name\x00\x00\x00\x09\x00\x00\x00\x01\x00\x00\x00\x04tank")
		order.PutUint64(b[128<<10+4096:], 0x00bab10c)
		return string(b)
	}
	for _, c := range []struct {
		name string
		size int64
		at   map[int64]string
		want []string
	}{
		{"nothing", bigText, nil, nil},
		{"nothing at all", 0, nil, nil},
		{"a small empty one", 1000, nil, nil},
		{"a byte at the start", bigText, map[int64]string{1<<20 - 1: "x"}, []string{unknown}},
		{"a byte at the end", bigText, map[int64]string{-1: "x"}, []string{unknown}},
		{"something in the middle", bigText, map[int64]string{4 << 20: "x"}, nil},
		{"RAID 0.90", bigText + 4096, map[int64]string{bigText - 0x10000: "\xfc\x4e\x2b\xa9\x00\x00\x00\x00"}, []string{"RAID member"}},
		{"RAID 0.90, big-endian", bigText, map[int64]string{-0x10000: "\xa9\x2b\x4e\xfc"}, []string{"RAID member"}},
		{"RAID 1.0", bigText, map[int64]string{-8192: md1}, []string{`RAID member "host:0"`}},
		{"RAID 1.0, odd size", bigText + 512, map[int64]string{bigText - 8192: md1}, []string{`RAID member "host:0"`}},
		{"RAID 1.1", bigText, map[int64]string{0: md1}, []string{`RAID member "host:0"`}},
		{"RAID 1.2", bigText, map[int64]string{4096: md1}, []string{`RAID member "host:0"`}},
		{"RAID 1.0 under ext4's place", bigText, map[int64]string{0x438: "\x53\xef", -8192: md1}, []string{"ext2", `RAID member "host:0"`}},
		{"Intel RAID", bigText, map[int64]string{-1024: "Intel Raid ISM Cfg Sig. 1.3.00"}, []string{"Intel RAID member"}},
		{"DDF", bigText, map[int64]string{-512: "\xde\x11\xde\x11"}, []string{"DDF RAID member"}},
		{"ZFS, first label", bigText, map[int64]string{0: label(binary.LittleEndian)}, []string{`ZFS member "tank"`}},
		{"ZFS, last label", bigText + 100000, map[int64]string{bigText - 256<<10: label(binary.BigEndian)}, []string{`ZFS member "tank"`}},
		{"ZFS, third label", bigText, map[int64]string{-512 << 10: label(binary.LittleEndian)}, []string{`ZFS member "tank"`}},
		{"LVM without metadata", bigText, map[int64]string{512: "LABELONE"}, []string{"LVM physical volume"}},
		{"VMFS volume", bigText, map[int64]string{1 << 20: "\x0d\xd0\x01\xc0"}, []string{"VMFS"}},
		{"VMFS file system", bigText, map[int64]string{2 << 20: "\x5e\xf1\xab\x2f"}, []string{"VMFS"}},
		{"BitLocker", bigText, map[int64]string{0: "\xeb\x58\x90-FVE-FS-", 510: "\x55\xaa"}, []string{"BitLocker volume"}},
		{"LUKS2, second header only", bigText, map[int64]string{0x4000: "SKUL\xba\xbe"}, []string{"LUKS"}},
		{"dynamic disk", bigText, map[int64]string{6 * 512: "PRIVHEAD"}, []string{"Windows dynamic disk"}},
		{"Ceph", bigText, map[int64]string{0: "bluestore block device\n0c5"}, []string{"Ceph OSD"}},
		{"hibernated", bigText, map[int64]string{4086: "S1SUSPEND\x00"}, []string{"swap of a machine that sleeps"}},
		{"MBR without partitions", bigText, map[int64]string{510: "\x55\xaa"}, []string{"a partition table (mbr)"}},
		{"MBR", bigText, map[int64]string{446: "\x80\x00\x00\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x08\x00\x00", 510: "\x55\xaa"}, []string{"a partition table (mbr)"}},
		{"boot code", bigText, map[int64]string{446: "\x11\x00\x00\x00\x83", 510: "\x55\xaa"}, []string{"a boot sector"}},
		{"protective MBR alone", bigText, map[int64]string{446: "\x00\x00\x00\x00\xee", 510: "\x55\xaa"}, []string{"a damaged partition table (gpt)"}},
		{"damaged GPT", bigText, map[int64]string{512: "EFI PART"}, []string{"a damaged partition table (gpt)"}},
		{"damaged GPT of 4096", bigText, map[int64]string{-4096: "EFI PART"}, []string{"a damaged partition table (gpt)"}},
		{"several", bigText, map[int64]string{0: "XFSB", 0x8001: "CD001", -1024: "Intel Raid ISM Cfg Sig. "}, []string{"xfs", "iso9660", "Intel RAID member"}},
	} {
		found, err := Probe(bytes.NewReader(put(c.size, c.at)), c.size)
		if got := texts(found); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
}

// broken is a disk of zeros with a sector that cannot be read.
type broken struct {
	size, bad int64
}

func (b broken) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off <= b.bad && b.bad < off+int64(len(p)) {
		return 0, errors.New("input/output error")
	}
	return len(p), nil
}

func TestWhatCannotBeReadIsNotEmpty(t *testing.T) {
	for _, bad := range []int64{0, 4096, 1 << 20, bigText - 1} {
		if _, err := Holdings(broken{bigText, bad}, "sda", bigText, 512); err == nil {
			t.Errorf("byte %d: no error", bad)
		}
	}
	name := image(t, 4096)
	d := Disk{Name: "sda", Size: bigText, Sector: 512}
	d.read(name + ".none")
	if len(d.Holds) != 1 || Consent(d, nil) == nil {
		t.Errorf("a device that is not there holds %v", d.Holds)
	}
}

// seal fills in the checksums of a GPT's header.
func seal(header, entries []byte) {
	binary.LittleEndian.PutUint32(header[88:], crc32.ChecksumIEEE(entries))
	clear(header[16:20])
	binary.LittleEndian.PutUint32(header[16:], crc32.ChecksumIEEE(header[:92]))
}
