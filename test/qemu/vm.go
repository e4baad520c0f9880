package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"slipway.dev/slipway/configs/handoff"
)

// attachLimit bounds the time in which a started emulator connects to its
// sockets, before the guest runs a single instruction.
const attachLimit = 60 * time.Second

// VM is a running virtual machine. Close it.
type VM struct {
	Machine Machine // with defaults filled in
	Console *Console

	dir     string
	own     bool // dir is ours to remove
	argv    []string
	cmd     *exec.Cmd
	stderr  tail
	serial  net.Conn
	monitor *monitor
	log     *os.File
	wg      sync.WaitGroup
	exited  chan struct{}
	exit    error // valid once exited is closed
}

// Start runs a machine. It returns when the emulator is connected and the
// guest about to run; ctx bounds only that. Find's *MissingError comes back
// when something has to be installed.
func Start(ctx context.Context, m Machine) (*VM, error) {
	m = m.withDefaults()
	files, err := Find(m)
	if err != nil {
		return nil, fmt.Errorf("machine %q: %w", m.Name, err)
	}
	v := &VM{Machine: m, exited: make(chan struct{})}
	if err := v.start(ctx, files); err != nil {
		return nil, fmt.Errorf("machine %q: %w", m.Name, errors.Join(err, v.Close()))
	}
	return v, nil
}

func (v *VM) start(ctx context.Context, f Files) (err error) {
	if v.dir, v.own = v.Machine.Dir, v.Machine.Dir == ""; v.own {
		if v.dir, err = os.MkdirTemp("", "slipway-vm-"); err != nil {
			return err
		}
	}
	if err := v.prepare(&f); err != nil {
		return err
	}
	console, err := listen(v.dir, "console.sock")
	if err != nil {
		return err
	}
	defer console.Close()
	qmp, err := listen(v.dir, "qmp.sock")
	if err != nil {
		return err
	}
	defer qmp.Close()
	f.Console, f.QMP = console.Addr().String(), qmp.Addr().String()
	v.argv = Argv(v.Machine, f)
	v.cmd = exec.Command(v.argv[0], v.argv[1:]...)
	v.cmd.Stdout, v.cmd.Stderr = &v.stderr, &v.stderr
	if err := v.launch(); err != nil {
		v.cmd = nil
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, attachLimit, errors.New("the emulator did not connect"))
	defer cancel()
	if v.serial, err = v.accept(ctx, console); err != nil {
		return fmt.Errorf("console: %w", err)
	}
	v.wg.Go(v.drain)
	conn, err := v.accept(ctx, qmp)
	if err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	v.monitor = newMonitor(conn, func(string) {})
	v.wg.Go(v.monitor.read)
	if err := v.monitor.execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		if !errors.Is(err, errMonitorEnded) {
			return err
		}
		select { // its complaint says more
		case <-v.exited:
			return v.exitError()
		case <-ctx.Done():
			return err
		}
	}
	return nil
}

// prepare writes what the command line names: variables, CIDATA, disks, log.
func (v *VM) prepare(f *Files) (err error) {
	if f.Code != "" {
		vars, err := os.ReadFile(f.Vars)
		if err != nil {
			return fmt.Errorf("firmware variables: %w", err)
		}
		// A Dir given twice keeps the variables, as a board would.
		f.Vars = filepath.Join(v.dir, "vars.fd")
		if _, err := os.Stat(f.Vars); v.own || err != nil {
			if err := os.WriteFile(f.Vars, vars, 0o600); err != nil {
				return fmt.Errorf("firmware variables: %w", err)
			}
		}
	}
	if v.Machine.CIDATA != nil {
		f.CIDATA = filepath.Join(v.dir, "cidata.img")
		if err := WriteCIDATA(f.CIDATA, v.Machine.CIDATA); err != nil {
			return err
		}
	}
	for i, d := range v.Machine.Disks {
		if err := d.create(); err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
	}
	if v.log, err = os.Create(filepath.Join(v.dir, "console.log")); err != nil {
		return fmt.Errorf("console log: %w", err)
	}
	v.Console = &Console{Log: v.log, Tolerate: v.Machine.Tolerate}
	return nil
}

// listen is there before the emulator starts, so that nothing the guest prints
// is lost.
func listen(dir, name string) (net.Listener, error) {
	path := filepath.Join(dir, name)
	os.Remove(path) // of an earlier run in the same Dir
	return net.Listen("unix", path)
}

// accept waits for the emulator to connect, or to die.
func (v *VM) accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	c := make(chan result, 1)
	go func() {
		conn, err := l.Accept()
		c <- result{conn, err}
	}()
	var err error
	select {
	case r := <-c:
		return r.conn, r.err
	case <-v.exited:
		err = v.exitError()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	l.Close()
	if r := <-c; r.conn != nil {
		r.conn.Close()
	}
	return nil, err
}

// launch starts the emulator and waits for its end on a thread of its own:
// processAttr ties the emulator to the life of the thread.
func (v *VM) launch() error {
	v.cmd.SysProcAttr = processAttr()
	started := make(chan error)
	v.wg.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := v.cmd.Start()
		started <- err
		if err == nil {
			v.exit = v.cmd.Wait()
			close(v.exited)
		}
	})
	return <-started
}

// drain keeps the guest's serial port empty until the emulator ends.
func (v *VM) drain() {
	io.Copy(v.Console, v.serial)
	<-v.exited
	v.Console.End(v.exitError())
}

// exitError is why the emulator ended; wants exited closed.
func (v *VM) exitError() error {
	if v.exit == nil {
		return errors.New("the machine went off")
	}
	if s := v.stderr.String(); s != "" {
		return fmt.Errorf("emulator: %w: %s", v.exit, s)
	}
	return fmt.Errorf("emulator: %w", v.exit)
}

// Argv is the emulator's command line.
func (v *VM) Argv() []string { return append([]string(nil), v.argv...) }

// Dir holds console.log and sockets.
func (v *VM) Dir() string { return v.dir }

// PID is the emulator's process.
func (v *VM) PID() int { return v.cmd.Process.Pid }

// Exited is closed when the emulator has ended.
func (v *VM) Exited() <-chan struct{} { return v.exited }

// ExitCode is the emulator's, 0 for a guest that powered off, -1 while it runs
// or when it was killed.
func (v *VM) ExitCode() int {
	select {
	case <-v.exited:
		return v.cmd.ProcessState.ExitCode()
	default:
		return -1
	}
}

// Wait returns the first event match accepts; see Console.Wait.
func (v *VM) Wait(ctx context.Context, match func(handoff.Event) bool) (handoff.Event, error) {
	e, err := v.Console.Wait(ctx, match)
	if err != nil {
		return e, fmt.Errorf("machine %q: %w", v.Machine.Name, err)
	}
	return e, nil
}

// WaitPhase waits for a phase as a whole to reach a state; events of its steps
// do not count.
func (v *VM) WaitPhase(ctx context.Context, phase string, s handoff.State) (handoff.Event, error) {
	e, err := v.Console.Wait(ctx, func(e handoff.Event) bool {
		return e.Phase == phase && e.Step == "" && e.State == s
	})
	if err != nil {
		return e, fmt.Errorf("machine %q: waiting for phase %q %s: %w", v.Machine.Name, phase, s, err)
	}
	return e, nil
}

// WaitLine waits for text anywhere in a line; see Console.WaitLine.
func (v *VM) WaitLine(ctx context.Context, text string) (string, error) {
	l, err := v.Console.WaitLine(ctx, text)
	if err != nil {
		return l, fmt.Errorf("machine %q: %w", v.Machine.Name, err)
	}
	return l, nil
}

// WaitExit waits until the emulator has ended: a powered-off guest, or, with
// NoReboot, one that restarts.
func (v *VM) WaitExit(ctx context.Context) error {
	select {
	case <-v.exited:
		if v.exit != nil {
			return fmt.Errorf("machine %q: %w", v.Machine.Name, v.exitError())
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("machine %q: waiting for power off: %w; last lines of the console:\n%s",
			v.Machine.Name, context.Cause(ctx), indent(v.Console.Tail(tailLines)))
	}
}

// Type writes to the guest's serial port.
func (v *VM) Type(text string) error {
	if _, err := io.WriteString(v.serial, text); err != nil {
		return fmt.Errorf("machine %q: typing: %w", v.Machine.Name, err)
	}
	return nil
}

// Kill ends the machine as a power cut does, except that nothing the guest
// wrote is lost. It returns when the emulator is gone.
func (v *VM) Kill() {
	if v.cmd == nil {
		return
	}
	v.cmd.Process.Kill() // has ended already: nothing to do
	<-v.exited
}

// Close kills the machine and removes what was made for it. Console stays
// readable.
func (v *VM) Close() error {
	v.Kill()
	if v.serial != nil {
		v.serial.Close()
	}
	if v.monitor != nil {
		v.monitor.conn.Close()
	}
	v.wg.Wait()
	var errs []error
	if v.log != nil {
		errs = append(errs, v.log.Close())
		v.log = nil
	}
	if v.own {
		errs = append(errs, os.RemoveAll(v.dir))
	}
	return errors.Join(errs...)
}

// tail keeps the end of what the emulator complains about.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if n := len(t.b) - 4096; n > 0 {
		t.b = append([]byte(nil), t.b[n:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}
