package drive

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// slipway stands in for the node's own, with a secret in what it says.
const slipway = `#!/bin/sh
case "$*" in
status) echo "kernel    done     1.5 s  Linux 6.12"; echo "password: hunter2" ;;
"events -o json") echo '{"slipway":1,"phase":"kubernetes","text":"join abcdef.0123456789abcdef"}' ;;
logs) echo kubelet; echo sshd; echo 'x;reboot' ;;
"logs kubelet") echo "I1121 container 3f2a9c4d5e6f3f2a9c4d5e6f3f2a9c4d5e6f3f2a9c4d5e6f3f2a9c4d5e6f3f2a"; echo "Authorization: Bearer abcdefghijkl" ;;
"logs kubelet -f") echo "begin"; exec sleep 600 ;;
"logs sshd") exec sleep 600 ;;
*) echo "service has no log" >&2; exit 1 ;;
esac
`

// station is a real sshd on loopback, a node as far as this package sees.
type station struct {
	node Node
	keys Keys // of an operator who may log in
	file string
	user string
}

func newKeyFile(t *testing.T, name string) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, name, string(pem.EncodeToMemory(block)), 0o600)
	return s
}

func write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func newStation(t *testing.T) *station {
	t.Helper()
	const sshd = "/usr/sbin/sshd" // it must be started by its full path
	if _, err := os.Stat(sshd); err != nil {
		t.Skipf("a real sshd is needed: %v", err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if me.Uid == "0" { // compiled in: Debian's privilege separation directory
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Skipf("sshd needs /run/sshd: %v", err)
		}
	}
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	host := newKeyFile(t, in("host"))
	mine := newKeyFile(t, in("mine"))
	write(t, in("authorized"), string(ssh.MarshalAuthorizedKey(mine.PublicKey())), 0o600)
	if err := os.Mkdir(in("bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, in("bin/slipway"), slipway, 0o755)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	write(t, in("conf"), fmt.Sprintf("ListenAddress %s\nHostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nSetEnv PATH=%s:/usr/sbin:/usr/bin:/sbin:/bin\n",
		at, in("host"), in("authorized"), in("bin")), 0o600)
	var said bytes.Buffer
	cmd := exec.Command(sshd, "-D", "-e", "-f", in("conf"))
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("sshd said:\n%s", said.String())
		}
	})
	for range 100 {
		if c, err := net.Dial("tcp", at.String()); err == nil {
			c.Close()
			return &station{node: Node{Name: "w1", Address: at, HostKeys: []string{ssh.FingerprintSHA256(host.PublicKey())}},
				keys: Identity(in("mine")), file: in("mine"), user: me.Username}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("sshd does not answer")
	return nil
}

func (s *station) driver() *Driver { return &Driver{User: s.user, Keys: s.keys} }

// newAgent is an ssh-agent on a unix socket that holds the key of a file.
func newAgent(t *testing.T, file string) string {
	t.Helper()
	ring := agent.NewKeyring()
	if file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		key, err := ssh.ParseRawPrivateKey(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var g sync.WaitGroup
	t.Cleanup(func() { l.Close(); g.Wait() })
	g.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.Go(func() { agent.ServeAgent(ring, c); c.Close() })
		}
	})
	return socket
}

// silent is an address that takes connections and says nothing.
func silent(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var g sync.WaitGroup
	t.Cleanup(func() { l.Close(); g.Wait() })
	g.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.Go(func() { io.Copy(io.Discard, c); c.Close() })
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}
