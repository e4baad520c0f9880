//go:build darwin || windows

package pxe

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
)

// Listen opens ports 67 and 4011 on one interface and no other, and port 68
// where the system's own DHCP client shares it; without, Client is nil.
func Listen(ctx context.Context, iface string) (Conns, error) {
	dev, err := net.InterfaceByName(iface)
	if err != nil {
		return Conns{}, fmt.Errorf("listening on %q: %w", iface, err)
	}
	own, err := ownAddress(dev)
	if err != nil {
		return Conns{}, fmt.Errorf("listening on %q: %w", iface, err)
	}
	var c Conns
	address, control := bind(dev, own)
	lc := net.ListenConfig{Control: control}
	for _, p := range []struct {
		conn *net.PacketConn
		port int
	}{{&c.DHCP, serverPort}, {&c.Boot, bootPort}, {&c.Client, clientPort}} {
		conn, err := lc.ListenPacket(ctx, "udp4", fmt.Sprintf("%s:%d", address, p.port))
		if err != nil && p.port == clientPort {
			continue // the system's DHCP client has it for itself
		}
		if err != nil {
			c.Close()
			return Conns{}, fmt.Errorf("listening on %q: %w", iface, err)
		}
		*p.conn = conn
	}
	return c, nil
}

func ownAddress(dev *net.Interface) (net.IP, error) {
	all, err := dev.Addrs()
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
			return n.IP.To4(), nil
		}
	}
	return nil, fmt.Errorf("no IPv4 address")
}

// ARPTable knows nobody: the table is not a file here.
func ARPTable(string) Neighbour { return func(netip.Addr) MAC { return MAC{} } }

// ARPProbe needs raw frames.
func ARPProbe(iface string) (Conflict, error) {
	return nil, fmt.Errorf("probing on %q: ARP probes are sent on Linux only, this is %s", iface, runtime.GOOS)
}
