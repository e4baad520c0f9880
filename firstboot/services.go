package firstboot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/apply"
	"slipway.dev/slipway/firstboot/login"
	"slipway.dev/slipway/firstboot/netconf"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/storage"
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
	n.takeRequests()
	n.takeOrders()
	if err := n.configure(ctx); err != nil {
		return err
	}
	if err := n.consoleLogin(); err != nil {
		return err
	}
	if err := n.sshd(); err != nil {
		return err
	}
	if err := n.preflight(); err != nil { // whoever mends it can log in
		return err
	}
	if err := n.daemons(); err != nil {
		return err
	}
	timed, err := n.chronyd()
	if err != nil {
		return err
	}
	// Certificates that exist may have to be renewed, which needs the time; else
	// the servers are asked while containerd starts.
	_, none := os.Stat(adminConf)
	if timed && none == nil {
		n.clockSynced(ctx)
	}
	up, err := n.startCluster(ctx)
	if err != nil {
		return err
	}
	if err := n.station(ctx); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for _, name := range up {
		if err := n.Services.Up(limit, name); err != nil {
			return serviceFailure(name, err)
		}
	}
	if timed && none != nil {
		n.clockSynced(ctx)
	}
	list := ""
	for _, s := range n.Services.Services() {
		list += " " + s.Name
	}
	n.done("supervised:"+list, nil)
	return nil
}

// configure makes the system what the config says, in cloud-init's order.
func (n *Node) configure(ctx context.Context) error {
	if err := n.commands(ctx, "bootcmd", n.User.BootCmd); err != nil {
		return err
	}
	done := n.instance()
	if err := apply.Files("/", n.User, done); err != nil {
		return applyFailure(err)
	}
	if err := n.storage(ctx); err != nil {
		return err
	}
	names := apply.Names{Hostname: n.Hostname, Address: n.Address[0].Prefix.Addr(), Identity: n.User.Identity}
	if err := apply.Host("/", names); err != nil {
		return applyFailure(err)
	}
	if err := unix.Sethostname([]byte(names.System())); err != nil {
		return fmt.Errorf("host name %q: %w", names.System(), err)
	}
	if err := apply.User("/", n.User, n.Meta.PublicKeys, done); err != nil {
		return applyFailure(err)
	}
	return nil
}

// storage prepares and mounts disks for data. A disk that is named may be on a
// slow bus and gets some seconds to appear.
func (n *Node) storage(ctx context.Context) error {
	s := storage.Setup{Root: "/", Proc: "/proc", Sys: "/sys", Report: func(text string) { n.step("storage", text, nil) },
		Run: func(ctx context.Context, argv []string) error {
			return n.Children.Run(ctx, exec.Command(argv[0], argv[1:]...), nil)
		}}
	for began := time.Now(); ; {
		err := s.Apply(ctx, &n.User.Storage)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) || time.Since(began) > 10*time.Second {
			return report.Fail("SW-CONFIG-STORAGE", "correct the disks in user-data, or the machine's, and start the node again", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// instance is the record of what was done. It is in memory, as the root is.
func (n *Node) instance() apply.Instance {
	return apply.Instance{Dir: instanceDir, ID: cmp.Or(n.Meta.InstanceID, "nocloud")}
}

func applyFailure(err error) error {
	return report.Fail("SW-CONFIG-APPLY", "correct user-data and start the node again", err)
}

func serviceFailure(name string, err error) error {
	f := &report.Failure{Code: "SW-SERVICE-START", Hint: fmt.Sprintf("read %s/%s.log", logDir, name), Err: fmt.Errorf("service %q: %w", name, err)}
	if e, ok := errors.AsType[*supervise.ExitError](err); ok {
		f.Tail = e.Tail
	}
	return f
}

// consoleLogin lets those in at the consoles who have a password, and says who
// they are. Without any, keys do nothing: there is no prompt to guess at.
func (n *Node) consoleLogin() error {
	names, err := apply.Logins("/")
	if err != nil {
		return applyFailure(err)
	}
	_, missing := os.Stat(login.Program)
	n.access = login.Text(names, missing == nil)
	e := handoff.Event{Step: "login", State: handoff.Skipped, Text: "console login: " + n.access}
	if len(names) > 0 && missing == nil {
		e.State = handoff.Done
		n.Consoles.Login(n.life, func(_ context.Context, device string, serial bool) {
			err := login.Run(n.Children, device, cgroupDir+"/system", serial)
			n.log.Info("login ended", "device", device, "err", err)
		})
	}
	n.Report.Emit(e)
	return nil
}

// daemons starts what slipway.services names.
func (n *Node) daemons() error {
	for _, s := range n.User.Slipway.Services {
		d, err := storage.Find("/", s)
		if err != nil {
			return report.Fail("SW-CONFIG-APPLY", "add the package to the bundle, or take the service out of user-data", fmt.Errorf("user-data: slipway.services: %w", err))
		}
		if err := errors.Join(loadList(n.drivers.get(), d.Modules), d.Prepare("/")); err != nil {
			return fmt.Errorf("service %q: %w", s, err)
		}
		if err := n.Services.Add(n.life, supervise.Service{Name: string(s), Argv: d.Argv}); err != nil {
			return err
		}
	}
	return nil
}

// sshd starts if the bundle has it and somebody has a key.
func (n *Node) sshd() error {
	if _, err := os.Stat(sshdProgram); err != nil {
		n.step("sshd", "no ssh: the bundle has no openssh-server", nil)
		return nil
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		return err
	}
	keys, err := apply.HostKeys("/")
	if err != nil {
		return applyFailure(err)
	}
	n.step("sshd", "host keys "+strings.Join(keys, " "), map[string]any{handoff.DataHostKeys: keys})
	return n.Services.Add(n.life, supervise.Service{Name: "sshd", Argv: []string{sshdProgram, "-D", "-e"},
		Ready: func(ctx context.Context) error { return answers(ctx, "tcp", "127.0.0.1:22") }})
}

// answers waits until an address accepts connections.
func answers(ctx context.Context, network, address string) error {
	for {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, address)
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

// chronyd starts if the config names a source of time, or else the DHCP server
// does (option 42). It reports whether there is one.
func (n *Node) chronyd() (bool, error) {
	ntp, conf := n.User.NTP, apply.ChronyPath(n.User.NTP)
	_, missing := os.Stat(chronydProgram)
	if !ntp.Sources() {
		if ntp.Servers = offered(n.Address); !ntp.Sources() {
			return false, nil
		}
		text := "time servers of DHCP: " + strings.Join(ntp.Servers, " ")
		if missing != nil {
			n.step("clock", text+"; the bundle has no chrony to ask them", nil)
			return false, nil
		}
		n.step("clock", text, nil)
		conf = runDir + "/chrony.conf" // a lease is of this boot
		if err := os.WriteFile(conf, []byte(apply.Chrony(ntp)), 0o644); err != nil {
			return false, err
		}
	}
	if missing != nil {
		return false, report.Fail("SW-CONFIG-APPLY", "add chrony to the bundle's packages, or take ntp out of user-data",
			fmt.Errorf("user-data: ntp: the bundle has no %s", chronydProgram))
	}
	return true, n.Services.Add(n.life, supervise.Service{Name: "chronyd", Argv: []string{chronydProgram, "-d", "-f", conf}})
}

// offered are the time servers of all leases, each once.
func offered(all []netconf.Address) []string {
	var out []string
	for _, a := range all {
		for _, s := range a.NTP {
			if !slices.Contains(out, s.String()) {
				out = append(out, s.String())
			}
		}
	}
	return out
}

// commands runs bootcmd, runcmd or a hook in order.
func (n *Node) commands(ctx context.Context, key string, list []configs.Command) error {
	return n.commandsIn(ctx, "", key, list)
}

// commandsIn runs them with another root, "" for the machine's own.
func (n *Node) commandsIn(ctx context.Context, dir, key string, list []configs.Command) error {
	for i, c := range list {
		cmd, err := n.command(c)
		if dir != "" {
			cmd, _ = n.command(configs.Command{Argv: append([]string{shell, "-c", `exec "$@"`, "hook"}, argv(c)...)})
			cmd.Path, cmd.Err, err = shell, nil, nil // looked up in the other root
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir}
		}
		var tail []string
		if err == nil {
			err = n.Children.Run(ctx, cmd, func(l string) { tail = append(tail[max(0, len(tail)-9):], l) })
		}
		if err != nil {
			return &report.Failure{Code: "SW-CONFIG-COMMAND", Tail: tail, Hint: "correct the command in user-data and start the node again",
				Err: fmt.Errorf("%s[%d] %q: %w", key, i, argv(c), err)}
		}
		n.step(key, fmt.Sprintf("%s[%d] ran", key, i), nil)
	}
	return nil
}

// argv of a line is the shell's, as cloud-init has it.
func argv(c configs.Command) []string {
	if len(c.Argv) > 0 {
		return c.Argv
	}
	return []string{shell, "-c", c.Shell}
}

// command prepares a command of user-data. Its program is looked up in the PATH
// it gets; INSTANCE_ID is cloud-init's.
func (n *Node) command(c configs.Command) (*exec.Cmd, error) {
	args := argv(c)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "KUBECONFIG=" + adminConf,
		"INSTANCE_ID=" + n.instance().ID}
	cmd.Dir = "/"
	return cmd, cmd.Err
}
