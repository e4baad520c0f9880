package lan

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Violation is one frame of a machine that wanted to leave the segment.
type Violation struct {
	Time   time.Time
	Port   string
	MAC    net.HardwareAddr
	Src    netip.AddrPort // port 0 without TCP and UDP
	Dst    netip.AddrPort
	Proto  string // "tcp", "udp", "arp", or "ip/" and the protocol number
	Reason string // `destination outside the segment`, `DNS query for "example.org."`
	Frame  []byte // the first bytes, at most 128
}

// String is one line for people.
func (v Violation) String() string {
	return fmt.Sprintf("%s port %q %s %s %s > %s: %s: % x", v.Time.UTC().Format(time.RFC3339Nano),
		v.Port, v.MAC, v.Proto, v.Src, v.Dst, v.Reason, v.Frame[:min(len(v.Frame), 64)])
}

// violationLimit bounds memory when a machine retries for ever.
const violationLimit = 1000

type tripwire struct {
	allow []netip.Prefix

	mu      sync.Mutex
	domains []string // lower case, with a leading and a trailing dot
	found   []Violation
}

func newTripwire(o Options) *tripwire {
	t := &tripwire{allow: append([]netip.Prefix{o.Subnet}, o.Allow...)}
	for _, d := range o.Domains {
		t.domains = append(t.domains, dotted(d))
	}
	return t
}

func dotted(domain string) string { return "." + strings.Trim(strings.ToLower(domain), ".") + "." }

// expect accepts questions for a domain until end is called.
func (t *tripwire) expect(domain string) (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := dotted(domain)
	t.domains = append(t.domains, d)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.domains = slices.Delete(t.domains, slices.Index(t.domains, d), slices.Index(t.domains, d)+1)
	}
}

func (t *tripwire) list() []Violation {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.found)
}

// inspect records a frame that breaks the rules.
func (t *tripwire) inspect(now time.Time, port string, frame []byte) (Violation, bool) {
	p, ok := decode(frame)
	if !ok {
		return Violation{}, false
	}
	reason := t.reason(p)
	if reason == "" {
		return Violation{}, false
	}
	v := Violation{
		Time: now, Port: port, MAC: p.mac, Reason: reason,
		Src: netip.AddrPortFrom(p.src, p.sport), Dst: netip.AddrPortFrom(p.dst, p.dport),
		Proto: fmt.Sprintf("ip/%d", p.proto), Frame: slices.Clone(frame[:min(len(frame), 128)]),
	}
	switch {
	case p.arp:
		v.Proto = "arp"
	case p.proto == protoTCP:
		v.Proto = "tcp"
	case p.proto == protoUDP:
		v.Proto = "udp"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.found) < violationLimit {
		t.found = append(t.found, v)
	}
	return v, true
}

// reason says what is wrong with a packet, "" for nothing.
func (t *tripwire) reason(p packet) string {
	if !p.arp && p.dport == 53 && len(p.payload) > 0 {
		if name, ok := question(p); ok && !t.nameAllowed(name) {
			return fmt.Sprintf("DNS query for %q", name)
		}
	}
	if t.inside(p.dst) {
		return ""
	}
	return "destination outside the segment"
}

// inside tells whether a packet may be sent to a.
func (t *tripwire) inside(a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range t.allow {
		if p.Contains(a) {
			return true
		}
	}
	switch {
	case a == netip.AddrFrom4([4]byte{169, 254, 169, 254}): // the metadata service of public clouds
		return false
	case a.IsUnspecified(), a.IsMulticast(), a.IsLinkLocalUnicast(),
		a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return true
	}
	return false
}

// nameAllowed accepts the configured domains, reverse lookups of addresses
// inside, and names that cannot be public because their last label is a number
// (RFC 3696 section 2): CoreDNS sends one to its upstream at each start to see
// whether it comes back.
func (t *tripwire) nameAllowed(name string) bool {
	name = "." + strings.ToLower(name)
	if last := name[strings.LastIndexByte(strings.TrimSuffix(name, "."), '.')+1:]; last != "." && strings.Trim(last, "0123456789.") == "" {
		return true
	}
	t.mu.Lock()
	ours := slices.ContainsFunc(t.domains, func(d string) bool { return strings.HasSuffix(name, d) })
	t.mu.Unlock()
	if ours {
		return true
	}
	a, ok := reverse(strings.TrimPrefix(name, "."))
	return ok && t.inside(a)
}

// question is the name asked for in a DNS query, with its final dot. TCP
// messages have their length in front (RFC 1035 section 4.2.2).
func question(p packet) (string, bool) {
	b := p.payload
	if p.proto == protoTCP {
		if len(b) < 2 || int(binary.BigEndian.Uint16(b)) > len(b)-2 {
			return "", false
		}
		b = b[2:]
	}
	var d dnsmessage.Parser
	h, err := d.Start(b)
	if err != nil || h.Response {
		return "", false
	}
	q, err := d.Question()
	if err != nil {
		return "", false
	}
	return q.Name.String(), true
}

// reverse reads d.c.b.a.in-addr.arpa. (RFC 1035 section 3.5) and nibbles under
// ip6.arpa. (RFC 3596 section 2.5).
func reverse(name string) (netip.Addr, bool) {
	if s, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		f := strings.Split(s, ".")
		slices.Reverse(f)
		a, err := netip.ParseAddr(strings.Join(f, "."))
		return a, err == nil && a.Is4()
	}
	s, ok := strings.CutSuffix(name, ".ip6.arpa.")
	if !ok {
		return netip.Addr{}, false
	}
	f := strings.Split(s, ".")
	if len(f) != 32 {
		return netip.Addr{}, false
	}
	slices.Reverse(f)
	var b strings.Builder
	for i, n := range f {
		if i > 0 && i%4 == 0 {
			b.WriteByte(':')
		}
		b.WriteString(n)
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil
}
