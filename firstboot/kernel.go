package firstboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/firstboot/console"
	"slipway.dev/slipway/firstboot/logfile"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/root"
	"slipway.dev/slipway/images/boot"
)

// built is the image's build time in the initramfs, RFC 3339.
const built = "/etc/slipway/built"

func kernelPhase(_ context.Context, n *Node) error {
	ownReboot()
	if err := root.MountAll(root.Kernel()); err != nil {
		return report.Fail("SW-KERNEL-MOUNT", "this kernel lacks what slipway needs: build the image with Debian's kernel", err)
	}
	for _, d := range []string{runDir, logDir, configDir, layerDir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	_ = os.Chmod(configDir, 0o700)
	links()
	raw, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	cmd, bad := boot.Parse(string(raw))
	n.Cmdline = cmd
	// The kernel's own messages would break lines of events; errors still show
	// (Documentation/admin-guide/sysctl/kernel.rst, printk).
	_ = os.WriteFile("/proc/sys/kernel/printk", []byte("1 4 1 7"), 0o644)
	n.Report.JSON(cmd.Events != "off")
	n.Consoles.Open("/dev", console.Names(cmd.Consoles))
	n.Consoles.Opened()
	stdio()
	if err := n.Report.KeepIn(runDir + "/events.jsonl"); err != nil {
		return err
	}
	if f, err := logfile.Open(logDir+"/init.log", 1<<20, nil); err == nil {
		n.log = slog.New(slog.NewTextHandler(f, nil)) // decisions; what programs say goes into their own logs
	}
	if err := cgroups(cgroupDir); err != nil {
		return report.Fail("SW-KERNEL-CGROUP", "boot with cgroup version 2", err)
	}
	if err := n.watchTrial(); err != nil {
		return err
	}
	n.own("kernel", "reaper", func(ctx context.Context) { n.Children.Reap(ctx, n.log) })
	n.own("kernel", "entropy", func(context.Context) { seedRandom() })
	clock := setClock(built)
	rel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	n.done(fmt.Sprintf("Linux %s, consoles %s, %s", strings.TrimSpace(string(rel)), strings.Join(n.Consoles.Names(), " "), clock), nil)
	return report.Fail("SW-CMDLINE", "correct the boot entry and start again", bad)
}

// links are the names below /dev that devtmpfs does not make.
func links() {
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		_ = os.Symlink(to, "/dev/"+name)
	}
}

// stdio gives PID 1 the standard descriptors that an initramfs without device
// nodes cannot: what the Go runtime says at its end goes to the console.
func stdio() {
	for path, fds := range map[string][]int{"/dev/null": {0}, "/dev/console": {1, 2}} {
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			_ = unix.Dup3(int(f.Fd()), fd, 0)
		}
		if f.Fd() > 2 {
			f.Close()
		}
	}
}

// cgroups moves PID 1 into a leaf and hands all controllers down, which is
// allowed only while the group that delegates has no processes of its own
// below the root (cgroup-v2.rst, "No Internal Process Constraint").
func cgroups(dir string) error {
	for _, d := range []string{"init", "system"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "init/cgroup.procs"), []byte("1"), 0o644); err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range strings.Fields(string(raw)) {
		for _, at := range []string{dir, filepath.Join(dir, "system")} {
			if err := os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
				errs = append(errs, fmt.Errorf("controller %q: %w", c, err))
			}
		}
	}
	return errors.Join(errs...)
}

// seedRandom asks for one random byte and waits for it: only a caller that
// waits makes the kernel gather entropy from timer jitter
// (drivers/char/random.c, try_to_generate_entropy). A machine without a
// hardware source would otherwise stop at its first DHCP transaction number.
func seedRandom() {
	var b [1]byte
	for {
		if _, err := unix.Getrandom(b[:], 0); err != unix.EINTR {
			return
		}
	}
}

// sysctls are what kubelet's protectKernelDefaults and pods' networks ask for.
func sysctls() map[string]string {
	return map[string]string{
		"net/ipv4/ip_forward":                 "1",
		"net/ipv6/conf/all/forwarding":        "1",
		"net/bridge/bridge-nf-call-iptables":  "1",
		"net/bridge/bridge-nf-call-ip6tables": "1",
		"net/ipv4/conf/all/rp_filter":         "2", // loose: pods answer by other ways
		"net/ipv4/conf/default/rp_filter":     "2",
		"vm/overcommit_memory":                "1",
		"vm/panic_on_oom":                     "0",
		"vm/max_map_count":                    "262144",
		"kernel/panic":                        "10",
		"kernel/panic_on_oops":                "1",
		"kernel/pid_max":                      "4194304",
		"fs/inotify/max_user_watches":         "524288",
		"fs/inotify/max_user_instances":       "8192",
		"fs/file-max":                         "2097152",
	}
}

// setSysctls writes them below dir (/proc/sys); a missing one is named.
func setSysctls(dir string, want map[string]string) error {
	var errs []error
	for k, v := range want {
		if strings.HasPrefix(k, "net/ipv6/") {
			if _, err := os.Stat(filepath.Join(dir, "net/ipv6")); err != nil {
				continue // ipv6.disable=1
			}
		}
		if err := os.WriteFile(filepath.Join(dir, k), []byte(v), 0o644); err != nil {
			errs = append(errs, fmt.Errorf("sysctl %s=%s: %w", strings.ReplaceAll(k, "/", "."), v, err))
		}
	}
	return errors.Join(errs...)
}
