package pxe

import (
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Proxy names boot files beside a DHCP server that is not ours (PXE 2.1 section
// 2.2.3). It never gives an address, and only firmware hears it.
type Proxy struct {
	server netip.Addr
	decide Decide
	clock  func() time.Duration
	limit  *limiter
}

// NewProxy answers as server, an IPv4 address of ours on the wire it serves.
func NewProxy(server netip.Addr, decide Decide) *Proxy {
	start := time.Now()
	return &Proxy{server: server, decide: decide, clock: func() time.Duration { return time.Since(start) }, limit: newLimiter()}
}

// Handle67 answers a DISCOVER of netboot firmware. Every other packet on port 67
// belongs to the other server: a REQUEST answered here can end as two ACKs for
// one client, and ordinary clients must not notice us at all.
func (x *Proxy) Handle67(q *dhcpv4.DHCPv4) Answer {
	if q.MessageType() != dhcpv4.MessageTypeDiscover {
		return Answer{}
	}
	var a Answer
	r := x.answer(&a, q, dhcpv4.MessageTypeOffer, StepProxyOffer)
	if r == nil {
		return a
	}
	a.Packet, a.To = r, netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), clientPort)
	return a
}

// Handle4011 answers the boot server request. The answer goes back to the port
// it came from: 68 for most, 4011 for OVMF.
func (x *Proxy) Handle4011(q *dhcpv4.DHCPv4, from netip.AddrPort) Answer {
	if t := q.MessageType(); t != dhcpv4.MessageTypeRequest && t != dhcpv4.MessageTypeInform {
		return Answer{}
	}
	var a Answer
	if !from.Addr().IsValid() || from.Addr().IsUnspecified() || from.Addr().IsMulticast() || from.Port() == 0 {
		return a
	}
	r := x.answer(&a, q, dhcpv4.MessageTypeAck, StepProxy4011)
	if r == nil {
		return a
	}
	r.ClientIPAddr = q.ClientIPAddr
	a.Packet, a.To = r, from
	return a
}

// answer is nil for everything that is not firmware of ours.
func (x *Proxy) answer(a *Answer, q *dhcpv4.DHCPv4, t dhcpv4.MessageType, step Step) *dhcpv4.DHCPv4 {
	class := plain(q.GetOneOption(dhcpv4.OptionClassIdentifier))
	if !isClass(class, classPXE) && !isClass(class, classHTTP) || field4(q.GatewayIPAddr).IsValid() {
		return nil
	}
	m, refused := Observe(q)
	if m.MAC == (MAC{}) {
		return nil
	}
	boot := x.decide(m)
	if !x.limit.allow(m.MAC, boot.Known, x.clock()) {
		return nil
	}
	switch {
	case refused != nil:
		a.note(m, StepIgnored, "%s", refused)
		return nil
	case m.Firmware == "":
		a.note(m, StepIgnored, "class %q without option 93", m.Class)
		return nil
	case boot.Ignore:
		a.note(m, StepIgnored, "%s", boot.Reason)
		return nil
	case boot.Local: // silence: the firmware goes on to its next device
		a.note(m, StepIgnored, "boots from disk: %s", boot.Reason)
		return nil
	}
	r := reply(q, t, x.server)
	if err := boot.put(r, q, m, x.server); err != nil {
		a.note(m, StepIgnored, "%s", err)
		return nil
	}
	fit(r, q)
	a.note(m, step, "boots %s", r.GetOneOption(dhcpv4.OptionBootfileName))
	return r
}
