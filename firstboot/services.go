package firstboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/firstboot/apply"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/supervise"
)

// Programs of the system root that PID 1 starts; those of Kubernetes are named
// in package kubeadm.
const (
	sshdProgram    = "/usr/sbin/sshd"
	chronydProgram = "/usr/sbin/chronyd"
	shell          = "/bin/sh"
)

func servicesPhase(ctx context.Context, n *Node) error {
	a := n.Address[0]
	if err := apply.Host("/", apply.Names{Hostname: n.Hostname, FQDN: n.User.FQDN, Address: a.Prefix.Addr(), Hosts: n.User.ManageEtcHosts}); err != nil {
		return err
	}
	if err := apply.User("/", n.User); err != nil {
		return report.Fail("SW-CONFIG-APPLY", "correct user-data and start the node again", err)
	}
	if err := n.commands(ctx, "bootcmd", n.User.BootCmd); err != nil {
		return err
	}
	if err := n.sshd(); err != nil {
		return err
	}
	if err := n.chronyd(); err != nil {
		return err
	}
	up, err := n.startCluster(ctx)
	if err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for _, name := range up {
		if err := n.Services.Up(limit, name); err != nil {
			return serviceFailure(name, err)
		}
	}
	list := ""
	for _, s := range n.Services.Services() {
		list += " " + s.Name
	}
	n.done("supervised:"+list, nil)
	return nil
}

func serviceFailure(name string, err error) error {
	f := &report.Failure{Code: "SW-SERVICE-START", Hint: fmt.Sprintf("read %s/%s.log", logDir, name), Err: fmt.Errorf("service %q: %w", name, err)}
	if e, ok := errors.AsType[*supervise.ExitError](err); ok {
		f.Tail = e.Tail
	}
	return f
}

// sshd starts if the bundle has it and somebody has a key.
func (n *Node) sshd() error {
	if _, err := os.Stat(sshdProgram); err != nil {
		n.step("sshd", "no ssh: the bundle has no openssh-server", nil)
		return nil
	}
	if err := apply.HostKey("/etc/ssh/ssh_host_ed25519_key"); err != nil {
		return err
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		return err
	}
	return n.Services.Add(n.life, supervise.Service{Name: "sshd", Argv: []string{sshdProgram, "-D", "-e"},
		Ready: func(ctx context.Context) error { return answers(ctx, "127.0.0.1:22") }})
}

// answers waits until an address accepts connections.
func answers(ctx context.Context, address string) error {
	for {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// chronyd starts if the config names a source of time.
func (n *Node) chronyd() error {
	t := n.User.NTP
	if (t.Enabled != nil && !*t.Enabled) || len(t.Servers)+len(t.Pools) == 0 {
		return nil
	}
	if _, err := os.Stat(chronydProgram); err != nil {
		return report.Fail("SW-CONFIG-APPLY", "add chrony to the bundle's packages, or take ntp out of user-data",
			fmt.Errorf("user-data: ntp: the bundle has no %s", chronydProgram))
	}
	return n.Services.Add(n.life, supervise.Service{Name: "chronyd", Argv: []string{chronydProgram, "-d", "-f", apply.ChronyConf}})
}

// commands runs bootcmd or runcmd in order. A line without argv is for the
// shell, as cloud-init has it.
func (n *Node) commands(ctx context.Context, key string, list []configs.Command) error {
	for i, c := range list {
		argv := c.Argv
		if len(argv) == 0 {
			argv = []string{shell, "-c", c.Shell}
		}
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "KUBECONFIG=/etc/kubernetes/admin.conf"}
		cmd.Dir = "/"
		var tail []string
		err := n.Children.Run(ctx, cmd, func(l string) { tail = append(tail[max(0, len(tail)-9):], l) })
		if err != nil {
			return &report.Failure{Code: "SW-CONFIG-COMMAND", Tail: tail, Hint: "correct the command in user-data and start the node again",
				Err: fmt.Errorf("%s[%d] %q: %w", key, i, argv, err)}
		}
		n.step(key, fmt.Sprintf("%s[%d] ran", key, i), nil)
	}
	return nil
}
