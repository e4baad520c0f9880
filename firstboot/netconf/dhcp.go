package netconf

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/iana"

	"slipway.dev/slipway/configs"
)

// fromACK reads what slipway uses of a DHCP answer (RFC 2132, RFC 3442).
func fromACK(nic NIC, ack *dhcpv4.DHCPv4, e configs.Interface) (Address, error) {
	ip, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || ip.IsUnspecified() {
		return Address{}, fmt.Errorf("interface %s: the answer of %s has no address", nic, ack.ServerIdentifier())
	}
	bits := 32
	if m := ack.SubnetMask(); m != nil {
		bits, _ = net.IPMask(m).Size()
	}
	o := e.DHCP4Override
	a := Address{Interface: nic.Name, MAC: nic.MAC, Prefix: netip.PrefixFrom(ip, bits), DHCP: true, MTU: e.MTU, Metric: o.RouteMetric}
	if use(o.UseHostname) {
		a.Hostname = ack.HostName()
	}
	if use(o.UseRoutes) {
		a.routes(ack, o.RouteMetric)
	}
	if use(o.UseDNS) {
		a.Nameservers = addresses(ack.DNS())
	}
	if use(o.UseNTP) {
		a.NTP = addresses(ack.NTPServers())
	}
	if use(o.UseDomains) {
		if l := ack.DomainSearch(); l != nil {
			a.Search = l.Labels
		} else if d := ack.DomainName(); d != "" {
			a.Search = []string{d}
		}
	}
	// RFC 2132, 5.1: 68 at least; nothing below 576 can be meant (RFC 791).
	if raw := ack.Options.Get(dhcpv4.OptionInterfaceMTU); use(o.UseMTU) && a.MTU == 0 && len(raw) == 2 {
		if mtu := int(raw[0])<<8 | int(raw[1]); mtu >= 576 {
			a.MTU = mtu
		}
	}
	a.lease(e)
	return a, nil
}

func use(b *bool) bool { return b == nil || *b }

func addresses(list []net.IP) (out []netip.Addr) {
	for _, s := range list {
		if d, ok := netip.AddrFromSlice(s.To4()); ok {
			out = append(out, d)
		}
	}
	return out
}

// routes reads option 121, and option 3 only without it (RFC 3442).
func (a *Address) routes(ack *dhcpv4.DHCPv4, metric int) {
	if list := ack.ClasslessStaticRoute(); len(list) > 0 {
		for _, r := range list {
			via, ok := netip.AddrFromSlice(r.Router.To4())
			to, ok2 := netip.AddrFromSlice(r.Dest.IP.To4())
			bits, _ := r.Dest.Mask.Size()
			route := configs.Route{To: configs.Destination{Prefix: netip.PrefixFrom(to, bits)}, Metric: metric}
			switch {
			case !ok || !ok2:
			case bits == 0:
				a.Gateway = via
			case via.IsUnspecified():
				route.Scope = "link"
				a.Routes = append(a.Routes, route)
			default:
				route.Via = via
				a.Routes = append(a.Routes, route)
			}
		}
		return
	}
	for _, gw := range addresses(ack.Router()) {
		a.Gateway = gw
		return
	}
}

// client speaks DHCP on one interface, for one message or exchange at a time.
type client struct {
	name     string // interface
	e        configs.Interface
	hostname string // sent; may be empty
	timeout  time.Duration
	tries    int // waits double from timeout
}

func (c client) options() []dhcpv4.Modifier {
	m := []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(dhcpv4.OptionHostName, dhcpv4.OptionDNSDomainSearchList,
		dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionNTPServers)}
	o := c.e.DHCP4Override
	name := o.Hostname
	if name == "" {
		name = c.hostname
	}
	if name != "" && use(o.SendHostname) {
		m = append(m, dhcpv4.WithOption(dhcpv4.OptHostName(name)))
	}
	return m
}

// identified adds option 61 where the config wants it (RFC 2132, 9.14).
func (c client) identified(hw net.HardwareAddr, m []dhcpv4.Modifier) []dhcpv4.Modifier {
	if c.e.DHCPIdentifier != "mac" {
		return m
	}
	return append(m, dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{byte(iana.HWTypeEthernet)}, hw...))))
}

func (c client) open(more ...nclient4.ClientOpt) (*nclient4.Client, error) {
	cl, err := nclient4.New(c.name, append(more, nclient4.WithTimeout(c.timeout), nclient4.WithRetry(c.tries))...)
	if err != nil {
		return nil, fmt.Errorf("interface %q: %w", c.name, err)
	}
	return cl, nil
}

// ask gets a lease, preferably of the address want, which may be invalid.
func (c client) ask(ctx context.Context, want netip.Addr) (*dhcpv4.DHCPv4, error) {
	cl, err := c.open()
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	m := c.identified(cl.InterfaceAddr(), c.options())
	discover := m
	if want.IsValid() {
		discover = append(m[:len(m):len(m)], dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(want.AsSlice())))
	}
	offer, err := cl.DiscoverOffer(ctx, discover...)
	if err != nil {
		return nil, fmt.Errorf("interface %q: no DHCP lease: %w", c.name, err)
	}
	l, err := cl.RequestFromOffer(ctx, offer, m...)
	if err != nil {
		return nil, fmt.Errorf("interface %q: no DHCP lease of %s: %w", c.name, offer.YourIPAddr, err)
	}
	return l.ACK, nil
}

// again asks for a lease anew: its own server directly, or, when that stays
// silent, whichever hears it (RFC 2131, 4.4.5: RENEWING and REBINDING). A nil
// answer without an error is a refusal. Only the lease's own server may refuse:
// a foreign one that was started on the same link knows nothing of it.
func (c client) again(ctx context.Context, ack *dhcpv4.DHCPv4, direct bool) (*dhcpv4.DHCPv4, error) {
	server := ack.ServerIdentifier()
	dest := nclient4.DefaultServers
	var how []nclient4.ClientOpt
	if direct {
		dest = &net.UDPAddr{IP: server, Port: nclient4.ServerPort}
		how = append(how, nclient4.WithUnicast(&net.UDPAddr{IP: ack.YourIPAddr, Port: nclient4.ClientPort}))
	}
	cl, err := c.open(how...)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	req, err := dhcpv4.NewRenewFromAck(ack, c.identified(cl.InterfaceAddr(), append(c.options(),
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize)), dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier)))...)
	if err != nil {
		return nil, fmt.Errorf("interface %q: %w", c.name, err)
	}
	own := nclient4.IsCorrectServer(server)
	answer, err := cl.SendAndRead(ctx, dest, req, func(p *dhcpv4.DHCPv4) bool {
		return p.MessageType() == dhcpv4.MessageTypeAck && (!direct || own(p)) || p.MessageType() == dhcpv4.MessageTypeNak && own(p)
	})
	if err != nil {
		return nil, fmt.Errorf("interface %q: renewing %s: %w", c.name, ack.YourIPAddr, err)
	}
	if answer.MessageType() == dhcpv4.MessageTypeNak {
		return nil, nil
	}
	return answer, nil
}

// decline tells the server that another host has the address (RFC 2131, 3.1,
// step 5 and table 5). It has no answer.
func (c client) decline(ack *dhcpv4.DHCPv4, why string) error {
	link, err := net.InterfaceByName(c.name)
	if err != nil {
		return fmt.Errorf("interface %q: %w", c.name, err)
	}
	conn, err := nclient4.NewRawUDPConn(c.name, nclient4.ClientPort)
	if err != nil {
		return fmt.Errorf("interface %q: %w", c.name, err)
	}
	defer conn.Close()
	msg, err := dhcpv4.New(c.identified(link.HardwareAddr, []dhcpv4.Modifier{
		dhcpv4.WithMessageType(dhcpv4.MessageTypeDecline), dhcpv4.WithHwAddr(link.HardwareAddr),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ack.YourIPAddr)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ack.ServerIdentifier())),
		dhcpv4.WithOption(dhcpv4.OptMessage(why)),
	})...)
	if err == nil {
		_, err = conn.WriteTo(msg.ToBytes(), nclient4.DefaultServers)
	}
	if err != nil {
		return fmt.Errorf("interface %q: declining %s: %w", c.name, ack.YourIPAddr, err)
	}
	return nil
}
