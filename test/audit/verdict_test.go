package audit

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestVerdict: what counts as not started, on the words and codes that the
// loader, shells and interpreters use.
func TestVerdict(t *testing.T) {
	for _, c := range []struct{ name, shell, want string }{
		{"runs", "exit 0", ""},
		{"refuses its arguments", "echo usage >&2; exit 2", ""},
		{"a library is missing", "echo 'x: error while loading shared libraries: liby.so: cannot open'; exit 3", "x: error while loading shared libraries: liby.so: cannot open"},
		{"a symbol is missing", "echo 'x: symbol lookup error: y'", "x: symbol lookup error: y"},
		{"a module is missing", "echo \"ModuleNotFoundError: No module named 'z'\"; exit 1", "ModuleNotFoundError: No module named 'z'"},
		{"exit code of a shell that finds nothing", "exit 127", "exit code 127: "},
		{"exit code of a shell that cannot run it", "exit 126", "exit code 126: "},
		{"illegal instruction", "kill -ILL $$", "died of illegal instruction: "},
		{"bad address", "kill -SEGV $$", "died of segmentation fault: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := exec.Command("/bin/sh", "-c", c.shell).CombinedOutput()
			if got := verdict(err, string(out)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestStageNamesWhatDoesNotStart: the stage itself, with a root in which
// nothing can start.
func TestStageNamesWhatDoesNotStart(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"dev", "run", "tmp", "proc"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"script": "#!/bin/sh\n", "noise": "\x00\x01\x02\x03"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got := onStage(t, dir, []attempt{{Path: "script"}, {Path: "noise"}, {Path: "absent"}})
	for i, want := range []string{"no such file or directory", "exec format error", "no such file or directory"} {
		if !strings.Contains(got[i].Error, want) {
			t.Errorf("/%s: got %q, want %q", got[i].Path, got[i].Error, want)
		}
	}
}
