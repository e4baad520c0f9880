package netconf

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"slipway.dev/slipway/configs"
)

// fromACK reads what slipway uses of a DHCP answer (RFC 2132, RFC 3442).
func fromACK(nic NIC, ack *dhcpv4.DHCPv4, e configs.Ethernet) (Address, error) {
	ip, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || ip.IsUnspecified() {
		return Address{}, fmt.Errorf("interface %s: the answer of %s has no address", nic, ack.ServerIdentifier())
	}
	bits := 32
	if m := ack.SubnetMask(); m != nil {
		bits, _ = net.IPMask(m).Size()
	}
	a := Address{Interface: nic.Name, MAC: nic.MAC, Prefix: netip.PrefixFrom(ip, bits), DHCP: true, Hostname: ack.HostName(), MTU: e.MTU}
	if use(e.DHCP4Override.UseRoutes) {
		a.routes(ack)
	}
	if use(e.DHCP4Override.UseDNS) {
		for _, s := range ack.DNS() {
			if d, ok := netip.AddrFromSlice(s.To4()); ok {
				a.Nameservers = append(a.Nameservers, d)
			}
		}
		if l := ack.DomainSearch(); l != nil {
			a.Search = l.Labels
		} else if d := ack.DomainName(); d != "" {
			a.Search = []string{d}
		}
	}
	return a, nil
}

func use(b *bool) bool { return b == nil || *b }

// routes reads option 121, and option 3 only without it (RFC 3442).
func (a *Address) routes(ack *dhcpv4.DHCPv4) {
	if list := ack.ClasslessStaticRoute(); len(list) > 0 {
		for _, r := range list {
			via, ok := netip.AddrFromSlice(r.Router.To4())
			to, ok2 := netip.AddrFromSlice(r.Dest.IP.To4())
			bits, _ := r.Dest.Mask.Size()
			switch {
			case !ok || !ok2:
			case bits == 0:
				a.Gateway = via
			case via.IsUnspecified():
				a.Routes = append(a.Routes, configs.Route{To: configs.Destination{Prefix: netip.PrefixFrom(to, bits)}})
			default:
				a.Routes = append(a.Routes, configs.Route{To: configs.Destination{Prefix: netip.PrefixFrom(to, bits)}, Via: via})
			}
		}
		return
	}
	for _, g := range ack.Router() {
		if gw, ok := netip.AddrFromSlice(g.To4()); ok {
			a.Gateway = gw
			return
		}
	}
}

// lease asks once for a lease. Its waits double: 2, 4, 8 s.
func lease(ctx context.Context, nic NIC, e configs.Ethernet) (*nclient4.Lease, error) {
	c, err := nclient4.New(nic.Name, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(3))
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", nic, err)
	}
	defer c.Close()
	l, err := c.Request(ctx, options(e)...)
	if err != nil {
		return nil, fmt.Errorf("interface %s: no DHCP lease: %w", nic, err)
	}
	return l, nil
}

func options(e configs.Ethernet) []dhcpv4.Modifier {
	m := []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(dhcpv4.OptionHostName, dhcpv4.OptionDNSDomainSearchList,
		dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionInterfaceMTU)}
	if h := e.DHCP4Override.Hostname; h != "" {
		m = append(m, dhcpv4.WithOption(dhcpv4.OptHostName(h)))
	}
	return m
}

// renew asks for the lease again at half of its time, then more often, until
// it is granted, refused or over (RFC 2131, 4.4.5). The result is nil when a
// new lease has to be asked for.
func renew(ctx context.Context, nic NIC, e configs.Ethernet, l *nclient4.Lease) *nclient4.Lease {
	total := l.ACK.IPAddressLeaseTime(time.Hour)
	end := l.CreationTime.Add(total)
	wait := l.ACK.IPAddressRenewalTime(total / 2)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if !time.Now().Before(end) {
			return nil
		}
		c, err := nclient4.New(nic.Name, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(2))
		if err == nil {
			next, err := c.Renew(ctx, l, options(e)...)
			c.Close()
			if err == nil {
				return next
			}
			if _, refused := errors.AsType[*nclient4.ErrNak](err); refused {
				return nil
			}
		}
		// Half of what is left, not more often than each minute.
		wait = max(time.Until(end)/2, time.Minute) + rand.N(time.Second)
	}
}
