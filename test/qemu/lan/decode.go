package lan

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// EtherTypes and IP protocol numbers the tripwire looks into.
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeVLAN = 0x8100
	typeQinQ = 0x88a8
	typeIPv6 = 0x86dd

	protoTCP = 6
	protoUDP = 17
)

// packet is what the tripwire needs of a frame.
type packet struct {
	mac      net.HardwareAddr
	arp      bool
	src, dst netip.Addr
	proto    byte
	sport    uint16
	dport    uint16
	payload  []byte // of TCP or UDP
}

// decode reads Ethernet II with up to two VLAN tags, then ARP, IPv4 or IPv6.
// ok is false for everything else and for what is too short to be that.
func decode(frame []byte) (p packet, ok bool) {
	if len(frame) < headerLength {
		return p, false
	}
	p.mac = net.HardwareAddr(append([]byte(nil), frame[6:12]...))
	kind, b := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	for range 2 {
		if (kind != typeVLAN && kind != typeQinQ) || len(b) < 4 {
			break
		}
		kind, b = binary.BigEndian.Uint16(b[2:]), b[4:]
	}
	switch kind {
	case typeARP: // RFC 826: sender and target protocol address at 14 and 24
		if len(b) < 28 || binary.BigEndian.Uint16(b[2:]) != typeIPv4 {
			return p, false
		}
		p.arp = true
		p.src, p.dst = netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
		return p, true
	case typeIPv4:
		return p, p.ipv4(b)
	case typeIPv6:
		return p, p.ipv6(b)
	}
	return p, false
}

// ipv4 reads an RFC 791 header.
func (p *packet) ipv4(b []byte) bool {
	if len(b) < 20 || b[0]>>4 != 4 {
		return false
	}
	length := int(b[0]&15) * 4
	if length < 20 || len(b) < length {
		return false
	}
	p.src, p.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	p.proto = b[9]
	if binary.BigEndian.Uint16(b[6:])&0x1fff == 0 { // first fragment
		p.ports(b[length:])
	}
	return true
}

// ipv6 reads an RFC 8200 header and steps over extension headers.
func (p *packet) ipv6(b []byte) bool {
	if len(b) < 40 || b[0]>>4 != 6 {
		return false
	}
	p.src, p.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	p.proto, b = b[6], b[40:]
	for {
		var skip int
		switch p.proto {
		case 0, 43, 60: // hop-by-hop, routing, destination options
			if len(b) < 2 {
				return true
			}
			skip = 8 + int(b[1])*8
		case 44: // fragment
			if len(b) < 8 || binary.BigEndian.Uint16(b[2:])&0xfff8 != 0 {
				return true
			}
			skip = 8
		default:
			p.ports(b)
			return true
		}
		if len(b) < skip {
			return true
		}
		p.proto, b = b[0], b[skip:]
	}
}

// ports reads a TCP or UDP header.
func (p *packet) ports(b []byte) {
	length := 8
	if p.proto == protoTCP {
		length = 20
	} else if p.proto != protoUDP {
		return
	}
	if len(b) < length {
		return
	}
	if p.proto == protoTCP {
		length = max(length, int(b[12]>>4)*4)
	}
	p.sport, p.dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	p.payload = b[min(length, len(b)):]
}
