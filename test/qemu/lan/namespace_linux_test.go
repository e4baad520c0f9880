package lan

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestNamespace: a real program inside and a host of the segment talk both ways.
func TestNamespace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("skipped: network namespaces need root")
	}
	sw, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer sw.Close()
	h, err := sw.Host("host", netip.MustParseAddr("10.77.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := sw.Namespace("inside", netip.MustParsePrefix("10.77.0.9/24"))
	if err != nil {
		t.Skipf("skipped: no network namespaces or tap devices here: %v", err)
	}
	defer n.Close()
	var ln net.Listener
	if err := n.Do(func() error { ln, err = net.Listen("tcp4", "0.0.0.0:80"); return err }); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, strings.Repeat("from inside ", 10_000))
			c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := h.DialContext(ctx, "tcp", "10.77.0.9:80")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || len(b) != 120_000 {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
	var out strings.Builder
	cmd := exec.CommandContext(ctx, "ip", "-o", "-4", "addr")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "inet 10.77.0.9/24") || strings.Count(out.String(), "\n") != 2 {
		t.Errorf("%v: a program inside sees\n%s", err, out.String())
	}
}
