package apply

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
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

// Host writes hostname, hosts, machine-id and iSCSI's name of the node below root/etc.
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
	id, err := read(root, "etc/machine-id")
	if err != nil {
		return err
	}
	if id = strings.TrimSpace(id); len(id) != 32 {
		raw := make([]byte, 16)
		_, _ = rand.Read(raw) // never fails (crypto/rand)
		id = hex.EncodeToString(raw)
		if err := write(root, "etc/machine-id", id+"\n", 0o444); err != nil {
			return err
		}
	}
	return initiator(root, id)
}

// initiator names the node to iSCSI targets, as open-iscsi's postinst does once
// per machine. Two nodes of one name end each other's sessions, so it is made
// of machine-id (not the id itself: machine-id(5)). A name of user-data stays.
func initiator(root, id string) error {
	const name = "etc/iscsi/initiatorname.iscsi"
	if p, err := resolve(root, filepath.Dir(name)); err != nil {
		return err
	} else if _, err := os.Stat(p); err != nil {
		return nil //nolint:nilerr // no open-iscsi in the bundle
	}
	if old, err := read(root, name); err != nil || strings.Contains("\n"+old, "\nInitiatorName=") {
		return err
	}
	sum := sha256.Sum256([]byte("iscsi " + id))
	return write(root, name, fmt.Sprintf("InitiatorName=iqn.1993-08.org.debian:01:%x\n", sum[:6]), 0o600)
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
