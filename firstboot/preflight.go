package firstboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/firstboot/report"
)

// machine is what a node has to offer, as far as its role asks for it.
type machine struct {
	role   configs.Role
	memory int64 // bytes
	cpus   int
	state  int64         // free bytes of the state volume, -1 without one
	early  time.Duration // how far the clock is before the build time
	taken  []int         // ports of Kubernetes that something else listens on
}

// What kubeadm asks of a control plane (app/constants: 1700 MB, 2 CPUs), and
// what kubelet keeps free for itself before it evicts pods.
const (
	planeMemory = 1700 << 20
	nodeMemory  = 900 << 20
	stateRoom   = 3 << 30
)

// problems are all that stand in the way, at once.
func (m machine) problems() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	need := int64(nodeMemory)
	if m.role == configs.RoleControlPlane {
		need = planeMemory
		bad(m.cpus >= 2, "%d processor, a control plane needs 2", m.cpus)
	}
	bad(m.memory >= need, "%d MiB of memory, a %s needs %d", m.memory>>20, m.role, need>>20)
	bad(m.state < 0 || m.state >= stateRoom, "%d MiB free on the state volume, want %d", m.state>>20, int64(stateRoom)>>20)
	bad(m.early <= 0, "the clock is %s before the bundle was built", m.early.Round(time.Minute))
	for _, p := range m.taken {
		bad(false, "port %d is in use", p)
	}
	return errors.Join(errs...)
}

// preflight names everything that would stop Kubernetes later, before anything
// of it is started.
func (n *Node) preflight() error {
	m := machine{role: n.User.Slipway.Role, cpus: runtime.NumCPU(), state: -1, early: time.Until(n.Manifest.Built)}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return err
	}
	m.memory = int64(info.Totalram) * int64(info.Unit)
	var st unix.Statfs_t
	if (n.disk != nil || n.User.Slipway.State != "") && unix.Statfs("/var", &st) == nil {
		m.state = int64(st.Bavail) * st.Bsize
	}
	for _, p := range []int{6443, 10250, 10257, 10259, 2379, 2380} {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", fmt.Sprintf(":%d", p))
		if err != nil {
			m.taken = append(m.taken, p)
			continue
		}
		_ = l.Close()
	}
	return report.Fail("SW-PREFLIGHT", "give the machine what is missing, then start it again", m.problems())
}
