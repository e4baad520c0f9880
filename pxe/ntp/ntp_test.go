package ntp

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

func request(first byte) []byte {
	r := make([]byte, size)
	r[0], r[2] = first, 6
	for i := range 8 {
		r[40+i] = byte(0xa0 + i)
	}
	return r
}

func TestAnswerByteForByte(t *testing.T) {
	sent := time.Date(2026, 11, 21, 10, 0, 7, 500e6, time.UTC)
	s := Source{Clock: func() time.Time { return sent }}
	// 2026-11-21T10:00:00Z is 1795255200 after 1970, 4004244000 = 0xeeac3220 after 1900.
	want := "24" + "0a" + "06" + "ec" + // version 4, server; stratum 10; poll; 2^-20 s
		"00000000" + "0000028f" + "7f7f0101" + // delay, dispersion, reference
		fmt.Sprintf("%08x", uint32(1795255200-epoch)) + "00000000" + // 10:00:00, a multiple of 16 s
		"a0a1a2a3a4a5a6a7" +
		fmt.Sprintf("%08x", uint32(1795255206-epoch)) + "40000000" +
		fmt.Sprintf("%08x", uint32(1795255207-epoch)) + "80000000"
	got := hex.EncodeToString(s.Answer(request(0x23), sent.Add(-1250*time.Millisecond)))
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	s.Stratum, s.Reference = 3, [4]byte{10, 0, 0, 9}
	if a := s.Answer(request(0xdb), sent); a[0] != 0x1c || a[1] != 3 || !bytes.Equal(a[12:16], []byte{10, 0, 0, 9}) {
		t.Errorf("version 3, leap 3, stratum 3: %x", a)
	}
}

func TestTimestamps(t *testing.T) {
	for in, want := range map[string]uint64{
		"1900-01-01T00:00:00Z":           0,
		"1970-01-01T00:00:00.5Z":         2208988800<<32 | 1<<31,
		"2036-02-07T06:28:15.999999999Z": 0xffffffff<<32 | 0xfffffffb,
		"2036-02-07T06:28:16Z":           0, // era 1
		"2036-02-07T06:28:17.25Z":        1<<32 | 1<<30,
	} {
		at, err := time.Parse(time.RFC3339Nano, in)
		if got := timestamp(at); err != nil || got != want {
			t.Errorf("%s: %#x, want %#x (%v)", in, got, want, err)
		}
	}
}

func TestOnlyClientsAreAnswered(t *testing.T) {
	for first := range 256 {
		a := Source{}.Answer(request(byte(first)), time.Now())
		if want := first&7 == 3 && (first>>3&7 == 3 || first>>3&7 == 4); (a != nil) != want {
			t.Errorf("first byte %#02x: answered %v, want %v", first, a != nil, want)
		}
	}
	for _, n := range []int{0, 1, 47, 49, 52, 68, 96, 1472} {
		if a := (Source{}).Answer(append(request(0x23), make([]byte, 2000)...)[:n], time.Now()); a != nil {
			t.Errorf("%d bytes are answered", n)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(request(0x23), int64(0), uint8(0))
	f.Add(request(0xdb), int64(1<<40), uint8(16))
	f.Add([]byte{0x17, 0, 3, 42}, int64(-1), uint8(1)) // mode 7 monlist, once an amplifier
	f.Fuzz(func(t *testing.T, in []byte, at int64, stratum uint8) {
		now := time.Unix(at, 0)
		a := Source{Clock: func() time.Time { return now }, Stratum: stratum}.Answer(in, now)
		if a == nil {
			return
		}
		if len(a) != len(in) || a[0]&7 != modeServer || a[0]>>3 != in[0]>>3&7 || a[1] == 0 || a[1] > 15 || !bytes.Equal(a[24:32], in[40:48]) {
			t.Errorf("%x answers %x", a, in)
		}
		ref, rx, tx := binary.BigEndian.Uint64(a[16:]), binary.BigEndian.Uint64(a[32:]), binary.BigEndian.Uint64(a[40:])
		if int64(rx-ref) < 0 || int64(tx-rx) < 0 {
			t.Errorf("times go backwards: %x", a)
		}
	})
}

// serve runs a server on loopback and returns its address.
func serve(t *testing.T, s *Server) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, s, conn)
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// serveOn runs a server until the test ends, which closes conn.
func serveOn(t *testing.T, s *Server, conn net.PacketConn) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, conn) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		conn.Close()
	})
}

func dial(t *testing.T, to netip.AddrPort) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func TestAPanicCostsOnePacket(t *testing.T) {
	bad := true
	s := &Server{Source: Source{Clock: time.Now}}
	calls := 0
	s.Source.Clock = func() time.Time {
		calls++ // Serve reads the clock first, Answer second
		if bad && calls%2 == 0 {
			bad = false
			panic("a clock that fails")
		}
		return time.Now()
	}
	c := dial(t, serve(t, s))
	buf := make([]byte, 100)
	for range 2 {
		c.Write(request(0x23))
	}
	if n, err := c.Read(buf); n != size || err != nil {
		t.Fatal(n, err)
	}
	if got := s.Counters(); got.Panics != 1 {
		t.Errorf("%+v", got)
	}
}

func TestAFloodIsLimitedAndOthersAreNot(t *testing.T) {
	l := newLimiter()
	a, b := netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.0.0.2/32")
	count := func(p netip.Prefix, n int, now time.Duration) (ok int) {
		for range n {
			if l.allow(p, now) {
				ok++
			}
		}
		return ok
	}
	if n := count(a, 1000, 0); n != burst {
		t.Errorf("%d of a flood, want %d", n, burst)
	}
	if n := count(b, 8, 0); n != 8 {
		t.Errorf("%d of the other's 8", n)
	}
	if n := count(a, 1000, 3*time.Second); n != 3*rate {
		t.Errorf("%d after three seconds, want %d", n, 3*rate)
	}
	for i := range 1 << 16 { // forged sources
		l.allow(netip.PrefixFrom(netip.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)}), 32), 3*time.Second)
	}
	if len(l.of) > sourcesKept {
		t.Errorf("%d sources kept", len(l.of))
	}
	if n := count(b, 8, 3*time.Second); n != 8 {
		t.Errorf("%d of a known source's 8 during the flood", n)
	}
	if n := count(netip.MustParsePrefix("10.0.0.3/32"), 8, 30*time.Second); n != 8 {
		t.Errorf("%d of a new source's 8 after the flood", n)
	}
	if p := source(&net.UDPAddr{IP: net.ParseIP("fe80::1234"), Zone: "eth0"}); p.String() != "fe80::/64" {
		t.Error(p)
	}
}

func TestAClosedSocketIsAnError(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := new(Server).Serve(context.Background(), conn); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
