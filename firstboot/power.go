package firstboot

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/root"
)

// Power is how a machine ends.
type Power string

// The ways to end.
const (
	Off    Power = "poweroff"
	Reboot Power = "reboot"
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
	n.Report.Emit(handoff.Event{Phase: "shutdown", State: handoff.Done, Text: string(p), Data: map[string]any{"seconds": seconds(time.Since(began))}})
	n.Consoles.Close(2 * time.Second)
	root.UnmountAll()
	unix.Sync()
	cmd := unix.LINUX_REBOOT_CMD_POWER_OFF
	if p == Reboot {
		cmd = unix.LINUX_REBOOT_CMD_RESTART
	}
	_ = unix.Reboot(cmd)
}

// killRest asks every other process to end, waits for at most d, then kills.
func killRest(d time.Duration) {
	_ = unix.Kill(-1, unix.SIGTERM) // all but PID 1 itself (kill(2))
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
