package pxe

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// bind keeps a socket to one interface (ip(4): IP_BOUND_IF). Port 68 is shared
// with the system's own DHCP client.
func bind(dev *net.Interface, _ net.IP) (address string, control func(_, _ string, raw syscall.RawConn) error) {
	return "0.0.0.0", func(_, _ string, raw syscall.RawConn) error {
		var err error
		cerr := raw.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BOUND_IF, dev.Index))
		})
		return errors.Join(err, cerr)
	}
}
