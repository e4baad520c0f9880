package netconf

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs"
)

// create makes an interface of a kind whose driver may be a module, unless one
// of that name and kind is there.
func create(l netlink.Link, module string, load func(string) error) error {
	name := l.Attrs().Name
	if old, err := netlink.LinkByName(name); err == nil {
		if old.Type() != l.Type() {
			return fmt.Errorf("%s %q: the name is taken by a %s", l.Type(), name, old.Type())
		}
		return nil
	}
	if err := load(module); err != nil {
		return fmt.Errorf("%s %q: %w", l.Type(), name, err)
	}
	if err := netlink.LinkAdd(l); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%s %q: %w", l.Type(), name, err)
	}
	return nil
}

// bond translates a bond's parameters to the driver's (include/uapi/linux/if_bonding.h).
func bond(name string, p configs.BondParameters) *netlink.Bond {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	b := netlink.NewLinkBond(attrs)
	b.Mode = netlink.StringToBondModeMap[p.Mode] // "" is balance-rr, 0
	choose(&b.XmitHashPolicy, p.Hash, netlink.StringToBondXmitHashPolicyMap)
	choose(&b.LacpRate, p.LACP, netlink.StringToBondLacpRateMap)
	choose(&b.AdSelect, p.Select, netlink.StringToBondAdSelectMap)
	choose(&b.ArpValidate, p.ARPValidate, netlink.StringToBondArpValidateMap)
	choose(&b.ArpAllTargets, p.ARPAll, netlink.StringToBondArpAllTargetsMap)
	choose(&b.PrimaryReselect, p.PrimaryReselect, netlink.StringToBondPrimaryReselectMap)
	choose(&b.FailOverMac, p.FailOverMAC, netlink.StringToBondFailOverMacMap)
	watch := p.MIIMonitor
	if watch == 0 && p.ARPInterval == 0 {
		watch = configs.Milliseconds(100 * time.Millisecond)
	}
	for to, d := range map[*int]configs.Milliseconds{&b.Miimon: watch, &b.UpDelay: p.UpDelay, &b.DownDelay: p.DownDelay, &b.ArpInterval: p.ARPInterval} {
		if d > 0 {
			*to = int(time.Duration(d).Milliseconds())
		}
	}
	for to, n := range map[*int]int{&b.MinLinks: p.MinUp, &b.NumPeerNotif: p.GratuitousARP, &b.LpInterval: int(time.Duration(p.LearnInterval).Seconds())} {
		if n > 0 {
			*to = n
		}
	}
	for to, n := range map[*int]*int{&b.ResendIgmp: p.ResendIGMP, &b.PacketsPerSlave: p.PacketsPer} {
		if n != nil {
			*to = *n
		}
	}
	if p.AllActive {
		b.AllSlavesActive = 1
	}
	for _, ip := range p.ARPTargets {
		b.ArpIpTargets = append(b.ArpIpTargets, net.IP(ip.AsSlice()))
	}
	return b
}

func choose[T any](to *T, word string, words map[string]T) {
	if v, ok := words[word]; ok {
		*to = v
	}
}

// enslave puts an interface into a bond. The bond takes only what is down, and
// turns it on itself.
func enslave(index int, to string) error {
	master, err := netlink.LinkByName(to)
	if err != nil {
		return fmt.Errorf("bond %q: %w", to, err)
	}
	l, err := netlink.LinkByIndex(index)
	if err != nil || l.Attrs().MasterIndex == master.Attrs().Index {
		return err
	}
	if err := netlink.LinkSetDown(l); err != nil {
		return fmt.Errorf("bond %q: interface %q: down: %w", to, l.Attrs().Name, err)
	}
	if err := netlink.LinkSetMaster(l, master); err != nil {
		return fmt.Errorf("bond %q: taking interface %q: %w", to, l.Attrs().Name, err)
	}
	return nil
}

// prefer makes an interface that is in a bond its primary.
func prefer(index int, name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	b := netlink.NewLinkBond(attrs)
	b.Primary = index
	if err := netlink.LinkModify(b); err != nil {
		return fmt.Errorf("bond %q: primary: %w", name, err)
	}
	return nil
}

func vlan(name string, id, link int) *netlink.Vlan {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = name, link
	return &netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
}

func bridge(name string) *netlink.Bridge {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return &netlink.Bridge{LinkAttrs: attrs}
}

// centi is a time as bridges take it: in hundredths of a second (USER_HZ).
func centi[T ~int64](d T) []byte {
	return nl.Uint32Attr(uint32(time.Duration(d) / (10 * time.Millisecond)))
}

// tune sets a bridge's parameters (IFLA_BR_*, include/uapi/linux/if_link.h).
// Without stp, a port forwards at once; netplan's default is with it.
func tune(name string, p configs.BridgeParameters) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("bridge %q: %w", name, err)
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	if p.ForwardDelay != nil {
		data.AddRtAttr(nl.IFLA_BR_FORWARD_DELAY, centi(*p.ForwardDelay))
	}
	if p.HelloTime > 0 {
		data.AddRtAttr(nl.IFLA_BR_HELLO_TIME, centi(p.HelloTime))
	}
	if p.MaxAge > 0 {
		data.AddRtAttr(nl.IFLA_BR_MAX_AGE, centi(p.MaxAge))
	}
	if p.AgeingTime != nil {
		data.AddRtAttr(nl.IFLA_BR_AGEING_TIME, centi(*p.AgeingTime))
	}
	if p.Priority != nil {
		data.AddRtAttr(nl.IFLA_BR_PRIORITY, nl.Uint16Attr(uint16(*p.Priority)))
	}
	stp := uint32(1)
	if p.STP != nil && !*p.STP {
		stp = 0
	}
	data.AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(stp))
	if err := change(unix.RTM_NEWLINK, unix.AF_UNSPEC, l.Attrs().Index, info); err != nil {
		return fmt.Errorf("bridge %q: parameters: %w", name, err)
	}
	return nil
}

// plug puts an interface into a bridge and turns it on.
func plug(index int, member, to string, p configs.BridgeParameters) error {
	master, err := netlink.LinkByName(to)
	if err != nil {
		return fmt.Errorf("bridge %q: %w", to, err)
	}
	l, err := netlink.LinkByIndex(index)
	if err != nil || l.Attrs().MasterIndex == master.Attrs().Index {
		return err
	}
	if err := netlink.LinkSetMaster(l, master); err != nil {
		return fmt.Errorf("bridge %q: taking interface %q: %w", to, l.Attrs().Name, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("bridge %q: interface %q: up: %w", to, l.Attrs().Name, err)
	}
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	cost, hasCost := p.PathCost[member]
	if hasCost {
		port.AddRtAttr(nl.IFLA_BRPORT_COST, nl.Uint32Attr(uint32(cost)))
	}
	priority, hasPriority := p.PortPriority[member]
	if hasPriority {
		port.AddRtAttr(nl.IFLA_BRPORT_PRIORITY, nl.Uint16Attr(uint16(priority)))
	}
	if !hasCost && !hasPriority {
		return nil
	}
	if err := change(unix.RTM_SETLINK, unix.AF_BRIDGE, index, port); err != nil {
		return fmt.Errorf("bridge %q: interface %q: cost and priority: %w", to, l.Attrs().Name, err)
	}
	return nil
}

// change sends one attribute of an interface.
func change(message, family, index int, attr *nl.RtAttr) error {
	req := nl.NewNetlinkRequest(message, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(family)
	msg.Index = int32(index)
	req.AddData(msg)
	req.AddData(attr)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// build makes the bonds, VLANs and bridges that can be made by now, each after
// what it stands on, and starts those that are new.
func (m *Manager) build(ready func(entry, name string, e configs.Interface)) {
	w := m.o.Want
	for _, id := range slices.Sorted(maps.Keys(w.Bonds)) {
		m.done(id, m.bond(id, w.Bonds[id]), w.Bonds[id].Interface, ready)
	}
	for range 2 { // a VLAN of a bridge of VLANs
		for _, id := range slices.Sorted(maps.Keys(w.VLANs)) {
			v := w.VLANs[id]
			if at := m.indexes(v.Link); len(at) > 0 {
				m.done(id, create(vlan(id, *v.ID, at[0]), "8021q", m.o.Load), v.Interface, ready)
			} else {
				m.wait(id, fmt.Sprintf("%q is not there", v.Link))
			}
		}
		for _, id := range slices.Sorted(maps.Keys(w.Bridges)) {
			m.done(id, m.bridge(id, w.Bridges[id]), w.Bridges[id].Interface, ready)
		}
	}
}

// done starts an interface that was made, or says why it was not.
func (m *Manager) done(id string, err error, e configs.Interface, ready func(entry, name string, e configs.Interface)) {
	if err != nil {
		m.fault(id, id, "SW-NET-DEVICE", "correct the entry in network-config; the node tries again", err)
		return
	}
	if !m.member(id) {
		ready(id, id, e)
	}
}

func (m *Manager) bond(id string, b configs.Bond) error {
	_, err := netlink.LinkByName(id)
	isNew := err != nil
	if err := create(bond(id, b.Parameters), "bonding", m.o.Load); err != nil {
		return err
	}
	if isNew && b.MACAddress != "" { // before members: they take it over
		if err := set(id, configs.Interface{MACAddress: b.MACAddress}); err != nil {
			return err
		}
	}
	for _, member := range b.Members {
		for _, index := range m.indexes(member) {
			l, err := netlink.LinkByIndex(index)
			if err == nil && l.Attrs().MasterIndex != 0 {
				continue
			}
			if err := enslave(index, id); err != nil {
				return err
			}
			if member == b.Parameters.Primary {
				if err := prefer(index, id); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (m *Manager) bridge(id string, b configs.Bridge) error {
	_, err := netlink.LinkByName(id)
	isNew := err != nil
	if err := create(bridge(id), "bridge", m.o.Load); err != nil {
		return err
	}
	if isNew {
		if err := tune(id, b.Parameters); err != nil {
			return err
		}
	}
	for _, member := range b.Members {
		for _, index := range m.indexes(member) {
			if err := plug(index, member, id, b.Parameters); err != nil {
				return err
			}
		}
	}
	return nil
}

// indexes are the interfaces of an entry, as the kernel counts them.
func (m *Manager) indexes(entry string) (all []int) {
	if _, ok := m.o.Want.Ethernets[entry]; ok {
		for index, key := range m.entries {
			if key == entry {
				all = append(all, index)
			}
		}
		slices.Sort(all)
		return all
	}
	if l, err := netlink.LinkByName(entry); err == nil {
		return []int{l.Attrs().Index}
	}
	return nil
}

// member reports whether an entry is in a bond or a bridge.
func (m *Manager) member(entry string) bool {
	for _, b := range m.o.Want.Bonds {
		if slices.Contains(b.Members, entry) {
			return true
		}
	}
	for _, b := range m.o.Want.Bridges {
		if slices.Contains(b.Members, entry) {
			return true
		}
	}
	return false
}
