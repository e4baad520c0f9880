package web

import "net"

// setSendBuffer sets SO_SNDBUF. Linux keeps twice the value, for its own
// bookkeeping, and at most net.core.wmem_max (212992 by default, twice that
// kept); see socket(7). A fixed buffer is also the bound of what is in flight,
// because sent bytes stay in it until they are acknowledged.
func setSendBuffer(c *net.TCPConn, bytes int) { c.SetWriteBuffer(bytes) }
