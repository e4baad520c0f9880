package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs"
)

// comment marks the lines of fstab(5) that come from the config, as cloud-init
// marks its own.
const comment = "comment=cloudconfig"

// mounts writes fstab and mounts what is not mounted. A failure ends the
// configuration unless the mount has the option nofail.
func (s Setup) mounts(ctx context.Context, c *configs.Storage) error {
	lines := c.Lines()
	if err := s.fstab(lines); err != nil {
		return fmt.Errorf("mounts: %w", err)
	}
	for _, l := range lines {
		options := strings.Split(l[3], ",")
		if slices.Contains(options, "noauto") {
			continue
		}
		if err := s.mount(ctx, l); err != nil {
			if !slices.Contains(options, "nofail") {
				return fmt.Errorf("mounts: %s: %w", l[1], err)
			}
			s.Report(fmt.Sprintf("not mounted (nofail): %s on %s: %v", l[0], l[1], err))
		}
	}
	return nil
}

func (s Setup) fstab(lines [][6]string) error {
	name := filepath.Join(s.Root, "etc/fstab")
	old, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var b strings.Builder
	for l := range strings.Lines(string(old)) {
		if !strings.Contains(l, comment) {
			b.WriteString(strings.TrimRight(l, "\n") + "\n")
		}
	}
	for _, l := range lines {
		fmt.Fprintf(&b, "%s\t%s\t%s\t%s,%s\t%s\t%s\n", l[0], l[1], l[2], l[3], comment, l[4], l[5])
	}
	if b.String() == string(old) || len(lines) == 0 && len(old) == 0 {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(b.String()), 0o644)
}

func (s Setup) mount(ctx context.Context, l [6]string) error {
	if strings.HasPrefix(l[0], "/dev/disk/by-id/") {
		dev, err := s.find(l[0])
		if err != nil {
			return err
		}
		l[0] = dev
	}
	if l[2] == "swap" {
		return s.swapon(ctx, l[0])
	}
	dir := filepath.Join(s.Root, l[1])
	used, err := s.listed("self/mountinfo", 4, dir)
	if err != nil || used {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); errors.Is(err, unix.EROFS) {
		return fmt.Errorf("%w: mount below /srv, /mnt, /media, /home or /var", err)
	} else if err != nil {
		return err
	}
	options := slices.DeleteFunc(strings.Split(l[3], ","), func(o string) bool { // for fstab's readers alone
		return o == "nofail" || o == "auto" || o == "_netdev" || strings.HasPrefix(o, "x-") || strings.HasPrefix(o, "comment=")
	})
	argv := []string{mount, "-t", l[2]}
	if len(options) > 0 {
		argv = append(argv, "-o", strings.Join(options, ","))
	}
	if err := s.program(ctx, append(argv, l[0], dir), "mount"); err != nil {
		return err
	}
	s.Report(fmt.Sprintf("%s mounted on %s", l[0], l[1]))
	return nil
}

// listed reports whether a field of a file of /proc is a path.
func (s Setup) listed(file string, field int, path string) (bool, error) {
	raw, err := os.ReadFile(filepath.Join(s.Proc, file))
	if errors.Is(err, fs.ErrNotExist) { // /proc/swaps without CONFIG_SWAP
		return false, nil
	}
	for l := range strings.Lines(string(raw)) {
		if f := strings.Fields(l); len(f) > field && strings.ReplaceAll(f[field], `\040`, " ") == path {
			return true, nil
		}
	}
	return false, err
}

func (s Setup) swapon(ctx context.Context, dev string) error {
	used, err := s.listed("swaps", 0, dev)
	if err != nil || used {
		return err
	}
	if err := s.program(ctx, []string{swapon, dev}, "mount"); err != nil {
		return err
	}
	s.Report(dev + " is swap space")
	return nil
}

// swap makes a swap file where there is none and uses it.
func (s Setup) swap(ctx context.Context, c configs.Swap) error {
	if c.Size == 0 {
		return nil
	}
	name := c.Filename
	if name == "" {
		name = "/swap.img"
	}
	name = filepath.Join(s.Root, name)
	if err := s.swapFile(ctx, name, c); err != nil {
		return fmt.Errorf("swap: %s: %w", name, err)
	}
	return nil
}

func (s Setup) swapFile(ctx context.Context, name string, c configs.Swap) error {
	if used, err := s.listed("swaps", 0, name); err != nil || used {
		return err
	}
	if found, err := look(name); err == nil && found.Kind == "swap" {
		return s.swapon(ctx, name)
	} else if err == nil && found.Kind != "" {
		return fmt.Errorf("the file is there and holds %s", found)
	}
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if kind := uint32(st.Type); kind == unix.TMPFS_MAGIC || kind == unix.RAMFS_MAGIC || kind == unix.OVERLAYFS_SUPER_MAGIC {
		return errors.New("the directory is in memory, and a swap file needs a disk: mount one there")
	}
	size := int64(c.Size)
	if c.Size == configs.SizeAuto {
		var info unix.Sysinfo_t
		if err := unix.Sysinfo(&info); err != nil {
			return err
		}
		size = autoSwap(int64(info.Totalram)*int64(info.Unit), int64(st.Bfree)*st.Bsize, int64(c.MaxSize))
	} else if c.MaxSize > 0 {
		size = min(size, int64(c.MaxSize))
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, size), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("%d MB: %w", size>>20, err), os.Remove(name))
	}
	if err := s.program(ctx, []string{mkswap, name}, "util-linux"); err != nil {
		return err
	}
	return s.swapon(ctx, name)
}

// autoSwap is cloud-init's rule, in bytes: as much as there is memory up to 4
// GiB, 4 GiB up to 16, then the root of the memory in GiB; no more than a
// quarter of what is free, or than most and nine tenths of what is free.
func autoSwap(memory, free, most int64) int64 {
	const gib = 1 << 30
	size := memory
	switch {
	case memory >= 16*gib:
		size = int64(math.Round(math.Sqrt(float64(memory)/gib))) * gib
	case memory >= 4*gib:
		size = 4 * gib
	}
	switch {
	case most <= 0:
		most = min(free/4, 2*memory)
	case most > free/10*9:
		most = free / 10 * 9
	}
	return min(size, most) >> 20 << 20
}
