package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/images"
	"slipway.dev/slipway/images/rootfs"
)

// commands are the directories whose programs are started.
var commands = []string{"usr/bin", "usr/sbin", "bin", "sbin"}

// failure is a program that did not start.
type failure struct{ path, source, problem string }

// startAll extracts the root and starts every command in it, each in its own
// PID, mount and network namespace and without the rights that could reach
// this machine.
func startAll(t *testing.T, p *images.Plan) {
	if os.Geteuid() != 0 {
		t.Skip("not root: chroot and namespaces need it")
	}
	if p.Content.Arch.Go() != runtime.GOARCH {
		t.Skipf("the example is for %s and this machine is %s", p.Content.Arch, runtime.GOARCH)
	}
	root := t.TempDir()
	begin := time.Now()
	if err := extract(p.System, root); err != nil {
		t.Fatal(err)
	}
	extracted := time.Since(begin)
	todo := make(chan rootfs.Entry)
	var mu sync.Mutex
	var failed []failure
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			if err := enclose(root); err != nil {
				t.Errorf("making the sandbox: %v", err)
			}
			for e := range todo {
				if t.Failed() {
					continue
				}
				if problem := start(t.Context(), root, "/"+e.Path); problem != "" {
					mu.Lock()
					failed = append(failed, failure{e.Path, e.Source, problem})
					mu.Unlock()
				}
			}
		})
	}
	n := 0
	_ = p.System.Walk(func(e rootfs.Entry) error {
		if slices.Contains(commands, path.Dir(e.Path)) && !e.Mode.IsDir() {
			n++
			todo <- e
		}
		return nil
	})
	close(todo)
	wg.Wait()
	slices.SortFunc(failed, func(a, b failure) int { return strings.Compare(a.path, b.path) })
	judge(t, failed)
	t.Logf("%d commands started, %d not; extracting took %.1f s, starting %.1f s", n-len(failed), len(failed),
		extracted.Seconds(), (time.Since(begin) - extracted).Seconds())
}

// judge compares what did not start with the reviewed table.
func judge(t *testing.T, failed []failure) {
	seen := map[string]bool{}
	for _, f := range failed {
		seen[f.path] = true
		if _, ok := unstartable[f.path]; !ok {
			t.Errorf("/%s (%s) does not start: %s", f.path, f.source, f.problem)
		}
	}
	for name := range unstartable {
		if !seen[name] {
			t.Errorf("/%s starts: take it out of unstartable", name)
		}
	}
}

// start runs one command and says why it did not start; "" is that it did.
// Whatever it makes of its argument, it has then been loaded.
func start(ctx context.Context, root, name string) string {
	problem := attempt(ctx, root, name, "--version")
	if problem == "" {
		return ""
	}
	if attempt(ctx, root, name, "--help") == "" {
		return ""
	}
	return problem
}

func attempt(ctx context.Context, root, name, arg string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, arg)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "TERM=linux"}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second
	// The command is process 1 of its namespace: whatever it started dies with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Setsid: true, Pdeathsig: syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC}
	err := cmd.Run()
	if ctx.Err() != nil {
		return "" // it was still running after ten seconds
	}
	return verdict(err, said.String())
}

// wrongStart are what loaders and shells say of something that is missing,
// whatever the exit code is.
var wrongStart = []string{"error while loading shared libraries", "symbol lookup error", "command not found", ": not found", "version `GLIBC"}

func verdict(err error, said string) string {
	tail := strings.Join(strings.Fields(said[max(0, len(said)-300):]), " ")
	for _, w := range wrongStart {
		if strings.Contains(said, w) {
			return tail
		}
	}
	var exit *exec.ExitError
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return ""
	case !errors.As(err, &exit):
		return err.Error() // execve(2) refused it
	}
	status := exit.Sys().(syscall.WaitStatus)
	switch {
	case status.Signaled():
		switch status.Signal() {
		case syscall.SIGILL, syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGSYS, syscall.SIGABRT, syscall.SIGTRAP:
			return fmt.Sprintf("killed by %s: %s", status.Signal(), tail)
		}
	case status.ExitStatus() == 126 || status.ExitStatus() == 127:
		return fmt.Sprintf("exit code %d: %s", status.ExitStatus(), tail)
	}
	return ""
}

// kept are the capabilities of a started command: those that work on its own
// files, processes and network. None reaches the clock, modules, devices or mounts.
var kept = []int{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID,
	unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SYS_CHROOT}

// enclose gives the calling goroutine's thread a mount namespace of its own, in
// which root is read-only with what a node mounts on it, and takes from
// everything the thread starts the rights that are not kept. The thread ends
// with the goroutine.
func enclose(root string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		{root, root, "", unix.MS_BIND},
		{"", root, "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY},
		{"proc", root + "/proc", "proc", unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"tmpfs", root + "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmpfs", root + "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmpfs", root + "/dev", "tmpfs", unix.MS_NOSUID},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	// Numbers of admin-guide/devices.txt.
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9} {
		node := root + "/dev/" + name
		if err := errors.Join(unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))), os.Chmod(node, 0o666)); err != nil {
			return fmt.Errorf("%s: %w", node, err)
		}
	}
	for c := range unix.CAP_LAST_CAP + 1 {
		if slices.Contains(kept, c) {
			continue
		}
		// The kernel may know fewer than this package (EINVAL).
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("dropping capability %d: %w", c, err)
		}
	}
	return nil
}
