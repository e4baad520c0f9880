package firstboot

import (
	"context"
	"fmt"
	"strings"

	"slipway.dev/slipway/firstboot/netconf"
	"slipway.dev/slipway/firstboot/report"
)

const adminConf = "/etc/kubernetes/admin.conf"

func readyPhase(ctx context.Context, n *Node) error {
	if err := n.commands(ctx, "runcmd", n.User.RunCmd); err != nil {
		return err
	}
	a := n.Address[0]
	text := []byte(strings.ReplaceAll(banner(n.Hostname, n.Manifest.Kubernetes, n.Address, n.User.FinalMessage), "\n", "\r\n"))
	n.Consoles.Write(text, text)
	up := report.Uptime()()
	n.done(fmt.Sprintf("node %q is Ready, %.1f s after power-on", n.Hostname, up),
		map[string]any{"node": n.Hostname, "address": a.Prefix.Addr().String(), "uptime": up})
	return nil
}

// banner tells somebody in front of the machine how to go on.
func banner(host, version string, all []netconf.Address, final string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n  slipway: node %s is Ready (Kubernetes %s)\n", host, version)
	for _, a := range all {
		fmt.Fprintf(&b, "    address     %s on %s\n", a.Prefix.Addr(), a.Interface)
	}
	if len(all) > 0 {
		ip := all[0].Prefix.Addr()
		fmt.Fprintf(&b, "    log in      ssh root@%s   (keys from user-data; there are no passwords)\n", ip)
		fmt.Fprintf(&b, "    kubeconfig  scp root@%s:%s .\n", ip, adminConf)
	}
	fmt.Fprintf(&b, "    logs        %s on the node\n", logDir)
	if final != "" {
		fmt.Fprintf(&b, "    %s\n", strings.TrimSpace(final))
	}
	return b.String() + "\n"
}
