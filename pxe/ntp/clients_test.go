package ntp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// ahead is how far the server's clock is from this machine's: what clients must find.
const ahead = 1234500 * time.Millisecond

func server(t *testing.T) (*Server, netip.AddrPort) {
	s := &Server{Source: Source{Clock: func() time.Time { return time.Now().Add(ahead) }}}
	return s, serve(t, s)
}

// client runs a real client and returns what it said; the test is skipped if it
// is not installed.
func client(t *testing.T, argv ...string) string {
	t.Helper()
	path, err := exec.LookPath(argv[0])
	if err != nil {
		for _, dir := range []string{"/usr/sbin", "/sbin"} {
			if _, e := os.Stat(filepath.Join(dir, argv[0])); e == nil {
				path, err = filepath.Join(dir, argv[0]), nil
			}
		}
	}
	if err != nil {
		t.Skipf("a real client is needed: %s is not installed", argv[0])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

// offset checks that the client found the clock ahead by what it is.
func offset(t *testing.T, out, pattern string) {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no %s in:\n%s", pattern, out)
	}
	got, err := strconv.ParseFloat(m[1], 64)
	if diff := got - ahead.Seconds(); err != nil || diff > 0.5 || diff < -0.5 {
		t.Errorf("offset %v, want %v (%v):\n%s", got, ahead.Seconds(), err, out)
	}
	t.Logf("%s", m[0])
}

func TestChrony(t *testing.T) {
	s, at := server(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "chrony.conf")
	text := fmt.Sprintf("server %s port %d iburst maxsamples 4\npidfile %s/pid\ncmdport 0\nbindcmdaddress %s/sock\nuser root\n", at.Addr(), at.Port(), dir, dir)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	offset(t, client(t, "chronyd", "-Q", "-f", conf), `System clock wrong by (-?[0-9.]+) seconds`)
	if c := s.Counters(); c.Answered == 0 || c.Ignored+c.Limited+c.Errors+c.Panics != 0 {
		t.Errorf("%+v", c)
	}
}

// TestNTPsec asks port 123, for ntpdig takes no other.
func TestNTPsec(t *testing.T) {
	s := &Server{Source: Source{Clock: func() time.Time { return time.Now().Add(ahead) }}}
	conn, err := net.ListenPacket("udp4", "127.9.8.7:123")
	if err != nil {
		t.Skipf("ntpdig asks port 123 alone: %v", err)
	}
	serveOn(t, s, conn)
	offset(t, client(t, "ntpdig", "-j", "-p", "4", "127.9.8.7"), `"offset": ?(-?[0-9.]+)`)
	if c := s.Counters(); c.Answered != 4 || c.Ignored+c.Limited+c.Errors+c.Panics != 0 {
		t.Errorf("%+v", c)
	}
}
