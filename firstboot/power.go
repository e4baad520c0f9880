package firstboot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/root"
)

// Power is how a machine ends.
type Power string

// The ways to end.
const (
	Off    Power = "poweroff"
	Halt   Power = "halt" // the processor stops, the power stays
	Reboot Power = "reboot"
	Kexec  Power = "kexec" // into the kernel that install.Next loaded
)

// ownReboot makes Ctrl-Alt-Del a SIGINT to PID 1 instead of an immediate reset (reboot(2)).
func ownReboot() { _ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) }

// Shutdown ends all processes in order, writes everything out and ends the
// machine. It does not return on a machine where it may do so.
func (n *Node) Shutdown(p Power) {
	n.Report.Emit(handoff.Event{Phase: "shutdown", State: handoff.Started, Text: string(p)})
	began := time.Now()
	n.Services.StopAll(10 * time.Second) // kubelet before containerd: the last added first
	killRest(5 * time.Second)
	unix.Sync()
	if n.last != nil && !n.last() {
		return
	}
	n.Report.Emit(handoff.Event{Phase: "shutdown", State: handoff.Done, Text: string(p), Data: map[string]any{"seconds": seconds(time.Since(began))}})
	n.Consoles.Close(2 * time.Second)
	root.UnmountAll()
	unix.Sync()
	cmd := unix.LINUX_REBOOT_CMD_POWER_OFF
	switch p {
	case Reboot:
		cmd = unix.LINUX_REBOOT_CMD_RESTART
	case Kexec:
		cmd = unix.LINUX_REBOOT_CMD_KEXEC
	case Halt:
		cmd = unix.LINUX_REBOOT_CMD_HALT
	}
	_ = unix.Reboot(cmd)
	if p == Kexec { // the kernel did not take it; the disk says how to go on
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}

// powerState is power_state of user-data: once what runs (done closes) has
// ended, or timeout has passed, it waits for the delay and ends the machine.
func (n *Node) powerState(ctx context.Context, p configs.PowerState, done <-chan struct{}) {
	timeout := time.Duration(p.Timeout) * time.Second
	if timeout == 0 {
		timeout = 30 * time.Second // cloud-init's
	}
	select {
	case <-done:
	case <-time.After(timeout):
		n.powerEvent(handoff.Running, fmt.Sprintf("going on after %s, although the configuration has not ended", timeout))
	case <-ctx.Done():
		return
	}
	if !n.condition(ctx, p.Condition) {
		n.powerEvent(handoff.Skipped, "the condition does not hold: the machine goes on")
		return
	}
	delay := time.Duration(p.Delay) * time.Minute
	n.powerEvent(handoff.Running, strings.TrimSpace(fmt.Sprintf("%s in %s. %s", p.Mode, delay, p.Message)))
	select {
	case <-time.After(delay):
		n.end(Power(p.Mode))
	case <-ctx.Done():
	}
}

func (n *Node) powerEvent(s handoff.State, text string) {
	n.Report.Emit(handoff.Event{Phase: "ready", Step: "power_state", State: s, Text: text})
}

// condition: a command holds when it exits with 0, as in cloud-init.
func (n *Node) condition(ctx context.Context, c configs.Condition) bool {
	if c.Never || c.Command == nil {
		return !c.Never
	}
	cmd, err := n.command(*c.Command)
	return err == nil && n.Children.Run(ctx, cmd, nil) == nil
}

// killRest asks every other process to end, waits for at most d, then kills.
func killRest(d time.Duration) {
	_ = unix.Kill(-1, unix.SIGTERM) // all but PID 1 itself (kill(2))
	_ = unix.Kill(-1, unix.SIGHUP)  // an interactive shell ignores SIGTERM (bash(1))
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if others() == 0 {
			return
		}
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	time.Sleep(200 * time.Millisecond)
}

// others counts the programs that run besides PID 1; kernel threads and
// zombies have no command line (proc(5)).
func others() int {
	n := 0
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		if raw, err := os.ReadFile(filepath.Join(d, "cmdline")); err == nil && len(raw) > 0 && d != "/proc/1" {
			n++
		}
	}
	return n
}
