package firstboot

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/firstboot/netconf"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/status"
)

const adminConf = "/etc/kubernetes/admin.conf"

func readyPhase(ctx context.Context, n *Node) error {
	done, u := n.instance(), n.User
	if err := done.Once("clusterReady", func() error {
		return n.commands(ctx, "slipway.hooks.clusterReady", u.Slipway.Hooks.ClusterReady)
	}); err != nil {
		return err
	}
	if err := done.Once("runcmd", func() error { return n.commands(ctx, "runcmd", u.RunCmd) }); err != nil {
		return err
	}
	a := n.Address[0]
	up := report.Uptime()()
	text := splitLines(banner(n.Hostname, n.Manifest.Kubernetes, u.Slipway.Role, n.Address, n.access, n.finalMessage(up)))
	n.Report.Notice(text)
	ended := make(chan struct{})
	if u.PowerState.Mode != "" && !done.Ran("power_state") {
		n.own("ready", "power_state", func(ctx context.Context) { n.powerState(ctx, u.PowerState, ended) })
	}
	if err := done.Once("done", func() error { return n.commands(ctx, "slipway.hooks.done", u.Slipway.Hooks.Done) }); err != nil {
		return err
	}
	n.done(fmt.Sprintf("node %q is Ready, %.1f s after power-on", n.Hostname, up),
		map[string]any{"node": n.Hostname, "address": a.Prefix.Addr().String(), "uptime": up})
	if err := done.Once("power_state", func() error { return nil }); err != nil {
		return err
	}
	close(ended)
	return nil
}

// finalMessage fills cloud-init's four variables in, in both of its spellings.
func (n *Node) finalMessage(uptime float64) string {
	version := "unknown"
	if b, ok := debug.ReadBuildInfo(); ok {
		version = b.Main.Version
	}
	var pairs []string
	for name, value := range map[string]string{
		"version": version, "timestamp": time.Now().UTC().Format(time.RFC1123Z),
		"uptime": fmt.Sprintf("%.2f", uptime), "datasource": n.source,
	} {
		for _, s := range []string{name, strings.ToUpper(name)} {
			pairs = append(pairs, "$"+s, value, "${"+s+"}", value)
		}
	}
	return strings.NewReplacer(pairs...).Replace(n.User.FinalMessage)
}

// Status is where `slipway` on a node finds what PID 1 keeps.
func Status() status.Node { return status.Node{Events: runDir + "/events.jsonl", Logs: logDir} }

// banner tells somebody in front of the machine how to go on.
func banner(host, version string, role configs.Role, all []netconf.Address, access, final string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n  slipway: node %s is Ready (Kubernetes %s)\n", host, version)
	for _, a := range all {
		fmt.Fprintf(&b, "    address     %s on %s\n", a.Prefix.Addr(), a.Interface)
	}
	if len(all) > 0 {
		ip := all[0].Prefix.Addr()
		fmt.Fprintf(&b, "    log in      ssh root@%s   (keys from user-data)\n", ip)
		if role == configs.RoleControlPlane {
			fmt.Fprintf(&b, "    kubeconfig  scp root@%s:%s .\n", ip, adminConf)
		}
	}
	if access != "" {
		fmt.Fprintf(&b, "    console     %s\n", access)
	}
	b.WriteString("    on the node slipway status | events | logs\n")
	if final != "" {
		fmt.Fprintf(&b, "    %s\n", strings.TrimSpace(final))
	}
	return b.String() + "\n"
}
