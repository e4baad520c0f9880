package pxe

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listen opens ports 67, 4011 and 68 on one interface and no other: broadcasts
// leave by it whatever the default route is.
func Listen(ctx context.Context, iface string) (Conns, error) {
	var c Conns
	lc := net.ListenConfig{Control: func(_, address string, raw syscall.RawConn) error {
		// Port 68 is shared with this machine's own DHCP client, the others with
		// nobody: two servers on one socket address would both answer.
		shared := 0
		if strings.HasSuffix(address, fmt.Sprintf(":%d", clientPort)) {
			shared = 1
		}
		var err error
		cerr := raw.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, shared),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.BindToDevice(int(fd), iface))
		})
		return errors.Join(err, cerr)
	}}
	for _, p := range []struct {
		conn *net.PacketConn
		port int
	}{{&c.DHCP, serverPort}, {&c.Boot, bootPort}, {&c.Client, clientPort}} {
		conn, err := lc.ListenPacket(ctx, "udp4", fmt.Sprintf("0.0.0.0:%d", p.port))
		if err != nil {
			c.Close()
			return Conns{}, fmt.Errorf("listening on %s: %w", iface, err)
		}
		*p.conn = conn
	}
	return c, nil
}

// ARPTable is a Neighbour that makes the kernel ask and reads its table.
func ARPTable(iface string) Neighbour {
	return func(a netip.Addr) MAC {
		if c, err := net.Dial("udp4", netip.AddrPortFrom(a, 9).String()); err == nil { // discard
			c.Write([]byte{0})
			c.Close()
		}
		for range 10 {
			if m := arpEntry(iface, a); m != (MAC{}) {
				return m
			}
			time.Sleep(20 * time.Millisecond)
		}
		return MAC{}
	}
}

// arpEntry reads /proc/net/arp: address, type, flags, MAC, mask, device.
func arpEntry(iface string, a netip.Addr) MAC {
	b, err := os.ReadFile("/proc/net/arp")
	if err != nil {
		return MAC{}
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) == 6 && f[0] == a.String() && f[5] == iface && f[2] != "0x0" {
			if m, err := ParseMAC(f[3]); err == nil {
				return m
			}
		}
	}
	return MAC{}
}
