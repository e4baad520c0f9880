package apply

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"slipway.dev/slipway/configs"
)

// Names is how a node is called.
type Names struct {
	Hostname, FQDN string
	Address        netip.Addr
	Hosts          configs.HostsMode
}

// Host writes hostname, hosts and machine-id below root/etc.
func Host(root string, n Names) error {
	if err := write(root, "etc/hostname", n.Hostname+"\n", 0o644); err != nil {
		return err
	}
	if err := write(root, "etc/hosts", hosts(n), 0o644); err != nil {
		return err
	}
	old, err := os.ReadFile(filepath.Join(root, "etc/machine-id"))
	if err == nil && len(strings.TrimSpace(string(old))) == 32 {
		return nil
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
	if n.Hosts == "localhost" || !n.Address.IsValid() { // cloud-init's manage_etc_hosts: localhost
		return s + "127.0.1.1 " + all + "\n"
	}
	return s + n.Address.String() + " " + all + "\n"
}

// HostKey makes an ed25519 host key for sshd unless there is one.
func HostKey(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return fmt.Errorf("host key: %w", err)
	}
	sp, err := ssh.NewPublicKey(pub)
	if err != nil {
		return fmt.Errorf("host key: %w", err)
	}
	if err := os.WriteFile(path+".pub", ssh.MarshalAuthorizedKey(sp), 0o644); err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
}

// write replaces root/name. What was a symlink becomes a file.
func write(root, name, content string, mode os.FileMode) error {
	p := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(p, []byte(content), mode); err != nil {
		return err
	}
	return os.Chmod(p, mode)
}
