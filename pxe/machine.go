// Package pxe holds the seed's DHCP: a full server for one explicit subnet, a
// proxyDHCP that names boot files beside somebody else's server, and the probe
// that tells which of the two may speak.
//
// It does not know which nodes exist, where files come from or what a cluster
// is: the boot decision is a function given to it. It holds no leases on disk,
// serves no files and answers no relayed packets.
package pxe

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"slipway.dev/slipway/configs/arch"
)

// MAC is an Ethernet address.
type MAC [6]byte

// ParseMAC reads six octets in any spelling net.ParseMAC takes.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil {
		return MAC{}, fmt.Errorf("MAC %q: %w", s, err)
	}
	if len(hw) != len(MAC{}) {
		return MAC{}, fmt.Errorf("MAC %q: got %d octets, want 6", s, len(hw))
	}
	return MAC(hw), nil
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Firmware is how a machine fetches its first loader.
type Firmware string

// The kinds of firmware that have a loader.
const (
	BIOS     Firmware = "bios"      // PXE over TFTP
	UEFI     Firmware = "uefi"      // PXE over TFTP
	UEFIHTTP Firmware = "uefi-http" // UEFI 2.10 section 24.7
)

// Machine is what one DHCP packet says of its sender. Nothing in it is proven:
// it identifies, it never authenticates.
type Machine struct {
	MAC      MAC
	UUID     string    // option 97, lower case, as SMBIOS prints it; empty if absent
	Arch     arch.Arch // option 93; empty for ordinary DHCP clients
	Firmware Firmware  // option 93; empty for ordinary DHCP clients
	Class    string    // option 60; empty if absent or not plain ASCII
	IPXE     bool      // option 77 is iPXE
	Hostname string    // option 12; empty if absent or outside [A-Za-z0-9.-]
}

// Netboot says whether the packet came from firmware or a boot loader that
// wants to be told a boot file.
func (m Machine) Netboot() bool {
	return m.Firmware != "" && (isClass(m.Class, classPXE) || isClass(m.Class, classHTTP))
}

func (m Machine) String() string {
	s := m.MAC.String()
	if m.Firmware != "" {
		s += fmt.Sprintf(" %s/%s", m.Arch, m.Firmware)
	}
	if m.IPXE {
		s += " iPXE"
	}
	if m.Hostname != "" {
		s += " " + m.Hostname
	}
	return s
}

// Boot is the answer to "what should this machine do now".
type Boot struct {
	NextServer netip.Addr // TFTP server; the zero Addr means the DHCP server itself
	File       string     // name to ask of NextServer by TFTP, at most 127 bytes
	URL        string     // whole URL, for HTTP boot and for iPXE, at most 200 bytes

	Local  bool   // boot from disk: an address, no boot file
	Ignore bool   // not ours: say nothing at all
	Reason string // why Local or Ignore, for the operator

	// Known marks a machine of this site. It passes the limits that hold off
	// strangers and may use the part of the pool kept from them.
	Known bool
}

// Decide tells what a machine should boot. It is called for every packet
// before any rate limit: it must be quick and do no I/O.
type Decide func(Machine) Boot

const (
	classPXE  = "PXEClient"  // PXE 2.1 section 2.2.1
	classHTTP = "HTTPClient" // UEFI 2.10 section 24.7.2
)

// isClass: firmware writes "PXEClient:Arch:00007:UNDI:003016", some just the word.
func isClass(class, want string) bool {
	rest, ok := strings.CutPrefix(class, want)
	return ok && (rest == "" || rest[0] == ':')
}

// refusal is a packet with well-formed DHCP around something we do not serve.
type refusal string

func (r refusal) Error() string { return string(r) }

// Observe reads a machine from a client's packet. The error is for the operator;
// an architecture without a loader still returns the rest of the machine.
func Observe(p *dhcpv4.DHCPv4) (Machine, error) {
	var m Machine
	if p.OpCode != dhcpv4.OpcodeBootRequest {
		return m, refusal("not a request")
	}
	if len(p.ClientHWAddr) != len(m.MAC) || p.HWType != 1 {
		return m, refusal(fmt.Sprintf("hardware type %d with %d octets: only Ethernet is served", uint16(p.HWType), len(p.ClientHWAddr)))
	}
	m.MAC = MAC(p.ClientHWAddr)
	if m.MAC[0]&1 != 0 || m.MAC == (MAC{}) {
		return m, refusal(fmt.Sprintf("MAC %s cannot be a sender", m.MAC))
	}
	m.UUID = uuid(p.GetOneOption(dhcpv4.OptionClientMachineIdentifier))
	m.Class = plain(p.GetOneOption(dhcpv4.OptionClassIdentifier))
	m.IPXE = isIPXE(p.GetOneOption(dhcpv4.OptionUserClassInformation))
	m.Hostname = hostname(p.GetOneOption(dhcpv4.OptionHostName))
	codes := p.GetOneOption(dhcpv4.OptionClientSystemArchitectureType)
	if len(codes) == 0 {
		return m, nil
	}
	var err error
	m.Arch, m.Firmware, err = system(codes)
	return m, err
}

// systems is RFC 4578 section 2.1 as IANA's "Processor Architecture Types"
// registry continues it.
func systems(code uint16) (arch.Arch, Firmware, bool) {
	switch code {
	case 0:
		return arch.AMD64, BIOS, true
	case 7, 9: // RFC 4578 says 9, errata and every firmware seen say 7
		return arch.AMD64, UEFI, true
	case 11:
		return arch.ARM64, UEFI, true
	case 16:
		return arch.AMD64, UEFIHTTP, true
	case 19:
		return arch.ARM64, UEFIHTTP, true
	}
	return "", "", false
}

// system picks the first architecture with a loader: RFC 4578 section 2.1
// allows a list.
func system(codes []byte) (arch.Arch, Firmware, error) {
	if len(codes)%2 != 0 {
		return "", "", refusal(fmt.Sprintf("option 93: %d bytes, want pairs", len(codes)))
	}
	var names []string
	for pair := range slices.Chunk(codes, 2) {
		code := binary.BigEndian.Uint16(pair)
		if a, f, ok := systems(code); ok {
			return a, f, nil
		}
		if len(names) < 4 {
			names = append(names, systemName(code))
		}
	}
	return "", "", refusal(fmt.Sprintf("option 93: no loader for %s (supported: 0 BIOS, 7 and 9 amd64 UEFI, 11 arm64 UEFI, 16 amd64 HTTP, 19 arm64 HTTP)", strings.Join(names, ", ")))
}

// systemName spells the refused codes an operator may meet.
func systemName(code uint16) string {
	names := map[uint16]string{
		1: "NEC/PC98", 2: "Itanium UEFI", 6: "32-bit x86 UEFI", 10: "32-bit ARM UEFI", 12: "PowerPC Open Firmware",
		14: "POWER OPAL", 15: "32-bit x86 HTTP", 17: "EBC HTTP", 18: "32-bit ARM HTTP", 20: "BIOS HTTP", 21: "32-bit ARM U-Boot",
		22: "arm64 U-Boot", 24: "arm64 U-Boot HTTP", 27: "riscv64 UEFI", 28: "riscv64 HTTP", 31: "s390", 39: "loongarch64 UEFI",
	}
	if n, ok := names[code]; ok {
		return fmt.Sprintf("%d (%s)", code, n)
	}
	return fmt.Sprintf("%d", code)
}

// uuid prints option 97 (RFC 4578 section 2.3): type 0, then the EFI byte order,
// first three fields little-endian, as SMBIOS 2.6 and product_uuid have it.
func uuid(b []byte) string {
	if len(b) != 17 || b[0] != 0 {
		return ""
	}
	b = b[1:]
	if !slices.ContainsFunc(b, func(c byte) bool { return c != 0x00 }) || !slices.ContainsFunc(b, func(c byte) bool { return c != 0xff }) {
		return "" // SMBIOS 7.2.1: not present, not settable
	}
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]), binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:])
}

// isIPXE: iPXE sends the bare word; RFC 3004 puts a length byte before it.
func isIPXE(b []byte) bool { return string(b) == "iPXE" || string(b) == "\x04iPXE" }

// plain keeps text that no log, page or script can take for anything else.
func plain(b []byte) string {
	if len(b) > 128 || slices.ContainsFunc(b, func(c byte) bool { return c < ' ' || c > '~' || strings.IndexByte("\"'`$\\<>&", c) >= 0 }) {
		return ""
	}
	return string(b)
}

// hostname refuses rather than repairs: DHCP text that reached shells and
// scripts is a class of holes of its own (CVE-2018-1111).
func hostname(b []byte) string {
	s := strings.TrimSuffix(string(b), "\x00") // some firmware counts the terminator
	if len(s) == 0 || len(s) > 253 || s[0] == '-' || s[0] == '.' {
		return ""
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-') {
			return ""
		}
	}
	return s
}
