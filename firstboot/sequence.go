// Package firstboot takes a machine from the first instruction of PID 1 to a
// Ready Kubernetes node, and keeps it there.
//
// It does not know how images are made or how a seed serves them; what each
// phase needs of the kernel is in its sub-packages.
package firstboot

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/netconf"
	"slipway.dev/slipway/firstboot/report"
)

// phase is one part of the boot. A phase that fails is tried again after
// retry; with none the machine holds, so that the screen can be read.
type phase struct {
	name  string
	run   func(context.Context, *Node) error
	limit time.Duration // of one attempt, 0 for none
	retry time.Duration
}

// sequence is the whole boot.
func sequence() []phase {
	return []phase{
		// reads:    /proc/cmdline, /etc/slipway/built of the initramfs
		// leaves:   the kernel's file systems, cgroups, consoles, a clock not before the build time
		// failure:  holds
		{name: "kernel", run: kernelPhase},

		// reads:    /usr/lib/modules/<release>/modules.{dep,alias,softdep,builtin}, /sys/devices, uevents
		// leaves:   drivers for all hardware present; a listener that loads drivers for what comes later
		// failure:  a module of the fixed list is missing: holds. A device's driver that refuses: a line
		{name: "modules", run: modulesPhase},

		// reads:    every block device's volume label, or slipway.store= over HTTP after DHCP;
		//           manifest.json, manifest.sig; the pinned key
		// leaves:   the medium at /run/slipway/medium, the verified manifest; system.erofs is being
		//           read, into memory when it is packed or remote
		// failure:  no medium or seed, or one with another signature: says so and goes on looking;
		//           too little memory: holds
		{name: "medium", run: mediumPhase, limit: 2 * time.Minute, retry: time.Second},

		// reads:    slipway.seed=: the seed alone, whatever volumes there are; without it
		//           slipway.config= or ds=nocloud, a CIDATA volume, slipway/nocloud on the medium
		// leaves:   user-data with vendor-data under it, meta-data and network-config, parsed; copies in /run/slipway/config (0600);
		//           with a seed: this enrolment used up, the clock set by it, and events going there
		// failure:  none found: goes on looking, a stick may be plugged in. Wrong: says where, reads again.
		//           Waiting for approval is none: the code stays on the screen. Rejected: says so and goes on asking
		{name: "config", run: configPhase, retry: 2 * time.Second},

		// reads:    network-config; DHCP
		// leaves:   addresses, a default route, /run/slipway/resolv.conf, the host name; leases are renewed
		// failure:  names what is missing (card, link, answer) and goes on
		{name: "network", run: networkPhase, limit: netconf.Patience, retry: time.Second},

		// reads:    slipway.install, or the disk that the node started from and its mark; all blobs of the bundle
		// leaves:   with a disk: partitions, the bundle in slot a, config and enrolment on it; everything
		//           else goes on from that disk in this same boot. It starts by itself once all was read back
		// failure:  no disk or several fit, data that nobody gave up: says which, looks again.
		//           A disk that does not take writes: says where, tries again from where it was
		{name: "install", run: installPhase, retry: 15 * time.Second},

		// reads:    the blob system.erofs; the volume of slipway.state
		// leaves:   the system root as /, memory or the volume over /etc /var ...; all other blobs are being verified
		// failure:  a wrong digest: holds, nothing is mounted. No volume of that name: says so and goes on looking
		{name: "system", run: systemPhase},

		// reads:    user-data: bootcmd, files, disks, users, keys, time; the system root
		// leaves:   sshd, chronyd, containerd running; kubelet waiting for its config; the seed asked for orders
		// failure:  holds, with the last lines of the service
		{name: "services", run: servicesPhase},

		// reads:    all blobs verified; user-data: slipway; as a worker: the seed's means to join
		// leaves:   a cluster of one control plane, kubelet running, manifests applied, the seed told of it;
		//           or a worker that is Ready in such a cluster
		// failure:  says where kubeadm stopped, and goes on there after a while
		{name: "kubernetes", run: kubernetesPhase, retry: 15 * time.Second},

		// reads:    user-data: slipway.hooks, runcmd, final_message, power_state
		// leaves:   the banner on every console
		// failure:  a command failed: holds; the cluster goes on
		{name: "ready", run: readyPhase},
	}
}

// Run boots the node and stays until ctx ends. It returns early only when the
// kernel command line says slipway.until=.
func Run(ctx context.Context, n *Node) { n.boot(ctx, sequence()) }

func (n *Node) boot(ctx context.Context, all []phase) {
	for i, p := range all {
		n.at(p.name, nil)
		if !n.attempt(ctx, p) {
			<-ctx.Done()
			return
		}
		if n.Cmdline.Until == p.name {
			n.Report.Emit(handoff.Event{Phase: "until", State: handoff.Done, Text: "stopping after " + p.name})
			return
		}
		if i == len(all)-1 && n.Cmdline.Until != "" {
			n.Report.Emit(handoff.Event{Phase: "until", State: handoff.Failed, Code: "SW-CMDLINE",
				Text: fmt.Sprintf("slipway.until=%s names no phase", n.Cmdline.Until), Hint: "correct the boot entry"})
		}
	}
	n.confirmTrial()
	<-ctx.Done()
}

// at keeps what the boot is doing.
func (n *Node) at(phase string, err error) {
	n.mu.Lock()
	n.phase, n.lastErr = phase, err
	n.mu.Unlock()
}

// attempt runs one phase until it is done; false means that the node holds.
func (n *Node) attempt(ctx context.Context, p phase) bool {
	n.Report.Enter(p.name)
	n.Report.Emit(handoff.Event{Phase: p.name, State: handoff.Started})
	began, last := time.Now(), ""
	for {
		attempt := time.Now()
		err := protect(ctx, p, n)
		took := time.Since(began)
		if err == nil {
			e := n.result
			n.result = handoff.Event{}
			e.Phase, e.State = p.name, handoff.Done
			if e.Data == nil {
				e.Data = map[string]any{}
			}
			e.Data["seconds"] = seconds(took)
			n.Report.Emit(e)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		// The same words again and again would push what matters off the screen.
		if err.Error() != last || time.Since(attempt) > 20*time.Second {
			n.Report.Error(p.name, "", err, map[string]any{"seconds": seconds(took)})
		}
		last = err.Error()
		n.at(p.name, err)
		if n.onTrial() && (p.retry == 0 || damaged(err)) {
			n.giveUp(err)
			return false
		}
		if p.retry == 0 {
			n.Report.Emit(handoff.Event{Phase: p.name, Step: "hold", State: handoff.Running,
				Text: "the node holds here; Ctrl-Alt-Del restarts it"})
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(p.retry):
		}
	}
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }

// protect runs a phase under its limit; a panic becomes an error with its stack.
func protect(ctx context.Context, p phase, n *Node) (err error) {
	if p.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.limit)
		defer cancel()
	}
	defer func() {
		if r := recover(); r != nil {
			err = internal(r)
		}
	}()
	return p.run(ctx, n)
}

func internal(r any) error {
	return &report.Failure{Code: "SW-INTERNAL", Hint: "this is a fault of slipway itself: report it with this screen",
		Err: fmt.Errorf("internal error: %v", r), Tail: stack()}
}

func stack() []string {
	s := splitLines(string(debug.Stack()))
	return s[:min(len(s), 30)]
}
