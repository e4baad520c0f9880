package lan

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// DHCP is what a Host's DHCP server hands out. The zero value gives fifty
// addresses from .100 of the subnet, with the host as router and DNS server.
type DHCP struct {
	First, Last netip.Addr
	// Fixed are addresses by MAC as net.HardwareAddr prints it, also outside
	// the pool.
	Fixed map[string]netip.Addr
	// Router is option 3. Machines want a default route; whichever address is
	// named forwards nothing.
	Router   netip.Addr
	NoRouter bool
	DNS      netip.Addr // option 6
	Lease    time.Duration
	// Answer may change a reply before it is sent, nil sends it as it is: boot
	// file names, or what a misconfigured server of a customer does.
	Answer func(request, reply *dhcpv4.DHCPv4)
}

// ServeDHCP answers on UDP port 67 until the host is closed (RFC 2131; no
// relay, no persistent leases).
func (h *Host) ServeDHCP(d DHCP) error {
	base := h.sw.opts.Subnet.Addr().As4()
	for i, a := range []*netip.Addr{&d.First, &d.Last} {
		if !a.IsValid() {
			b := base
			b[3] += []byte{100, 149}[i]
			*a = netip.AddrFrom4(b)
		}
		if !h.sw.opts.Subnet.Contains(*a) {
			return fmt.Errorf("DHCP pool: %s is not in %s", a, h.sw.opts.Subnet)
		}
	}
	if !d.Router.IsValid() {
		d.Router = h.Addr
	}
	if !d.DNS.IsValid() {
		d.DNS = h.Addr
	}
	if d.Lease == 0 {
		d.Lease = time.Hour
	}
	c, err := h.ListenPacket(dhcpv4.ServerPort)
	if err != nil {
		return fmt.Errorf("DHCP: %w", err)
	}
	h.onClose(c.Close)
	h.wg.Go(func() { h.serveDHCP(c, d) })
	return nil
}

// Lease is the address given to mac.
func (h *Host) Lease(mac net.HardwareAddr) (netip.Addr, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, ok := h.leases[mac.String()]
	return a, ok
}

func (h *Host) serveDHCP(c net.PacketConn, d DHCP) {
	b := make([]byte, 4096)
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		m, err := dhcpv4.FromBytes(b[:n])
		if err != nil || m.OpCode != dhcpv4.OpcodeBootRequest {
			continue
		}
		reply := h.answerDHCP(m, d)
		if reply == nil {
			continue
		}
		to := &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ClientPort}
		if ip := m.ClientIPAddr.To4(); ip != nil && !ip.IsUnspecified() {
			to.IP = ip
		}
		if _, err := c.WriteTo(reply.ToBytes(), to); err != nil {
			h.sw.opts.Log.Warn("DHCP answer lost", "to", to.String(), "reason", err)
		}
	}
}

// answerDHCP is the reply to m, nil for none.
func (h *Host) answerDHCP(m *dhcpv4.DHCPv4, d DHCP) *dhcpv4.DHCPv4 {
	if id := m.ServerIdentifier(); id != nil && !id.Equal(h.Addr.AsSlice()) {
		return nil // the client took another server's offer
	}
	kind := dhcpv4.MessageTypeAck
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
	case dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeDecline:
		h.mu.Lock()
		delete(h.leases, m.ClientHWAddr.String())
		h.mu.Unlock()
		return nil
	default:
		return nil
	}
	addr, ok := h.assign(m.ClientHWAddr, d)
	if !ok {
		h.sw.opts.Log.Warn("DHCP pool is empty", "mac", m.ClientHWAddr.String())
		return nil
	}
	want := m.RequestedIPAddress()
	if want == nil {
		want = m.ClientIPAddr
	}
	with := []dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithServerIP(nil),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(h.Addr.AsSlice()))}
	if kind == dhcpv4.MessageTypeAck && !want.Equal(addr.AsSlice()) {
		with[0] = dhcpv4.WithMessageType(dhcpv4.MessageTypeNak) // RFC 2131 section 4.3.2
	} else {
		with = append(with, dhcpv4.WithYourIP(addr.AsSlice()),
			dhcpv4.WithNetmask(net.CIDRMask(h.sw.opts.Subnet.Bits(), 32)),
			dhcpv4.WithDNS(d.DNS.AsSlice()), dhcpv4.WithLeaseTime(uint32(d.Lease/time.Second)))
		if !d.NoRouter {
			with = append(with, dhcpv4.WithRouter(d.Router.AsSlice()))
		}
	}
	reply, err := dhcpv4.NewReplyFromRequest(m, with...)
	if err != nil {
		return nil
	}
	if d.Answer != nil {
		d.Answer(m, reply)
	}
	return reply
}

// assign finds the machine's address: fixed, already leased, or the first
// free one of the pool.
func (h *Host) assign(mac net.HardwareAddr, d DHCP) (netip.Addr, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := mac.String()
	taken := map[netip.Addr]bool{h.Addr: true}
	for k, a := range d.Fixed {
		if strings.EqualFold(k, key) {
			h.leases[key] = a
			return a, true
		}
		taken[a] = true
	}
	if a, ok := h.leases[key]; ok {
		return a, true
	}
	for _, a := range h.leases {
		taken[a] = true
	}
	for a := d.First; a.Compare(d.Last) <= 0; a = a.Next() {
		if !taken[a] {
			h.leases[key] = a
			return a, true
		}
	}
	return netip.Addr{}, false
}
