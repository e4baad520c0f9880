package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe"
	"slipway.dev/slipway/pxe/seed"
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

// wireEvery is how often the seed looks at its interface.
const wireEvery = 3 * time.Second

// watchWire tells when the interface is not what it was when the servers' ports
// were opened. They stay open: what comes back is served at once.
func (s *Server) watchWire(ctx context.Context) error {
	index, tick := 0, time.NewTicker(wireEvery)
	defer tick.Stop()
	if dev, err := net.InterfaceByName(s.o.Wire.Name); err == nil {
		index = dev.Index
	}
	for {
		dev, err := net.InterfaceByName(s.o.Wire.Name)
		var addrs []net.Addr
		if err == nil {
			addrs, err = dev.Addrs()
		}
		s.setFault(wireFault(s.o.Wire, index, dev, addrs, err))
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Server) setFault(v *seed.Verdict) {
	s.mu.Lock()
	was := s.fault
	s.fault = v
	s.mu.Unlock()
	switch {
	case v != nil && (was == nil || was.Text != v.Text):
		s.o.Seed.Record(seed.Step{Stage: seed.StageSeed, State: string(handoff.Failed), Code: v.Code, Text: v.Text, Hint: v.Hint})
	case v == nil && was != nil:
		s.o.Seed.Record(seed.Step{Stage: seed.StageSeed, State: string(handoff.Done), Text: fmt.Sprintf("interface %s is back, %s", s.o.Wire.Name, s.o.Wire.Addr)})
	}
}

// wireFault says why nobody on the wire can be served; nil while all is well.
func wireFault(w Wire, index int, dev *net.Interface, addrs []net.Addr, err error) *seed.Verdict {
	fault := func(text, hint string) *seed.Verdict {
		return &seed.Verdict{Code: "SW-SEED-WIRE", Text: fmt.Sprintf("interface %q ", w.Name) + text, Hint: hint}
	}
	if err != nil {
		return fault("cannot be read: "+err.Error(), "plug the card in again and start the seed again; what it knows is kept")
	}
	var names []string
	for _, a := range addrs {
		names = append(names, a.String())
	}
	switch {
	case dev.Index != index: // the sockets are bound to the one that went
		return fault("is another device now", "start the seed again; what it knows is kept")
	case dev.Flags&net.FlagUp == 0:
		return fault("is down", "ip link set "+w.Name+" up")
	case dev.Flags&net.FlagRunning == 0:
		return fault("has no link", "check its cable and the switch port")
	case !slices.Contains(names, w.Addr.String()):
		return fault(fmt.Sprintf("has lost the address %s, which machines know the seed by (it has: %s)", w.Addr, strings.Join(names, ", ")),
			fmt.Sprintf("give it back: ip address add %s dev %s; or start the seed again, for the new address", w.Addr, w.Name))
	}
	return nil
}

// busy explains a port that cannot be opened, and names the program that has it.
func busy(what string, err error) error {
	proto, port := "", 0
	if op, ok := errors.AsType[*net.OpError](err); ok {
		switch a := op.Addr.(type) {
		case *net.TCPAddr:
			proto, port = "tcp", a.Port
		case *net.UDPAddr:
			proto, port = "udp", a.Port
		}
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		who := holder(proto, port)
		if who == "" {
			return hinted(fmt.Sprintf("end the program that has it: ss -lnp 'sport = :%d', or lsof -i :%d, names it", port, port), "%s: port %d: %w", what, port, err)
		}
		return hinted("end it, or have it bind to its own interface alone (dnsmasq: bind-dynamic)", "%s: port %d is in use by %s: %w", what, port, who, err)
	case errors.Is(err, fs.ErrPermission):
		return hinted("run it as root: ports below 1024 are not everybody's", "%s: port %d: %w", what, port, err)
	}
	return hinted("look at the interface and at what else runs here", "%s: port %d: %w", what, port, err)
}
