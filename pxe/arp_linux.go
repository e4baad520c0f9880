package pxe

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// arpWait is how long a machine has to answer a probe; on a wire it takes a
// millisecond, from power save some hundred.
const arpWait = 400 * time.Millisecond

// ARPProbe is a Conflict that asks on the interface (RFC 5227 section 2.1.1:
// a request with no sender address, which nobody's table keeps). An interface
// that cannot be asked tells of no conflict.
func ARPProbe(iface string) (Conflict, error) {
	dev, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, fmt.Errorf("probing on %q: %w", iface, err)
	}
	if len(dev.HardwareAddr) != 6 {
		return nil, fmt.Errorf("probing on %q: not Ethernet", iface)
	}
	return func(a netip.Addr) (MAC, bool) {
		m, err := arping(dev.Index, MAC(dev.HardwareAddr), a)
		return m, err == nil && m != MAC{}
	}, nil
}

// arping sends one probe and returns who answers, the zero MAC if nobody does.
func arping(index int, self MAC, a netip.Addr) (MAC, error) {
	const proto = unix.ETH_P_ARP<<8&0xff00 | unix.ETH_P_ARP>>8 // network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return MAC{}, err
	}
	f := os.NewFile(uintptr(fd), "arp")
	defer f.Close()
	to := &unix.SockaddrLinklayer{Protocol: proto, Ifindex: index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: index}); err != nil {
		return MAC{}, err
	}
	if err := unix.Sendto(fd, arpRequest(self, a), 0, to); err != nil {
		return MAC{}, err
	}
	if err := f.SetReadDeadline(time.Now().Add(arpWait)); err != nil {
		return MAC{}, err
	}
	for b := make([]byte, 64); ; {
		n, err := f.Read(b)
		if os.IsTimeout(err) {
			return MAC{}, nil
		} else if err != nil {
			return MAC{}, err
		}
		if m, ok := arpSays(b[:n], a); ok && m != self {
			return m, nil
		}
	}
}

// arpRequest is RFC 826 for Ethernet and IPv4.
func arpRequest(self MAC, a netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	b = append(append(b, self[:]...), 0, 0, 0, 0)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, a.AsSlice()...)
}

// arpSays: any ARP packet whose sender has the address, asked for or not.
func arpSays(b []byte, a netip.Addr) (MAC, bool) {
	if len(b) < 28 || binary.BigEndian.Uint32(b) != 0x00010800 || b[4] != 6 || b[5] != 4 {
		return MAC{}, false
	}
	sender, _ := netip.AddrFromSlice(b[14:18])
	return MAC(b[8:14]), sender == a
}
