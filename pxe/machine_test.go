package pxe

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"slipway.dev/slipway/configs/arch"
)

var mac1 = MAC{0x52, 0x54, 0, 0, 0, 1}

// packet builds a client's packet; options are raw.
func packet(m MAC, t dhcpv4.MessageType, options map[uint8]string) *dhcpv4.DHCPv4 {
	p := reply(&dhcpv4.DHCPv4{ClientHWAddr: append([]byte(nil), m[:]...), TransactionID: dhcpv4.TransactionID{1, 2, 3, 4}}, t, serverAddr)
	p.OpCode = dhcpv4.OpcodeBootRequest
	p.DeleteOption(dhcpv4.OptionServerIdentifier)
	for c, v := range options {
		p.Options[c] = []byte(v)
	}
	return p
}

func arch93(code uint16) string { return string(binary.BigEndian.AppendUint16(nil, code)) }

func TestArchitectures(t *testing.T) {
	for code, want := range map[uint16]struct {
		arch arch.Arch
		fw   Firmware
		err  string
	}{
		0:      {arch.AMD64, BIOS, ""},
		7:      {arch.AMD64, UEFI, ""},
		9:      {arch.AMD64, UEFI, ""},
		11:     {arch.ARM64, UEFI, ""},
		16:     {arch.AMD64, UEFIHTTP, ""},
		19:     {arch.ARM64, UEFIHTTP, ""},
		1:      {err: "1 (NEC/PC98)"},
		6:      {err: "no loader for 6 (32-bit x86 UEFI) (supported: 0 BIOS"},
		10:     {err: "10 (32-bit ARM UEFI)"},
		15:     {err: "15 (32-bit x86 HTTP)"},
		20:     {err: "20 (BIOS HTTP)"},
		22:     {err: "22 (arm64 U-Boot)"},
		27:     {err: "27 (riscv64 UEFI)"},
		0xffff: {err: "no loader for 65535 (supp"},
	} {
		m, err := Observe(packet(mac1, dhcpv4.MessageTypeDiscover, map[uint8]string{60: "PXEClient:Arch:00000", 93: arch93(code)}))
		if m.Arch != want.arch || m.Firmware != want.fw {
			t.Errorf("%d: got %s/%s, want %s/%s", code, m.Arch, m.Firmware, want.arch, want.fw)
		}
		if (err == nil) != (want.err == "") || err != nil && !strings.Contains(err.Error(), want.err) {
			t.Errorf("%d: got error %v, want %q", code, err, want.err)
		}
		if m.MAC != mac1 {
			t.Errorf("%d: lost the MAC", code)
		}
		if m.Netboot() != (err == nil) {
			t.Errorf("%d: netboot %v with error %v", code, m.Netboot(), err)
		}
	}
	if m, err := Observe(packet(mac1, 1, map[uint8]string{93: arch93(6) + arch93(7)})); err != nil || m.Firmware != UEFI {
		t.Errorf("a list with one supported: got %v %v", m, err)
	}
	if _, err := Observe(packet(mac1, 1, map[uint8]string{93: "\x00\x07\x00"})); err == nil || !strings.Contains(err.Error(), "3 bytes") {
		t.Errorf("odd length: got %v", err)
	}
}

func TestObserve(t *testing.T) {
	// The first three fields swap: the bytes are EFI's, the text is product_uuid's.
	raw := "\x00\x44\x33\x22\x11\x66\x55\x88\x77\x99\xaa\xbb\xcc\xdd\xee\xff\x01"
	for _, c := range []struct {
		name    string
		options map[uint8]string
		want    Machine
	}{
		{"nothing", nil, Machine{}},
		{"uuid", map[uint8]string{97: raw}, Machine{UUID: "11223344-5566-7788-99aa-bbccddeeff01"}},
		{"uuid of another type", map[uint8]string{97: "\x01" + raw[1:]}, Machine{}},
		{"uuid short", map[uint8]string{97: raw[:16]}, Machine{}},
		{"uuid not set", map[uint8]string{97: strings.Repeat("\x00", 17)}, Machine{}},
		{"uuid not settable", map[uint8]string{97: "\x00" + strings.Repeat("\xff", 16)}, Machine{}},
		{"iPXE", map[uint8]string{77: "iPXE"}, Machine{IPXE: true}},
		{"iPXE by RFC 3004", map[uint8]string{77: "\x04iPXE"}, Machine{IPXE: true}},
		{"another user class", map[uint8]string{77: "iPXE2"}, Machine{}},
		{"class", map[uint8]string{60: "udhcp 1.36.1"}, Machine{Class: "udhcp 1.36.1"}},
		{"class with a quote", map[uint8]string{60: "a'b"}, Machine{}},
		{"class with a newline", map[uint8]string{60: "PXEClient\n"}, Machine{}},
		{"class too long", map[uint8]string{60: strings.Repeat("a", 129)}, Machine{}},
		{"hostname", map[uint8]string{12: "cp-1.Site"}, Machine{Hostname: "cp-1.Site"}},
		{"hostname with NUL", map[uint8]string{12: "cp-1\x00"}, Machine{Hostname: "cp-1"}},
		{"hostname with a shell in it", map[uint8]string{12: "a;reboot"}, Machine{}},
		{"hostname with $()", map[uint8]string{12: "$(reboot)"}, Machine{}},
		{"hostname with a space", map[uint8]string{12: "a b"}, Machine{}},
		{"hostname with an underscore", map[uint8]string{12: "a_b"}, Machine{}},
		{"hostname like a flag", map[uint8]string{12: "-rf"}, Machine{}},
		{"hostname like a path", map[uint8]string{12: "../a"}, Machine{}},
		{"hostname in UTF-8", map[uint8]string{12: "nöde"}, Machine{}},
		{"hostname too long", map[uint8]string{12: strings.Repeat("a", 254)}, Machine{}},
	} {
		c.want.MAC = mac1
		if got, err := Observe(packet(mac1, 1, c.options)); err != nil || got != c.want {
			t.Errorf("%s: got %+v %v, want %+v", c.name, got, err, c.want)
		}
	}
}

func TestObserveRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*dhcpv4.DHCPv4){
		"a reply":         func(p *dhcpv4.DHCPv4) { p.OpCode = dhcpv4.OpcodeBootReply },
		"InfiniBand":      func(p *dhcpv4.DHCPv4) { p.HWType = 32 },
		"short address":   func(p *dhcpv4.DHCPv4) { p.ClientHWAddr = p.ClientHWAddr[:5] },
		"no address":      func(p *dhcpv4.DHCPv4) { p.ClientHWAddr = nil },
		"zero address":    func(p *dhcpv4.DHCPv4) { p.ClientHWAddr = make([]byte, 6) },
		"multicast":       func(p *dhcpv4.DHCPv4) { p.ClientHWAddr[0] |= 1 },
		"sixteen octets ": func(p *dhcpv4.DHCPv4) { p.ClientHWAddr = make([]byte, 16) },
	} {
		p := packet(mac1, 1, nil)
		spoil(p)
		if _, err := Observe(p); err == nil {
			t.Errorf("%s was taken for a machine", name)
		}
	}
}

func TestClass(t *testing.T) {
	for s, want := range map[string]bool{
		"PXEClient": true, "PXEClient:Arch:00007:UNDI:003016": true,
		"PXEClientele": false, "pxeclient": false, "xPXEClient": false, "": false, "HTTPClient": false,
	} {
		if got := isClass(s, classPXE); got != want {
			t.Errorf("%q: got %v", s, got)
		}
	}
}

func TestParseMAC(t *testing.T) {
	if m, err := ParseMAC("52-54-00-00-00-01"); err != nil || m != mac1 {
		t.Errorf("got %s %v", m, err)
	}
	for _, s := range []string{"", "52:54", "52:54:00:00:00:00:00:01", "52:54:00:00:00:zz"} {
		if _, err := ParseMAC(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}
