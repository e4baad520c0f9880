package lan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Host is a network stack in this process with one NIC on the segment. It
// answers ARP and ping, and forwards nothing. The tripwire does not watch it.
type Host struct {
	Name string
	Addr netip.Addr
	MAC  net.HardwareAddr

	sw     *Switch
	port   *Port
	stack  *stack.Stack
	link   *channel.Endpoint
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once

	mu      sync.Mutex
	closers []func() error
	leases  map[string]netip.Addr // by MAC
	queries []DNSQuery
}

const (
	nic = tcpip.NICID(1)
	mtu = 1500
	// One flow of an emulated machine never fills this; gVisor's default of
	// 1 MiB at most would be enough too, but its initial window is small.
	bufferMax = 4 << 20
)

// Host adds a network stack with the given address, which must be in the
// subnet.
func (s *Switch) Host(name string, addr netip.Addr) (*Host, error) {
	if !addr.Is4() || !s.opts.Subnet.Contains(addr) {
		return nil, fmt.Errorf("host %q: address %s is not in %s", name, addr, s.opts.Subnet)
	}
	port, err := s.newPort(name, false)
	if err != nil {
		return nil, fmt.Errorf("host %q: %w", name, err)
	}
	h := &Host{Name: name, Addr: addr, MAC: port.MAC, sw: s, port: port, leases: map[string]netip.Addr{}}
	if err := h.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("host %q: %w", name, err), port.Close())
	}
	s.mu.Lock()
	s.hosts = append(s.hosts, h)
	s.mu.Unlock()
	return h, nil
}

func (h *Host) start() error {
	h.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	h.link = channel.New(queueLength, mtu+header.EthernetMinimumSize, tcpip.LinkAddress(h.MAC))
	if err := h.tune(); err != nil {
		return fmt.Errorf("TCP options: %s", err)
	}
	if err := h.stack.CreateNIC(nic, ethernet.New(h.link)); err != nil {
		return fmt.Errorf("NIC: %s", err)
	}
	subnet := h.sw.opts.Subnet
	address := tcpip.ProtocolAddress{
		Protocol: ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: tcpip.AddrFrom4(h.Addr.As4()), PrefixLen: subnet.Bits(),
		},
	}
	if err := h.stack.AddProtocolAddress(nic, address, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("address %s: %s", h.Addr, err)
	}
	// The only route is the segment itself, and the limited broadcast for DHCP.
	h.stack.SetRouteTable([]tcpip.Route{
		{Destination: address.AddressWithPrefix.Subnet(), NIC: nic},
		{Destination: header.IPv4Broadcast.WithPrefix().Subnet(), NIC: nic},
	})
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	h.port.mu.Lock()
	h.port.deliver = h.deliver
	h.port.mu.Unlock()
	h.wg.Go(func() { h.pump(ctx) })
	return nil
}

func (h *Host) tune() tcpip.Error {
	sack := tcpip.TCPSACKEnabled(true)
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: 1 << 20, Max: bufferMax}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: 1 << 20, Max: bufferMax}
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &send, &receive} {
		if err := h.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return err
		}
	}
	return nil
}

// deliver takes frames from the switch, as a NIC that is not promiscuous.
func (h *Host) deliver(frame []byte) {
	if dst := net.HardwareAddr(frame[:6]); dst[0]&1 == 0 && dst.String() != h.MAC.String() {
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	defer pkt.DecRef()
	h.link.InjectInbound(0, pkt)
}

// pump carries what the stack sends to the switch.
func (h *Host) pump(ctx context.Context) {
	for {
		pkt := h.link.ReadContext(ctx)
		if pkt == nil {
			return
		}
		view := pkt.ToView()
		frame := append([]byte(nil), view.AsSlice()...)
		view.Release()
		pkt.DecRef()
		h.sw.receive(h.port, frame)
	}
}

// DialContext connects to an address of the segment: "tcp" or "udp" and
// "10.77.0.10:22". Names are not resolved.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("dialing %q: %w", address, err)
	}
	switch network {
	case "tcp", "tcp4":
		c, err := gonet.DialContextTCP(ctx, h.stack, full(to), ipv4.ProtocolNumber)
		if err != nil {
			return nil, fmt.Errorf("dialing %s from %s: %w", to, h.Addr, err)
		}
		return c, nil
	case "udp", "udp4":
		remote := full(to)
		c, err := gonet.DialUDP(h.stack, nil, &remote, ipv4.ProtocolNumber)
		if err != nil {
			return nil, fmt.Errorf("dialing %s from %s: %w", to, h.Addr, err)
		}
		return c, nil
	}
	return nil, fmt.Errorf("dialing %q: network %q is not tcp or udp", address, network)
}

// Listen accepts TCP connections at a port of the host, 0 for any free one.
func (h *Host) Listen(port uint16) (net.Listener, error) {
	l, err := gonet.ListenTCP(h.stack, full(netip.AddrPortFrom(h.Addr, port)), ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("listening at %s tcp port %d: %w", h.Addr, port, err)
	}
	return l, nil
}

// ListenPacket receives UDP at a port of the host, also what was broadcast to
// it, and may broadcast.
func (h *Host) ListenPacket(port uint16) (net.PacketConn, error) {
	var wq waiter.Queue
	ep, err := h.stack.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, &wq)
	if err != nil {
		return nil, fmt.Errorf("listening at %s udp port %d: %s", h.Addr, port, err)
	}
	ep.SocketOptions().SetBroadcast(true)
	if err := ep.Bind(tcpip.FullAddress{NIC: nic, Port: port}); err != nil {
		ep.Close()
		return nil, fmt.Errorf("listening at %s udp port %d: %s", h.Addr, port, err)
	}
	return gonet.NewUDPConn(&wq, ep), nil
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFrom4(a.Addr().Unmap().As4()), Port: a.Port()}
}

// onClose runs f when the host closes.
func (h *Host) onClose(f func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closers = append(h.closers, f)
}

// Close takes the host off the segment and ends what it serves.
func (h *Host) Close() error {
	h.once.Do(func() {
		h.mu.Lock()
		closers := h.closers
		h.mu.Unlock()
		for _, f := range closers {
			f() // a listener that is closed twice says so; nobody needs to know
		}
		h.stack.Close()
		h.cancel()
		h.port.Close()
		h.link.Close()
	})
	h.wg.Wait()
	return nil
}
