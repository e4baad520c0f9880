package apply

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"slipway.dev/slipway/configs"
)

// sshDir and the file in it that main sshd_config includes first: the first
// value of a keyword is the one that counts (sshd_config(5)).
const (
	sshDir  = "etc/ssh"
	sshConf = sshDir + "/sshd_config.d/50-slipway.conf"
)

// sshServer puts host keys and the settings of sshd in place. Keys that were
// given replace all others; without any, those that are missing are made.
func sshServer(root string, s configs.SSHServer) error {
	given := s.SSHKeys.List()
	if s.SSHDeleteKeys == nil || *s.SSHDeleteKeys {
		old, _ := filepath.Glob(filepath.Join(root, sshDir, "ssh_host_*key*"))
		for _, f := range old {
			if err := os.Remove(f); err != nil {
				return err
			}
		}
	}
	var conf strings.Builder
	if s.SSHPwAuth == "true" || s.SSHPwAuth == "false" {
		fmt.Fprintf(&conf, "PasswordAuthentication %s\n", map[configs.PwAuth]string{"true": "yes", "false": "no"}[s.SSHPwAuth])
	}
	var types []string
	for _, k := range given {
		name := "/etc/ssh/ssh_host_" + k.Type + "_key"
		if err := giveKey(root, name, k); err != nil {
			return fmt.Errorf("ssh_keys: %s: %w", k.Type, err)
		}
		types = append(types, k.Type)
		if k.Certificate != "" {
			fmt.Fprintf(&conf, "HostCertificate %s-cert.pub\n", name)
		}
	}
	if len(given) == 0 {
		if types = s.SSHGenKeyTypes; len(types) == 0 {
			types = []string{"ed25519"}
		}
		for _, t := range types {
			if err := hostKey(root, "/etc/ssh/ssh_host_"+t+"_key", t); err != nil {
				return err
			}
		}
	}
	if len(types) != 1 || types[0] != "ed25519" { // the main file names that one alone
		for _, t := range types {
			fmt.Fprintf(&conf, "HostKey /etc/ssh/ssh_host_%s_key\n", t)
		}
	}
	if conf.Len() == 0 {
		return nil
	}
	return write(root, sshConf, conf.String(), 0o600)
}

func giveKey(root, name string, k configs.HostKey) error {
	public := strings.TrimSpace(k.Public)
	signer, err := ssh.ParsePrivateKey([]byte(k.Private))
	if err != nil {
		return err
	}
	derived := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	if public == "" {
		public = derived
	}
	if got, want := strings.Fields(public), strings.Fields(derived); len(got) < 2 || got[1] != want[1] {
		return fmt.Errorf("the public key is not that of the private one")
	}
	if err := write(root, name, strings.TrimSpace(k.Private)+"\n", 0o600); err != nil {
		return err
	}
	if k.Certificate != "" {
		if err := write(root, name+"-cert.pub", strings.TrimSpace(k.Certificate)+"\n", 0o644); err != nil {
			return err
		}
	}
	return write(root, name+".pub", public+"\n", 0o644)
}

// hostKey makes a host key of a type unless there is one.
func hostKey(root, name, kind string) error {
	if text, err := read(root, name); err != nil || text != "" {
		return err
	}
	var key crypto.Signer
	var err error
	switch kind {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, 3072) // ssh-keygen(1)'s default
	default:
		err = fmt.Errorf("no such type")
	}
	if err != nil {
		return fmt.Errorf("host key %s: %w", kind, err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return fmt.Errorf("host key %s: %w", kind, err)
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("host key %s: %w", kind, err)
	}
	if err := write(root, name, string(pem.EncodeToMemory(block)), 0o600); err != nil {
		return err
	}
	return write(root, name+".pub", string(ssh.MarshalAuthorizedKey(public)), 0o644)
}

// HostKeys are the fingerprints of sshd's host keys ("SHA256:..."), as
// ssh-keygen -l prints them, sorted by file name.
func HostKeys(root string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(root, sshDir, "ssh_host_*_key.pub"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		out = append(out, ssh.FingerprintSHA256(key))
	}
	return out, nil
}
