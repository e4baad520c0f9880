package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/logfile"
)

// Supervisor runs services. Use New.
type Supervisor struct {
	children *Children
	dirs     Dirs
	report   func(handoff.Event)
	mu       sync.Mutex
	order    []*running
}

// Dirs are where a supervisor keeps things.
type Dirs struct {
	Log    string // <Log>/<service>.log
	Cgroup string // <Cgroup>/<service>; "" for no control groups
}

// New returns a supervisor that reports starts, ends and restarts as events
// with the service as Step.
func New(c *Children, d Dirs, report func(handoff.Event)) *Supervisor {
	return &Supervisor{children: c, dirs: d, report: report}
}

// running is one service and what is known about it.
type running struct {
	Service
	cancel context.CancelFunc
	done   chan struct{} // closed when it is stopped for good
	up     chan struct{} // closed once it was ready
	tail   *ring
	log    *logfile.File
	mu     sync.Mutex
	proc   *os.Process
	starts int
	asked  bool // to start again
}

// Status is a service's state at one moment.
type Status struct {
	Name   string
	PID    int // 0 when it is not running
	Starts int
}

// Add runs a service until Stop, StopAll or the end of ctx, and starts it again
// whenever it ends. It returns at once.
func (s *Supervisor) Add(ctx context.Context, svc Service) error {
	log, err := logfile.Open(filepath.Join(s.dirs.Log, svc.Name+".log"), maxLog, nil)
	if err != nil {
		return fmt.Errorf("service %q: %w", svc.Name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &running{Service: svc, cancel: cancel, done: make(chan struct{}), up: make(chan struct{}), tail: newRing(20), log: log}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.order, func(o *running) bool { return o.Name == svc.Name }) {
		cancel()
		log.Close()
		return fmt.Errorf("service %q: there is one already", svc.Name)
	}
	s.order = append(s.order, r)
	go s.loop(ctx, r)
	return nil
}

// Up waits until the service was ready once. An error names it and holds its last lines.
func (s *Supervisor) Up(ctx context.Context, name string) error {
	r := s.find(name)
	if r == nil {
		return fmt.Errorf("service %q: not known", name)
	}
	select {
	case <-r.up:
		return nil
	case <-r.done:
		return &ExitError{Program: name, Err: fmt.Errorf("stopped"), Tail: r.tail.lines()}
	case <-ctx.Done():
		return &ExitError{Program: name, Err: fmt.Errorf("not ready: %w", ctx.Err()), Tail: r.tail.lines()}
	}
}

// Tail returns the last lines a service wrote.
func (s *Supervisor) Tail(name string) []string {
	if r := s.find(name); r != nil {
		return r.tail.lines()
	}
	return nil
}

// Services lists what is supervised, in the order it was added.
func (s *Supervisor) Services() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Status
	for _, r := range s.order {
		r.mu.Lock()
		st := Status{Name: r.Name, Starts: r.starts}
		if r.proc != nil {
			st.PID = r.proc.Pid
		}
		r.mu.Unlock()
		out = append(out, st)
	}
	return out
}

// Restart has a service that runs start again, at once, which is no failure.
func (s *Supervisor) Restart(name string) error {
	r := s.find(name)
	if r == nil {
		return fmt.Errorf("service %q: not known", name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proc == nil {
		return nil // its next start is what is wanted
	}
	r.asked = true
	if err := r.proc.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Stop ends a service for good: SIGTERM, after grace SIGKILL.
func (s *Supervisor) Stop(name string, grace time.Duration) {
	if r := s.find(name); r != nil {
		s.stop(r, grace)
	}
}

// StopAll stops all services, the last one added first.
func (s *Supervisor) StopAll(grace time.Duration) {
	s.mu.Lock()
	all := slices.Clone(s.order)
	s.mu.Unlock()
	for _, r := range slices.Backward(all) {
		s.stop(r, grace)
	}
}

func (s *Supervisor) stop(r *running, grace time.Duration) {
	r.cancel()
	r.signal(syscall.SIGTERM)
	select {
	case <-r.done:
		return
	case <-time.After(grace):
	}
	r.signal(syscall.SIGKILL)
	select {
	case <-r.done:
	case <-time.After(2 * time.Second): // in uninterruptible sleep: nothing helps
	}
}

func (s *Supervisor) find(name string) *running {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.order {
		if r.Name == name {
			return r
		}
	}
	return nil
}

func (r *running) signal(sig syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proc != nil {
		_ = r.proc.Signal(sig)
	}
}

// wasAsked says, once, that the end that came was wanted.
func (r *running) wasAsked() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.asked
	r.asked = false
	return asked
}

// loop runs one service for its whole life.
func (s *Supervisor) loop(ctx context.Context, r *running) {
	defer close(r.done)
	defer r.log.Close()
	row := 0 // ends in a row
	for ctx.Err() == nil && r.mayStart(ctx) {
		began := time.Now()
		err := s.guarded(ctx, r)
		if ctx.Err() != nil {
			return
		}
		if r.wasAsked() {
			row = 0
			s.report(handoff.Event{Step: r.Name, State: handoff.Running, Text: r.Name + " starts again, as it was asked to"})
			continue
		}
		if time.Since(began) > steady {
			row = 0
		}
		row++
		wait := delay(row)
		s.report(handoff.Event{Step: r.Name, State: handoff.Failed, Code: "SW-SERVICE-EXIT",
			Text: fmt.Sprintf("%s ended after %.1f s: %s; starting it again in %s", r.Name, time.Since(began).Seconds(), reason(err), wait),
			Hint: "read " + r.log.Path(), Data: map[string]any{"lines": lastOf(r.tail.lines(), 5), "restarts": row}})
		sleep(ctx, wait)
	}
}

func reason(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

func lastOf(s []string, n int) []string { return s[max(0, len(s)-n):] }

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (r *running) mayStart(ctx context.Context) bool {
	for r.When != nil && !r.When() {
		sleep(ctx, 100*time.Millisecond)
		if ctx.Err() != nil {
			return false
		}
	}
	return true
}

// guarded turns a panic of the service's own functions into an error: PID 1
// must not end.
func (s *Supervisor) guarded(ctx context.Context, r *running) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("internal error: %v", p)
		}
	}()
	return s.once(ctx, r)
}

// once starts the process and waits for its end.
func (s *Supervisor) once(ctx context.Context, r *running) error {
	cmd, group, err := s.command(r)
	if err != nil {
		return err
	}
	if group != nil {
		defer group.Close()
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return err
	}
	defer pr.Close()
	cmd.Stdout, cmd.Stderr = pw, pw
	err = s.children.Start(cmd)
	pw.Close()
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.proc, r.starts = cmd.Process, r.starts+1
	again := r.starts > 1
	r.mu.Unlock()
	if ctx.Err() != nil { // Stop came before the process was known
		r.signal(syscall.SIGTERM)
	}
	s.report(handoff.Event{Step: r.Name, State: handoff.Started, Text: fmt.Sprintf("%s started, pid %d", r.Name, cmd.Process.Pid)})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go s.watchReady(ctx, r, again)
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		lines(pr, func(l string) { r.tail.add(l); fmt.Fprintln(r.log, l) })
	}()
	err = s.children.Wait(cmd)
	r.mu.Lock()
	r.proc = nil
	r.mu.Unlock()
	// Shims outlive containerd and may hold the pipe.
	_ = pr.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	<-copied
	return err
}

// watchReady reports the service done once it answers.
func (s *Supervisor) watchReady(ctx context.Context, r *running, again bool) {
	defer func() {
		if p := recover(); p != nil {
			s.report(handoff.Event{Step: r.Name, State: handoff.Failed, Code: "SW-INTERNAL", Text: fmt.Sprintf("internal error: %v", p)})
		}
	}()
	began := time.Now()
	if r.Ready != nil && r.Ready(ctx) != nil {
		return
	}
	text := r.Name + " is up"
	if again {
		text += " again"
	}
	s.report(handoff.Event{Step: r.Name, State: handoff.Done, Text: text, Data: map[string]any{"seconds": round(time.Since(began))}})
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.up:
	default:
		close(r.up)
	}
}

func round(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }

// command prepares the process: its own session and control group, and only
// the environment that was asked for.
func (s *Supervisor) command(r *running) (cmd *exec.Cmd, group *os.File, err error) {
	argv, env := r.Argv, r.Env
	if r.Command != nil {
		if argv, env, err = r.Command(); err != nil {
			return nil, nil, err
		}
	}
	if len(argv) == 0 {
		return nil, nil, fmt.Errorf("service %q: no command", r.Name)
	}
	cmd = exec.Command(argv[0], argv[1:]...)
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, env...)
	cmd.Dir = r.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if s.dirs.Cgroup == "" {
		return cmd, nil, nil
	}
	if group, err = Into(cmd, filepath.Join(s.dirs.Cgroup, r.Name)); err != nil {
		return nil, nil, err
	}
	return cmd, group, nil
}

// Into makes a command start in the control group dir, which is made if need be:
// what it and its children use is not counted as the caller's. The file is to
// be closed once the command has been started. It wants SysProcAttr to be set.
func Into(cmd *exec.Cmd, dir string) (group *os.File, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if group, err = os.Open(dir); err != nil {
		return nil, err
	}
	// CLONE_INTO_CGROUP (clone3(2)): no moment outside its group.
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	return group, nil
}
