package drive

import (
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"slipway.dev/slipway/test/sshnode"
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

func newStation(t *testing.T) *station {
	t.Helper()
	n := sshnode.Start(t, slipway)
	return &station{node: Node{Name: "w1", Address: n.Address, HostKeys: n.HostKeys}, keys: Identity(n.Identity), file: n.Identity, user: n.User}
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
