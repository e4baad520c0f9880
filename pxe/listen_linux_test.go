package pxe

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestListenSharesOnlyThePortOfClients: another DHCP server on this machine sets
// SO_REUSEADDR too (dnsmasq does), and both would answer.
func TestListenSharesOnlyThePortOfClients(t *testing.T) {
	skip := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			skip <- err
			return
		}
		defer close(skip)
		shared := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
			raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
			return err
		}}
		for _, c := range []struct {
			address string
			taken   bool
		}{{"0.0.0.0:67", true}, {"0.0.0.0:4011", true}, {"0.0.0.0:68", false}} {
			other, err := shared.ListenPacket(context.Background(), "udp4", c.address)
			if err != nil {
				t.Error(err)
				return
			}
			got, err := Listen(context.Background(), "lo")
			if c.taken != errors.Is(err, syscall.EADDRINUSE) || c.taken && !strings.Contains(err.Error(), c.address) {
				t.Errorf("%s has an owner: got %v", c.address, err)
			}
			if err := errors.Join(got.Close(), other.Close()); err != nil {
				t.Error(err)
			}
		}
	}()
	if err := <-skip; err != nil {
		t.Skipf("skipped: no network namespace here: %v", err)
	}
}
