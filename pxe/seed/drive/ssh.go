package drive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

var (
	errUnknown = errors.New("the seed knows no SSH host key of it")
	errOther   = errors.New("another host key than the node told the seed")
)

// dial logs in; ctx bounds the connection's making, not its life.
func (d *Driver) dial(ctx context.Context, n Node) (*ssh.Client, error) {
	c, err := d.connect(ctx, n)
	if err != nil {
		return nil, &Error{Node: n.Name, Err: err, hint: hint(n, err)}
	}
	return c, nil
}

func (d *Driver) connect(ctx context.Context, n Node) (*ssh.Client, error) {
	if len(n.HostKeys) == 0 {
		return nil, errUnknown
	}
	if !n.Address.IsValid() {
		return nil, errors.New("its address is not known")
	}
	signers, err := d.Keys()
	if err != nil {
		return nil, err
	}
	conf := &ssh.ClientConfig{User: cmp.Or(d.User, "root"), Auth: []ssh.AuthMethod{ssh.PublicKeys(signers...)}, HostKeyCallback: pinned(n),
		// No certificates: they would vouch for a key that the node has not told.
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}}
	limit, cancel := context.WithTimeout(ctx, cmp.Or(d.Patience, 10*time.Second))
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(limit, "tcp", n.Address.String())
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(limit, func() { conn.Close() })
	inner, channels, requests, err := ssh.NewClientConn(conn, n.Address.String(), conf)
	if !stop() {
		err = cmp.Or(err, limit.Err())
	}
	if err != nil {
		conn.Close()
		if limit.Err() != nil && !errors.Is(err, errOther) {
			return nil, fmt.Errorf("ssh to %s: %w", n.Address, limit.Err())
		}
		return nil, fmt.Errorf("ssh to %s: %w", n.Address, err)
	}
	return ssh.NewClient(inner, channels, requests), nil
}

// pinned accepts the keys that the node told over its enrolled channel.
func pinned(n Node) ssh.HostKeyCallback {
	return func(_ string, _ net.Addr, key ssh.PublicKey) error {
		if got := ssh.FingerprintSHA256(key); !slices.Contains(n.HostKeys, got) {
			return fmt.Errorf("%w: got %s, want %s", errOther, got, strings.Join(n.HostKeys, " or "))
		}
		return nil
	}
}

func hint(n Node, err error) string {
	switch {
	case errors.Is(err, errUnknown):
		return "a node tells its host key when its sshd starts: is openssh-server in the bundle, and did the node come so far?"
	case errors.Is(err, errOther):
		return fmt.Sprintf("the node was set up anew without the seed, or another machine answers at %s: compare on its console before you log in", n.Address.Addr())
	case strings.Contains(err.Error(), "unable to authenticate"): // golang.org/x/crypto/ssh has no type for it
		return "the node takes the keys of access.sshAuthorizedKeys in cluster.yaml: add the matching one to your agent or name it with --identity FILE"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "no sshd runs there: is openssh-server in the bundle, and does cluster.yaml have a key under access.sshAuthorizedKeys?"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "is the machine on, and does this one have an address in its network?"
	}
	return ""
}

// Agent takes the operator's keys from his ssh-agent, asked through a unix
// socket for each login.
func Agent(socket string) Keys {
	return func() ([]ssh.Signer, error) {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return nil, fmt.Errorf("ssh-agent: %w", err)
		}
		defer conn.Close()
		keys, err := agent.NewClient(conn).List()
		if err != nil {
			return nil, fmt.Errorf("ssh-agent: %w", err)
		}
		if len(keys) == 0 {
			return nil, errors.New("ssh-agent holds no key: ssh-add one, or name a file with --identity")
		}
		out := make([]ssh.Signer, len(keys))
		for i, k := range keys {
			out[i] = &remote{socket: socket, key: k}
		}
		return out, nil
	}
}

// Identity takes a key from a file that is not encrypted.
func Identity(file string) Keys {
	return func() ([]ssh.Signer, error) {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		s, err := ssh.ParsePrivateKey(raw)
		var locked *ssh.PassphraseMissingError
		if errors.As(err, &locked) {
			return nil, fmt.Errorf("%s is encrypted: run `ssh-add %s` and ask again without --identity", file, file)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return []ssh.Signer{s}, nil
	}
}

// Home takes the keys that ssh(1) would take from a home directory.
func Home(dir string) Keys {
	return func() ([]ssh.Signer, error) {
		var out []ssh.Signer
		var problems error
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			s, err := Identity(filepath.Join(dir, ".ssh", name))()
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				problems = errors.Join(problems, err)
			}
			out = append(out, s...)
		}
		if len(out) == 0 && problems == nil {
			problems = fmt.Errorf("no ssh-agent and no key in %s: name one with --identity FILE", filepath.Join(dir, ".ssh"))
		}
		if len(out) > 0 {
			return out, nil
		}
		return nil, problems
	}
}
