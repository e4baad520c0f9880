package netconf

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NICs lists the Ethernet interfaces that have hardware behind them, below sys (/sys).
func NICs(sys string) ([]NIC, error) {
	dir := filepath.Join(sys, "class/net")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []NIC
	for _, e := range entries {
		at := filepath.Join(dir, e.Name())
		if _, err := os.Stat(filepath.Join(at, "device")); err != nil {
			continue // loopback, bridges, veth
		}
		if read(at, "type") != "1" { // ARPHRD_ETHER
			continue
		}
		driver, _ := os.Readlink(filepath.Join(at, "device/driver"))
		out = append(out, NIC{Name: e.Name(), MAC: read(at, "address"), Driver: filepath.Base(driver)})
	}
	return out, nil
}

func read(dir, name string) string {
	raw, _ := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(raw))
}

// carrier reports whether the interface has a link.
func carrier(name string) bool { return read(filepath.Join("/sys/class/net", name), "carrier") == "1" }

func up(name string, mtu int) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %q: %w", name, err)
	}
	if mtu > 0 {
		if err := netlink.LinkSetMTU(l, mtu); err != nil {
			return fmt.Errorf("interface %q: mtu %d: %w", name, mtu, err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("interface %q: up: %w", name, err)
	}
	return nil
}

func rename(from, to string) error {
	l, err := netlink.LinkByName(from)
	if err != nil {
		return err
	}
	_ = netlink.LinkSetDown(l) // only an interface that is down can be renamed
	if err := netlink.LinkSetName(l, to); err != nil {
		return fmt.Errorf("interface %q: name %q: %w", from, to, err)
	}
	return nil
}

// apply sets address and routes. The default route is the caller's.
func apply(a Address) error {
	l, err := netlink.LinkByName(a.Interface)
	if err != nil {
		return fmt.Errorf("interface %q: %w", a.Interface, err)
	}
	if err := netlink.AddrReplace(l, &netlink.Addr{IPNet: ipnet(a.Prefix)}); err != nil {
		return fmt.Errorf("interface %q: address %s: %w", a.Interface, a.Prefix, err)
	}
	for _, r := range a.Routes {
		rt := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipnet(r.To.Prefix), Priority: r.Metric, Protocol: unix.RTPROT_STATIC}
		if r.Via.IsValid() {
			rt.Gw = r.Via.AsSlice()
			rt.Flags = onlink(a.Prefix, r.Via)
		}
		if err := netlink.RouteReplace(rt); err != nil {
			return fmt.Errorf("interface %q: route to %s via %s: %w", a.Interface, r.To, r.Via, err)
		}
	}
	return nil
}

// onlink lets a gateway outside of the subnet be used, as clouds with /32 leases want it.
func onlink(p netip.Prefix, gw netip.Addr) int {
	if p.Contains(gw) {
		return 0
	}
	return int(netlink.FLAG_ONLINK)
}

func remove(a Address) error {
	l, err := netlink.LinkByName(a.Interface)
	if err != nil {
		return err
	}
	return netlink.AddrDel(l, &netlink.Addr{IPNet: ipnet(a.Prefix)})
}

// defaultRoute installs the route to everywhere; without a gateway via the
// interface, since kubeadm and kubelet find a node's address by that route.
func defaultRoute(a Address) error {
	l, err := netlink.LinkByName(a.Interface)
	if err != nil {
		return fmt.Errorf("interface %q: %w", a.Interface, err)
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipnet(netip.MustParsePrefix("0.0.0.0/0")), Src: a.Prefix.Addr().AsSlice()}
	if a.Prefix.Addr().Is6() {
		r.Dst = ipnet(netip.MustParsePrefix("::/0"))
	}
	if a.Gateway.IsValid() {
		r.Gw, r.Flags = a.Gateway.AsSlice(), onlink(a.Prefix, a.Gateway)
	} else {
		r.Scope = netlink.SCOPE_LINK
	}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("interface %q: default route: %w", a.Interface, err)
	}
	return nil
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
