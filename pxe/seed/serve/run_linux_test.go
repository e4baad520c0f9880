package serve

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"slipway.dev/slipway/pxe"
	"slipway.dev/slipway/pxe/seed"
)

// inside runs f in a network namespace of its own with the interface lan0. Only
// f's own goroutine is in it: the sockets that it opens stay there.
func inside(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		lan := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan0", HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}
		addr, _ := netlink.ParseAddr("10.9.0.1/24")
		if err := errors.Join(netlink.LinkAdd(lan), netlink.AddrAdd(lan, addr), netlink.LinkSetUp(lan)); err != nil {
			done <- err
			return
		}
		f()
	}()
	if err := <-done; err != nil {
		t.Skipf("skipped: no network namespace here: %v", err)
	}
}

func TestRun(t *testing.T) {
	files := loaders(t)
	made := func(spec string) (*Server, string) {
		s := server(t, seed.Options{}, nodes+spec)
		dir, err := os.MkdirTemp("", "sw") // a socket's name must be short
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		s.o.Wire = Wire{Name: "lan0", MAC: pxe.MAC{2, 0, 0, 0, 0, 1}, Addr: netip.MustParsePrefix("10.9.0.1/24")}
		s.o.Boot, s.o.State, s.o.Ports = files, dir, Ports{HTTP: 80, Node: 8443}
		return s, filepath.Join(dir, seed.Socket)
	}
	// all is open when the socket is; it is closed again, whatever ended Run.
	free := func(name string) {
		for _, port := range []string{"80", "8443"} {
			l, err := net.Listen("tcp4", "10.9.0.1:"+port)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			l.Close()
		}
		for _, a := range []string{"10.9.0.1:69", "10.9.0.1:123", "0.0.0.0:67", "0.0.0.0:68", "0.0.0.0:4011"} {
			l, err := net.ListenPacket("udp4", a)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			l.Close()
		}
	}
	inside(t, func() {
		for _, c := range []struct{ name, spec, mode, verdict string }{
			{"off", "  seed: {dhcp: {mode: 'off'}}\n", "off", ""},
			{"full", "  seed: {dhcp: {subnet: 10.9.0.0/24}}\n", "full", ""},
			{"nobody leases", "", "proxy", "SW-SEED-NO-DHCP"},
		} {
			s, socket := made(c.spec)
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			go func() {
				for ctx.Err() == nil {
					if conn, err := net.Dial("unix", socket); err == nil {
						conn.Close()
						break
					}
					time.Sleep(10 * time.Millisecond)
				}
				if st := s.Status(); st.DHCP != c.mode {
					t.Errorf("%s: mode %q when the socket answered", c.name, st.DHCP)
				}
				s.mu.Lock()
				s.fault = nil // this goroutine's namespace has no lan0
				s.mu.Unlock()
				if v := s.Status().Verdict; (v == nil) != (c.verdict == "") || v != nil && v.Code != c.verdict && v.Code != "SW-SEED-WIRE" {
					t.Errorf("%s: %+v", c.name, v)
				}
				stop()
			}()
			if err := s.Run(ctx); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			stop()
			free(c.name)
			if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: the socket stays: %v", c.name, err)
			}
		}
		for _, a := range []string{"10.9.0.1:80", "10.9.0.1:8443", "10.9.0.1:69", "0.0.0.0:67"} {
			s, _ := made("  seed: {dhcp: {mode: proxy}}\n")
			var taken interface{ Close() error }
			var err error
			_, port, _ := net.SplitHostPort(a)
			if port == "69" || port == "67" {
				taken, err = net.ListenPacket("udp4", a)
			} else {
				taken, err = net.Listen("tcp4", a)
			}
			if err != nil {
				t.Error(err)
				continue
			}
			var h *HintedError
			if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "port "+port) || !errors.As(err, &h) {
				t.Errorf("%s taken: got %v", a, err)
			}
			taken.Close()
			free(a + " taken")
		}
	})
}
