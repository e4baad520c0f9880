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
	own  netip.Addr
	tell func(Foreign)

	mu   sync.Mutex
	seen map[netip.Addr]bool
}

// NewWatcher calls tell once for each foreign server.
func NewWatcher(own netip.Addr, tell func(Foreign)) *Watcher {
	return &Watcher{own: own, tell: tell, seen: map[netip.Addr]bool{}}
}

// See looks at a packet from a server's port and says whether it is foreign.
func (w *Watcher) See(p *dhcpv4.DHCPv4, from netip.Addr) bool {
	f, ok := foreign(p, from, w.own)
	if !ok {
		return false
	}
	w.mu.Lock()
	first := !w.seen[f.ID] && len(w.seen) < 64
	if first {
		w.seen[f.ID] = true
	}
	w.mu.Unlock()
	if first {
		w.tell(f)
	}
	return true
}
