package scenario

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
	"slipway.dev/slipway/test/qemu/qemutest"
)

// timedNetwork is network, and its router tells the time as DHCP says (option 42).
func timedNetwork(t testing.TB) (*lan.Switch, *lan.Port) {
	t.Helper()
	seg := qemutest.LAN(t, lan.Options{Subnet: netip.MustParsePrefix("10.77.0.0/24"), Domains: []string{"cluster.local", "local"}})
	gateway := seg.Subnet().Addr().Next()
	h := qemutest.Gateway(t, seg, lan.DHCP{Answer: func(_, reply *dhcpv4.DHCPv4) {
		reply.UpdateOption(dhcpv4.OptNTPServers(gateway.AsSlice()))
	}})
	if err := h.ServeNTP(time.Now); err != nil {
		t.Fatal(err)
	}
	return seg, qemutest.Port(t, seg, "node-1")
}

// year2001 is what a clock without a battery may say.
func year2001() time.Time { return time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC) }

// clockIsRight wants the clock of 2001 to have been put right twice before
// kubeadm began: up to the build time by itself, then to the servers of DHCP.
func (n *node) clockIsRight(t *testing.T) {
	var seen []string
	for _, e := range n.vm.Console.Events() {
		switch {
		case done("kernel")(e) && strings.Contains(e.Text, "set to the build time"):
			seen = append(seen, "floor")
		case e.Step == "clock" && strings.Contains(e.Text, "time servers of DHCP: 10.77.0.1"):
			seen = append(seen, "servers")
		case e.Step == "clock" && strings.Contains(e.Text, "follows its servers"):
			seen = append(seen, "synced")
		case e.Phase == "kubernetes" && e.Step == "" && e.State == handoff.Started:
			seen = append(seen, "kubernetes")
		}
	}
	if got := strings.Join(seen, " "); got != "floor servers synced kubernetes" {
		t.Errorf("got %q", got)
	}
	if d := n.offset(t); d.Abs() > time.Minute {
		t.Errorf("the clock is %s off", d)
	}
}

// offset is how far the node's clock is ahead of this machine's.
func (n *node) offset(t *testing.T) time.Duration {
	t.Helper()
	out, err := n.r.Must(n.ctx, "date", "+%s")
	if err != nil {
		t.Fatal(err)
	}
	var s int64
	if _, err := fmt.Sscan(out, &s); err != nil {
		t.Fatal(err)
	}
	return time.Until(time.Unix(s, 0))
}

// clockJumps puts the clock ten hours ahead, as a hypervisor may; it comes back
// by itself and the node with it.
func (n *node) clockJumps(t *testing.T) {
	if _, err := n.r.Must(n.ctx, "date", "-s", "+10 hours"); err != nil {
		t.Fatal(err)
	}
	n.until(t, "the clock is right again", func() error {
		if d := n.offset(t); d.Abs() > time.Minute {
			return fmt.Errorf("it is %s off", d)
		}
		return nil
	})
	began := time.Now().UTC().Truncate(time.Second)
	n.until(t, "the node is Ready, by a heartbeat of after the jump", func() error {
		res, err := n.r.Run(n.ctx, "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "get", "lease", "-n", "kube-node-lease", "node-1", "-o", "jsonpath={.spec.renewTime}")
		if err != nil {
			return err
		}
		at, err := time.Parse(time.RFC3339, string(res.Stdout))
		if err != nil || at.Before(began) || at.After(time.Now().Add(time.Minute)) {
			return fmt.Errorf("lease of %q, want one after %s: %v %s", res.Stdout, began, err, res.Stderr)
		}
		return nil
	})
	n.everythingRuns(t)
}

// TestClocksReady takes machines whose clock is far off, and nobody to ask, to
// Ready. TestReady starts in 2001.
func TestClocksReady(t *testing.T) {
	if !*all {
		t.Skip("two whole boots: add -all")
	}
	for _, rtc := range []string{"2011-11-11", "2038-01-20"} {
		t.Run(rtc, func(t *testing.T) {
			when, err := time.Parse(time.DateOnly, rtc)
			if err != nil {
				t.Fatal(err)
			}
			l := newLogin(t)
			_, port := network(t)
			m := machineFromDisk(t, boot.Cmdline{Consoles: []string{"tty0", "ttyS0"}, Extra: []string{"quiet", steady}})
			m.CPUs, m.Memory, m.RTC, m.NICs, m.CIDATA = 2, 4096, when, []*lan.Port{port}, l.cidata("node-1")
			vm := start(t, m)
			if _, err := vm.Wait(limit(t, 40*time.Minute), done("ready")); err != nil {
				t.Fatal(err)
			}
			ctx := limit(t, 20*time.Minute)
			r, err := vm.SSH(ctx, qemu.SSHOptions{Signer: l.signer})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			n := &node{t: t, ctx: ctx, vm: vm, r: r}
			n.everythingRuns(t)
			out, err := r.Must(ctx, "date", "-u")
			t.Logf("Ready at %s %v", out, err)
		})
	}
}
