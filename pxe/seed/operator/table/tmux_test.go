package table

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/term"

	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/operator/operatortest"
)

// demoDir, in the environment, makes this program draw in a terminal.
const demoDir = "SLIPWAY_TABLE_DEMO"

func TestMain(m *testing.M) {
	if dir := os.Getenv(demoDir); dir != "" {
		demo(dir)
		return
	}
	os.Exit(m.Run())
}

// demo draws until a file "end" is in dir; TestInATerminal runs it in tmux.
func demo(dir string) {
	d := operatortest.New(12)
	l := NewLive(os.Stdout, Options{Clock: operatortest.Now, Colour: true, Every: 20 * time.Millisecond, Size: func() (int, int) {
		w, h, err := term.GetSize(int(os.Stdout.Fd()))
		if err != nil {
			panic(err)
		}
		return w, h
	}})
	_ = l.Run(context.Background(), Of(d), func(Snapshot) (bool, error) {
		for _, f := range []string{"log", "approve", "end"} {
			if os.Remove(filepath.Join(dir, f)) != nil {
				continue
			}
			switch f {
			case "log":
				fmt.Fprintln(l, "level=INFO msg=above")
			case "approve":
				_, _ = d.Approve("cp-2", "")
				d.Change("worker-1", func(m *seed.Machine) { m.Done = m.Total - 1 })
			case "end":
				return true, nil
			}
		}
		return false, nil
	})
	_ = l.Close()
	fmt.Println("the end")
	time.Sleep(time.Hour) // tmux kills it
}

// TestInATerminal draws in a real emulator and reads its screen back.
func TestInATerminal(t *testing.T) {
	tmux, err := exec.LookPath("tmux")
	if err != nil {
		t.Skip("skipped: no tmux; on Debian: apt-get install --no-install-recommends tmux")
	}
	dir, err := os.MkdirTemp("", "sw")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(tmux, append([]string{"-S", filepath.Join(dir, "s"), "-f", "/dev/null"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run("-u", "new-session", "-d", "-x", "130", "-y", "40", "-e", demoDir+"="+dir, exe)
	defer run("kill-server")

	d := operatortest.New(12)
	table := func(width, height int) string {
		return Screen{Width: width - 1, Height: height - 1}.Render(d.Status(), d.Machines(), operatortest.Now())
	}
	screen := func(what, want string) {
		t.Helper()
		got := ""
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			got = strings.TrimRight(run("capture-pane", "-p"), "\n") + "\n"
			if got == want {
				return
			}
		}
		t.Errorf("%s: the screen shows\n%s\nwant\n%s", what, got, want)
	}
	tell := func(f string) {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	screen("first", table(130, 40))
	tell("log")
	screen("a log line", "level=INFO msg=above\n"+table(130, 40))
	if _, err := d.Approve("cp-2", ""); err != nil {
		t.Fatal(err)
	}
	d.Change("worker-1", func(m *seed.Machine) { m.Done = m.Total - 1 })
	tell("approve")
	screen("approved", "level=INFO msg=above\n"+table(130, 40))
	run("resize-window", "-x", "90", "-y", "20")
	screen("smaller", table(90, 20))
	run("resize-window", "-x", "160", "-y", "50")
	screen("larger", table(160, 50))
	tell("end")
	screen("the end", table(160, 50)+"the end\n")
}
