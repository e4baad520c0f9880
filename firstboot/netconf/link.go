package netconf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs"
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
		index := 0
		_, _ = fmt.Sscan(read(at, "ifindex"), &index)
		driver, _ := os.Readlink(filepath.Join(at, "device/driver"))
		out = append(out, NIC{Name: e.Name(), MAC: read(at, "address"), Driver: filepath.Base(driver), Index: index})
	}
	return out, nil
}

func read(dir, name string) string {
	raw, _ := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(raw))
}

// carrier reports whether the interface has a link.
func carrier(name string) bool {
	l, err := netlink.LinkByName(name)
	return err == nil && l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
}

// set gives an interface its MAC, MTU and router advertisements, and turns it on.
func set(name string, e configs.Interface) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %q: %w", name, err)
	}
	if hw, err := net.ParseMAC(string(e.MACAddress)); err == nil && hw.String() != l.Attrs().HardwareAddr.String() {
		_ = netlink.LinkSetDown(l) // most drivers change it only then
		if err := netlink.LinkSetHardwareAddr(l, hw); err != nil {
			return fmt.Errorf("interface %q: macaddress %s: %w", name, hw, err)
		}
	}
	if e.MTU > 0 {
		if err := netlink.LinkSetMTU(l, e.MTU); err != nil {
			return fmt.Errorf("interface %q: mtu %d: %w", name, e.MTU, err)
		}
	}
	if e.AcceptRA != nil {
		// 2: also while the node forwards, as a Kubernetes node does
		// (Documentation/networking/ip-sysctl.rst).
		value := map[bool]string{true: "2", false: "0"}[*e.AcceptRA]
		path := filepath.Join("/proc/sys/net/ipv6/conf", name, "accept_ra")
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			return fmt.Errorf("interface %q: accept-ra: %w", name, err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("interface %q: up: %w", name, err)
	}
	return nil
}

// rename gives an interface a name. One that has the name already makes room:
// two cards may swap theirs.
func rename(index int, to string) error {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return err
	}
	if other, err := netlink.LinkByName(to); err == nil && other.Attrs().Index != index {
		_ = netlink.LinkSetDown(other)
		if err := netlink.LinkSetName(other, fmt.Sprintf("spare%d", other.Attrs().Index)); err != nil {
			return fmt.Errorf("interface %q: making room for a new name: %w", to, err)
		}
	}
	_ = netlink.LinkSetDown(l) // only an interface that is down can be renamed
	if err := netlink.LinkSetName(l, to); err != nil {
		return fmt.Errorf("interface %q: name %q: %w", l.Attrs().Name, to, err)
	}
	return nil
}

// apply sets address and routes. The default route is the caller's.
func apply(a Address) error {
	l, err := netlink.LinkByName(a.Interface)
	if err != nil {
		return fmt.Errorf("interface %q: %w", a.Interface, err)
	}
	if a.MTU > 0 && a.MTU != l.Attrs().MTU {
		if err := netlink.LinkSetMTU(l, a.MTU); err != nil {
			return fmt.Errorf("interface %q: mtu %d: %w", a.Interface, a.MTU, err)
		}
	}
	if err := netlink.AddrReplace(l, &netlink.Addr{IPNet: ipnet(a.Prefix)}); err != nil {
		return fmt.Errorf("interface %q: address %s: %w", a.Interface, a.Prefix, err)
	}
	for _, r := range a.Routes {
		if err := netlink.RouteReplace(route(l, a.Prefix, r)); err != nil {
			to := r.To.String()
			if r.Via.IsValid() {
				to += " via " + r.Via.String()
			}
			return fmt.Errorf("interface %q: route to %s: %w", a.Interface, to, err)
		}
	}
	return nil
}

// route is a configured route as the kernel takes it.
func route(l netlink.Link, p netip.Prefix, r configs.Route) *netlink.Route {
	types := map[string]int{"": unix.RTN_UNICAST, "unicast": unix.RTN_UNICAST, "blackhole": unix.RTN_BLACKHOLE, "local": unix.RTN_LOCAL,
		"unreachable": unix.RTN_UNREACHABLE, "prohibit": unix.RTN_PROHIBIT, "throw": unix.RTN_THROW}
	scopes := map[string]netlink.Scope{"link": netlink.SCOPE_LINK, "host": netlink.SCOPE_HOST}
	out := &netlink.Route{Dst: ipnet(r.To.Prefix), Priority: r.Metric, Protocol: unix.RTPROT_STATIC, Table: r.Table, MTU: r.MTU,
		Type: types[r.Type], Scope: scopes[r.Scope]}
	if r.Type == "" || r.Type == "unicast" || r.Type == "local" {
		out.LinkIndex = l.Attrs().Index
	}
	if r.Via.IsValid() {
		out.Gw = r.Via.AsSlice()
		if out.Flags = onlink(p, r.Via); r.OnLink {
			out.Flags = int(netlink.FLAG_ONLINK)
		}
	}
	if r.From.IsValid() {
		out.Src = r.From.AsSlice()
	}
	return out
}

// onlink lets a gateway outside of the subnet be used, as clouds with /32
// leases want it. A link-local gateway is on the link anyway.
func onlink(p netip.Prefix, gw netip.Addr) int {
	if p.Contains(gw) || gw.IsLinkLocalUnicast() || p.Addr().Is4() != gw.Is4() {
		return 0
	}
	return int(netlink.FLAG_ONLINK)
}

// remove takes away an address and its routes.
func remove(a Address) error {
	l, err := netlink.LinkByName(a.Interface)
	if err != nil {
		return err
	}
	for _, r := range a.Routes {
		_ = netlink.RouteDel(route(l, a.Prefix, r)) // most go with the address
	}
	return netlink.AddrDel(l, &netlink.Addr{IPNet: ipnet(a.Prefix)})
}

// retire takes away the routes of an answer that a later one does not repeat.
func retire(old, now Address) {
	l, err := netlink.LinkByName(old.Interface)
	if err != nil {
		return
	}
	for _, r := range old.Routes {
		if !slices.Contains(now.Routes, r) {
			_ = netlink.RouteDel(route(l, old.Prefix, r))
		}
	}
}

// defaultRoute is the route to everywhere; without a gateway via the interface
// itself, since kubeadm and kubelet find a node's address by that route.
func defaultRoute(a Address) (*netlink.Route, error) {
	l, err := netlink.LinkByName(a.Interface)
	if err != nil {
		return nil, fmt.Errorf("interface %q: %w", a.Interface, err)
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipnet(netip.MustParsePrefix("0.0.0.0/0")), Priority: a.Metric,
		Src: a.Prefix.Addr().AsSlice(), Protocol: unix.RTPROT_STATIC}
	if a.Prefix.Addr().Is6() {
		// A source has to be past duplicate address detection, which takes a second.
		r.Dst, r.Src = ipnet(netip.MustParsePrefix("::/0")), nil
	}
	if a.Gateway.IsValid() {
		r.Gw, r.Flags = a.Gateway.AsSlice(), onlink(a.Prefix, a.Gateway)
	} else {
		r.Scope = netlink.SCOPE_LINK
	}
	return r, nil
}

// duplicate waits for the kernel's own duplicate address detection of an IPv6
// address (RFC 4862, 5.4) and says how it ended; done is false before.
func duplicate(a Address) (done bool, err error) {
	l, err := netlink.LinkByName(a.Interface)
	if err != nil {
		return true, fmt.Errorf("interface %q: %w", a.Interface, err)
	}
	all, err := netlink.AddrList(l, netlink.FAMILY_V6)
	if err != nil {
		return true, fmt.Errorf("interface %q: %w", a.Interface, err)
	}
	for _, x := range all {
		if ip, ok := netip.AddrFromSlice(x.IP); !ok || ip != a.Prefix.Addr() {
			continue
		}
		if x.Flags&unix.IFA_F_DADFAILED != 0 {
			return true, fmt.Errorf("interface %q: address %s is in use by another host", a.Interface, a.Prefix.Addr())
		}
		return x.Flags&unix.IFA_F_TENTATIVE == 0, nil
	}
	return true, errors.New("the address is gone")
}

// advertised is an address that the kernel made from a router's advertisement.
func advertised(nic NIC) (Address, bool) {
	l, err := netlink.LinkByName(nic.Name)
	if err != nil {
		return Address{}, false
	}
	all, _ := netlink.AddrList(l, netlink.FAMILY_V6)
	for _, x := range all {
		ip, ok := netip.AddrFromSlice(x.IP)
		bits, _ := x.Mask.Size()
		if ok && ip.IsGlobalUnicast() && x.Flags&(unix.IFA_F_PERMANENT|unix.IFA_F_TENTATIVE) == 0 {
			return Address{Interface: nic.Name, MAC: nic.MAC, Prefix: netip.PrefixFrom(ip, bits)}, true
		}
	}
	return Address{}, false
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
