package pxe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Network is the subnet the full server owns. Nothing in it is guessed from an
// interface: whoever leases addresses says so.
type Network struct {
	Server      netip.Addr   // our address, option 54
	Subnet      netip.Prefix // option 1
	First, Last netip.Addr   // the dynamic range, both included, at most 65,536 addresses
	Router      netip.Addr   // option 3, may be zero
	DNS, NTP    []netip.Addr // options 6 and 42, at most three each
	LeaseTime   time.Duration
	Reserved    map[MAC]netip.Addr // outside First..Last
}

// check reports everything wrong at once.
func (n Network) check() error {
	var bad []error
	say := func(format string, args ...any) { bad = append(bad, fmt.Errorf(format, args...)) }
	if !n.Subnet.IsValid() || !n.Subnet.Addr().Is4() || n.Subnet.Bits() < 8 || n.Subnet.Bits() > 30 {
		say("subnet %s: want an IPv4 prefix of 8 to 30 bits", n.Subnet)
		return errors.Join(bad...)
	}
	for _, a := range []struct {
		name string
		addr netip.Addr
		must bool
	}{{"server", n.Server, true}, {"first", n.First, true}, {"last", n.Last, true}, {"router", n.Router, false}} {
		if (a.must || a.addr.IsValid()) && !n.host(a.addr) {
			say("%s %s: not a host address of %s", a.name, a.addr, n.Subnet)
		}
	}
	if len(bad) == 0 {
		if n.Last.Less(n.First) || number(n.Last)-number(n.First) >= 1<<16 {
			say("range %s-%s: want 1 to 65536 addresses", n.First, n.Last)
		}
		if n.inRange(n.Server) || n.inRange(n.Router) {
			say("range %s-%s holds the server %s or the router %s", n.First, n.Last, n.Server, n.Router)
		}
	}
	if len(n.DNS) > 3 || len(n.NTP) > 3 {
		say("got %d DNS and %d NTP servers, want at most three each", len(n.DNS), len(n.NTP))
	}
	if n.LeaseTime < time.Minute || n.LeaseTime > 30*24*time.Hour {
		say("lease time %s: want a minute to thirty days", n.LeaseTime)
	}
	owner := map[netip.Addr]MAC{}
	for m, a := range n.Reserved {
		if err := n.reservable(m, a, owner); err != nil {
			bad = append(bad, err)
		}
		owner[a] = m
	}
	return errors.Join(bad...)
}

func (n Network) reservable(m MAC, a netip.Addr, owner map[netip.Addr]MAC) error {
	if other, ok := owner[a]; ok && other != m {
		return fmt.Errorf("reservation %s: %s is reserved for %s", m, a, other)
	}
	if !n.host(a) || n.inRange(a) || a == n.Server || a == n.Router {
		return fmt.Errorf("reservation %s: %s must be a host of %s outside %s-%s, not the server or router", m, a, n.Subnet, n.First, n.Last)
	}
	return nil
}

// host: in the subnet, neither its first nor its last address.
func (n Network) host(a netip.Addr) bool {
	if !a.Is4() || !n.Subnet.Contains(a) {
		return false
	}
	low := number(n.Subnet.Masked().Addr())
	return number(a) != low && number(a) != low|(1<<(32-n.Subnet.Bits())-1)
}

func (n Network) inRange(a netip.Addr) bool {
	return a.IsValid() && !a.Less(n.First) && !n.Last.Less(a)
}

// Conflict says who answers at an address, before it is offered. A seam: on
// Linux an ARP probe (RFC 5227 section 2.1.1).
type Conflict func(netip.Addr) (who MAC, taken bool)

// DHCP is the full server. Its methods may be called from many goroutines.
type DHCP struct {
	net      Network
	leases   Leases
	decide   Decide
	conflict Conflict
	clock    func() time.Duration // monotonic

	limit   *limiter
	probing chan struct{} // strangers' conflict probes under way

	mu       sync.Mutex
	pool     *pool
	reserved map[MAC]netip.Addr
}

// DHCPOption changes a seam of the full server.
type DHCPOption func(*DHCP)

// WithConflict probes addresses before they are offered.
func WithConflict(c Conflict) DHCPOption { return func(d *DHCP) { d.conflict = c } }

// WithClock replaces the monotonic clock.
func WithClock(c func() time.Duration) DHCPOption { return func(d *DHCP) { d.clock = c } }

// NewDHCP makes the full server and takes up the leases that still run.
func NewDHCP(n Network, leases Leases, decide Decide, options ...DHCPOption) (*DHCP, error) {
	if err := n.check(); err != nil {
		return nil, fmt.Errorf("DHCP network: %w", err)
	}
	start := time.Now()
	d := &DHCP{
		net: n, leases: leases, decide: decide,
		conflict: func(netip.Addr) (MAC, bool) { return MAC{}, false },
		clock:    func() time.Duration { return time.Since(start) },
		limit:    newLimiter(),
		probing:  make(chan struct{}, 8),
		pool:     newPool(n.First, int(number(n.Last)-number(n.First))+1),
		reserved: map[MAC]netip.Addr{},
	}
	for m, a := range n.Reserved {
		d.reserved[m] = a
	}
	for _, o := range options {
		o(d)
	}
	all, err := leases.All()
	if err != nil {
		return nil, fmt.Errorf("reading leases: %w", err)
	}
	for _, l := range all {
		if _, own := d.reserved[l.MAC]; own || d.pool.index(l.Addr) < 0 {
			continue
		}
		d.pool.bind(l.MAC, l.Addr, false, d.clock()+min(l.For, n.LeaseTime))
	}
	return d, nil
}

// Reserve gives a MAC an address outside the range from its next packet on.
func (d *DHCP) Reserve(m MAC, a netip.Addr) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	owner := map[netip.Addr]MAC{}
	for m, a := range d.reserved {
		owner[a] = m
	}
	if err := d.net.reservable(m, a, owner); err != nil {
		return err
	}
	if i, ok := d.pool.byMAC[m]; ok { // one lease a MAC
		d.pool.free(m, d.pool.addr(i), d.clock())
	}
	d.reserved[m] = a
	return nil
}

// Handle answers one packet of port 67.
func (d *DHCP) Handle(q *dhcpv4.DHCPv4) Answer {
	m, refused := Observe(q)
	if m.MAC == (MAC{}) {
		return Answer{} // no sender to tell the operator about
	}
	boot := d.decide(m)
	if !d.limit.allow(m.MAC, boot.Known || d.familiar(m.MAC), d.clock()) {
		return Answer{}
	}
	switch {
	case boot.Ignore:
		return ignored(m, "%s", boot.Reason)
	case field4(q.GatewayIPAddr).IsValid():
		// Answering would send packets wherever the sender likes.
		return ignored(m, "relayed by %s: only the seed's own wire is served", field4(q.GatewayIPAddr))
	}
	a := d.dispatch(q, m, boot)
	if refused != nil && a.Packet != nil {
		a.note(m, StepIgnored, "no boot file: %s", refused)
	}
	return a
}

func (d *DHCP) dispatch(q *dhcpv4.DHCPv4, m Machine, boot Boot) Answer {
	switch q.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return d.discover(q, m, boot)
	case dhcpv4.MessageTypeRequest:
		return d.request(q, m, boot)
	case dhcpv4.MessageTypeInform:
		return d.inform(q, m, boot)
	case dhcpv4.MessageTypeRelease:
		return d.release(q, m)
	case dhcpv4.MessageTypeDecline:
		return d.decline(q, m)
	}
	return ignored(m, "message type %d", q.MessageType())
}

// familiar: a machine with a reservation or a running lease.
func (d *DHCP) familiar(m MAC) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.reserved[m]; ok {
		return true
	}
	i, ok := d.pool.byMAC[m]
	return ok && d.pool.slots[i].state == slotBound && d.pool.slots[i].live(d.clock())
}

func (d *DHCP) discover(q *dhcpv4.DHCPv4, m Machine, boot Boot) Answer {
	var a Answer
	a.note(m, StepDiscover, "%s", m.Class)
	addr, why := d.find(&a, m, option4(q, dhcpv4.OptionRequestedIPAddress), boot.Known)
	if !addr.IsValid() {
		a.note(m, StepIgnored, "%s", why)
		return a
	}
	r := reply(q, dhcpv4.MessageTypeOffer, d.net.Server)
	r.YourIPAddr = addr.AsSlice()
	d.describe(r, true)
	text := d.boot(r, q, m, boot)
	a.note(m, StepOffer, "%s%s", addr, text)
	return d.send(a, r, q)
}

// find holds an address for a DISCOVER, past at most three that somebody else
// answers at.
func (d *DHCP) find(a *Answer, m Machine, want netip.Addr, known bool) (netip.Addr, string) {
	d.mu.Lock()
	addr, fixed := d.reserved[m.MAC]
	d.mu.Unlock()
	if fixed {
		if who, taken := d.conflict(addr); taken && who != m.MAC {
			a.note(m, StepConflict, "reserved %s is in use by %s", addr, who)
			return netip.Addr{}, fmt.Sprintf("reserved %s is in use by %s", addr, who)
		}
		return addr, ""
	}
	for range 3 {
		d.mu.Lock()
		addr, fresh, ok := d.pool.hold(m.MAC, want, known, d.clock())
		d.mu.Unlock()
		if !ok {
			return netip.Addr{}, fmt.Sprintf("no address left in %s-%s", d.net.First, d.net.Last)
		}
		if !fresh {
			return addr, ""
		}
		if !known {
			select {
			case d.probing <- struct{}{}:
			default:
				return netip.Addr{}, "too many strangers at once"
			}
		}
		who, taken := d.conflict(addr)
		if !known {
			<-d.probing
		}
		if !taken || who == m.MAC {
			return addr, ""
		}
		a.note(m, StepConflict, "%s is in use by %s", addr, who)
		d.mu.Lock()
		d.pool.decline(m.MAC, addr, d.clock())
		d.mu.Unlock()
	}
	return netip.Addr{}, "three addresses in a row are in use by others"
}

func (d *DHCP) request(q *dhcpv4.DHCPv4, m Machine, boot Boot) Answer {
	var a Answer
	server, addr, client := option4(q, dhcpv4.OptionServerIdentifier), option4(q, dhcpv4.OptionRequestedIPAddress), field4(q.ClientIPAddr)
	if server.IsValid() && server != d.net.Server {
		d.withdraw(m.MAC)
		return ignored(m, "took the offer of %s", server)
	}
	if client.IsValid() { // RENEWING and REBINDING, RFC 2131 section 4.3.2
		addr = client
	}
	a.note(m, StepRequest, "%s", addr)
	if !addr.IsValid() {
		a.note(m, StepIgnored, "REQUEST without an address")
		return a
	}
	if why, err := d.bind(m, addr, boot.Known, server.IsValid()); err != nil {
		a.note(m, StepIgnored, "%s", err)
		return a
	} else if why != "" {
		r := reply(q, dhcpv4.MessageTypeNak, d.net.Server)
		r.Flags = 0x8000
		r.UpdateOption(dhcpv4.OptMessage(why))
		a.note(m, StepNak, "%s", why)
		a.Packet, a.To = r, netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), clientPort)
		return a
	}
	r := reply(q, dhcpv4.MessageTypeAck, d.net.Server)
	r.YourIPAddr = addr.AsSlice()
	r.ClientIPAddr = q.ClientIPAddr
	d.describe(r, true)
	text := d.boot(r, q, m, boot)
	a.note(m, StepAck, "%s%s", addr, text)
	return d.send(a, r, q)
}

// withdraw: the client chose another server; what we held for it is free.
func (d *DHCP) withdraw(m MAC) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i, ok := d.pool.byMAC[m]; ok && d.pool.slots[i].state == slotOffered {
		d.pool.free(m, d.pool.addr(i), d.clock())
	}
}

// bind confirms an address durably; why is the reason for a NAK. A machine that
// comes back with an address nobody holds keeps it: after a lost lease file a
// NAK would take the address from under a running node.
func (d *DHCP) bind(m Machine, addr netip.Addr, known, selecting bool) (why string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.clock()
	if fixed, ok := d.reserved[m.MAC]; ok {
		if fixed != addr {
			return fmt.Sprintf("%s is reserved for you, not %s", fixed, addr), nil
		}
		return "", d.put(m.MAC, addr)
	}
	if !d.pool.owns(m.MAC, addr) {
		i := d.pool.index(addr)
		_, has := d.pool.byMAC[m.MAC]
		if selecting || i < 0 || has || d.pool.slots[i].live(now) || !d.pool.room(known, now) {
			return fmt.Sprintf("%s is not yours", addr), nil
		}
	} else if s := d.pool.slots[d.pool.index(addr)]; !s.live(now) && !d.pool.room(known, now) {
		return fmt.Sprintf("%s has expired", addr), nil
	}
	if err := d.put(m.MAC, addr); err != nil {
		return "", err
	}
	d.pool.bind(m.MAC, addr, known, now+d.net.LeaseTime)
	return "", nil
}

func (d *DHCP) put(m MAC, addr netip.Addr) error {
	if err := d.leases.Put(Lease{MAC: m, Addr: addr, For: d.net.LeaseTime}); err != nil {
		return fmt.Errorf("recording the lease of %s: %w", addr, err)
	}
	return nil
}

// inform answers a machine that has its address from elsewhere: options, no
// lease (RFC 2131 section 4.3.5).
func (d *DHCP) inform(q *dhcpv4.DHCPv4, m Machine, boot Boot) Answer {
	var a Answer
	client := field4(q.ClientIPAddr)
	a.note(m, StepInform, "%s", client)
	if !d.net.host(client) {
		a.note(m, StepIgnored, "INFORM from %s, outside %s", client, d.net.Subnet)
		return a
	}
	r := reply(q, dhcpv4.MessageTypeAck, d.net.Server)
	r.ClientIPAddr = q.ClientIPAddr
	d.describe(r, false)
	text := d.boot(r, q, m, boot)
	a.note(m, StepAck, "options only%s", text)
	return d.send(a, r, q)
}

func (d *DHCP) release(q *dhcpv4.DHCPv4, m Machine) Answer {
	var a Answer
	addr := field4(q.ClientIPAddr)
	a.note(m, StepRelease, "%s", addr)
	d.mu.Lock()
	defer d.mu.Unlock()
	if option4(q, dhcpv4.OptionServerIdentifier) != d.net.Server || !d.pool.owns(m.MAC, addr) {
		return a
	}
	d.pool.free(m.MAC, addr, d.clock())
	if err := d.leases.Drop(addr); err != nil {
		a.note(m, StepIgnored, "forgetting the lease of %s: %s", addr, err)
	}
	return a
}

func (d *DHCP) decline(q *dhcpv4.DHCPv4, m Machine) Answer {
	addr := option4(q, dhcpv4.OptionRequestedIPAddress)
	d.mu.Lock()
	defer d.mu.Unlock()
	if option4(q, dhcpv4.OptionServerIdentifier) != d.net.Server || !d.pool.owns(m.MAC, addr) {
		return ignored(m, "DECLINE of %s, which is not its own", addr)
	}
	var a Answer
	a.note(m, StepDecline, "%s answers elsewhere, kept back for %s", addr, declineHold)
	d.pool.decline(m.MAC, addr, d.clock())
	if err := d.leases.Drop(addr); err != nil {
		a.note(m, StepIgnored, "forgetting the lease of %s: %s", addr, err)
	}
	return a
}

// describe adds the network; the lease times only with an address.
func (d *DHCP) describe(r *dhcpv4.DHCPv4, lease bool) {
	r.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(d.net.Subnet.Bits(), 32)))
	if d.net.Router.IsValid() {
		r.UpdateOption(dhcpv4.OptRouter(d.net.Router.AsSlice()))
	}
	if len(d.net.DNS) > 0 {
		r.UpdateOption(dhcpv4.OptDNS(ips(d.net.DNS)...))
	}
	if len(d.net.NTP) > 0 {
		r.UpdateOption(dhcpv4.OptNTPServers(ips(d.net.NTP)...))
	}
	if lease {
		r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(d.net.LeaseTime))
		r.UpdateOption(dhcpv4.OptRenewTimeValue(d.net.LeaseTime / 2))
		r.UpdateOption(dhcpv4.OptRebindingTimeValue(d.net.LeaseTime * 7 / 8))
	}
}

func ips(addrs []netip.Addr) []net.IP {
	var out []net.IP
	for _, a := range addrs {
		out = append(out, a.AsSlice())
	}
	return out
}

// boot adds the boot file for firmware that asks; the text is for the event.
func (d *DHCP) boot(r, q *dhcpv4.DHCPv4, m Machine, boot Boot) string {
	if !m.Netboot() {
		return ""
	}
	if boot.Local {
		return ", boots from disk: " + boot.Reason
	}
	if err := boot.put(r, q, m, d.net.Server); err != nil {
		return ", " + err.Error()
	}
	return ", boots " + string(r.GetOneOption(dhcpv4.OptionBootfileName))
}

// send addresses an answer by RFC 2131 section 4.1. Machines without an address
// get a broadcast: a UDP socket cannot unicast to them.
func (d *DHCP) send(a Answer, r, q *dhcpv4.DHCPv4) Answer {
	fit(r, q)
	to := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if c := field4(q.ClientIPAddr); d.net.host(c) {
		to = c
	}
	a.Packet, a.To = r, netip.AddrPortFrom(to, clientPort)
	return a
}
