package netconf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// script plays servers, link and neighbours against a clock of its own
// (testing/synctest) and writes down what the holder does, and when.
type script struct {
	t      *testing.T
	began  time.Time
	log    []string
	offers []string // addresses given to ask, the last one again and again; "" is silence
	renew  func(passed time.Duration, direct bool) string
	taken  func(ip netip.Addr, passed time.Duration) bool
	linked func(passed time.Duration) bool
	losses int
}

func (s *script) passed() time.Duration { return time.Since(s.began).Round(time.Second) }

func (s *script) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%v ", s.passed())+fmt.Sprintf(format, args...))
}

func (s *script) answer(ip string) *dhcpv4.DHCPv4 {
	return ack(s.t, dhcpv4.WithYourIP(net.ParseIP(ip)), dhcpv4.WithLeaseTime(3600), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1))))
}

func (s *script) ask(_ context.Context, want netip.Addr) (*dhcpv4.DHCPv4, error) {
	ip := s.offers[0]
	if len(s.offers) > 1 {
		s.offers = s.offers[1:]
	}
	if ip == "" {
		return nil, errors.New("silence")
	}
	s.note("ask %v: %s", want, ip)
	return s.answer(ip), nil
}

func (s *script) again(_ context.Context, a *dhcpv4.DHCPv4, direct bool) (*dhcpv4.DHCPv4, error) {
	got := s.renew(s.passed(), direct)
	s.note("again direct=%v: %s", direct, got)
	switch got {
	case "silence":
		return nil, errors.New("silence")
	case "refused":
		return nil, nil
	}
	return s.answer(got), nil
}

func (s *script) decline(a *dhcpv4.DHCPv4, why string) error {
	s.note("decline %s: %s", a.YourIPAddr, why)
	return nil
}

func (s *script) holder() holder {
	return holder{
		servers: s,
		link:    func() bool { return s.linked == nil || s.linked(s.passed()) },
		losses: func() int {
			if s.linked != nil && !s.linked(s.passed()) {
				s.losses++
			}
			return s.losses
		},
		wait: func(ctx context.Context, d time.Duration) { sleep(ctx, min(d, time.Second)) },
		free: func(_ context.Context, ip netip.Addr) error {
			if s.taken != nil && s.taken(ip, s.passed()) {
				return &Conflict{"eth0", ip, net.HardwareAddr{2, 0, 0, 0, 0, 9}}
			}
			return nil
		},
		got:   func(a *dhcpv4.DHCPv4) error { s.note("got %s", a.YourIPAddr); return nil },
		lost:  func() { s.note("lost") },
		waits: func(string) {},
		fault: func(code, _ string, err error) {
			if code != "" {
				s.note("%s %v", code, err)
			}
		},
	}
}

func never(time.Duration, bool) string { return "silence" }

func TestLeaseOverTime(t *testing.T) {
	for _, c := range []struct {
		name string
		s    script
		run  time.Duration
		want []string
	}{
		{"renewed by its own server at half time", script{offers: []string{"192.0.2.7"}, renew: func(time.Duration, bool) string { return "192.0.2.7" }}, time.Hour + time.Minute,
			[]string{"0s ask invalid IP: 192.0.2.7", "0s got 192.0.2.7", "30m0s again direct=true: 192.0.2.7", "30m0s got 192.0.2.7",
				"1h0m0s again direct=true: 192.0.2.7", "1h0m0s got 192.0.2.7"}},
		{"rebound by any server when its own is gone", script{offers: []string{"192.0.2.7"}, renew: func(_ time.Duration, direct bool) string {
			if direct {
				return "silence"
			}
			return "192.0.2.7"
		}}, time.Hour,
			[]string{"0s ask invalid IP: 192.0.2.7", "0s got 192.0.2.7", "30m0s again direct=true: silence", "41m* again direct=true: silence",
				"46m* again direct=true: silence", "49m* again direct=true: silence", "51m* again direct=true: silence", "52m* again direct=true: silence",
				"52m* again direct=false: 192.0.2.7", "52m* got 192.0.2.7"}},
		{"refused: another address in its place", script{offers: []string{"192.0.2.7", "192.0.2.8"}, renew: func(time.Duration, bool) string { return "refused" }}, 31 * time.Minute,
			[]string{"0s ask invalid IP: 192.0.2.7", "0s got 192.0.2.7", "30m0s again direct=true: refused", "30m0s ask 192.0.2.7: 192.0.2.8", "30m0s got 192.0.2.8"}},
		{"refused and no other lease: given up", script{offers: []string{"192.0.2.7", ""}, renew: func(time.Duration, bool) string { return "refused" }}, 31 * time.Minute,
			[]string{"0s ask invalid IP: 192.0.2.7", "0s got 192.0.2.7", "30m0s again direct=true: refused", "30m0s lost"}},
		{"declined: asks again after 10 s, then after 20 s", script{offers: []string{"192.0.2.7", "192.0.2.8", "192.0.2.9"}, renew: never,
			taken: func(ip netip.Addr, _ time.Duration) bool { return ip.As4()[3] < 9 }}, 2 * time.Minute,
			[]string{"0s ask invalid IP: 192.0.2.7",
				`0s SW-NET-CONFLICT interface "eth0": address 192.0.2.7 is in use by 02:00:00:00:00:09; declined, asking again in 10s`,
				`0s decline 192.0.2.7: interface "eth0": address 192.0.2.7 is in use by 02:00:00:00:00:09`,
				"10s ask invalid IP: 192.0.2.8",
				`10s SW-NET-CONFLICT interface "eth0": address 192.0.2.8 is in use by 02:00:00:00:00:09; declined, asking again in 20s`,
				`10s decline 192.0.2.8: interface "eth0": address 192.0.2.8 is in use by 02:00:00:00:00:09`,
				"30s ask invalid IP: 192.0.2.9", "30s got 192.0.2.9"}},
		{"the link comes later", script{offers: []string{"192.0.2.7"}, renew: never, linked: func(d time.Duration) bool { return d >= 50*time.Second }}, time.Minute,
			[]string{"50s ask invalid IP: 192.0.2.7", "50s got 192.0.2.7"}},
		{"the link was away: asked again at once, of any server", script{offers: []string{"192.0.2.7"}, renew: func(time.Duration, bool) string { return "192.0.2.7" },
			linked: func(d time.Duration) bool { return d < 60*time.Second || d >= 90*time.Second }}, 2 * time.Minute,
			[]string{"0s ask invalid IP: 192.0.2.7", "0s got 192.0.2.7", "1m3*s again direct=false: 192.0.2.7", "1m3*s got 192.0.2.7"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := play(t, &c.s, c.run)
			if !slices.EqualFunc(got, c.want, like) {
				t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// like compares; * in the time stands for what chance adds.
func like(got, want string) bool {
	gotTime, gotRest, _ := strings.Cut(got, " ")
	wantTime, wantRest, _ := strings.Cut(want, " ")
	return gotRest == wantRest && matches(wantTime, gotTime)
}

func play(t *testing.T, s *script, run time.Duration) []string {
	synctest.Test(t, func(t *testing.T) {
		s.t, s.began = t, time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), run)
		defer cancel()
		s.holder().keep(ctx)
	})
	return s.log
}

// A lease that nobody renews is kept, until another host has the address.
func TestLeaseOver(t *testing.T) {
	s := script{offers: []string{"192.0.2.7", ""}, renew: never, taken: func(_ netip.Addr, d time.Duration) bool { return d > 3*time.Hour }}
	log := play(t, &s, 4*time.Hour)
	var marks []string
	for _, l := range log {
		if !strings.Contains(l, "again") {
			_, text, _ := strings.Cut(l, " ")
			marks = append(marks, text)
		}
	}
	want := []string{"ask invalid IP: 192.0.2.7", "got 192.0.2.7",
		"SW-NET-LEASE-OVER the lease of 192.0.2.7 is over and no server answers",
		`SW-NET-CONFLICT interface "eth0": address 192.0.2.7 is in use by 02:00:00:00:00:09`, "lost"}
	if !slices.Equal(marks, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(log, "\n"), strings.Join(want, "\n"))
	}
	if !strings.HasPrefix(log[len(log)-1], "3h0m") {
		t.Errorf("given up at %s, want 3h", log[len(log)-1])
	}
}

// A host that answers for every address costs the pool little.
func TestDeclineDoesNotEmptyThePool(t *testing.T) {
	s := script{offers: []string{"192.0.2.7"}, renew: never, taken: func(netip.Addr, time.Duration) bool { return true }}
	declined := 0
	for _, l := range play(t, &s, time.Hour) {
		if strings.Contains(l, "decline ") {
			declined++
		}
	}
	if declined < 10 || declined > 18 {
		t.Errorf("%d addresses declined in an hour", declined)
	}
}

func TestTerms(t *testing.T) {
	for _, c := range []struct {
		lease, t1, t2 uint32
		want          [3]time.Duration
	}{
		{3600, 0, 0, [3]time.Duration{30 * time.Minute, 52*time.Minute + 30*time.Second, time.Hour}},
		{3600, 600, 1200, [3]time.Duration{10 * time.Minute, 20 * time.Minute, time.Hour}},
		{3600, 7200, 9000, [3]time.Duration{26*time.Minute + 15*time.Second, 52*time.Minute + 30*time.Second, time.Hour}},
		{0, 0, 0, [3]time.Duration{5 * time.Second, 8750 * time.Millisecond, 10 * time.Second}},
		{0xffffffff, 0, 0, [3]time.Duration{0xffffffff * time.Second / 2, 0xffffffff * time.Second / 8 * 7, 0xffffffff * time.Second}},
	} {
		m := []dhcpv4.Modifier{dhcpv4.WithLeaseTime(c.lease)}
		for code, v := range map[dhcpv4.GenericOptionCode]uint32{58: c.t1, 59: c.t2} {
			if v > 0 {
				m = append(m, dhcpv4.WithGeneric(code, []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}))
			}
		}
		t1, t2, end := terms(ack(t, m...))
		if got := [3]time.Duration{t1, t2, end}; got != c.want {
			t.Errorf("%d %d %d: got %v, want %v", c.lease, c.t1, c.t2, got, c.want)
		}
	}
}

func TestARP(t *testing.T) {
	ip := netip.MustParseAddr("192.0.2.7")
	mine, other := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	none := netip.IPv4Unspecified()
	for _, c := range []struct {
		name string
		p    arp
		want bool
	}{
		{"its reply", arp{2, other, ip, none}, true},
		{"its announcement", arp{1, other, ip, ip}, true},
		{"it probes at the same time", arp{1, other, none, ip}, true},
		{"it asks for the address", arp{1, other, netip.MustParseAddr("192.0.2.1"), ip}, false},
		{"our own probe", arp{1, mine, none, ip}, false},
		{"our own announcement", arp{1, mine, ip, ip}, false},
		{"another address", arp{2, other, netip.MustParseAddr("192.0.2.8"), ip}, false},
	} {
		p, ok := parseARP(c.p.bytes())
		if !ok || p.claims(ip, mine) != c.want {
			t.Errorf("%s: %+v, %v", c.name, p, ok)
		}
	}
	for _, bad := range [][]byte{nil, make([]byte, 28), arp{1, mine, ip, ip}.bytes()[:27]} {
		if _, ok := parseARP(bad); ok {
			t.Errorf("% x was read", bad)
		}
	}
}
