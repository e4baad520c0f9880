package audit

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// kept are the capabilities of a started command: those that work on its own
// files and processes. None reaches the clock, devices or mounts, or makes the
// kernel load a module (CAP_NET_ADMIN would).
var kept = []int{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID,
	unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT}

// enclose gives the calling goroutine's thread a mount namespace of its own, in
// which root is read-only with what a node mounts on it, and takes from
// everything the thread starts the rights that are not kept. The thread ends
// with the goroutine.
func enclose(root string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		{root, root, "", unix.MS_BIND},
		{"", root, "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY},
		{"proc", root + "/proc", "proc", unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"tmpfs", root + "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmpfs", root + "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmpfs", root + "/dev", "tmpfs", unix.MS_NOSUID},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	// Numbers of admin-guide/devices.txt.
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9} {
		node := root + "/dev/" + name
		if err := errors.Join(unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))), os.Chmod(node, 0o666)); err != nil {
			return fmt.Errorf("%s: %w", node, err)
		}
	}
	for name, to := range map[string]string{"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		if err := os.Symlink("/proc/self/"+to, root+"/dev/"+name); err != nil {
			return err
		}
	}
	return drop()
}

// drop takes from all that this thread executes the capabilities that are not kept.
func drop() error {
	for c := range unix.CAP_LAST_CAP + 1 {
		if slices.Contains(kept, c) {
			continue
		}
		// The kernel may know fewer than this package (EINVAL).
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("dropping capability %d: %w", c, err)
		}
	}
	return nil
}
