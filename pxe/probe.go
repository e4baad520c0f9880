package pxe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// ProbeTime is how long Probe listens before the seed may speak; a server that
// pings an address before it offers it takes up to three seconds.
const ProbeTime = 3 * time.Second

// Foreign is a DHCP server that is not us.
type Foreign struct {
	ID   netip.Addr // option 54
	From netip.Addr // where the packet came from
	MAC  MAC        // zero if the neighbour table does not tell
}

func (f Foreign) String() string {
	s := f.ID.String()
	if f.From != f.ID {
		s += " from " + f.From.String()
	}
	if f.MAC != (MAC{}) {
		s += " at " + f.MAC.String()
	}
	return s
}

// Neighbour tells the MAC of an address on the wire, zero if unknown.
type Neighbour func(netip.Addr) MAC

// foreign reads a server's packet. Only those that lease count: an offer without
// an address is another proxyDHCP.
func foreign(p *dhcpv4.DHCPv4, from, own netip.Addr) (Foreign, bool) {
	t := p.MessageType()
	if p.OpCode != dhcpv4.OpcodeBootReply || t != dhcpv4.MessageTypeOffer && t != dhcpv4.MessageTypeAck || !field4(p.YourIPAddr).IsValid() {
		return Foreign{}, false
	}
	f := Foreign{ID: option4(p, dhcpv4.OptionServerIdentifier), From: from.Unmap()}
	if !f.ID.IsValid() {
		f.ID = f.From
	}
	return f, f.ID.IsValid() && f.ID != own && f.From != own
}

// bootServer reads the packet of another proxyDHCP, a second seed for instance:
// it takes nobody's address, but firmware boots from whoever answers first.
func bootServer(p *dhcpv4.DHCPv4, from, own netip.Addr) (Foreign, bool) {
	t := p.MessageType()
	class := plain(p.GetOneOption(dhcpv4.OptionClassIdentifier))
	if p.OpCode != dhcpv4.OpcodeBootReply || t != dhcpv4.MessageTypeOffer && t != dhcpv4.MessageTypeAck || field4(p.YourIPAddr).IsValid() ||
		!isClass(class, classPXE) && !isClass(class, classHTTP) {
		return Foreign{}, false
	}
	f := Foreign{ID: option4(p, dhcpv4.OptionServerIdentifier), From: from.Unmap()}
	if !f.ID.IsValid() {
		f.ID = f.From
	}
	return f, f.ID.IsValid() && f.ID != own && f.From != own
}

// discover is an ordinary client's question, answered by broadcast.
func discover(self MAC) (*dhcpv4.DHCPv4, error) {
	p, err := dhcpv4.NewDiscovery(self[:], dhcpv4.WithBroadcast(true))
	if err != nil {
		return nil, fmt.Errorf("making a DISCOVER: %w", err)
	}
	return p, nil
}

func everyone(port uint16) net.Addr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), port))
}

// Probe listens before the seed speaks: it asks for an address every second for
// as long as wait and returns the servers that offered one, by ID. conn is a
// socket on port 68 of the interface, self that interface's MAC, own our
// address on it. No request follows an offer, so nothing is leased.
func Probe(ctx context.Context, conn net.PacketConn, self MAC, own netip.Addr, wait time.Duration, who Neighbour) ([]Foreign, error) {
	found := map[netip.Addr]Foreign{}
	for left := wait; left > 0 && ctx.Err() == nil; left -= time.Second {
		q, err := discover(self)
		if err != nil {
			return nil, err
		}
		if _, err := conn.WriteTo(q.ToBytes(), everyone(serverPort)); err != nil {
			return nil, fmt.Errorf("probing for DHCP servers: %w", err)
		}
		if err := collect(conn, own, min(left, time.Second), found); err != nil {
			return nil, fmt.Errorf("probing for DHCP servers: %w", err)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("probing for DHCP servers: %w", err)
	}
	var all []Foreign
	for _, f := range found {
		if who != nil {
			f.MAC = who(f.From)
		}
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b Foreign) int { return a.ID.Compare(b.ID) })
	return all, conn.SetReadDeadline(time.Time{})
}

// collect reads foreign offers for as long as wait.
func collect(conn net.PacketConn, own netip.Addr, wait time.Duration, found map[netip.Addr]Foreign) error {
	if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	buf := make([]byte, maxPacket+1)
	for {
		n, from, err := conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		} else if err != nil {
			return err
		}
		p, err := parse(buf[:n])
		if err != nil {
			continue
		}
		if f, ok := foreign(p, addrPort(from).Addr(), own); ok && len(found) < 64 {
			found[f.ID] = f
		}
	}
}

// Watcher notices servers that appear after the probe.
type Watcher struct {
	own   netip.Addr
	tell  func(Foreign)
	boots func(Foreign) // another boot server, which gives no address; may be nil

	mu   sync.Mutex
	seen map[sighting]bool
}

type sighting struct {
	id     netip.Addr
	leases bool
}

// NewWatcher calls tell once for each foreign server.
func NewWatcher(own netip.Addr, tell func(Foreign)) *Watcher {
	return &Watcher{own: own, tell: tell, seen: map[sighting]bool{}}
}

// See looks at a packet from a server's port and says whether it is foreign.
func (w *Watcher) See(p *dhcpv4.DHCPv4, from netip.Addr) bool {
	if f, ok := foreign(p, from, w.own); ok {
		if w.first(sighting{f.ID, true}) {
			w.tell(f)
		}
		return true
	}
	if f, ok := bootServer(p, from, w.own); ok && w.boots != nil && w.first(sighting{f.ID, false}) {
		w.boots(f)
	}
	return false
}

func (w *Watcher) first(s sighting) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for o := range w.seen {
		if o.leases == s.leases { // made-up ones of one kind do not hide the other
			n++
		}
	}
	if w.seen[s] || n >= 64 {
		return false
	}
	w.seen[s] = true
	return true
}
