//go:build !linux

package web

import "net"

// setSendBuffer does nothing: Windows sends beyond SO_SNDBUF, and on macOS
// nobody has tried whether it bounds what is in flight. There iPXE gets the
// system's own buffer.
func setSendBuffer(*net.TCPConn, int) {}
