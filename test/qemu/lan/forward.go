package lan

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
)

// Forward listens on a loopback address of the machine this process runs on,
// "127.0.0.1:0" for any port, and carries each connection to a TCP port of
// the segment. It returns the address it listens at and ends with ctx or with
// the host. It is the one door between the segment and a person's browser or
// kubectl, and opens inwards only.
func (h *Host) Forward(ctx context.Context, local, remote string) (net.Addr, error) {
	a, err := netip.ParseAddrPort(local)
	if err != nil {
		return nil, fmt.Errorf("forwarding %q: %w", local, err)
	}
	if !a.Addr().IsLoopback() {
		return nil, fmt.Errorf("forwarding %q: only loopback addresses may be forwarded", local)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", local)
	if err != nil {
		return nil, fmt.Errorf("forwarding to %q: %w", remote, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	h.onClose(func() error { cancel(); return nil })
	h.wg.Go(func() {
		defer stop()
		defer cancel()
		var all sync.WaitGroup
		defer all.Wait()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { h.carry(ctx, c, remote) })
		}
	})
	return l.Addr(), nil
}

// carry copies both ways until both sides have ended, or ctx has.
func (h *Host) carry(ctx context.Context, local net.Conn, remote string) {
	defer local.Close()
	guest, err := h.DialContext(ctx, "tcp", remote)
	if err != nil {
		h.sw.opts.Log.Warn("forwarding", "from", local.RemoteAddr().String(), "reason", err)
		return
	}
	defer guest.Close()
	defer context.AfterFunc(ctx, func() { local.Close(); guest.Close() })()
	var both sync.WaitGroup
	both.Go(func() { pipe(guest, local) })
	both.Go(func() { pipe(local, guest) })
	both.Wait()
}

// pipe copies and passes the end on.
func pipe(to, from net.Conn) {
	io.Copy(to, from)
	if w, ok := to.(interface{ CloseWrite() error }); ok {
		w.CloseWrite()
	}
}
