package netconf

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"slipway.dev/slipway/configs"
)

// NIC is a network interface with hardware behind it.
type NIC struct {
	Name   string // "eth0"
	MAC    string // lower case with colons
	Driver string // "virtio_net"
	Index  int    // the kernel's, which outlives a change of name
}

func (n NIC) String() string { return n.Name + " (" + n.MAC + ")" }

// Assign says which entry of the network config's ethernets each interface is,
// by the interface's name. Without a config every interface is its own entry.
// missing names the entries that no interface fits yet; an entry with fixed
// addresses that two fit, or an interface that two entries want, is an error.
func Assign(n *configs.Network, nics []NIC) (got map[string]string, missing []string, err error) {
	got = map[string]string{}
	if n == nil {
		for _, c := range nics {
			got[c.Name] = c.Name
		}
		return got, nil, nil
	}
	for _, key := range slices.Sorted(maps.Keys(n.Ethernets)) {
		e := n.Ethernets[key]
		found := 0
		for _, c := range nics {
			if !fits(key, e, c) {
				continue
			}
			if other, ok := got[c.Name]; ok {
				return nil, nil, fmt.Errorf("interface %s: both %q and %q of the network config match it", c, other, key)
			}
			if found++; found > 1 && len(e.Addresses) > 0 {
				return nil, nil, fmt.Errorf("network config %q: several interfaces match it and it has fixed addresses", key)
			}
			if found > 1 && e.SetName != "" {
				return nil, nil, fmt.Errorf("network config %q: several interfaces match it and it has set-name %q", key, e.SetName)
			}
			got[c.Name] = key
		}
		if found == 0 && key != "lo" {
			missing = append(missing, key)
		}
	}
	return got, missing, nil
}

func fits(key string, e configs.Ethernet, c NIC) bool {
	m := e.Match
	if m.MACAddress == "" && m.Name == "" && len(m.Driver) == 0 {
		return key == c.Name
	}
	if m.MACAddress != "" && !strings.EqualFold(string(m.MACAddress), c.MAC) {
		return false
	}
	// A name that slipway gave counts too.
	if m.Name != "" && !matches(m.Name, c.Name) && e.SetName != c.Name {
		return false
	}
	if len(m.Driver) > 0 && !slices.ContainsFunc(m.Driver, func(d string) bool { return matches(d, c.Driver) }) {
		return false
	}
	return true
}

func matches(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return err == nil && ok
}
