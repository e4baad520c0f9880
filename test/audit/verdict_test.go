package audit

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

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

func TestVerdict(t *testing.T) {
	exit := func(argv ...string) error { return exec.Command(argv[0], argv[1:]...).Run() }
	killed := func(s syscall.Signal) error {
		cmd := exec.Command("sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return errors.Join(cmd.Process.Signal(s), cmd.Wait())
	}
	for _, c := range []struct {
		name  string
		err   error
		said  string
		wrong bool
	}{
		{"done", nil, "x 1.0", false},
		{"does not know --version", exit("false"), "usage: x", false},
		{"no such program", exit("/nonexistent"), "", true},
		{"127", exit("env", "/nonexistent"), "", true},
		{"126", exit("env", "/"), "", true},
		{"segmentation fault", killed(syscall.SIGSEGV), "", true},
		{"ended by SIGTERM", killed(syscall.SIGTERM), "", false},
		{"missing library", exit("false"), "x: error while loading shared libraries: liby.so.1: cannot open shared object file", true},
		{"a script's missing command", nil, "/usr/bin/x: 3: perl: not found", true},
	} {
		if got := verdict(c.err, c.said); (got != "") != c.wrong {
			t.Errorf("%s (%v): got %q", c.name, c.err, got)
		}
	}
}
