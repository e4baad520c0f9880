package firstboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/report"
)

// machine is what a node has to offer, as far as its role asks for it.
type machine struct {
	role   configs.Role
	member bool  // of a cluster already
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

// problems are all that stand in the way, at once, and what is less than it should
// be. What a machine has not got keeps it from becoming a node; one that is a
// node, and whose pods have filled its disk since, is one after a restart, too.
func (m machine) problems() (stop, short error) {
	var errs, less []error
	bad := func(to *[]error, ok bool, format string, args ...any) {
		if !ok {
			*to = append(*to, fmt.Errorf(format, args...))
		}
	}
	size := &errs
	if m.member {
		size = &less
	}
	need := int64(nodeMemory)
	if m.role == configs.RoleControlPlane {
		need = planeMemory
		bad(size, m.cpus >= 2, "%d processor, a control plane needs 2", m.cpus)
	}
	bad(size, m.memory >= need, "%d MiB of memory, a %s needs %d", m.memory>>20, m.role, need>>20)
	bad(size, m.state < 0 || m.state >= stateRoom, "%d MiB free on the state volume, want %d", m.state>>20, int64(stateRoom)>>20)
	bad(&errs, m.early <= 0, "the clock is %s before the bundle was built", m.early.Round(time.Minute))
	for _, p := range m.taken {
		bad(&errs, false, "port %d is in use", p)
	}
	return errors.Join(errs...), errors.Join(less...)
}

// preflight names everything that would stop Kubernetes later, before anything
// of it is started.
func (n *Node) preflight() error {
	m := machine{role: n.User.Slipway.Role, member: n.unsettled || n.runner().Member(), cpus: runtime.NumCPU(), state: -1, early: time.Until(n.Manifest.Built)}
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
	stop, short := m.problems()
	if short != nil {
		n.Report.Emit(handoff.Event{Phase: "services", Step: "preflight", State: handoff.Running, Code: "SW-PREFLIGHT-SHORT", Text: strings.ReplaceAll(short.Error(), "\n", "; "),
			Hint: "give the machine what is missing, or make room on it; the node goes on with what it has"})
	}
	return report.Fail("SW-PREFLIGHT", "give the machine what is missing, then start it again", stop)
}
