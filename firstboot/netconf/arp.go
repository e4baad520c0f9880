package netconf

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Conflict says that another host has an address.
type Conflict struct {
	Interface string
	IP        netip.Addr
	MAC       net.HardwareAddr // the other's
}

func (c *Conflict) Error() string {
	return fmt.Sprintf("interface %q: address %s is in use by %s", c.Interface, c.IP, c.MAC)
}

// Timing is how long a conflict is looked for (RFC 5227, 1.1).
type Timing struct {
	Wait     time.Duration // PROBE_WAIT: before the first probe, at random up to this
	Probes   int           // PROBE_NUM
	Min, Max time.Duration // PROBE_MIN, PROBE_MAX: between probes, at random
	Listen   time.Duration // ANNOUNCE_WAIT: after the last probe
}

// wired is RFC 5227's number of probes at a quarter of its pace, about 1.5 s in
// place of 4 to 7 s at each boot: its times are for links of any kind, and a
// host on an Ethernet that has a link answers within milliseconds.
func wired() Timing {
	return Timing{Wait: 250 * time.Millisecond, Probes: 3, Min: 250 * time.Millisecond, Max: 500 * time.Millisecond, Listen: 500 * time.Millisecond}
}

// arp is an Ethernet ARP packet (RFC 826): what differs between packets.
type arp struct {
	op       uint16 // 1 request, 2 reply
	sha      net.HardwareAddr
	spa, tpa netip.Addr
}

func (p arp) bytes() []byte {
	b := []byte{0, 1, 8, 0, 6, 4, byte(p.op >> 8), byte(p.op)}
	b = append(b, p.sha...)
	b = append(b, p.spa.AsSlice()...)
	b = append(b, make([]byte, 6)...) // target hardware address: not known
	return append(b, p.tpa.AsSlice()...)
}

func parseARP(b []byte) (arp, bool) {
	if len(b) < 28 || !bytes.Equal(b[:6], []byte{0, 1, 8, 0, 6, 4}) {
		return arp{}, false
	}
	spa, _ := netip.AddrFromSlice(b[14:18])
	tpa, _ := netip.AddrFromSlice(b[24:28])
	return arp{op: binary.BigEndian.Uint16(b[6:]), sha: bytes.Clone(b[8:14]), spa: spa, tpa: tpa}, true
}

// claims reports whether the packet of another host shows that it has ip or is
// about to take it (RFC 5227, 2.1.1).
func (p arp) claims(ip netip.Addr, mine net.HardwareAddr) bool {
	if bytes.Equal(p.sha, mine) {
		return false
	}
	return p.spa == ip || p.op == 1 && p.spa.IsUnspecified() && p.tpa == ip
}

// arpSocket sends and receives ARP on one interface.
type arpSocket struct {
	fd   int
	link *net.Interface
}

func openARP(name string) (*arpSocket, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %q: %w", name, err)
	}
	const proto = unix.ETH_P_ARP<<8&0xff00 | unix.ETH_P_ARP>>8 // network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return nil, fmt.Errorf("interface %q: ARP socket: %w", name, err)
	}
	tv := unix.NsecToTimeval(int64(20 * time.Millisecond))
	err = errors.Join(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: link.Index}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("interface %q: ARP socket: %w", name, err)
	}
	return &arpSocket{fd, link}, nil
}

func (s *arpSocket) close() { unix.Close(s.fd) }

func (s *arpSocket) request(spa, tpa netip.Addr) error {
	const proto = unix.ETH_P_ARP<<8&0xff00 | unix.ETH_P_ARP>>8
	to := &unix.SockaddrLinklayer{Protocol: proto, Ifindex: s.link.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	return unix.Sendto(s.fd, arp{op: 1, sha: s.link.HardwareAddr, spa: spa, tpa: tpa}.bytes(), 0, to)
}

// listen looks for another host's claim to ip until d is over or ctx ends.
func (s *arpSocket) listen(ctx context.Context, ip netip.Addr, d time.Duration) error {
	buf := make([]byte, 1500)
	for end := time.Now().Add(d); time.Now().Before(end) && ctx.Err() == nil; {
		n, from, err := unix.Recvfrom(s.fd, buf, 0)
		if err != nil {
			continue // EAGAIN after 20 ms, EINTR; ENETDOWN passes
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if p, ok := parseARP(buf[:n]); ok && p.claims(ip, s.link.HardwareAddr) {
			return &Conflict{s.link.Name, ip, p.sha}
		}
	}
	return ctx.Err()
}

// probe looks whether another host has ip; the error is a *Conflict when one
// has. The interface may have the address itself.
func probe(ctx context.Context, name string, ip netip.Addr, t Timing) error {
	s, err := openARP(name)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.listen(ctx, ip, rand.N(t.Wait+1)); err != nil {
		return err
	}
	for i := range t.Probes {
		if err := s.request(netip.IPv4Unspecified(), ip); err != nil {
			return fmt.Errorf("interface %q: ARP probe for %s: %w", name, ip, err)
		}
		pause := t.Min + rand.N(t.Max-t.Min+1)
		if i == t.Probes-1 {
			pause = t.Listen
		}
		if err := s.listen(ctx, ip, pause); err != nil {
			return err
		}
	}
	return nil
}

// announce tells the link that ip is here: ANNOUNCE_NUM is 2, 2 s apart (RFC
// 5227, 2.3). Neighbours with an older entry correct it.
func announce(ctx context.Context, name string, ip netip.Addr) {
	s, err := openARP(name)
	if err != nil {
		return
	}
	defer s.close()
	_ = s.request(ip, ip)
	sleep(ctx, 2*time.Second)
	if ctx.Err() == nil {
		_ = s.request(ip, ip)
	}
}
