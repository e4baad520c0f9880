// Package drive looks at nodes from the operator's chair: their logs, their
// status and a support bundle of all of them, over SSH.
//
// It changes nothing on a node and holds no key of its own: the operator's are
// used, from his agent or a file. It trusts no host key that the node itself has
// not told the seed.
package drive

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Port is sshd's.
const Port = 22

// Node is where a node's sshd is and how it is known.
type Node struct {
	Name     string
	Address  netip.AddrPort
	HostKeys []string // fingerprints of all its host keys, as handoff.Event.HostKeys has them
}

// Keys are what the operator may show a node.
type Keys func() ([]ssh.Signer, error)

// Driver logs in to nodes. Set the fields before its use.
type Driver struct {
	User     string        // empty: root
	Keys     Keys          // must be set
	Patience time.Duration // for a connection; 0: ten seconds

	within func(argv []string) time.Duration // for one command of a bundle; nil: perCommand
}

// Error is a node that could not be asked.
type Error struct {
	Node string
	Err  error
	hint string
}

func (e *Error) Error() string { return fmt.Sprintf("node %q: %v", e.Node, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// Hint is the next step.
func (e *Error) Hint() string { return e.hint }

// unitName is what a service of PID 1 may be called. What is sent over SSH is
// read by the remote user's shell (RFC 4254 section 6.5), so nothing in it may
// mean anything to one.
var unitName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

// Logs writes the log of one service to w, or the names of all services if unit
// is empty; with follow also what is added until ctx ends.
func (d *Driver) Logs(ctx context.Context, n Node, unit string, follow bool, w io.Writer) error {
	argv := []string{"slipway", "logs"}
	if unit != "" {
		if !unitName.MatchString(unit) {
			return fmt.Errorf("service %q: want a name such as kubelet", unit)
		}
		argv = append(argv, unit)
	}
	if follow {
		argv = append(argv, "-f")
	}
	return d.once(ctx, n, w, argv...)
}

// Status writes the node's own account of its phases and services to w.
func (d *Driver) Status(ctx context.Context, n Node, w io.Writer) error {
	return d.once(ctx, n, w, "slipway", "status")
}

func (d *Driver) once(ctx context.Context, n Node, w io.Writer, argv ...string) error {
	c, err := d.dial(ctx, n)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := run(ctx, c, w, argv...); err != nil {
		return &Error{Node: n.Name, Err: err}
	}
	return nil
}

// run runs one command of words that no shell changes.
func run(ctx context.Context, c *ssh.Client, w io.Writer, argv ...string) error {
	s, err := c.NewSession()
	if err != nil {
		return err
	}
	defer s.Close()
	said := &tail{most: 2 << 10}
	s.Stdout, s.Stderr = w, said
	line := strings.Join(argv, " ")
	if err := s.Start(line); err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		s.Close()
		c.Close() // Wait returns at once: sshd need not answer
		<-ended
		return fmt.Errorf("%s: %w", line, ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(said.String()))
	}
	return nil
}

// tail keeps the last bytes of what is written, from the beginning of a line.
type tail struct {
	most int
	b    []byte
	cut  bool
}

func (t *tail) Write(b []byte) (int, error) {
	t.b = append(t.b, b...)
	if len(t.b) > 2*t.most { // moved seldom
		t.b = append(t.b[:0], t.b[len(t.b)-t.most:]...)
		t.cut = true
	}
	return len(b), nil
}

func (t *tail) String() string {
	s := string(t.b)
	if len(s) > t.most {
		s, t.cut = s[len(s)-t.most:], true
	}
	if t.cut {
		_, s, _ = strings.Cut(s, "\n")
	}
	return s
}
