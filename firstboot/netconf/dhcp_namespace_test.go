package netconf

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// segment is a DHCP server's link with room for more hosts on it.
func segment(t *testing.T, ours ...string) host {
	t.Helper()
	h := newHost(t)
	h.ip("link add br0 type bridge forward_delay 0")
	h.ip("addr add 192.0.2.1/24 dev br0")
	h.ip("link set br0 up")
	for _, name := range ours {
		h.cable(name, "p-"+name)
		h.ip("link set p-" + name + " master br0 up")
	}
	return h
}

func TestLeaseInNamespace(t *testing.T) {
	if !isolated(t) {
		return
	}
	h := segment(t, "eth0")
	serve := []string{"--interface=br0", "--dhcp-range=192.0.2.100,192.0.2.110,255.255.255.0,1h", "--dhcp-option=option:router,192.0.2.1",
		"--dhcp-option=option:dns-server,192.0.2.53", "--dhcp-option=option:mtu,1450", "--dhcp-option=option:ntp-server,192.0.2.123",
		"--dhcp-option=option:classless-static-route,0.0.0.0/0,192.0.2.1,198.51.100.0/24,192.0.2.2", "--domain=site.example"}
	log, stop := h.serve(serve...)
	n := boot(t, "version: 2\nethernets: {eth0: {dhcp4: true, dhcp-identifier: mac}}\n", time.Minute)
	a := n.up()[0]
	if !a.DHCP || a.MTU != 1450 || a.Hostname != "n1" || !slices.Equal(a.NTP, []netip.Addr{netip.MustParseAddr("192.0.2.123")}) {
		t.Errorf("got %+v", a)
	}
	has(t, "-o addr show dev eth0", "inet "+a.Prefix.String())
	has(t, "route", "default via 192.0.2.1 dev eth0", "198.51.100.0/24 via 192.0.2.2 dev eth0")
	has(t, "-o link show dev eth0", "mtu 1450")
	if b, _ := os.ReadFile(n.resolv); string(b) != "search site.example\nnameserver 192.0.2.53\n" {
		t.Errorf("resolv.conf: %q", b)
	}
	if !strings.Contains(log(), "client provides name: n1") {
		t.Errorf("no host name was sent:\n%s", log())
	}

	// Renewed by the same server directly, and by one that was started anew
	// with no memory of the lease.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := client{name: "eth0", hostname: "n1", timeout: time.Second, tries: 3}
	c.e.DHCPIdentifier = "mac"
	first, err := c.ask(ctx, a.Prefix.Addr())
	if err != nil || first.YourIPAddr.String() != a.Prefix.Addr().String() {
		t.Fatalf("asking for the same address: %v, %v", first, err)
	}
	for _, direct := range []bool{true, false} {
		next, err := c.again(ctx, first, direct)
		if err != nil || next == nil || !next.YourIPAddr.Equal(first.YourIPAddr) {
			t.Errorf("renewing, direct=%v: %v, %v", direct, next, err)
		}
	}
	stop()
	log, _ = h.serve(append(serve, "--dhcp-authoritative")...)
	next, err := c.again(ctx, first, true)
	if err != nil || next == nil || !next.YourIPAddr.Equal(first.YourIPAddr) {
		t.Errorf("after the server's restart: %v, %v\n%s", next, err, log())
	}
}

func TestOverridesInNamespace(t *testing.T) {
	if !isolated(t) {
		return
	}
	h := segment(t, "eth0", "eth1")
	log, _ := h.serve("--interface=br0", "--dhcp-range=192.0.2.100,192.0.2.110,255.255.255.0,1h", "--dhcp-option=option:router,192.0.2.1",
		"--dhcp-option=option:dns-server,192.0.2.53", "--dhcp-option=option:mtu,1450", "--domain=site.example")
	n := boot(t, `version: 2
ethernets:
  eth0:
    dhcp4: true
    dhcp4-overrides: {use-dns: false, use-domains: false, use-mtu: false, use-routes: false, use-hostname: false, send-hostname: false}
    nameservers: {addresses: [203.0.113.53]}
    routes: [{to: 10.0.0.0/8, via: 192.0.2.9}]
  eth1:
    dhcp4: true
    dhcp4-overrides: {route-metric: 300, hostname: other-name, use-dns: false, use-domains: false}
`, time.Minute)
	all := n.up()
	if len(all) != 2 || all[0].Interface != "eth1" || all[0].Hostname != "other-name" || all[1].Hostname != "" || all[1].Gateway.IsValid() {
		t.Errorf("got %+v", all)
	}
	has(t, "route", "default via 192.0.2.1 dev eth1 metric 300", "10.0.0.0/8 via 192.0.2.9 dev eth0")
	has(t, "-o link show dev eth0", "mtu 1500")
	has(t, "-o link show dev eth1", "mtu 1450")
	if b, _ := os.ReadFile(n.resolv); string(b) != "nameserver 203.0.113.53\n" {
		t.Errorf("resolv.conf: %q", b)
	}
	if l := log(); !strings.Contains(l, "client provides name: other-name") || strings.Contains(l, "client provides name: n1") {
		t.Errorf("log:\n%s", l)
	}
}

// Another host has the first address of the pool: it is declined, the next one
// is asked for once, and the server heard of it.
func TestDeclineInNamespace(t *testing.T) {
	if !isolated(t) {
		return
	}
	h := segment(t, "eth0", "squatter")
	other := newHost(t)
	ip(t, "link set squatter netns "+itoa(other.pid))
	other.ip("link set squatter address 02:00:00:00:00:99 up")
	other.ip("addr add 192.0.2.100/24 dev squatter")
	log, _ := h.serve("--interface=br0", "--dhcp-range=192.0.2.100,192.0.2.110,255.255.255.0,1h", "--dhcp-sequential-ip", "--dhcp-option=option:router")
	n := boot(t, "", time.Minute)
	all := n.up()
	if all[0].Prefix.String() != "192.0.2.101/24" {
		t.Errorf("got %+v\n%s", all, log())
	}
	if c := strings.Count(log(), "DHCPDECLINE(br0) 192.0.2.100"); c != 1 {
		t.Errorf("%d declines:\n%s", c, log())
	}
	want := `eth0 failed SW-NET-CONFLICT interface "eth0": address 192.0.2.100 is in use by 02:00:00:00:00:99; declined, asking again in 10s`
	if !strings.Contains(n.reported(), want) {
		t.Errorf("reported:\n%s", n.reported())
	}
	// Without a router the node still has a default route.
	has(t, "route", "default dev eth0 scope link src 192.0.2.101")
}

// A second server on the link refuses what it did not give; the lease stays.
func TestForeignServerInNamespace(t *testing.T) {
	if !isolated(t) {
		return
	}
	h := segment(t, "eth0")
	_, stop := h.serve("--interface=br0", "--dhcp-range=192.0.2.100,192.0.2.110,255.255.255.0,1h", "--dhcp-option=option:router,192.0.2.1")
	n := boot(t, "", time.Minute)
	a := n.up()[0]
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := client{name: "eth0", timeout: 500 * time.Millisecond, tries: 2}
	lease, err := c.ask(ctx, a.Prefix.Addr())
	if err != nil {
		t.Fatal(err)
	}
	stop()
	foreign := newHost(t)
	h.cable("foreign", "p-foreign")
	h.ip("link set p-foreign master br0 up")
	ip(t, "link set foreign netns "+itoa(foreign.pid))
	foreign.ip("addr add 198.51.100.1/24 dev foreign")
	foreign.ip("link set foreign up")
	log, _ := foreign.serve("--interface=foreign", "--dhcp-range=198.51.100.100,198.51.100.110,255.255.255.0,1h", "--dhcp-authoritative")
	next, err := c.again(ctx, lease, false)
	if next != nil || err == nil {
		t.Errorf("got %v, %v, want silence", next, err)
	}
	if !strings.Contains(log(), "DHCPNAK") {
		t.Errorf("the foreign server did not refuse:\n%s", log())
	}
	has(t, "-o addr show dev eth0", "inet "+a.Prefix.String())
}
