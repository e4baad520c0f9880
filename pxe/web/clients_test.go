package web

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestWget fetches, resumes and asks for the header, of a file in an image and of
// one in memory, which travel in different ways.
func TestWget(t *testing.T) {
	if _, err := exec.LookPath("wget"); err != nil {
		t.Skipf("skipped: %v (Debian: wget)", err)
	}
	want := content(5_000_001)
	f := image(t, content(2048), want, content(100))
	s := start(t, &Handler{Files: func(name string) (Content, bool) {
		c := Content{Size: int64(len(want)), Reader: bytes.NewReader(want)}
		if name == "image.bin" {
			c.Reader = io.NewSectionReader(f, 2048, c.Size)
		}
		return c, name == "image.bin" || name == "memory.bin"
	}}, Limits{})
	for _, name := range []string{"image.bin", "memory.bin"} {
		local := filepath.Join(t.TempDir(), name)
		url := "http://" + s.addr + "/" + name
		wget := func(args ...string) string {
			t.Helper()
			out, err := exec.Command("wget", append([]string{"-nv", "-t", "1"}, append(args, url)...)...).CombinedOutput()
			if err != nil {
				t.Fatalf("wget %q: %v\n%s", args, err, out)
			}
			return string(out)
		}
		same := func(how string) {
			t.Helper()
			if b, err := os.ReadFile(local); err != nil || !bytes.Equal(b, want) {
				t.Errorf("%s, %s: %d bytes of %d, %v", name, how, len(b), len(want), err)
			}
		}
		wget("-O", local)
		same("whole")
		if e := s.next(t); e.Status != 200 || e.Bytes != int64(len(want)) || !strings.HasPrefix(e.Agent, "Wget/") {
			t.Errorf("event %+v", e)
		}
		if err := os.Truncate(local, 3_000_000); err != nil {
			t.Fatal(err)
		}
		wget("-c", "-O", local)
		same("resumed")
		if e := s.next(t); e.Status != 206 || e.Bytes != 2_000_001 {
			t.Errorf("event %+v", e)
		}
		if out := wget("--spider", "-S"); !strings.Contains(out, "Content-Length: 5000001") {
			t.Errorf("HEAD: %s", out)
		}
		if e := s.next(t); e.Method != "HEAD" || e.Bytes != 0 {
			t.Errorf("event %+v", e)
		}
	}
}
