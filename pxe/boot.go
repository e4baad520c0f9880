package pxe

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

const (
	serverPort = 67
	clientPort = 68
	bootPort   = 4011 // PXE 2.1 section 2.2.3
)

// longestURL keeps the fullest answer within the 576 bytes every client takes.
const longestURL = 200

// pxeVendor is option 43 with PXE_DISCOVERY_CONTROL (tag 6) bit 3: take the boot
// file from this very offer, ask no boot server (PXE 2.1 section 2.3, table 2-1).
// Without it OVMF asks port 4011.
func pxeVendor() []byte { return []byte{6, 1, 8, 255} }

// reply starts an answer: RFC 2131 table 3, and option 61 back (RFC 6842).
func reply(q *dhcpv4.DHCPv4, t dhcpv4.MessageType, server netip.Addr) *dhcpv4.DHCPv4 {
	r := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootReply,
		HWType:        iana.HWTypeEthernet,
		TransactionID: q.TransactionID,
		Flags:         q.Flags & 0x8000,
		ClientHWAddr:  q.ClientHWAddr,
		ClientIPAddr:  net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero, GatewayIPAddr: net.IPv4zero,
		Options: dhcpv4.Options{},
	}
	r.UpdateOption(dhcpv4.OptMessageType(t))
	r.UpdateOption(dhcpv4.OptServerIdentifier(server.AsSlice()))
	if id := q.GetOneOption(dhcpv4.OptionClientIdentifier); len(id) > 0 && len(id) <= 255 {
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientIdentifier, id))
	}
	return r
}

// put adds what firmware needs to fetch its loader. A file is never both a TFTP
// name and a URL: HTTP firmware and iPXE get the URL if there is one, the rest
// the name.
func (b Boot) put(r, q *dhcpv4.DHCPv4, m Machine, server netip.Addr) error {
	next := b.NextServer
	if !next.IsValid() {
		next = server
	}
	name, class := b.File, classPXE
	if m.Firmware == UEFIHTTP {
		class = classHTTP
	}
	if isClass(m.Class, classHTTP) != (m.Firmware == UEFIHTTP) {
		return fmt.Errorf("class %q with firmware %s: neither PXE nor HTTP boot", m.Class, m.Firmware)
	}
	if b.URL != "" && (m.IPXE || m.Firmware == UEFIHTTP) {
		name = b.URL
	}
	switch {
	case name == "":
		return fmt.Errorf("no boot file for %s/%s", m.Arch, m.Firmware)
	case m.Firmware == UEFIHTTP && b.URL == "":
		return fmt.Errorf("no URL for %s/%s, only the TFTP name %q", m.Arch, m.Firmware, b.File)
	case len(name) > longestURL:
		return fmt.Errorf("URL of %d bytes, want at most %d", len(name), longestURL)
	case len(name) > 127 && name == b.File:
		return fmt.Errorf("TFTP name of %d bytes: the file field holds 127", len(name))
	}
	r.ServerIPAddr = next.AsSlice()
	if len(name) <= 127 {
		r.BootFileName = name
	}
	r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionBootfileName, []byte(name)))
	r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionTFTPServerName, []byte(next.String())))
	r.UpdateOption(dhcpv4.OptClassIdentifier(class))
	if id := q.GetOneOption(dhcpv4.OptionClientMachineIdentifier); len(id) == 17 {
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id))
	}
	if m.Firmware == BIOS || m.Firmware == UEFI {
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, pxeVendor()))
	}
	return nil
}

// fit drops what a client can do without when the answer is longer than it
// takes: 576 bytes of IP packet, or what option 57 says (RFC 2132 section 9.10).
func fit(r, q *dhcpv4.DHCPv4) {
	limit := 576
	if b := q.GetOneOption(dhcpv4.OptionMaximumDHCPMessageSize); len(b) == 2 {
		limit = max(limit, int(binary.BigEndian.Uint16(b)))
	}
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionTFTPServerName, dhcpv4.OptionNTPServers, dhcpv4.OptionRebindingTimeValue, dhcpv4.OptionRenewTimeValue, dhcpv4.OptionClientIdentifier} {
		if len(r.ToBytes())+28 <= limit {
			return
		}
		r.DeleteOption(code)
	}
}

// option4 is an address option; the zero Addr when it is absent or malformed.
func option4(p *dhcpv4.DHCPv4, code dhcpv4.OptionCode) netip.Addr {
	a, _ := netip.AddrFromSlice(p.GetOneOption(code))
	if !a.Is4() {
		return netip.Addr{}
	}
	return a
}

// field4 is an address field, the zero Addr for 0.0.0.0.
func field4(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
