package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A stage is this test program once more, as PID 1 of namespaces of its own and
// with the root under test as /. It has no right over the machine, no device
// but null and random ones and no network, and starts what it is told to.

const (
	stageRoot  = "SLIPWAY_AUDIT_ROOT"
	startLimit = 10 * time.Second
)

// attempt is one program to start and what became of it.
type attempt struct {
	Path  string // without the leading slash
	Args  []string
	Error string // empty: it started
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(stageRoot); dir != "" {
		if err := stage(dir, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// onStage runs the attempts in a stage and fills in what became of them.
func onStage(t *testing.T, dir string, todo []attempt) []attempt {
	t.Helper()
	raw, err := json.Marshal(todo)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), stageRoot+"="+dir)
	cmd.Stdin = bytes.NewReader(raw)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	groups := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	if os.Getuid() == 0 {
		ids[0].Size, groups[0].Size = 65536, 65536
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{UidMappings: ids, GidMappings: groups, GidMappingsEnableSetgroups: os.Getuid() == 0, Pdeathsig: syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}
	if err := cmd.Run(); err != nil {
		t.Fatalf("stage: %v\n%s", err, stderr.String())
	}
	var done []attempt
	if err := json.Unmarshal(stdout.Bytes(), &done); err != nil {
		t.Fatalf("stage: %v", err)
	}
	return done
}

func stage(dir string, in io.Reader, out io.Writer) error {
	var todo []attempt
	if err := json.NewDecoder(in).Decode(&todo); err != nil {
		return err
	}
	if err := enter(dir); err != nil {
		return err
	}
	for i := range todo {
		todo[i].Error = start(todo[i])
	}
	return json.NewEncoder(out).Encode(todo)
}

func enter(dir string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	for _, at := range []string{"dev", "run", "tmp", "proc"} {
		kind := map[bool]string{true: "proc", false: "tmpfs"}[at == "proc"]
		if err := syscall.Mount(kind, filepath.Join(dir, at), kind, 0, ""); err != nil {
			return fmt.Errorf("mounting /%s: %w", at, err)
		}
	}
	for _, dev := range []string{"null", "zero", "full", "random", "urandom"} {
		name := filepath.Join(dir, "dev", dev)
		if err := os.WriteFile(name, nil, 0o666); err != nil {
			return err
		}
		if err := syscall.Mount("/dev/"+dev, name, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting /dev/%s: %w", dev, err)
		}
	}
	if err := syscall.Chroot(dir); err != nil {
		return err
	}
	return os.Chdir("/")
}

// start runs a program for at most startLimit. One that is still running then
// has started; whatever it left behind is ended with it.
func start(a attempt) string {
	out, err := os.CreateTemp("/tmp", "out-*")
	if err != nil {
		return err.Error()
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd := exec.Command("/"+a.Path, a.Args...)
	// LD_BIND_NOW resolves every symbol at the start, not at the first call.
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb", "LD_BIND_NOW=1"}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err.Error()
	}
	timer := time.AfterFunc(startLimit, sweep)
	err = cmd.Wait()
	stopped := !timer.Stop()
	sweep()
	for {
		if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
			break
		}
	}
	text := make([]byte, 64<<10)
	n, _ := out.ReadAt(text, 0)
	if stopped {
		return complaint(string(text[:n]))
	}
	return verdict(err, string(text[:n]))
}

// sweep ends every other process of the stage: kill(2), pid -1.
func sweep() { _ = syscall.Kill(-1, syscall.SIGKILL) }

func verdict(err error, text string) string {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err.Error()
	}
	if c := complaint(text); c != "" {
		return c
	}
	if exit == nil {
		return ""
	}
	status := exit.Sys().(syscall.WaitStatus)
	last := strings.TrimSpace(text[max(0, len(text)-200):])
	switch {
	case status.Signaled():
		return fmt.Sprintf("died of %s: %s", status.Signal(), last)
	case status.ExitStatus() == 126 || status.ExitStatus() == 127:
		return fmt.Sprintf("exit code %d: %s", status.ExitStatus(), last)
	}
	return ""
}

// complaint finds what the loader, a shell or an interpreter says when a part
// of a program is missing.
func complaint(text string) string {
	for line := range strings.Lines(text) {
		for _, said := range []string{"error while loading shared libraries", "symbol lookup error", "relocation error", "cannot open shared object file",
			": not found", "command not found", "bad interpreter", "No module named", "Can't locate "} {
			if strings.Contains(line, said) {
				return strings.TrimSpace(line)
			}
		}
	}
	return ""
}
