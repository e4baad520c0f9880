package web

import (
	"net"
	"os"
	"syscall"
)

// atOnce bounds one sendfile(2), in bytes: that long nobody looks at the deadline.
const atOnce = 1 << 20

// sendFile moves n bytes of the file in from off to the socket out, with an
// offset of its own: the file's position is shared by all requests. It ends
// early, without an error, where the file ends or cannot be sent from. extend is
// called after each piece that the client has taken.
func sendFile(out syscall.RawConn, in uintptr, off, n int64, extend func()) (sent int64, err error) {
	for sent < n {
		extend()
		var did int
		var failed error
		err := out.Write(func(fd uintptr) bool {
			for {
				did, failed = syscall.Sendfile(int(fd), int(in), &off, int(min(n-sent, atOnce)))
				if failed != syscall.EINTR {
					return failed != syscall.EAGAIN
				}
			}
		})
		switch {
		case err != nil: // among them the deadline
			return sent, err
		case failed != nil && refused(failed):
			return sent, nil
		case failed != nil:
			return sent, os.NewSyscallError("sendfile", failed)
		case did == 0:
			return sent, nil
		}
		sent += int64(did)
	}
	return sent, nil
}

// cork holds back a segment that is not full, until it is taken off, so that an
// answer's header travels with its first bytes (TCP_CORK in tcp(7)).
func (c *conn) cork(on bool) {
	tcp, ok := c.Conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	value := 0
	if on {
		value = 1
	}
	raw.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CORK, value) })
}
