package firstboot

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/netconf"
	"slipway.dev/slipway/firstboot/report"
)

func networkPhase(ctx context.Context, n *Node) error {
	if n.noNet != nil && n.Network != nil { // what the seed was found with is not what the config says
		n.noNet()
		n.net, n.noNet = nil, nil
	}
	if n.net == nil {
		m, err := netconf.Start(n.life, netconf.Options{
			Want: n.Network, Resolv: resolv,
			Hostname: shortName(cmp.Or(n.User.Hostname, n.User.FQDN, n.Meta.LocalHostname)),
			Report: func(e handoff.Event) {
				e.Phase = "network"
				n.Report.Emit(e)
			},
			Load: func(module string) error { return n.drivers.get().Load(module) },
		})
		if err != nil {
			return err
		}
		n.net = m
	}
	addresses, err := n.net.Wait(ctx)
	if err != nil {
		return report.Fail("SW-NET-NONE", "check cables, switch port and DHCP server, or give addresses in network-config; the node goes on trying", err)
	}
	n.Address = addresses
	a := addresses[0]
	n.Hostname = hostname(n.User.Hostname, n.User.FQDN, n.Meta.LocalHostname, a)
	if err := unix.Sethostname([]byte(n.Hostname)); err != nil {
		return fmt.Errorf("host name %q: %w", n.Hostname, err)
	}
	n.done(fmt.Sprintf("%s is %s on %s", n.Hostname, a.Prefix.Addr(), a.Interface),
		map[string]any{"node": n.Hostname, "address": a.Prefix.Addr().String(), "interface": a.Interface})
	return nil
}

// hostname takes the config's, else the DHCP server's (option 12), else one
// that the network card makes unique.
func hostname(name, fqdn, local string, a netconf.Address) string {
	mac := strings.ReplaceAll(a.MAC, ":", "")
	h := cmp.Or(name, fqdn, local, a.Hostname, "slipway-"+mac[max(0, len(mac)-6):])
	return shortName(h)
}

func shortName(s string) string {
	short, _, _ := strings.Cut(strings.ToLower(s), ".")
	return short
}
