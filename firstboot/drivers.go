package firstboot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/button"
	"slipway.dev/slipway/firstboot/modules"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/images/layout"
)

// bootModules are needed before there is a system root.
func bootModules() []string {
	return []string{"loop", "isofs", "vfat", "nls_ascii", "nls_cp437", "nls_utf8", "erofs", "overlay"}
}

// earlyModules have sysctls that are set before anything runs.
func earlyModules() []string { return []string{"br_netfilter", "nf_conntrack"} }

// nodeModules are needed by containerd, kube-proxy in nftables mode, flannel
// and the CNI plugins. The kernel would ask for most of them one by one, each
// time through a new process; here they load while services start.
func nodeModules() []string {
	return []string{
		"evdev", "bridge", "veth", "vxlan", "dm_mod", "nf_nat", "nf_tables", "nft_chain_nat", "nft_ct", "nft_nat", "nft_masq",
		"nft_fib", "nft_fib_ipv4", "nft_fib_ipv6", "nft_fib_inet", "nft_reject", "nft_reject_ipv4", "nft_reject_ipv6",
		"nft_reject_inet", "nft_numgen", "nft_limit", "nft_log", "nft_hash", "nft_compat",
		"xt_comment", "xt_conntrack", "xt_mark", "xt_MASQUERADE", "xt_multiport", "xt_nat", "xt_addrtype", "xt_statistic",
	}
}

func modulesPhase(_ context.Context, n *Node) error {
	l, err := modules.Open("/")
	if err != nil {
		return report.Fail("SW-MODULES-INDEX", "kernel and initramfs are of different builds: boot the pair of one bundle", err)
	}
	n.drivers.set(l)
	n.helper("/init")
	if err := n.listen(); err != nil {
		return err
	}
	count, err := l.Coldplug("/sys")
	if err != nil {
		n.step("coldplug", "drivers that did not load: "+err.Error(), nil)
	}
	n.drivers.changedNow() // counts from now: sticks need a few seconds
	if err := loadList(l, bootModules()); err != nil {
		return report.Fail("SW-MODULES-MISSING", "build the image again: its kernel lacks a module that a node needs", err)
	}
	n.done(fmt.Sprintf("%d kinds of device looked at", count), map[string]any{"aliases": count})
	return nil
}

// listen loads drivers for devices as they come, from whichever root is current.
func (n *Node) listen() error {
	events, err := modules.Listen()
	if err != nil {
		return err
	}
	n.own("modules", "uevent", func(ctx context.Context) {
		events.Run(ctx, func(u modules.Uevent) {
			switch {
			case u.Action == "": // some were lost
				_, _ = n.drivers.get().Coldplug("/sys")
				n.drivers.changedNow()
			case u.Action == "add" && u.Env["MODALIAS"] != "":
				if err := n.drivers.get().LoadAlias(u.Env["MODALIAS"]); err != nil {
					n.log.Warn("driver", "device", u.DevPath, "err", err)
				}
			case u.Env["SUBSYSTEM"] == "input" && u.Action == "add" && strings.HasPrefix(u.Env["DEVNAME"], "input/event"):
				n.button("/dev/" + u.Env["DEVNAME"])
			case u.Env["SUBSYSTEM"] == "block" && (u.Action == "add" || u.Action == "change"):
				n.drivers.changedNow()
			}
		})
	})
	return nil
}

// button turns a press of the power button into what a person means by it: the
// orderly end that SIGTERM asks PID 1 for.
func (n *Node) button(device string) {
	n.own("modules", "button", func(ctx context.Context) {
		err := button.Watch(ctx, device, func() {
			n.step("button", "the power button was pressed", nil)
			_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		})
		if err != nil {
			n.log.Warn("power button", "device", device, "err", err)
		}
	})
}

// helper makes the kernel's own requests for modules (request_module) come to
// program under the name modprobe.
func (n *Node) helper(program string) {
	const name = runDir + "/modprobe"
	_ = os.Remove(name)
	if os.Symlink(program, name) == nil {
		_ = os.WriteFile("/proc/sys/kernel/modprobe", []byte(name), 0o644)
	}
}

func loadList(l *modules.Loader, names []string) error {
	var errs []error
	for _, m := range names {
		errs = append(errs, l.Load(m))
	}
	return errors.Join(errs...)
}

// moreDrivers switches to the system root's modules, which are all there are.
func (n *Node) moreDrivers() error {
	l, err := modules.Open("/")
	if err != nil {
		return report.Fail("SW-MODULES-INDEX", "kernel and system root are of different builds: boot the pair of one bundle", err)
	}
	n.drivers.set(l)
	n.helper("/" + layout.Init)
	missing := func(err error) error {
		return report.Fail("SW-MODULES-MISSING", "build the image again: its kernel lacks a module that a node needs", err)
	}
	for _, m := range nodeModules() {
		if !l.Known(m) {
			return missing(fmt.Errorf("module %q: this kernel has none of that name", m))
		}
	}
	if err := loadList(l, earlyModules()); err != nil {
		return missing(err)
	}
	v := &verdict{done: make(chan struct{})}
	n.loaded = v
	n.own("system", "drivers", func(context.Context) {
		began := time.Now()
		v.err = missing(loadList(l, nodeModules()))
		close(v.done)
		// Cards and controllers without an early driver; nobody waits for them.
		count, err := l.Coldplug("/sys")
		debug.FreeOSMemory()
		text := fmt.Sprintf("all drivers loaded, %d kinds of device", count)
		if err != nil {
			text += "; some did not: " + err.Error()
		}
		n.Report.Emit(handoff.Event{Phase: "system", Step: "drivers", State: handoff.Done, Text: text, Data: map[string]any{"seconds": seconds(time.Since(began))}})
	})
	return nil
}

// Modprobe is modprobe(8) as the kernel calls it: [-q] [--] NAME...
func Modprobe(args []string) error {
	l, err := modules.Open("/")
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range args {
		if len(a) > 0 && a[0] != '-' {
			errs = append(errs, l.Probe(a))
		}
	}
	return errors.Join(errs...)
}
