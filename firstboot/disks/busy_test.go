package disks

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A disk of which a file system is mounted is in use, by the kernel's own word.
func TestMounted(t *testing.T) {
	if program("losetup") == "" || program("mke2fs") == "" {
		t.Skip("no losetup or mke2fs on this machine")
	}
	img := ext4(t, "busy")
	out, err := exec.Command(program("losetup"), "--find", "--show", img).CombinedOutput()
	loop := strings.TrimSpace(string(out))
	if err != nil {
		t.Skipf("no loop device: %s", loop)
	}
	defer func() { run(t, "", "losetup", "-d", loop) }()
	root := tree(t, map[string]string{"sys/block/vda/size": "8192\n", "sys/block/vda/device/x": "", "dev/vda": "->" + loop})
	look := func() Disk {
		t.Helper()
		all, err := List(filepath.Join(root, "sys"), filepath.Join(root, "dev"))
		if err != nil || len(all) != 1 || len(all[0].Holds) != 1 || all[0].Holds[0].What != `ext4 "busy"` {
			t.Fatalf("%+v, %v", all, err)
		}
		return all[0]
	}
	if look().Mounted {
		t.Error("in use before it is mounted")
	}
	dir := t.TempDir()
	if err := unix.Mount(loop, dir, "ext4", unix.MS_RDONLY, ""); err != nil {
		t.Skipf("no mounts here: %v", err)
	}
	busy := look().Mounted
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if !busy {
		t.Error("not in use while it is mounted")
	}
	if look().Mounted {
		t.Error("in use after it was mounted")
	}
}
