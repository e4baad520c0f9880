package root

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// MountAll mounts a plan in order. Targets that can be made are made.
func MountAll(plan []Mount) error {
	for _, m := range plan {
		if mounted(m.Target) && !m.Seed && m.FSType != "overlay" {
			continue
		}
		if err := m.mount(); err != nil && !Optional(m.FSType) {
			return fmt.Errorf("mounting %s: %w", m, err)
		}
	}
	return nil
}

func (m Mount) mount() error {
	_ = os.MkdirAll(m.Target, 0o755) // on a read-only root it exists or the mount says so
	if m.Seed && m.Flags&unix.MS_BIND != 0 {
		if err := seedDir(m.Source, m.Target); err != nil {
			return err
		}
	}
	if !m.Seed || m.Flags&unix.MS_BIND != 0 {
		return unix.Mount(m.Source, m.Target, m.FSType, m.Flags, m.Data)
	}
	// Fill the file system beside its place, then move it there. The parent
	// may not be a shared mount (mount(2), MS_MOVE), and /run is not.
	tmp, err := os.MkdirTemp("/run", "seed-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	if err := unix.Mount(m.Source, tmp, m.FSType, m.Flags, m.Data); err != nil {
		return err
	}
	if err := Copy(m.Target, tmp); err != nil {
		_ = unix.Unmount(tmp, unix.MNT_DETACH)
		return err
	}
	return unix.Mount(tmp, m.Target, "", unix.MS_MOVE, "")
}

// seedDir makes dir a copy of from unless it exists. The name appears when the
// copy is whole: a power cut in between starts it again.
func seedDir(dir, from string) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	part := dir + ".part"
	if err := errors.Join(os.RemoveAll(part), os.MkdirAll(part, 0o755)); err != nil {
		return err
	}
	if err := Copy(from, part); err != nil {
		return err
	}
	unix.Sync()
	if err := os.Rename(part, dir); err != nil {
		return err
	}
	unix.Sync()
	return nil
}

// mounted compares the device of a directory with that of its parent.
func mounted(dir string) bool {
	var a, b unix.Stat_t
	if unix.Lstat(dir, &a) != nil || unix.Lstat(filepath.Dir(dir), &b) != nil {
		return false
	}
	return a.Dev != b.Dev
}

// Copy copies what is below src into dst, with modes and owners.
func Copy(src, dst string) error {
	return filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(src, p)
		return copyEntry(p, filepath.Join(dst, rel), d)
	})
}

func copyEntry(from, to string, d fs.DirEntry) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	mode := uint32(st.Mode & 0o7777)
	switch d.Type() {
	case fs.ModeSymlink:
		l, err := os.Readlink(from)
		if err != nil {
			return err
		}
		if err := os.Symlink(l, to); err != nil {
			return err
		}
		return os.Lchown(to, int(st.Uid), int(st.Gid))
	case fs.ModeDir:
		if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case 0:
		if err := copyFile(from, to); err != nil {
			return err
		}
	default:
		return nil // no sockets or devices in an image
	}
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(to, mode)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// Image mounts an EROFS file read-only: straight from the file, which Linux
// 6.12 can (CONFIG_EROFS_FS_BACKED_BY_FILE), else through a loop device.
func Image(file, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	first := unix.Mount(file, dir, "erofs", unix.MS_RDONLY, "")
	if first == nil {
		return nil
	}
	dev, err := loop(file)
	if err != nil {
		return fmt.Errorf("mounting %s: from the file: %w; through a loop device: %w", file, first, err)
	}
	if err := unix.Mount(dev, dir, "erofs", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mounting %s: from the file: %w; from %s: %w", file, first, dev, err)
	}
	return nil
}

// loop attaches a file to a free loop device that goes away with its mount.
func loop(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer ctl.Close()
	n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return "", fmt.Errorf("free loop device: %w", err)
	}
	dev := fmt.Sprintf("/dev/loop%d", n)
	l, err := os.OpenFile(dev, os.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	defer l.Close()
	cfg := unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR}}
	if err := unix.IoctlLoopConfigure(int(l.Fd()), &cfg); err != nil {
		return "", fmt.Errorf("%s: %w", dev, err)
	}
	return dev, nil
}

// Assemble mounts the image at base and its writable layers.
func Assemble(image, base string, w Writable) error {
	if err := Image(image, base); err != nil {
		return err
	}
	for _, path := range overlaid() {
		for _, d := range []string{"upper", "work"} {
			if err := os.MkdirAll(filepath.Join(w.changes(path), d), 0o755); err != nil {
				return err
			}
		}
	}
	return MountAll(Layers(base, w))
}

// Visit mounts the image at dir, read-only, with the kernel's file systems in
// it, for programs that run there for a while; Leave undoes it.
func Visit(image, dir string) error {
	if err := Image(image, dir); err != nil {
		return err
	}
	for _, d := range visited() {
		if err := unix.Mount(d, dir+d, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			Leave(dir)
			return fmt.Errorf("mounting %s on %s: %w", d, dir+d, err)
		}
	}
	return nil
}

// Leave unmounts what Visit mounted.
func Leave(dir string) {
	for _, d := range visited() {
		_ = unix.Unmount(dir+d, unix.MNT_DETACH)
	}
	_ = unix.Unmount(dir, unix.MNT_DETACH)
}

func visited() []string { return []string{"/dev", "/proc", "/sys", "/run"} }

// Switch makes base the root of this process and everything it starts, moves
// /dev /proc /sys /run there, and frees the initramfs. The kernel's own helpers
// follow, because PID 1 shares its file system view with them (kernel_init is
// started with CLONE_FS). pivot_root(2) refuses to leave an initramfs.
func Switch(base string) error {
	for _, d := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := unix.Mount(d, base+d, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving %s to %s: %w", d, base+d, err)
		}
	}
	old, err := os.Open("/")
	if err != nil {
		return err
	}
	defer old.Close()
	if err := unix.Chdir(base); err != nil {
		return fmt.Errorf("entering %s: %w", base, err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving %s to /: %w", base, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("changing root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	empty(old)
	// Pods' mounts have to reach the host and back (mount propagation).
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

// empty deletes all files of the file system that dir is on, to free their
// memory; the running program stays until it ends. What cannot be deleted stays.
func empty(dir *os.File) {
	var own unix.Stat_t
	if unix.Fstat(int(dir.Fd()), &own) != nil {
		return
	}
	names, _ := dir.Readdirnames(-1)
	for _, n := range names {
		fd, err := unix.Openat(int(dir.Fd()), n, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			_ = unix.Unlinkat(int(dir.Fd()), n, 0)
			continue
		}
		var st unix.Stat_t
		sub := os.NewFile(uintptr(fd), n)
		if unix.Fstat(fd, &st) == nil && st.Dev == own.Dev {
			empty(sub)
			_ = unix.Unlinkat(int(dir.Fd()), n, unix.AT_REMOVEDIR)
		}
		sub.Close()
	}
}

// UnmountAll unmounts everything but the kernel's own file systems, the last
// mounted first, and makes what resists read-only.
func UnmountAll() {
	raw, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return
	}
	l := strings.Split(strings.TrimSpace(string(raw)), "\n")
	for i := len(l) - 1; i >= 0; i-- {
		f := strings.Fields(l[i])
		if len(f) < 3 || f[1] == "/" || strings.HasPrefix(f[1], "/proc") || strings.HasPrefix(f[1], "/sys") || strings.HasPrefix(f[1], "/dev") || f[1] == "/run" {
			continue
		}
		if unix.Unmount(f[1], 0) != nil && f[2] != "tmpfs" {
			_ = unix.Mount("", f[1], "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
}
