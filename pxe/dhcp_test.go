package pxe

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

var update = flag.Bool("update", false, "write the packets of testdata anew")

var (
	serverAddr = netip.MustParseAddr("10.77.0.1")
	otherAddr  = netip.MustParseAddr("10.77.0.254")
	broadcast  = netip.MustParseAddrPort("255.255.255.255:68")
)

func at(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, last}) }

func raw(a netip.Addr) string { return string(a.AsSlice()) }

func macN(n int) MAC { return MAC{0x02, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)} }

func network() Network {
	return Network{
		Server: serverAddr, Subnet: netip.MustParsePrefix("10.77.0.0/24"), First: at(100), Last: at(107), Router: at(1), DNS: []netip.Addr{at(1)}, NTP: []netip.Addr{at(1)},
		LeaseTime: time.Hour, Reserved: map[MAC]netip.Addr{{0x52, 0x54, 0, 0, 0, 0x99}: at(10)},
	}
}

// bench is a server on a clock that only moves when told.
type bench struct {
	*DHCP
	t      *testing.T
	now    time.Duration
	leases *Memory
	boots  map[MAC]Boot
	taken  map[netip.Addr]MAC
}

func newBench(t *testing.T, n Network) *bench {
	t.Helper()
	b := &bench{t: t, leases: NewMemory(), boots: map[MAC]Boot{}, taken: map[netip.Addr]MAC{}}
	var err error
	b.DHCP, err = NewDHCP(n, b.leases, func(m Machine) Boot {
		if boot, ok := b.boots[m.MAC]; ok {
			return boot
		}
		return Boot{File: "ipxe.efi", URL: "http://10.77.0.1/boot.efi"}
	}, WithClock(func() time.Duration { return b.now }), WithConflict(func(a netip.Addr) (MAC, bool) { m, ok := b.taken[a]; return m, ok }))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func offered(a Answer) netip.Addr {
	if a.Packet == nil {
		return netip.Addr{}
	}
	return field4(a.Packet.YourIPAddr)
}

func (b *bench) ask(m MAC) netip.Addr {
	return offered(b.Handle(packet(m, dhcpv4.MessageTypeDiscover, nil)))
}

func selecting(m MAC, a netip.Addr) *dhcpv4.DHCPv4 {
	return packet(m, dhcpv4.MessageTypeRequest, map[uint8]string{50: raw(a), 54: raw(serverAddr)})
}

// lease goes through DISCOVER and REQUEST; the zero Addr if refused.
func (b *bench) lease(m MAC) netip.Addr {
	a := b.ask(m)
	if !a.IsValid() {
		return a
	}
	got := b.Handle(selecting(m, a))
	if got.Packet == nil || got.Packet.MessageType() != dhcpv4.MessageTypeAck {
		return netip.Addr{}
	}
	return offered(got)
}

func steps(a Answer) string {
	var s []string
	for _, e := range a.Events {
		s = append(s, string(e.Step))
	}
	return strings.Join(s, " ")
}

func TestNetworkCheck(t *testing.T) {
	for want, spoil := range map[string]func(*Network){
		"want an IPv4 prefix":                       func(n *Network) { n.Subnet = netip.Prefix{} },
		"of 8 to 30 bits":                           func(n *Network) { n.Subnet = netip.MustParsePrefix("10.77.0.0/31") },
		"server 10.78.0.1: not a host":              func(n *Network) { n.Server = netip.MustParseAddr("10.78.0.1") },
		"first 10.77.0.0: not a host":               func(n *Network) { n.First = at(0) },
		"last 10.77.0.255: not a host":              func(n *Network) { n.Last = at(255) },
		"router 1.1.1.1: not a host":                func(n *Network) { n.Router = netip.MustParseAddr("1.1.1.1") },
		"want 1 to 65536":                           func(n *Network) { n.Last = at(99) },
		"holds the server":                          func(n *Network) { n.First = at(1) },
		"lease time":                                func(n *Network) { n.LeaseTime = time.Second },
		"52:54:00:00:00:02: 10.77.0.101 must be a":  func(n *Network) { n.Reserved[MAC{0x52, 0x54, 0, 0, 0, 2}] = at(101) },
		"52:54:00:00:00:02: 10.77.0.1 must be":      func(n *Network) { n.Reserved[MAC{0x52, 0x54, 0, 0, 0, 2}] = at(1) },
		"10.77.0.10 is reserved for":                func(n *Network) { n.Reserved[MAC{0x52, 0x54, 0, 0, 0, 2}] = at(10) },
		"at most three":                             func(n *Network) { n.DNS = make([]netip.Addr, 4) },
		"52:54:00:00:00:02: 10.77.1.5 must be":      func(n *Network) { n.Reserved[MAC{0x52, 0x54, 0, 0, 0, 2}] = netip.MustParseAddr("10.77.1.5") },
		"52:54:00:00:00:02: invalid IP must be a h": func(n *Network) { n.Reserved[MAC{0x52, 0x54, 0, 0, 0, 2}] = netip.Addr{} },
	} {
		n := network()
		spoil(&n)
		if _, err := NewDHCP(n, NewMemory(), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestLeaseIsKept(t *testing.T) {
	b := newBench(t, network())
	a := b.lease(mac1)
	if !b.net.inRange(a) {
		t.Fatalf("got %s", a)
	}
	if got := b.ask(mac1); got != a {
		t.Errorf("again: got %s, want %s", got, a)
	}
	b.now += 2 * time.Hour // expired, nobody took it
	if got := b.lease(mac1); got != a {
		t.Errorf("after expiry: got %s, want %s", got, a)
	}
	if got := b.ask(MAC{0x52, 0x54, 0, 0, 0, 0x99}); got != at(10) {
		t.Errorf("reservation: got %s", got)
	}
	all, _ := b.leases.All()
	if len(all) != 1 || all[0].Addr != a || all[0].MAC != mac1 {
		t.Errorf("recorded %v", all)
	}
}

func TestAsksForAnAddress(t *testing.T) {
	b := newBench(t, network())
	for _, c := range []struct {
		n    int
		want netip.Addr
		got  bool
	}{{1, at(105), true}, {2, at(105), false}, {3, at(10), false}, {4, at(200), false}, {5, at(1), false}} {
		got := offered(b.Handle(packet(macN(c.n), dhcpv4.MessageTypeDiscover, map[uint8]string{50: raw(c.want)})))
		if (got == c.want) != c.got || !b.net.inRange(got) {
			t.Errorf("%d asked %s: got %s", c.n, c.want, got)
		}
	}
}

func TestOfferHold(t *testing.T) {
	n := network()
	n.Last = n.First // one address
	b := newBench(t, n)
	if b.ask(macN(1)) != n.First || b.ask(macN(2)).IsValid() {
		t.Fatal("one address was offered twice")
	}
	b.now += offerHold - 1
	if b.ask(macN(2)).IsValid() {
		t.Error("the offer did not hold ten seconds")
	}
	b.now++
	if b.ask(macN(2)) != n.First {
		t.Error("the offer held longer than ten seconds")
	}
	got := b.Handle(selecting(macN(1), n.First))
	if got.Packet.MessageType() != dhcpv4.MessageTypeNak || got.To != broadcast || !got.Packet.IsBroadcast() {
		t.Errorf("the late one got %v to %s", got.Packet, got.To)
	}
	if b.lease(macN(2)) != n.First {
		t.Error("the second lost it")
	}
}

func TestRequestStates(t *testing.T) {
	elsewhere := netip.MustParseAddr("192.168.1.5")
	for _, c := range []struct {
		name    string
		options map[uint8]string
		client  netip.Addr
		want    string // steps
		to      string
	}{
		{"selecting what was offered", map[uint8]string{50: "mine", 54: raw(serverAddr)}, netip.Addr{}, "REQUEST ACK", "255.255.255.255:68"},
		{"selecting another's", map[uint8]string{50: raw(at(107)), 54: raw(serverAddr)}, netip.Addr{}, "REQUEST NAK", "255.255.255.255:68"},
		{"selecting another server", map[uint8]string{50: "mine", 54: raw(otherAddr)}, netip.Addr{}, "IGNORED", ""},
		{"selecting nothing", map[uint8]string{54: raw(serverAddr)}, netip.Addr{}, "REQUEST IGNORED", ""},
		{"init-reboot with its own", map[uint8]string{50: "mine"}, netip.Addr{}, "REQUEST ACK", "255.255.255.255:68"},
		{"init-reboot from another network", map[uint8]string{50: raw(elsewhere)}, netip.Addr{}, "REQUEST NAK", "255.255.255.255:68"},
		{"init-reboot with one outside the range", map[uint8]string{50: raw(at(20))}, netip.Addr{}, "REQUEST NAK", "255.255.255.255:68"},
		{"renewing", nil, at(0), "REQUEST ACK", "mine:68"},
		{"renewing another's", nil, at(107), "REQUEST NAK", "255.255.255.255:68"},
		{"renewing a foreign address", nil, elsewhere, "REQUEST NAK", "255.255.255.255:68"},
		{"a malformed option 50", map[uint8]string{50: "abc", 54: raw(serverAddr)}, netip.Addr{}, "REQUEST IGNORED", ""},
	} {
		b := newBench(t, network())
		b.Handle(packet(macN(9), dhcpv4.MessageTypeDiscover, map[uint8]string{50: raw(at(107))}))
		mine := b.ask(mac1)
		q := packet(mac1, dhcpv4.MessageTypeRequest, c.options)
		if c.options[50] == "mine" {
			q.Options[50] = mine.AsSlice()
		}
		if c.client.IsValid() {
			if c.client == at(0) {
				c.client = mine
			}
			q.ClientIPAddr = c.client.AsSlice()
		}
		a := b.Handle(q)
		to := ""
		if a.Packet != nil {
			to = strings.Replace(a.To.String(), mine.String(), "mine", 1)
		}
		if steps(a) != c.want || to != c.to {
			t.Errorf("%s: got %q to %q, want %q to %q", c.name, steps(a), to, c.want, c.to)
		}
	}
}

func TestComesBackAfterLostLeases(t *testing.T) {
	b := newBench(t, network())
	q := packet(mac1, dhcpv4.MessageTypeRequest, nil)
	q.ClientIPAddr = at(103).AsSlice()
	if a := b.Handle(q); steps(a) != "REQUEST ACK" || offered(a) != at(103) {
		t.Errorf("a node renewing a free address: %v", a.Events)
	}
	if q := packet(macN(2), dhcpv4.MessageTypeRequest, map[uint8]string{50: raw(at(103))}); steps(b.Handle(q)) != "REQUEST NAK" {
		t.Error("a second node got the same")
	}
}

func TestRestartKeepsLeases(t *testing.T) {
	b := newBench(t, network())
	given := map[netip.Addr]MAC{}
	for i := range 6 {
		given[b.lease(macN(i))] = macN(i)
	}
	again, err := NewDHCP(network(), b.leases, b.decide)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		m := macN(5 - i + 100)
		if i < 6 {
			m = macN(5 - i)
		}
		a := offered(again.Handle(packet(m, dhcpv4.MessageTypeDiscover, nil)))
		if owner, ok := given[a]; ok && owner != m {
			t.Errorf("%s of %s went to %s", a, owner, m)
		}
		if i < 6 && given[a] != m {
			t.Errorf("%s got %s, not its own", m, a)
		}
	}
}

type broken struct{ *Memory }

func (broken) Put(Lease) error { return errors.New("disk full") }

func TestNoAckUnrecorded(t *testing.T) {
	b := newBench(t, network())
	b.DHCP.leases = broken{}
	a := b.Handle(selecting(mac1, b.ask(mac1)))
	if a.Packet != nil || steps(a) != "REQUEST IGNORED" || !strings.Contains(a.Events[1].Text, "disk full") {
		t.Errorf("got %v", a)
	}
}

func TestReleaseAndInform(t *testing.T) {
	n := network()
	n.Last = n.First
	b := newBench(t, n)
	b.lease(mac1)
	release := func(m MAC, server netip.Addr) {
		q := packet(m, dhcpv4.MessageTypeRelease, map[uint8]string{54: raw(server)})
		q.ClientIPAddr = n.First.AsSlice()
		if a := b.Handle(q); a.Packet != nil || steps(a) != "RELEASE" {
			t.Errorf("RELEASE was answered: %v", a)
		}
	}
	release(macN(2), serverAddr)
	release(mac1, otherAddr)
	if b.ask(macN(3)).IsValid() {
		t.Error("somebody else's RELEASE freed the lease")
	}
	release(mac1, serverAddr)
	if all, _ := b.leases.All(); len(all) != 0 {
		t.Errorf("still recorded: %v", all)
	}
	if b.lease(macN(3)) != n.First {
		t.Error("RELEASE did not free the lease")
	}

	q := packet(mac1, dhcpv4.MessageTypeInform, nil)
	q.ClientIPAddr = at(20).AsSlice()
	a := b.Handle(q)
	if steps(a) != "INFORM ACK" || offered(a).IsValid() || a.Packet.Options.Has(dhcpv4.OptionIPAddressLeaseTime) || a.To != netip.AddrPortFrom(at(20), 68) {
		t.Errorf("INFORM: %v to %s", a.Packet, a.To)
	}
	q.ClientIPAddr = []byte{8, 8, 8, 8}
	if a := b.Handle(q); a.Packet != nil {
		t.Errorf("INFORM sends packets to %s", a.To)
	}
}

func TestDeclineStorm(t *testing.T) {
	b := newBench(t, network()) // eight addresses: two may be held back
	held := map[netip.Addr]bool{}
	for i := range 50 {
		m := macN(i)
		b.boots[m] = Boot{Known: true}
		a := b.lease(m)
		if !a.IsValid() {
			t.Fatalf("%d: a decline storm used up the range", i)
		}
		got := b.Handle(packet(m, dhcpv4.MessageTypeDecline, map[uint8]string{50: raw(a), 54: raw(serverAddr)}))
		if steps(got) != "DECLINE" || got.Packet != nil {
			t.Fatalf("%d: %v", i, got)
		}
		held[a] = true
		n := 0
		for _, s := range b.pool.slots {
			if s.state == slotDeclined && s.live(b.now) {
				n++
			}
		}
		if n > 2 {
			t.Fatalf("%d: %d addresses held back, want at most 2 of 8", i, n)
		}
		if b.pool.slots[b.pool.index(a)].state != slotDeclined {
			t.Errorf("%d: %s was not held back", i, a)
		}
		b.now += time.Second
	}
	if len(held) < 3 {
		t.Errorf("only %d addresses tried", len(held))
	}
	b = newBench(t, network())
	a := b.lease(mac1)
	if s := steps(b.Handle(packet(macN(2), dhcpv4.MessageTypeDecline, map[uint8]string{50: raw(a), 54: raw(serverAddr)}))); s != "IGNORED" {
		t.Errorf("declining another's: %s", s)
	}
	b.Handle(packet(mac1, dhcpv4.MessageTypeDecline, map[uint8]string{50: raw(a), 54: raw(serverAddr)}))
	want := func(m MAC, free bool) {
		got := offered(b.Handle(packet(m, dhcpv4.MessageTypeDiscover, map[uint8]string{50: raw(a)})))
		if (got == a) != free {
			t.Errorf("%s after %s: got %s", a, b.now, got)
		}
	}
	b.now += declineHold - 1
	want(macN(3), false)
	b.now++
	want(macN(4), true)
}

func TestConflict(t *testing.T) {
	b := newBench(t, network())
	first := b.ask(mac1)
	b = newBench(t, network())
	b.taken[first] = macN(7)
	a := b.Handle(packet(mac1, dhcpv4.MessageTypeDiscover, nil))
	if got := offered(a); !got.IsValid() || got == first || steps(a) != "DISCOVER CONFLICT OFFER" || !strings.Contains(a.Events[1].Text, macN(7).String()) {
		t.Errorf("got %s %v", got, a.Events)
	}
	b = newBench(t, network())
	b.taken[first] = mac1 // it still uses it
	if got := b.ask(mac1); got != first {
		t.Errorf("its own address was a conflict: got %s", got)
	}
	for i := range byte(8) {
		b.taken[at(100+i)] = macN(7)
	}
	if a := b.Handle(packet(macN(2), dhcpv4.MessageTypeDiscover, nil)); a.Packet != nil || steps(a) != "DISCOVER CONFLICT CONFLICT CONFLICT IGNORED" {
		t.Errorf("all taken: %v", a.Events)
	}
	b.taken[at(10)] = macN(7)
	if a := b.Handle(packet(MAC{0x52, 0x54, 0, 0, 0, 0x99}, dhcpv4.MessageTypeDiscover, nil)); a.Packet != nil || steps(a) != "DISCOVER CONFLICT IGNORED" {
		t.Errorf("reserved and taken: %v", a.Events)
	}
}

func TestPolicy(t *testing.T) {
	pxe := map[uint8]string{60: "PXEClient:Arch:00007", 93: arch93(7)}
	for _, c := range []struct {
		name    string
		boot    Boot
		options map[uint8]string
		relay   bool
		want    string
		file    string
	}{
		{"ordinary client", Boot{File: "f"}, nil, false, "DISCOVER OFFER", ""},
		{"netboot", Boot{File: "f"}, pxe, false, "DISCOVER OFFER", "f"},
		{"local", Boot{Local: true, Reason: "installed", File: "f"}, pxe, false, "DISCOVER OFFER", ""},
		{"ignore", Boot{Ignore: true, Reason: "not listed"}, pxe, false, "IGNORED", ""},
		{"relayed", Boot{File: "f"}, pxe, true, "IGNORED", ""},
		{"32-bit UEFI", Boot{File: "f"}, map[uint8]string{60: "PXEClient:Arch:00006", 93: arch93(6)}, false, "DISCOVER OFFER IGNORED", ""},
		{"arch without class", Boot{File: "f"}, map[uint8]string{93: arch93(7)}, false, "DISCOVER OFFER", ""},
		{"class without arch", Boot{File: "f"}, map[uint8]string{60: "PXEClient"}, false, "DISCOVER OFFER", ""},
		{"class and arch disagree", Boot{File: "f", URL: "http://h/f"}, map[uint8]string{60: "PXEClient", 93: arch93(16)}, false, "DISCOVER OFFER", ""},
		{"HTTP without a URL", Boot{File: "f"}, map[uint8]string{60: "HTTPClient", 93: arch93(16)}, false, "DISCOVER OFFER", ""},
		{"HTTP", Boot{File: "f", URL: "http://h/f"}, map[uint8]string{60: "HTTPClient:Arch:00016", 93: arch93(16)}, false, "DISCOVER OFFER", "http://h/f"},
		{"PXE with a URL", Boot{File: "f", URL: "http://h/f"}, pxe, false, "DISCOVER OFFER", "f"},
		{"iPXE", Boot{File: "f", URL: "http://h/f"}, map[uint8]string{60: "PXEClient:Arch:00007", 93: arch93(7), 77: "iPXE"}, false, "DISCOVER OFFER", "http://h/f"},
	} {
		b := newBench(t, network())
		b.boots[mac1] = c.boot
		q := packet(mac1, dhcpv4.MessageTypeDiscover, c.options)
		if c.relay {
			q.GatewayIPAddr = at(5).AsSlice()
		}
		a := b.Handle(q)
		if steps(a) != c.want {
			t.Errorf("%s: got %q, want %q", c.name, steps(a), c.want)
		}
		if a.Packet == nil {
			continue
		}
		if got := string(a.Packet.GetOneOption(dhcpv4.OptionBootfileName)); got != c.file || a.Packet.BootFileName != c.file {
			t.Errorf("%s: got file %q and %q, want %q", c.name, a.Packet.BootFileName, got, c.file)
		}
		if netboot := a.Packet.Options.Has(dhcpv4.OptionClassIdentifier) || a.Packet.Options.Has(dhcpv4.OptionVendorSpecificInformation); netboot && c.file == "" {
			t.Errorf("%s: PXE options for a client that boots nothing", c.name)
		}
	}
}

func TestLongNames(t *testing.T) {
	n := network()
	n.DNS, n.NTP = []netip.Addr{at(1), at(2), at(3)}, []netip.Addr{at(1), at(2), at(3)}
	b := newBench(t, n)
	q := packet(mac1, dhcpv4.MessageTypeDiscover, map[uint8]string{60: "HTTPClient:Arch:00016", 93: arch93(16), 61: strings.Repeat("i", 200), 97: "\x00" + strings.Repeat("u", 16)})
	for _, n := range []int{127, 128, 200, 201} {
		url := "http://h/" + strings.Repeat("a", n-9)
		b.boots[mac1] = Boot{URL: url, Known: true}
		r := b.Handle(q).Packet
		file, option := r.BootFileName, string(r.GetOneOption(dhcpv4.OptionBootfileName))
		if (option == url) != (n <= 200) || (file == url) != (n <= 127) || n > 127 && file != "" {
			t.Errorf("%d: field %d bytes, option %d", n, len(file), len(option))
		}
		if size := len(r.ToBytes()) + 28; size > 576 {
			t.Errorf("%d: packet of %d bytes", n, size)
		}
	}
}

// dump prints a packet for a golden.
func dump(a Answer) string {
	var b bytes.Buffer
	if p := a.Packet; p != nil {
		fmt.Fprintf(&b, "to %s\nop %d xid %x flags %04x mac %s\nci %s yi %s si %s gi %s\nfile %q\n", a.To, p.OpCode, p.TransactionID[:], p.Flags, p.ClientHWAddr, p.ClientIPAddr, p.YourIPAddr, p.ServerIPAddr, p.GatewayIPAddr, p.BootFileName)
		var codes []int
		for c := range p.Options {
			codes = append(codes, int(c))
		}
		slices.Sort(codes)
		for _, c := range codes {
			fmt.Fprintf(&b, "option %d: % x %s\n", c, p.Options[uint8(c)], plain(p.Options[uint8(c)]))
		}
	}
	for _, e := range a.Events {
		fmt.Fprintln(&b, e)
	}
	return strings.ReplaceAll(b.String(), " \n", "\n")
}

// TestGoldens: one text file a packet; -update writes them anew.
func TestGoldens(t *testing.T) {
	id := "\x00\x44\x33\x22\x11\x66\x55\x88\x77\x99\xaa\xbb\xcc\xdd\xee\xff\x01"
	clients := map[string]map[uint8]string{
		"ordinary": {61: "\x01\x52\x54\x00\x00\x00\x01", 12: "laptop"},
		"bios":     {60: "PXEClient:Arch:00000:UNDI:002001", 93: arch93(0), 97: id},
		"uefi":     {60: "PXEClient:Arch:00007:UNDI:003016", 93: arch93(7), 97: id},
		"arm64":    {60: "PXEClient:Arch:00011:UNDI:003000", 93: arch93(11), 97: id},
		"http":     {60: "HTTPClient:Arch:00016:UNDI:003001", 93: arch93(16), 97: id},
		"ipxe":     {60: "PXEClient:Arch:00007:UNDI:003010", 77: "iPXE", 93: arch93(7), 97: id, 61: "\x01\x52\x54\x00\x00\x00\x01"},
		"ia32":     {60: "PXEClient:Arch:00006:UNDI:003016", 93: arch93(6), 97: id},
	}
	for name, options := range clients {
		b := newBench(t, network())
		x := NewProxy(serverAddr, b.decide)
		discover := packet(mac1, dhcpv4.MessageTypeDiscover, options)
		offer := b.Handle(discover)
		request := selecting(mac1, offered(offer))
		for c, v := range options {
			request.Options[c] = []byte(v)
		}
		boot := packet(mac1, dhcpv4.MessageTypeRequest, options)
		boot.ClientIPAddr = at(200).AsSlice()
		text := "--- full OFFER\n" + dump(offer) + "--- full ACK\n" + dump(b.Handle(request)) +
			"--- proxy 67\n" + dump(x.Handle67(discover)) + "--- proxy 4011\n" + dump(x.Handle4011(boot, netip.AddrPortFrom(at(200), 4011)))
		golden(t, name, text)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}
