// Package root assembles the system root: an EROFS image, read-only, with
// memory laid over what has to be writable; and makes it the machine's root.
//
// It does not verify what it mounts (blobs does) and starts no program.
package root

import (
	"cmp"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is one mount(2).
type Mount struct {
	Source, Target, FSType string
	Flags                  uintptr
	Data                   string
	// Seed copies what the image has at Target into the new file system.
	Seed bool
	Mode uint32 // of Target once mounted, 0 to leave it
}

func (m Mount) String() string {
	s := fmt.Sprintf("%s on %s type %s", m.Source, m.Target, cmp.Or(m.FSType, "bind"))
	if m.Data != "" {
		s += " (" + m.Data + ")"
	}
	if m.Seed {
		s += " seeded"
	}
	return s
}

const safe = unix.MS_NOSUID | unix.MS_NODEV

// Kernel lists the kernel's own file systems, mounted first of all.
func Kernel() []Mount {
	return []Mount{
		{Source: "proc", Target: "/proc", FSType: "proc", Flags: safe | unix.MS_NOEXEC},
		{Source: "sysfs", Target: "/sys", FSType: "sysfs", Flags: safe | unix.MS_NOEXEC},
		{Source: "devtmpfs", Target: "/dev", FSType: "devtmpfs", Flags: unix.MS_NOSUID, Data: "mode=0755"},
		{Source: "devpts", Target: "/dev/pts", FSType: "devpts", Flags: unix.MS_NOSUID | unix.MS_NOEXEC, Data: "gid=5,mode=0620,ptmxmode=0666"},
		{Source: "shm", Target: "/dev/shm", FSType: "tmpfs", Flags: safe, Data: "mode=1777"},
		{Source: "mqueue", Target: "/dev/mqueue", FSType: "mqueue", Flags: safe | unix.MS_NOEXEC},
		{Source: "run", Target: "/run", FSType: "tmpfs", Flags: safe, Data: "mode=0755,size=25%"},
		{Source: "cgroup2", Target: "/sys/fs/cgroup", FSType: "cgroup2", Flags: safe | unix.MS_NOEXEC, Data: "nsdelegate"},
		{Source: "securityfs", Target: "/sys/kernel/security", FSType: "securityfs", Flags: safe | unix.MS_NOEXEC},
		{Source: "bpf", Target: "/sys/fs/bpf", FSType: "bpf", Flags: safe | unix.MS_NOEXEC, Data: "mode=0700"},
	}
}

// Optional are file systems that a kernel may lack without harm.
func Optional(fstype string) bool {
	return fstype == "mqueue" || fstype == "securityfs" || fstype == "bpf"
}

// Writable says where changes to the image go.
type Writable struct {
	// Scratch is a directory on a tmpfs for the changes to /etc and /usr/local.
	Scratch string
	// State is a directory on a disk, "" for none: it keeps /etc, /usr/local,
	// /var, /root and /home over restarts.
	State string
}

// Layers are the writable parts over an image mounted at base. containerd cannot
// stack its snapshots on overlayfs, so /var is a file system of its own. What
// is in memory or on the disk for the first time begins as the image has it.
func Layers(base string, w Writable) []Mount {
	memory := func(path, data string, seed bool, flags uintptr) Mount {
		return Mount{Source: "slipway" + strings.ReplaceAll(path, "/", "-"), Target: base + path, FSType: "tmpfs", Flags: flags, Data: data, Seed: seed}
	}
	lasting := func(path, data string, flags uintptr) Mount {
		if w.State == "" {
			return memory(path, data, true, flags)
		}
		return Mount{Source: w.State + path, Target: base + path, Flags: unix.MS_BIND, Seed: true}
	}
	overlay := func(path string) Mount {
		dir := w.changes(path)
		return Mount{Source: "slipway" + strings.ReplaceAll(path, "/", "-"), Target: base + path, FSType: "overlay",
			Data: fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", base+path, dir, dir)}
	}
	return []Mount{
		lasting("/var", "mode=0755,size=80%", 0),
		overlay("/etc"),
		overlay("/usr/local"),
		memory("/tmp", "mode=1777", false, safe),
		lasting("/root", "mode=0700", 0),
		lasting("/home", "mode=0755", safe),
		memory("/srv", "mode=0755", true, 0),
		memory("/mnt", "mode=0755,size=1m", false, 0),
		memory("/media", "mode=0755,size=1m", false, 0),
	}
}

// overlaid are the directories whose image stays visible under the changes.
func overlaid() []string { return []string{"/etc", "/usr/local"} }

// changes is the directory that keeps the changes to an overlaid one.
func (w Writable) changes(path string) string {
	return cmp.Or(w.State, w.Scratch) + "/overlay" + path
}
