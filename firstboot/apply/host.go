package apply

import (
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"strings"

	"slipway.dev/slipway/configs"
)

// Names is how a node is called.
type Names struct {
	Hostname string     // the first part of the name, and the node's in the cluster
	Address  netip.Addr // of the card with the default route
	configs.Identity
}

// System is what the machine calls itself: the first part of its name, or all
// of it with prefer_fqdn_over_hostname.
func (n Names) System() string {
	if n.PreferFQDN && n.FQDN != "" {
		return n.FQDN
	}
	return n.Hostname
}

// Host writes hostname, hosts and machine-id below root/etc.
func Host(root string, n Names) error {
	old, err := read(root, "etc/hostname")
	if err != nil {
		return err
	}
	kept := n.PreserveHostname && strings.TrimSpace(old) != ""
	if !kept && (n.CreateHostnameFile == nil || *n.CreateHostnameFile) {
		if err := write(root, "etc/hostname", n.System()+"\n", 0o644); err != nil {
			return err
		}
	}
	if err := write(root, "etc/hosts", hosts(n), 0o644); err != nil {
		return err
	}
	if id, err := read(root, "etc/machine-id"); err != nil || len(strings.TrimSpace(id)) == 32 {
		return err
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	return write(root, "etc/machine-id", hex.EncodeToString(id)+"\n", 0o444)
}

// hosts renders hosts(5). A node has to find its own name without a DNS server.
func hosts(n Names) string {
	all := n.Hostname
	if n.FQDN != "" && n.FQDN != n.Hostname {
		all = n.FQDN + " " + n.Hostname
	}
	s := "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n"
	if n.ManageEtcHosts == "localhost" || !n.Address.IsValid() { // cloud-init's manage_etc_hosts: localhost
		return s + "127.0.1.1 " + all + "\n"
	}
	return s + n.Address.String() + " " + all + "\n"
}
