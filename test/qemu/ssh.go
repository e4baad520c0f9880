package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"slipway.dev/slipway/test/qemu/lan"
)

// retryPause is between two attempts to reach a machine that is still booting.
const retryPause = 500 * time.Millisecond

// SSHOptions say how to log in.
type SSHOptions struct {
	User   string // "root" when empty
	Signer ssh.Signer
	// HostKey checks the guest's key. Nil accepts any: the segment is inside
	// this process, and the key may be minutes old.
	HostKey ssh.HostKeyCallback
	// Host and Addr are from where to where. When unset they come from the DHCP
	// lease of the machine's first NIC.
	Host *lan.Host
	Addr netip.Addr
	Port uint16 // 22 when 0
}

// Remote is a login on a machine.
type Remote struct {
	client *ssh.Client
	name   string
}

// Output is what a command left behind.
type Output struct {
	Stdout, Stderr []byte
	Code           int // exit status; a program ended by a signal is an error instead
}

// SSH logs in, trying until it works, ctx ends or the machine goes off. A
// refused key is tried again like a refused connection, because keys may be
// installed after sshd started.
func (v *VM) SSH(ctx context.Context, o SSHOptions) (*Remote, error) {
	if o.User == "" {
		o.User = "root"
	}
	if o.Port == 0 {
		o.Port = 22
	}
	if o.HostKey == nil {
		o.HostKey = ssh.InsecureIgnoreHostKey()
	}
	for {
		client, err := v.login(ctx, o)
		if err == nil {
			return &Remote{client, v.Machine.Name}, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("machine %q: ssh: %w; last attempt: %w; last lines of the console:\n%s",
				v.Machine.Name, context.Cause(ctx), err, indent(v.Console.Tail(tailLines)))
		case <-v.exited:
			return nil, fmt.Errorf("machine %q: ssh: %w; last lines of the console:\n%s",
				v.Machine.Name, v.exitError(), indent(v.Console.Tail(tailLines)))
		case <-time.After(retryPause):
		}
	}
}

// Address is where the machine can be reached: the DHCP lease of its first NIC
// and the host that gave it.
func (v *VM) Address() (netip.Addr, *lan.Host, error) {
	if len(v.Machine.NICs) == 0 {
		return netip.Addr{}, nil, errors.New("machine has no NIC")
	}
	p := v.Machine.NICs[0]
	a, h, ok := p.Switch().Lease(p.MAC)
	if !ok {
		return a, nil, fmt.Errorf("no DHCP lease for %s", p.MAC)
	}
	return a, h, nil
}

func (v *VM) login(ctx context.Context, o SSHOptions) (*ssh.Client, error) {
	if o.Host == nil || !o.Addr.IsValid() {
		a, h, err := v.Address()
		if err != nil && (o.Host == nil || !o.Addr.IsValid()) {
			return nil, err
		}
		if !o.Addr.IsValid() {
			o.Addr = a
		}
		if o.Host == nil {
			o.Host = h
		}
	}
	return dialSSH(ctx, o)
}

func dialSSH(ctx context.Context, o SSHOptions) (*ssh.Client, error) {
	addr := netip.AddrPortFrom(o.Addr, o.Port).String()
	conn, err := o.Host.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })() // bounds the handshake
	return handshake(conn, addr, o)
}

func handshake(conn net.Conn, addr string, o SSHOptions) (*ssh.Client, error) {
	c, channels, requests, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		User: o.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(o.Signer)}, HostKeyCallback: o.HostKey,
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	return ssh.NewClient(c, channels, requests), nil
}

// Run executes a program with exactly these arguments; nothing is expanded by
// the remote shell. A non-zero exit status is in Output, not an error.
func (r *Remote) Run(ctx context.Context, argv ...string) (Output, error) {
	line := Quote(argv)
	s, err := r.client.NewSession()
	if err != nil {
		return Output{}, fmt.Errorf("machine %q: running %s: %w", r.name, line, err)
	}
	defer s.Close()
	var stdout, stderr bytes.Buffer
	s.Stdout, s.Stderr = &stdout, &stderr
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	err = s.Run(line)
	out := Output{Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	var exit *ssh.ExitError
	if errors.As(err, &exit) && exit.Signal() == "" {
		out.Code = exit.ExitStatus()
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("machine %q: running %s: %w", r.name, line, err)
	}
	return out, nil
}

// Must is Run for a program that has to succeed: its standard output, or an
// error with its exit status and standard error.
func (r *Remote) Must(ctx context.Context, argv ...string) (string, error) {
	out, err := r.Run(ctx, argv...)
	if err == nil && out.Code != 0 {
		err = fmt.Errorf("machine %q: running %s: exit status %d: %s", r.name, Quote(argv), out.Code, bytes.TrimSpace(out.Stderr))
	}
	return string(out.Stdout), err
}

// Close logs out.
func (r *Remote) Close() error { return r.client.Close() }

// Quote renders argv for a POSIX shell (XCU 2.2.2): what is not plainly
// harmless goes into single quotes.
func Quote(argv []string) string {
	var s []string
	for _, a := range argv {
		if a == "" || strings.ContainsFunc(a, unsafeRune) {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		s = append(s, a)
	}
	return strings.Join(s, " ")
}

func unsafeRune(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return false
	}
	return !strings.ContainsRune("-_./:@%+,", r)
}
