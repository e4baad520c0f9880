package firstboot

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/console"
	"slipway.dev/slipway/firstboot/disks"
	"slipway.dev/slipway/firstboot/enrol"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/firstboot/modules"
	"slipway.dev/slipway/firstboot/netconf"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/root"
	"slipway.dev/slipway/firstboot/supervise"
	"slipway.dev/slipway/firstboot/undo"
	"slipway.dev/slipway/images/boot"
)

// Paths on a running node.
const (
	runDir    = "/run/slipway"
	mediumDir = runDir + "/medium"
	configDir = runDir + "/config"
	logDir    = runDir + "/log"
	layerDir  = runDir + "/layers"
	memoryDir = runDir + "/blobs" // a ramfs, when blobs are not used in place
	resolv    = runDir + "/resolv.conf"
	cgroupDir = "/sys/fs/cgroup"

	instanceDir = "/var/lib/slipway/instance"
)

// Node is what the phases know of the machine; each leaves its part here. Use New.
type Node struct {
	Cmdline  boot.Cmdline
	Report   *report.Reporter
	Consoles *console.Set
	Children *supervise.Children
	Services *supervise.Supervisor

	Manifest *lock.Manifest
	Store    *blobs.Store
	bundle   install.Bundle // that the machine was started with
	volumes  []string       // devices of the boot medium and the config: "sr0"; not to be installed on
	disk     *install.Disk  // of the node's own, nil without one
	User     *configs.UserData
	Meta     *configs.MetaData
	source   string            // where the config was found
	files    map[string][]byte // the config as it was found
	Network  *configs.Network
	Hostname string
	Address  []netconf.Address // the one with the default route first

	// life ends when the node shuts down; what outlives a phase belongs to it.
	life     context.Context
	log      *slog.Logger
	result   handoff.Event // text and figures of the phase's done event
	drivers  *drivers
	net      *netconf.Manager
	noNet    func()            // ends net, which began before there was a config; else nil
	key      ed25519.PublicKey // that the manifest was verified with
	cluster  *configs.Cluster  // of a machine that is the seed
	seedName string            // its own as a node

	seed    *blobs.Seed   // where everything comes from, without a medium
	system  *bringing     // of system.erofs, nil until it has begun
	content *verdict      // the verdict on all other blobs
	sink    *enrol.Sink   // events for the seed
	enrol   *enrol.Client // the conversation with slipway.seed=, else nil
	loaded  *verdict      // the modules that pods need

	end      func(Power) // ends the machine
	last     func() bool // before the machine ends, when nothing else runs; false: it does not
	hardware hardware
	old      oldDisk     // of a machine that is installed anew
	guard    *undo.Guard // of the disk that held others' data, nil while none is written
	access   string      // how to log in at a console
	images   images
	imported bool
	hooked   bool // the commands before the installation have run

	upgrading sync.Mutex                          // held by who changes what the disk is
	asking    atomic.Pointer[func(handoff.Event)] // who asked on the node itself
	unsettled bool                                // this start is a trial, or restores what one changed
	gaveUp    atomic.Bool                         // the trial is decided, one way or the other
	confirmed chan struct{}                       // closed when the trial that this start is has been confirmed

	mu      sync.Mutex
	phase   string // that runs
	lastErr error  // of its attempts
}

// New returns a node that lives as long as ctx.
func New(ctx context.Context) *Node {
	n := &Node{Consoles: &console.Set{}, Children: supervise.NewChildren(), life: ctx, log: slog.New(slog.DiscardHandler)}
	n.Report = report.New(n.Consoles, true, report.Uptime())
	n.sink = enrol.NewSink()
	n.Report.Also(n.sink.Add)
	n.Services = supervise.New(n.Children, supervise.Dirs{Log: logDir, Cgroup: cgroupDir + "/system"}, n.serviceEvent)
	n.end = n.Shutdown
	n.hardware = realHardware(n)
	n.drivers = &drivers{changed: make(chan struct{})}
	return n
}

// serviceEvent reports under the phase that services belong to, whenever it happens.
func (n *Node) serviceEvent(e handoff.Event) {
	e.Phase = "services"
	n.Report.Emit(e)
}

// step reports progress within the current phase.
func (n *Node) step(step, text string, data map[string]any) {
	n.Report.Emit(handoff.Event{Step: step, State: handoff.Running, Text: text, Data: data})
}

// done sets what the phase's last event says.
func (n *Node) done(text string, data map[string]any) {
	n.result = handoff.Event{Text: text, Data: data}
}

// own runs f until it returns; the node's life is its context and a panic its report.
func (n *Node) own(phase, step string, f func(context.Context)) {
	go func() {
		defer func() {
			if r := recover(); r != nil {
				n.Report.Error(phase, step, internal(r), nil)
			}
		}()
		f(n.life)
	}()
}

// hardware is what installing and ending need of the machine.
type hardware struct {
	disks   func() ([]disks.Disk, error)
	machine func() install.Machine
	scratch string // directory for the installer's files
	unmount func() // everything but the kernel's own
	kexec   func(m *lock.Manifest, at func(lock.Blob) string, c boot.Cmdline) error
	keeper  func() undo.Seed // of what a wipe destroys
}

func realHardware(n *Node) hardware {
	return hardware{unmount: root.UnmountAll, scratch: runDir + "/installer", disks: func() ([]disks.Disk, error) { return disks.List("/sys", "/dev") }, machine: n.machine, kexec: install.Next,
		keeper: func() undo.Seed { return n.enrol }}
}

// drivers is the module loader, which changes with the root, and word of devices.
type drivers struct {
	mu      sync.Mutex
	loader  *modules.Loader
	changed chan struct{} // closed at the next change of block devices
	last    time.Time     // of that change
}

func (d *drivers) set(l *modules.Loader) {
	d.mu.Lock()
	d.loader = l
	d.mu.Unlock()
}

func (d *drivers) get() *modules.Loader {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.loader
}

// block returns when the block devices changed last and a channel that is
// closed when they change again.
func (d *drivers) block() (time.Time, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last, d.changed
}

func (d *drivers) changedNow() {
	d.mu.Lock()
	close(d.changed)
	d.changed, d.last = make(chan struct{}), time.Now()
	d.mu.Unlock()
}

// bringing is work that can be called off.
type bringing struct {
	verdict
	stop context.CancelFunc
}

// verdict is a result that comes later.
type verdict struct {
	done chan struct{}
	err  error
}

// wait returns the result once it is there. What never began went well.
func (v *verdict) wait(ctx context.Context) error {
	if v == nil {
		return nil
	}
	select {
	case <-v.done:
		return v.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func splitLines(s string) []string { return strings.Split(strings.TrimRight(s, "\n"), "\n") }
