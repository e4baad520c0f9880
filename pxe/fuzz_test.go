package pxe

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func seeds(f *testing.F) {
	id := "\x00" + strings.Repeat("\x11", 16)
	for _, o := range []map[uint8]string{
		nil,
		{50: raw(at(100)), 54: raw(serverAddr)},
		{50: raw(at(100)), 54: raw(otherAddr)},
		{60: "PXEClient:Arch:00007:UNDI:003016", 93: arch93(7), 97: id, 55: "\x01\x03\x06\x42\x43", 57: "\x04\xec"},
		{60: "HTTPClient:Arch:00016:UNDI:003001", 93: arch93(16), 97: id},
		{60: "PXEClient:Arch:00000:UNDI:002001", 77: "iPXE", 93: arch93(0), 97: id, 12: "node", 61: "\x01\x52\x54\x00\x00\x00\x01"},
		{60: "PXEClient", 93: "\x00", 97: "\x00", 12: "$(x)", 50: "", 54: "abc", 57: "\x00\x00", 61: strings.Repeat("x", 300), 82: "\x01\x02"},
	} {
		for t := range dhcpv4.MessageType(9) {
			f.Add(packet(mac1, t, o).ToBytes())
		}
	}
	f.Add([]byte{})
	f.Add(make([]byte, 240))
	f.Add(make([]byte, 1500))
}

// FuzzDHCP feeds one packet, with its type and MAC varied, to a server that has
// leases: no panic, and no address confirmed to two MACs.
func FuzzDHCP(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		n := network()
		n.Last = at(103)
		now := time.Duration(0)
		d, err := NewDHCP(n, NewMemory(), func(m Machine) Boot {
			return Boot{File: "f", URL: "http://h/f", Local: m.MAC[5]&1 == 1, Known: m.MAC[5]&2 == 2}
		}, WithClock(func() time.Duration { return now }))
		if err != nil {
			t.Fatal(err)
		}
		told := map[netip.Addr]MAC{}
		feed := func(p *dhcpv4.DHCPv4) {
			a := d.Handle(p)
			for _, e := range a.Events {
				if s := e.String(); strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
					t.Fatalf("event %q is not plain", s)
				}
			}
			if a.Packet == nil {
				return
			}
			if _, err := dhcpv4.FromBytes(a.Packet.ToBytes()); err != nil {
				t.Fatal(err)
			}
			addr := field4(a.Packet.YourIPAddr)
			if !addr.IsValid() {
				return
			}
			m := MAC(a.Packet.ClientHWAddr)
			if owner, ok := told[addr]; ok && owner != m {
				t.Fatalf("%s was given to %s and %s", addr, owner, m)
			}
			if a.Packet.MessageType() == dhcpv4.MessageTypeAck {
				told[addr] = m
			}
			if !n.inRange(addr) && addr != at(10) {
				t.Fatalf("%s is not ours to give", addr)
			}
		}
		for round := range 3 {
			for i := range byte(6) {
				p, err := parse(b)
				if err != nil {
					return
				}
				if len(p.ClientHWAddr) == 6 {
					p.ClientHWAddr[5] += i
				}
				own := p.MessageType()
				feed(p)
				if own == dhcpv4.MessageTypeRelease || own == dhcpv4.MessageTypeDecline {
					clear(told) // it may be another's now
				}
				p.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeDiscover))
				feed(p)
				p.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeRequest))
				feed(p)
			}
			if err := d.pool.consistent(); err != nil {
				t.Fatal(err)
			}
			now += time.Duration(round) * time.Second
		}
	})
}

// FuzzProxy: no panic, never an address, never a word to an ordinary client.
func FuzzProxy(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parse(b)
		if err != nil {
			return
		}
		x := NewProxy(serverAddr, func(Machine) Boot { return Boot{File: "f", URL: "http://h/f", Known: true} })
		class := string(p.GetOneOption(dhcpv4.OptionClassIdentifier))
		for port, a := range map[int]Answer{67: x.Handle67(p), 4011: x.Handle4011(p, netip.AddrPortFrom(at(9), 68))} {
			if a.Packet == nil {
				continue
			}
			if field4(a.Packet.YourIPAddr).IsValid() || a.Packet.Options.Has(dhcpv4.OptionIPAddressLeaseTime) {
				t.Fatalf("%d: leased %v", port, a.Packet)
			}
			if !strings.HasPrefix(class, "PXEClient") && !strings.HasPrefix(class, "HTTPClient") {
				t.Fatalf("%d: spoke to %q", port, class)
			}
			if t67 := p.MessageType(); port == 67 && t67 != dhcpv4.MessageTypeDiscover {
				t.Fatalf("answered %s on 67", t67)
			}
			if _, err := dhcpv4.FromBytes(a.Packet.ToBytes()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
