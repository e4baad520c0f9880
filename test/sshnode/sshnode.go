// Package sshnode starts a real OpenSSH server on loopback that stands in for a
// node, with a `slipway` command of the test's.
//
// It is no node: the rest of the machine is the one that the test runs on.
package sshnode

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Node is a server that runs until the test ends.
type Node struct {
	Address  netip.AddrPort
	HostKeys []string // fingerprints
	Identity string   // file with the key of an operator who may log in
	User     string
}

// Key makes a key pair, writes the private one to a file and returns a signer.
func Key(t testing.TB, name string) ssh.Signer {
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

func write(t testing.TB, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// Start runs sshd and returns when it answers. slipway is the text of a program.
// The test is skipped where sshd is not installed.
func Start(t testing.TB, slipway string) *Node {
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
	host := Key(t, in("host"))
	mine := Key(t, in("mine"))
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
			return &Node{Address: at, HostKeys: []string{ssh.FingerprintSHA256(host.PublicKey())}, Identity: in("mine"), User: me.Username}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("sshd does not answer")
	return nil
}
