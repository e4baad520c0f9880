package pxe

import (
	"net"
	"syscall"
)

// bind takes the interface's own address: Windows gives such a socket the
// broadcasts of that interface, and sends its broadcasts there.
func bind(_ *net.Interface, own net.IP) (address string, control func(_, _ string, raw syscall.RawConn) error) {
	return own.String(), nil
}
