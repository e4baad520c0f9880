package audit

import (
	"bytes"
	"context"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"slipway.dev/slipway/images"
	"slipway.dev/slipway/images/audit"
	"slipway.dev/slipway/images/rootfs"
)

// commands are the directories whose programs are started; those below the
// others are started by daemons and by the kernel.
var commands = []string{"usr/bin", "usr/sbin", "bin", "sbin", "opt/cni/bin", "usr/lib/openssh", "usr/lib/udev", "usr/lib/open-iscsi", "usr/libexec"}

func command(e rootfs.Entry) bool {
	in := func(dir string) bool { return strings.HasPrefix(e.Path, dir+"/") }
	if strings.Contains(e.Path, ".so") {
		return false // libstdbuf.so has the mode of a program
	}
	return slices.ContainsFunc(commands, in) && (e.Mode.Type() == fs.ModeSymlink || e.Mode.IsRegular() && e.Mode&0o111 != 0)
}

// failure is a program that did not start.
type failure struct{ path, source, problem string }

// startAll extracts the root and starts every command in it, each in its own
// PID, mount and network namespace and without the rights that could reach
// this machine.
func startAll(t *testing.T, p *images.Plan, found []audit.Finding) {
	if os.Geteuid() != 0 {
		t.Skip("not root: chroot and namespaces need it")
	}
	if err := emulate(t, p.Content.Arch); err != nil {
		t.Skipf("the root is for %s and this machine is %s: %v", p.Content.Arch, runtime.GOARCH, err)
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
		if command(e) {
			n++
			todo <- e
		}
		return nil
	})
	close(todo)
	wg.Wait()
	slices.SortFunc(failed, func(a, b failure) int { return strings.Compare(a.path, b.path) })
	judge(t, p.System, failed, found)
	t.Logf("%d commands started, %d not; extracting took %.1f s, starting %.1f s", n-len(failed), len(failed),
		extracted.Seconds(), (time.Since(begin) - extracted).Seconds())
}

// unstartable are commands that images/audit takes for sound and that do not
// start all the same, each with its reason.
var unstartable = map[string]string{
	"usr/sbin/fstab-decode":          "runs its arguments, and the first it gets here is --version",
	"usr/sbin/gluster-georep-sshkey": "a link to a Python program, which has an accepted finding",
	"usr/sbin/gluster-mountbroker":   "the same",
}

// judge compares what did not start with what cannot: the commands with an
// accepted finding, which stand in audit.Reviewed with their reasons, and those
// of unstartable. A command that starts all the same shows a finding that is wrong.
func judge(t *testing.T, root *rootfs.Tree, failed []failure, found []audit.Finding) {
	cannot := maps.Clone(unstartable)
	maps.DeleteFunc(cannot, func(name, _ string) bool { _, there := root.Get(name); return !there })
	for _, f := range found {
		for _, a := range audit.Reviewed() {
			if a.Covers(f) && command(rootfs.Entry{Path: f.Path, Mode: 0o755}) {
				cannot[f.Path] = a.Reason
			}
		}
	}
	for _, f := range failed {
		if _, ok := cannot[f.path]; !ok {
			t.Errorf("/%s (%s) does not start: %s", f.path, f.source, f.problem)
		}
		delete(cannot, f.path)
	}
	for name, reason := range cannot {
		t.Errorf("/%s starts, and should not: %s", name, reason)
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
