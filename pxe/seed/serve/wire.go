package serve

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"slipway.dev/slipway/pxe"
)

// Wire is the interface that a seed serves and its address there.
type Wire struct {
	Name string
	MAC  pxe.MAC
	Addr netip.Prefix
}

// HintedError is an error with the next step.
type HintedError struct {
	Err  error
	Next string
}

func (e *HintedError) Error() string { return e.Err.Error() }
func (e *HintedError) Unwrap() error { return e.Err }

// Hint is the next step for the operator.
func (e *HintedError) Hint() string { return e.Next }

func hinted(next, format string, args ...any) error {
	return &HintedError{fmt.Errorf(format, args...), next}
}

// FindWire takes the interface of that name, or the only one that could be
// meant: Ethernet, up, with one IPv4 address. Among several nothing is guessed.
func FindWire(name string) (Wire, error) {
	if name != "" {
		dev, err := net.InterfaceByName(name)
		if err != nil {
			return Wire{}, hinted("interfaces here: "+strings.Join(ethernet(), ", "), "interface %q: %w", name, err)
		}
		return wireOf(*dev)
	}
	all, err := net.Interfaces()
	if err != nil {
		return Wire{}, err
	}
	var found []Wire
	for _, dev := range all {
		if dev.Flags&net.FlagUp == 0 {
			continue
		}
		if w, err := wireOf(dev); err == nil {
			found = append(found, w)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Wire{}, hinted("plug in the cable and give the interface an address, for instance: ip address add 192.168.50.1/24 dev NAME",
			"no Ethernet interface is up and has an IPv4 address (interfaces: %s)", strings.Join(ethernet(), ", "))
	}
	var names []string
	for _, w := range found {
		names = append(names, fmt.Sprintf("%s (%s)", w.Name, w.Addr))
	}
	return Wire{}, hinted("say which one the machines are on: --interface NAME", "several interfaces could be meant: %s", strings.Join(names, ", "))
}

// ethernet lists the names of Ethernet interfaces.
func ethernet() []string {
	var out []string
	all, _ := net.Interfaces()
	for _, dev := range all {
		if len(dev.HardwareAddr) == 6 && dev.Flags&net.FlagLoopback == 0 {
			out = append(out, dev.Name)
		}
	}
	if out == nil {
		return []string{"none"}
	}
	return out
}

func wireOf(dev net.Interface) (Wire, error) {
	if len(dev.HardwareAddr) != 6 || dev.Flags&net.FlagLoopback != 0 {
		return Wire{}, hinted("interfaces here: "+strings.Join(ethernet(), ", "), "interface %q is not Ethernet", dev.Name)
	}
	addrs, err := dev.Addrs()
	if err != nil {
		return Wire{}, fmt.Errorf("interface %q: %w", dev.Name, err)
	}
	w := Wire{Name: dev.Name, MAC: pxe.MAC(dev.HardwareAddr)}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().Is4() || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		if w.Addr.IsValid() {
			return Wire{}, hinted("leave one of them, the one on the machines' network", "interface %q has several addresses: %s and %s", dev.Name, w.Addr, p)
		}
		w.Addr = p
	}
	if !w.Addr.IsValid() {
		return Wire{}, hinted("give it one, for instance: ip address add 192.168.50.1/24 dev "+dev.Name, "interface %q has no IPv4 address", dev.Name)
	}
	return w, nil
}
