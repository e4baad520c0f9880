package pxe

import (
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestProxySpeaksToFirmwareAlone(t *testing.T) {
	pxe := map[uint8]string{60: "PXEClient:Arch:00007:UNDI:003016", 93: arch93(7)}
	http := map[uint8]string{60: "HTTPClient:Arch:00016:UNDI:003001", 93: arch93(16)}
	with := func(base map[uint8]string, code uint8, v string) map[uint8]string {
		m := map[uint8]string{code: v}
		for c, v := range base {
			if c != code {
				m[c] = v
			}
		}
		return m
	}
	boot := Boot{File: "ipxe.efi", URL: "http://h/b.efi"}
	from := netip.AddrPortFrom(at(200), 4011)
	for _, c := range []struct {
		name    string
		t       dhcpv4.MessageType
		boot    Boot
		options map[uint8]string
		on67    string // steps, "answer" appended if there is one
		on4011  string
	}{
		{"PXE DISCOVER", 1, boot, pxe, "PROXY-OFFER answer", ""},
		{"HTTP DISCOVER", 1, boot, http, "PROXY-OFFER answer", ""},
		{"PXE REQUEST", 3, boot, pxe, "", "PROXY-4011 answer"},
		{"PXE REQUEST naming us", 3, boot, with(pxe, 54, raw(serverAddr)), "", "PROXY-4011 answer"},
		{"PXE REQUEST naming the other", 3, boot, with(pxe, 54, raw(otherAddr)), "", "PROXY-4011 answer"},
		{"PXE INFORM", 8, boot, pxe, "", "PROXY-4011 answer"},
		{"HTTP REQUEST", 3, boot, http, "", "PROXY-4011 answer"},
		{"DECLINE", 4, boot, pxe, "", ""},
		{"RELEASE", 7, boot, pxe, "", ""},
		{"ACK", 5, boot, pxe, "", ""},
		{"no type", 0, boot, pxe, "", ""},
		{"ordinary DISCOVER", 1, boot, nil, "", ""},
		{"ordinary REQUEST", 3, boot, map[uint8]string{60: "udhcp 1.36.1"}, "", ""},
		{"ordinary INFORM", 8, boot, map[uint8]string{60: "MSFT 5.0"}, "", ""},
		{"a class that looks alike", 1, boot, with(pxe, 60, "PXEClients"), "", ""},
		{"architecture without class", 1, boot, map[uint8]string{93: arch93(7)}, "", ""},
		{"class without architecture", 1, boot, map[uint8]string{60: "PXEClient"}, "IGNORED", ""},
		{"32-bit UEFI", 1, boot, with(pxe, 93, arch93(6)), "IGNORED", ""},
		{"PXE class, HTTP architecture", 1, boot, with(pxe, 93, arch93(16)), "IGNORED", ""},
		{"HTTP class, PXE architecture", 1, boot, with(http, 93, arch93(7)), "IGNORED", ""},
		{"boots from disk", 1, Boot{Local: true, File: "f"}, pxe, "IGNORED", ""},
		{"not ours", 3, Boot{Ignore: true, File: "f"}, pxe, "", "IGNORED"},
		{"no file", 1, Boot{}, pxe, "IGNORED", ""},
		{"no URL", 1, Boot{File: "f"}, http, "IGNORED", ""},
	} {
		x := NewProxy(serverAddr, func(Machine) Boot { return c.boot })
		q := packet(mac1, c.t, c.options)
		q.ClientIPAddr = at(200).AsSlice()
		for where, got := range map[string]Answer{c.on67: x.Handle67(q), c.on4011 + " 4011": x.Handle4011(q, from)} {
			s := steps(got)
			if got.Packet != nil {
				s += " answer"
				if field4(got.Packet.YourIPAddr).IsValid() || got.Packet.Options.Has(dhcpv4.OptionIPAddressLeaseTime) || got.Packet.Options.Has(dhcpv4.OptionSubnetMask) || got.Packet.Options.Has(dhcpv4.OptionRouter) {
					t.Errorf("%s: the proxy configures the network: %v", c.name, got.Packet)
				}
			}
			if where != c.on67 {
				s += " 4011"
			}
			if s != where {
				t.Errorf("%s: got %q, want %q", c.name, s, where)
			}
		}
		q.GatewayIPAddr = at(5).AsSlice()
		if a, b := x.Handle67(q), x.Handle4011(q, from); a.Packet != nil || b.Packet != nil {
			t.Errorf("%s: a relayed packet was answered", c.name)
		}
	}
}

func TestProxyAnswersTheAskingPort(t *testing.T) {
	x := NewProxy(serverAddr, func(Machine) Boot { return Boot{File: "f", Known: true} })
	q := packet(mac1, dhcpv4.MessageTypeRequest, map[uint8]string{60: "PXEClient:Arch:00000", 93: arch93(0)})
	for s, want := range map[string]bool{"10.77.0.200:68": true, "10.77.0.200:4011": true, "10.77.0.200:1234": true, "0.0.0.0:68": false, "224.0.0.1:68": false, "10.77.0.200:0": false} {
		from := netip.MustParseAddrPort(s)
		a := x.Handle4011(q, from)
		if (a.Packet != nil) != want || want && a.To != from {
			t.Errorf("from %s: to %s, answered %v", s, a.To, a.Packet != nil)
		}
	}
	if a := x.Handle4011(q, netip.AddrPort{}); a.Packet != nil {
		t.Error("answered nowhere")
	}
}

func TestProxyFields(t *testing.T) {
	id := "\x00\x44\x33\x22\x11\x66\x55\x88\x77\x99\xaa\xbb\xcc\xdd\xee\xff\x01"
	next := at(7)
	x := NewProxy(serverAddr, func(Machine) Boot { return Boot{NextServer: next, File: "f.efi", URL: "http://h/f.efi"} })
	for class, c := range map[string]struct {
		code         uint16
		file, vendor string
	}{"PXEClient": {0, "f.efi", "\x06\x01\x08\xff"}, "PXEClient:Arch:00007": {7, "f.efi", "\x06\x01\x08\xff"}, "HTTPClient:Arch:00016": {16, "http://h/f.efi", ""}} {
		r := x.Handle67(packet(mac1, 1, map[uint8]string{60: class, 93: arch93(c.code), 97: id})).Packet
		want := map[uint8]string{53: "\x02", 54: raw(serverAddr), 60: "PXEClient", 66: next.String(), 67: c.file, 97: id}
		if class[0] == 'H' {
			want[60] = "HTTPClient"
		}
		if c.vendor != "" {
			want[43] = c.vendor
		}
		for code, v := range want {
			if string(r.Options[code]) != v {
				t.Errorf("%s: option %d is %q, want %q", class, code, r.Options[code], v)
			}
		}
		if len(r.Options) != len(want) || r.BootFileName != c.file || field4(r.ServerIPAddr) != next || r.IsBroadcast() {
			t.Errorf("%s: %d options, file %q, siaddr %s", class, len(r.Options), r.BootFileName, r.ServerIPAddr)
		}
	}
}
