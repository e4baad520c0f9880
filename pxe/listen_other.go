//go:build !linux

package pxe

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
)

// Listen has no way yet to keep broadcasts to one interface on this system.
func Listen(_ context.Context, iface string) (Conns, error) {
	return Conns{}, fmt.Errorf("listening on %q: DHCP is served on Linux only, this is %s", iface, runtime.GOOS)
}

// ARPTable knows nobody.
func ARPTable(string) Neighbour { return func(netip.Addr) MAC { return MAC{} } }

// ARPProbe needs raw frames.
func ARPProbe(iface string) (Conflict, error) {
	return nil, fmt.Errorf("probing on %q: ARP probes are sent on Linux only, this is %s", iface, runtime.GOOS)
}
