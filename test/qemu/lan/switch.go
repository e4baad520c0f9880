// Package lan is an Ethernet segment inside this process: a learning switch
// to which virtual machines attach over unix sockets, and Hosts, which are
// network stacks in Go on the same segment. The switch watches every frame a
// machine sends and records each attempt to reach anything outside.
//
// It has no way out: nothing here opens a socket towards a real network, and
// the router it offers forwards nothing. It starts no virtual machines; that is
// package qemu.
package lan

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Options describe one segment. The zero value is usable.
type Options struct {
	// Subnet holds every address that belongs to the segment; 10.77.0.0/24
	// when unset.
	Subnet netip.Prefix
	// Allow are further destinations that are no violation, such as a second
	// subnet or an IPv6 prefix of the segment. Pod and service networks do not
	// belong here: they never appear on the wire outside a tunnel.
	Allow []netip.Prefix
	// Domains may be asked for in DNS, with everything below them;
	// "cluster.local" and "local" when nil. A node name without a dot has to be
	// listed too.
	Domains []string
	// Capture is a file for a pcap of every frame, "" for none.
	Capture string
	// CaptureLimit ends the capture after so many bytes; 256 MiB when 0.
	CaptureLimit int64
	// Log gets one record per violation and per attached machine; nil is quiet.
	Log *slog.Logger
}

// Switch is a learning Ethernet switch without ageing. Make one with New.
type Switch struct {
	opts Options
	dir  string // of the ports' sockets
	trip *tripwire
	pcap *capture

	mu     sync.Mutex
	ports  []*Port
	hosts  []*Host
	table  map[[6]byte]*Port
	closed bool
}

// New makes an empty segment. Close releases it.
func New(o Options) (*Switch, error) {
	if !o.Subnet.IsValid() {
		o.Subnet = netip.MustParsePrefix("10.77.0.0/24")
	}
	o.Subnet = o.Subnet.Masked()
	if o.Domains == nil {
		o.Domains = []string{"cluster.local", "local"}
	}
	if o.CaptureLimit == 0 {
		o.CaptureLimit = 256 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Switch{opts: o, trip: newTripwire(o), table: map[[6]byte]*Port{}}
	// Not below a test's own directory: sun_path holds 108 bytes.
	dir, err := os.MkdirTemp("", "slipway-lan-")
	if err != nil {
		return nil, fmt.Errorf("socket directory: %w", err)
	}
	s.dir = dir
	if o.Capture != "" {
		if s.pcap, err = newCapture(o.Capture, o.CaptureLimit); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	return s, nil
}

// Subnet is the segment's address range.
func (s *Switch) Subnet() netip.Prefix { return s.opts.Subnet }

// Violations are the attempts of machines to leave the segment, oldest first.
func (s *Switch) Violations() []Violation { return s.trip.list() }

// ExpectName accepts DNS queries for a domain until end is called: where a test
// takes something away from a machine that it then looks for.
func (s *Switch) ExpectName(domain string) (end func()) { return s.trip.expect(domain) }

// Port adds a socket for one virtual NIC. The name appears in violations and
// records. The MAC is 52:54:00 followed by 77:00 and the port's number.
func (s *Switch) Port(name string) (*Port, error) {
	p, err := s.newPort(name, true)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", name, err)
	}
	p.path = filepath.Join(s.dir, fmt.Sprintf("p%d", p.number))
	l, err := net.Listen("unix", p.path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("port %q: %w", name, err), p.Close())
	}
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	p.wg.Go(func() { p.accept(l) })
	return p, nil
}

// newPort adds a port; watched ports are machines, subject to the tripwire.
func (s *Switch) newPort(name string, watched bool) (*Port, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	n := len(s.ports) + 1
	p := &Port{
		Name: name, MAC: net.HardwareAddr{0x52, 0x54, 0, 0x77, byte(n >> 8), byte(n)},
		sw: s, number: n, watched: watched, up: true,
		queue: make(chan queued, queueLength), done: make(chan struct{}),
	}
	p.random = newRandom(n)
	s.ports = append(s.ports, p)
	p.wg.Go(p.write)
	return p, nil
}

// receive handles one frame that came in at p. The frame is not changed
// afterwards by anybody.
func (s *Switch) receive(p *Port, frame []byte) {
	if len(frame) < headerLength || !p.admit(len(frame)) {
		return
	}
	now := time.Now()
	if s.pcap != nil {
		s.pcap.frame(now, frame)
	}
	if p.watched {
		if v, bad := s.trip.inspect(now, p.Name, frame); bad {
			s.opts.Log.Warn("frame left for outside the segment", "violation", v.String())
		}
	}
	dst, src := [6]byte(frame[0:6]), [6]byte(frame[6:12])
	s.mu.Lock()
	if src[0]&1 == 0 { // a group address is never a source (IEEE 802.3 3.2.3)
		s.table[src] = p
	}
	var to []*Port
	if known, ok := s.table[dst]; ok && dst[0]&1 == 0 {
		if known != p {
			to = append(to, known)
		}
	} else {
		for _, other := range s.ports {
			if other != p {
				to = append(to, other)
			}
		}
	}
	s.mu.Unlock()
	for _, other := range to {
		other.send(now, frame)
	}
}

// forget drops what was learned about p.
func (s *Switch) forget(p *Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for mac, owner := range s.table {
		if owner == p {
			delete(s.table, mac)
		}
	}
}

// remove takes p off the switch.
func (s *Switch) remove(p *Port) {
	s.forget(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, other := range s.ports {
		if other == p {
			s.ports = append(s.ports[:i:i], s.ports[i+1:]...)
			return
		}
	}
}

// Lease is the address a Host of this segment gave to mac by DHCP.
func (s *Switch) Lease(mac net.HardwareAddr) (netip.Addr, *Host, bool) {
	s.mu.Lock()
	hosts := append([]*Host(nil), s.hosts...)
	s.mu.Unlock()
	for _, h := range hosts {
		if a, ok := h.Lease(mac); ok {
			return a, h, true
		}
	}
	return netip.Addr{}, nil, false
}

// Close ends all hosts and ports and finishes the capture. Violations stay.
func (s *Switch) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	hosts, ports := append([]*Host(nil), s.hosts...), append([]*Port(nil), s.ports...)
	s.mu.Unlock()
	var errs []error
	for _, h := range hosts {
		errs = append(errs, h.Close())
	}
	for _, p := range ports {
		errs = append(errs, p.Close())
	}
	if s.pcap != nil {
		errs = append(errs, s.pcap.close())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}
