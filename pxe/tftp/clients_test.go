package tftp

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRealClients fetches with the programs an operator would try. Each reads
// a file of many blocks, one that fills its last block, an empty one, and one
// that is not there.
func TestRealClients(t *testing.T) {
	files := map[string][]byte{"big.bin": content(3_000_001), "full.bin": content(1 << 14), "empty.bin": {}}
	for _, c := range []struct {
		name string
		argv func(host, port, remote, local string) []string
	}{
		{"tftp-hpa", func(h, p, r, l string) []string { return []string{"tftp", "-m", "octet", h, p, "-c", "get", r, l} }},
		{"atftp", func(h, p, r, l string) []string { return []string{"atftp", "-g", "-r", r, "-l", l, h, p} }},
		{"atftp with options", func(h, p, r, l string) []string {
			return []string{"atftp", "--option", "blksize 1428", "--option", "tsize 0", "--option", "timeout 2", "-g", "-r", r, "-l", l, h, p}
		}},
		{"atftp with windowsize", func(h, p, r, l string) []string {
			return []string{"atftp", "--option", "windowsize 8", "-g", "-r", r, "-l", l, h, p}
		}},
		{"curl", func(h, p, r, l string) []string {
			return []string{"curl", "-sSf", "-o", l, "tftp://" + net.JoinHostPort(h, p) + "/" + r}
		}},
		{"curl large blocks", func(h, p, r, l string) []string {
			return []string{"curl", "-sSf", "--tftp-blksize", "65464", "-o", l, "tftp://" + net.JoinHostPort(h, p) + "/" + r}
		}},
		{"curl no options", func(h, p, r, l string) []string {
			return []string{"curl", "-sSf", "--tftp-no-options", "-o", l, "tftp://" + net.JoinHostPort(h, p) + "/" + r}
		}},
		{"busybox", func(h, p, r, l string) []string {
			return []string{"busybox", "tftp", "-g", "-r", r, "-l", l, h, p}
		}},
		{"busybox large blocks", func(h, p, r, l string) []string {
			return []string{"busybox", "tftp", "-b", "8192", "-g", "-r", r, "-l", l, h, p}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := exec.LookPath(c.argv("", "", "", "")[0]); err != nil {
				t.Skipf("skipped: %v (Debian: tftp-hpa atftp curl busybox)", err)
			}
			s := start(t, &Server{Files: lookup(files)})
			host, port, _ := net.SplitHostPort(s.addr)
			dir := t.TempDir()
			for name, want := range files {
				if len(want) == 0 && strings.HasPrefix(c.name, "curl") && !strings.HasSuffix(c.name, "no options") {
					t.Log("empty.bin not tried: curl takes a tsize of 0 for an error")
					continue
				}
				local := filepath.Join(dir, name)
				run(t, c.argv(host, port, name, local))
				got, err := os.ReadFile(local)
				if len(want) == 0 && os.IsNotExist(err) {
					err = nil // some make no file for no bytes
				}
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(want), err)
				}
				if e := s.next(t); e.Outcome != Sent || e.Bytes != int64(len(want)) {
					t.Errorf("%s: event %+v", name, e)
				} else {
					t.Logf("%s: block %d window %d resent %d in %v", name, e.Block, e.Window, e.Resent, e.Duration)
				}
			}
			local := filepath.Join(dir, "none")
			argv := c.argv(host, port, "none", local)
			exec.Command(argv[0], argv[1:]...).Run()
			if e := s.next(t); e.Outcome != Missing {
				t.Errorf("event %+v", e)
			}
			if b, _ := os.ReadFile(local); len(b) != 0 {
				t.Errorf("%d bytes of a missing file", len(b))
			}
		})
	}
}

func run(t *testing.T, argv []string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Errorf("%q: %v\n%s", argv, err, out)
	}
}
