package lan_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/dns/dnsmessage"

	"slipway.dev/slipway/test/qemu/lan"
)

func segment(t *testing.T, o lan.Options) *lan.Switch {
	t.Helper()
	s, err := lan.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func host(t *testing.T, s *lan.Switch, name, addr string) *lan.Host {
	t.Helper()
	h, err := s.Host(name, netip.MustParseAddr(addr))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// cable is the machine's end of a port, as QEMU would hold it.
type cable struct {
	*lan.Port
	t    *testing.T
	conn net.Conn
}

func plug(t *testing.T, s *lan.Switch, name string) cable {
	t.Helper()
	p, err := s.Port(name)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", p.SocketPath())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return cable{p, t, conn}
}

func (c cable) send(frame []byte) {
	c.t.Helper()
	b := binary.BigEndian.AppendUint32(nil, uint32(len(frame)))
	if _, err := c.conn.Write(append(b, frame...)); err != nil {
		c.t.Fatal(err)
	}
}

func (c cable) receive() []byte {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(time.Minute))
	var head [4]byte
	if _, err := io.ReadFull(c.conn, head[:]); err != nil {
		c.t.Fatalf("port %q: %v", c.Name, err)
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(c.conn, b); err != nil {
		c.t.Fatalf("port %q: %v", c.Name, err)
	}
	return b
}

// frame is an Ethernet II frame.
func frame(dst, src net.HardwareAddr, kind uint16, payload []byte) []byte {
	b := append(append([]byte(nil), dst...), src...)
	return append(binary.BigEndian.AppendUint16(b, kind), payload...)
}

var broadcast = net.HardwareAddr{255, 255, 255, 255, 255, 255}

// experimental is an EtherType for local experiments (IEEE 802), so that the
// tripwire has no opinion.
const experimental = 0x88b5

func TestSwitchLearns(t *testing.T) {
	s := segment(t, lan.Options{})
	a, b, c := plug(t, s, "a"), plug(t, s, "b"), plug(t, s, "c")
	// Each says hello; the frames also prove that the three are attached.
	for _, from := range []cable{a, b, c} {
		hello := frame(broadcast, from.MAC, experimental, []byte(from.Name))
		for {
			from.send(hello)
			if attached(from, []cable{a, b, c}, hello) {
				break
			}
		}
	}
	a.send(frame(b.MAC, a.MAC, experimental, []byte("to b only")))
	a.send(frame(broadcast, a.MAC, experimental, []byte("to all")))
	if got := until(b, "to all"); !strings.Contains(got, "to b only") {
		t.Errorf("b got %q, want the frame addressed to it", got)
	}
	if got := until(c, "to all"); strings.Contains(got, "to b only") {
		t.Errorf("c got %q, meant for b alone", got)
	}
	b.SetLink(false)
	b.send(frame(broadcast, b.MAC, experimental, []byte("lost")))
	a.send(frame(b.MAC, a.MAC, experimental, []byte("unknown again")))
	if got := until(c, "unknown again"); strings.Contains(got, "lost") {
		t.Errorf("c got %q through a link that is down", got)
	}
	if n := b.Counters().Dropped; n == 0 {
		t.Error("nothing was dropped at a link that is down")
	}
}

// attached waits for the hello at the two others.
func attached(from cable, all []cable, hello []byte) bool {
	for _, c := range all {
		if c.MAC.String() == from.MAC.String() {
			continue
		}
		c.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		var head [4]byte
		if _, err := io.ReadFull(c.conn, head[:]); err != nil {
			return false
		}
		b := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(c.conn, b); err != nil || !bytes.Equal(b, hello) {
			return false
		}
	}
	return true
}

// until reads payloads up to and including one that is last.
func until(c cable, last string) string {
	c.t.Helper()
	var all []string
	for {
		s := string(c.receive()[14:])
		all = append(all, s)
		if s == last {
			return strings.Join(all, "|")
		}
	}
}

func TestImpairmentDropsAll(t *testing.T) {
	s := segment(t, lan.Options{})
	a, b := host(t, s, "a", "10.77.0.1"), plug(t, s, "b")
	b.Impair(lan.Impairment{Drop: 1})
	c, err := a.DialContext(t.Context(), "udp", "10.77.0.2:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("x")) // ARP goes out, and is lost
	for b.Counters().Dropped == 0 {
		time.Sleep(time.Millisecond)
	}
	if got := b.Counters(); got.OutFrames != 0 {
		t.Errorf("%d frames came through a cable that drops all", got.OutFrames)
	}
}

// ipv4 is a packet without a checksum, which the tripwire does not read.
func ipv4(dst string, proto byte, sport, dport uint16, payload []byte) []byte {
	b := make([]byte, 20)
	b[0], b[9] = 0x45, proto
	copy(b[12:], net.IPv4(10, 77, 0, 10).To4())
	copy(b[16:], net.ParseIP(dst).To4())
	b = binary.BigEndian.AppendUint16(b, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	rest := make([]byte, 4)
	if proto == 6 {
		rest = make([]byte, 16)
		rest[8] = 5 << 4
	}
	return append(append(b, rest...), payload...)
}

func ipv6(dst string) []byte {
	b := make([]byte, 48)
	b[0], b[6] = 0x60, 58
	copy(b[8:], net.ParseIP("fe80::1"))
	copy(b[24:], net.ParseIP(dst))
	return b
}

func query(name string, kind dnsmessage.Type) []byte {
	m := dnsmessage.Message{Questions: []dnsmessage.Question{
		{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}}}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

func tagged(kind uint16, b []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{0, 42}, kind), b...)
}

func TestTripwire(t *testing.T) {
	tcpQuery := query("deb.example.org.", dnsmessage.TypeA)
	tcpQuery = append(binary.BigEndian.AppendUint16(nil, uint16(len(tcpQuery))), tcpQuery...)
	arp := make([]byte, 28)
	copy(arp, []byte{0, 1, 8, 0, 6, 4, 0, 1})
	copy(arp[24:], []byte{8, 8, 8, 8})
	const outside = "destination outside the segment"
	tests := []struct {
		name    string
		kind    uint16
		payload []byte
		want    string // reason, "" for no violation
	}{
		{"ping to a public address", 0x0800, ipv4("8.8.8.8", 1, 0, 0, nil), outside},
		{"TCP to a public address", 0x0800, ipv4("93.184.215.14", 6, 40000, 443, nil), outside},
		{"NTP to a public address", 0x0800, ipv4("162.159.200.1", 17, 123, 123, nil), outside},
		{"NTP to a public address in a VLAN", 0x8100, tagged(0x0800, ipv4("162.159.200.1", 17, 123, 123, nil)), outside},
		{"pod address without a tunnel", 0x0800, ipv4("10.244.1.7", 6, 40000, 80, nil), outside},
		{"cloud metadata", 0x0800, ipv4("169.254.169.254", 6, 40000, 80, nil), outside},
		{"IPv6 to a public address", 0x86dd, ipv6("2001:4860:4860::8888"), outside},
		{"ARP for a public address", 0x0806, arp, outside},
		{"DNS for a public name at the gateway", 0x0800,
			ipv4("10.77.0.1", 17, 40000, 53, query("example.org.", dnsmessage.TypeA)), `DNS query for "example.org."`},
		{"DNS over TCP for a public name", 0x0800,
			ipv4("10.77.0.1", 6, 40000, 53, tcpQuery), `DNS query for "deb.example.org."`},
		{"DNS for a public name at a public server", 0x0800,
			ipv4("9.9.9.9", 17, 40000, 53, query("example.org.", dnsmessage.TypeAAAA)), `DNS query for "example.org."`},
		{"DNS for a name that only ends alike", 0x0800,
			ipv4("10.77.0.1", 17, 40000, 53, query("notcluster.local.example.", dnsmessage.TypeA)), `DNS query for "notcluster.local.example."`},
		{"reverse DNS of a public address", 0x0800,
			ipv4("10.77.0.1", 17, 40000, 53, query("8.8.8.8.in-addr.arpa.", dnsmessage.TypePTR)), `DNS query for "8.8.8.8.in-addr.arpa."`},

		{"TCP in the segment", 0x0800, ipv4("10.77.0.11", 6, 40000, 6443, nil), ""},
		{"VXLAN in the segment", 0x0800, ipv4("10.77.0.11", 17, 40000, 8472, []byte("anything")), ""},
		{"allowed prefix", 0x0800, ipv4("192.0.2.1", 6, 40000, 443, nil), ""},
		{"DHCP discover", 0x0800, ipv4("255.255.255.255", 17, 68, 67, nil), ""},
		{"subnet broadcast", 0x0800, ipv4("10.77.0.255", 17, 68, 67, nil), ""},
		{"mDNS", 0x0800, ipv4("224.0.0.251", 17, 5353, 5353, query("cp-1.local.", dnsmessage.TypeA)), ""},
		{"VRRP", 0x0800, ipv4("224.0.0.18", 112, 0, 0, nil), ""},
		{"link-local", 0x0800, ipv4("169.254.1.1", 17, 1, 1, nil), ""},
		{"router solicitation", 0x86dd, ipv6("ff02::2"), ""},
		{"IPv6 link-local", 0x86dd, ipv6("fe80::2"), ""},
		{"DNS in the cluster", 0x0800,
			ipv4("10.77.0.1", 17, 40000, 53, query("Kubernetes.default.svc.cluster.LOCAL.", dnsmessage.TypeA)), ""},
		{"reverse DNS of a neighbour", 0x0800,
			ipv4("10.77.0.1", 17, 40000, 53, query("11.0.77.10.in-addr.arpa.", dnsmessage.TypePTR)), ""},
		{"reverse DNS of link-local IPv6", 0x0800, ipv4("10.77.0.1", 17, 40000, 53,
			query("2."+strings.Repeat("0.", 28)+"8.e.f.ip6.arpa.", dnsmessage.TypePTR)), ""},
		{"cut short", 0x0800, []byte{0x45, 0}, ""},
		{"not IP", experimental, []byte("8.8.8.8"), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := segment(t, lan.Options{Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
			a := plug(t, s, "a")
			a.send(frame(broadcast, a.MAC, tt.kind, tt.payload))
			for a.Counters().InFrames == 0 {
				time.Sleep(time.Millisecond)
			}
			a.Close() // waits for the frame to be handled
			got := s.Violations()
			switch {
			case tt.want == "" && len(got) != 0:
				t.Errorf("violation: %s", got[0])
			case tt.want != "" && (len(got) != 1 || got[0].Reason != tt.want):
				t.Errorf("got %v, want %q", got, tt.want)
			case tt.want != "" && (got[0].Port != "a" || got[0].MAC.String() != a.MAC.String()):
				t.Errorf("got %s, want port and MAC of a", got[0])
			}
		})
	}
}

func TestExpectName(t *testing.T) {
	s := segment(t, lan.Options{})
	a := plug(t, s, "a")
	asked := 0
	ask := func() {
		a.send(frame(broadcast, a.MAC, 0x0800, ipv4("10.77.0.1", 17, 40000, 53, query("a.example.org.", dnsmessage.TypeA))))
		// One reader takes frames in turn: when the next is counted, this one is handled.
		a.send(frame(broadcast, a.MAC, experimental, []byte("next")))
		for asked += 2; int(a.Counters().InFrames) < asked; {
			time.Sleep(time.Millisecond)
		}
	}
	end := s.ExpectName("example.org")
	ask()
	if got := s.Violations(); len(got) != 0 {
		t.Errorf("expected, and still: %s", got[0])
	}
	end()
	ask()
	if got := s.Violations(); len(got) != 1 {
		t.Errorf("not expected any more, got %d violations, want 1", len(got))
	}
}

func TestHostsTalk(t *testing.T) {
	capture := filepath.Join(t.TempDir(), "lan.pcap")
	s := segment(t, lan.Options{Capture: capture})
	a, b := host(t, s, "a", "10.77.0.1"), host(t, s, "b", "10.77.0.10")
	l, err := b.Listen(7)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	local, err := a.Forward(t.Context(), "127.0.0.1:0", "10.77.0.10:7")
	if err != nil {
		t.Fatal(err)
	}
	direct := func(ctx context.Context) (net.Conn, error) { return a.DialContext(ctx, "tcp", "10.77.0.10:7") }
	forwarded := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", local.String())
	}
	text := bytes.Repeat([]byte("slipway "), 64<<10) // 512 KiB
	for name, dial := range map[string]func(context.Context) (net.Conn, error){"direct": direct, "forwarded": forwarded} {
		t.Run(name, func(t *testing.T) {
			c, err := dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			go func() {
				c.Write(text)
				c.(interface{ CloseWrite() error }).CloseWrite()
			}()
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, text) {
				t.Errorf("got %d bytes, %v; want the %d sent", len(got), err, len(text))
			}
		})
	}
	if v := s.Violations(); len(v) != 0 {
		t.Errorf("violations %v", v)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	checkCapture(t, capture, len(text))
}

// checkCapture walks the records of a pcap that must hold the text four times.
func checkCapture(t *testing.T, path string, text int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if magic := binary.LittleEndian.Uint32(b); magic != 0xa1b23c4d || binary.LittleEndian.Uint32(b[20:]) != 1 {
		t.Fatalf("capture: magic %#x", magic)
	}
	n := 0
	for b = b[24:]; len(b) > 0; {
		l := int(binary.LittleEndian.Uint32(b[8:]))
		n += l
		b = b[16+l:] // panics when the records are out of step
	}
	if n < 4*text {
		t.Errorf("capture holds %d bytes of frames, want at least %d", n, 4*text)
	}
}

func TestForwardOnlyFromLoopback(t *testing.T) {
	a := host(t, segment(t, lan.Options{}), "a", "10.77.0.1")
	if _, err := a.Forward(t.Context(), "0.0.0.0:0", "10.77.0.10:22"); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestHostOutsideSubnet(t *testing.T) {
	if _, err := segment(t, lan.Options{}).Host("x", netip.MustParseAddr("192.0.2.1")); err == nil {
		t.Error("a host outside the subnet was accepted")
	}
}

func TestDHCP(t *testing.T) {
	fixed := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	s := segment(t, lan.Options{})
	a, client := host(t, s, "a", "10.77.0.1"), host(t, s, "client", "10.77.0.200")
	if err := a.ServeDHCP(lan.DHCP{
		First: netip.MustParseAddr("10.77.0.50"), Last: netip.MustParseAddr("10.77.0.51"),
		Fixed: map[string]netip.Addr{fixed.String(): netip.MustParseAddr("10.77.0.9")},
	}); err != nil {
		t.Fatal(err)
	}
	c, err := client.ListenPacket(dhcpv4.ClientPort)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, tt := range []struct {
		mac  net.HardwareAddr
		want string
	}{
		{net.HardwareAddr{2, 0, 0, 0, 0, 1}, "10.77.0.50"},
		{net.HardwareAddr{2, 0, 0, 0, 0, 2}, "10.77.0.51"},
		{net.HardwareAddr{2, 0, 0, 0, 0, 1}, "10.77.0.50"}, // again
		{fixed, "10.77.0.9"},
	} {
		discover, err := dhcpv4.NewDiscovery(tt.mac)
		if err != nil {
			t.Fatal(err)
		}
		offer := exchange(t, c, discover)
		request, err := dhcpv4.NewRequestFromOffer(offer)
		if err != nil {
			t.Fatal(err)
		}
		ack := exchange(t, c, request)
		got := fmt.Sprint(offer.MessageType(), " ", ack.MessageType(), " ", ack.YourIPAddr, " ", ack.Router(), " ", ack.DNS(), " ", ack.SubnetMask())
		if want := "OFFER ACK " + tt.want + " [10.77.0.1] [10.77.0.1] ffffff00"; got != want {
			t.Errorf("%s: got %q, want %q", tt.mac, got, want)
		}
		if lease, from, ok := s.Lease(tt.mac); !ok || lease.String() != tt.want || from != a {
			t.Errorf("%s: lease %s, %v, want %s", tt.mac, lease, ok, tt.want)
		}
	}
	wrong, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithHwAddr(fixed),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 77, 0, 77))))
	if err != nil {
		t.Fatal(err)
	}
	if got := exchange(t, c, wrong).MessageType(); got != dhcpv4.MessageTypeNak {
		t.Errorf("request for another's address: got %s, want NAK", got)
	}
}

// exchange broadcasts m and returns the answer to its transaction.
func exchange(t *testing.T, c net.PacketConn, m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	t.Helper()
	if _, err := c.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ServerPort}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2048)
	c.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := dhcpv4.FromBytes(b[:n]); err == nil && got.TransactionID == m.TransactionID {
			return got
		}
	}
}

func TestDNSDeniesAndRecords(t *testing.T) {
	s := segment(t, lan.Options{})
	a, b := host(t, s, "a", "10.77.0.1"), host(t, s, "b", "10.77.0.2")
	if err := a.ServeDNS(); err != nil {
		t.Fatal(err)
	}
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return b.DialContext(ctx, "udp", "10.77.0.1:53")
	}}
	_, err := r.LookupHost(t.Context(), "registry.example.")
	var denied *net.DNSError
	if !errors.As(err, &denied) || !denied.IsNotFound {
		t.Errorf("got %v, want not found", err)
	}
	got := map[string]bool{}
	for _, q := range a.DNSQueries() {
		got[q.Name+" "+q.Type] = true
	}
	for _, want := range []string{"registry.example. A", "registry.example. AAAA"} {
		if !got[want] {
			t.Errorf("queries %v lack %q", got, want)
		}
	}
}
