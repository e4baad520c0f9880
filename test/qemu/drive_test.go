package qemu

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestFaults puts a drive's block nodes before qemu-io, without a machine.
func TestFaults(t *testing.T) {
	tool, err := exec.LookPath("qemu-io")
	if err != nil {
		t.Skipf("qemu-io is not installed (Debian package qemu-utils): %v", err)
	}
	const silent = "an exit code alone" // qemu-io prints nothing when a flush goes wrong
	for _, tt := range []struct {
		name   string
		faults []Fault
		do     []string
		want   []string // what each request answers
	}{
		{"write once", []Fault{{On: OnWrite, At: 1 << 20, Once: true}},
			[]string{"write 0 64k", "write 1020k 64k", "write 1020k 64k"}, []string{"wrote", "Input/output error", "wrote"}},
		{"write always", []Fault{{On: OnWrite, At: 1<<20 + 100}},
			[]string{"write 1M 512", "write 1M 512", "read 1M 512", "write 1049088 512"}, []string{"Input/output error", "Input/output error", "read", "wrote"}},
		{"read anywhere", []Fault{{On: OnRead, At: -1}}, []string{"write 0 512", "read 0 512"}, []string{"wrote", "Input/output error"}},
		{"full", []Fault{{On: OnWrite, At: -1, Errno: 28}}, []string{"write 0 512"}, []string{"No space left on device"}},
		{"flush", []Fault{{On: OnFlush, At: -1, Once: true}}, []string{"write 0 512", "flush", "flush"}, []string{"wrote", silent, ""}},
	} {
		for _, log := range []bool{false, true} {
			dir := t.TempDir()
			d := Drive{Path: filepath.Join(dir, "disk.img"), Size: 2 << 20, Faults: tt.faults, Bus: NVMe}
			if log {
				d.Log = filepath.Join(dir, "log")
			}
			if err := d.create(); err != nil {
				t.Fatal(err)
			}
			for i, c := range tt.do {
				// A failing request ends qemu-io, but the fault's state is the
				// process's: all of them up to this one, and the last counts.
				args := []string{"-t", "writeback", "--image-opts", strings.TrimPrefix(d.stack(), ",")}
				for _, c := range tt.do[:i+1] {
					args = append(args, "-c", c)
				}
				out, err := exec.Command(tool, args...).CombinedOutput()
				lines := answers(string(out))
				if tt.want[i] == silent && err != nil || tt.want[i] == "" {
					continue
				}
				if len(lines) == 0 || !strings.Contains(lines[len(lines)-1], tt.want[i]) {
					t.Errorf("%s, log %t: %q answered %q, want %q", tt.name, log, c, lines, tt.want[i])
				}
			}
			if info, err := os.Stat(d.Log); log && (err != nil || (info.Size() > 0) != (tt.name != "full")) {
				t.Errorf("%s: log of %d bytes, %v; want what was not refused", tt.name, info.Size(), err)
			}
		}
	}
}

// answers are qemu-io's lines without its figures of speed.
func answers(out string) (lines []string) {
	for _, l := range strings.Split(strings.TrimSpace(out), "\n") {
		if l != "" && !strings.Contains(l, " ops; ") {
			lines = append(lines, l)
		}
	}
	return lines
}
