package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
)

// demoLimit is how long the machine may take to become Ready: many times what
// an emulated machine needs here, because the demo also runs on busy hosts.
const demoLimit = 30 * time.Minute

func (a *app) demoCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Build an ISO and boot it in QEMU to a Ready Kubernetes node",
		Long: `Demo builds the bundle for its first architecture (or that of --arch) if
something changed, starts a virtual machine from the
ISO on a network inside this process that leads nowhere, shows its phases, and
prints its nodes and pods. On a terminal the machine stays until Ctrl-C.`,
		Example: "  slipway demo -f configs/examples/bundle.yaml --out out\n  slipway demo -f bundle.yaml --arch arm64",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.first = true
			all, err := a.build(cmd.Context(), &f)
			if err != nil {
				return err
			}
			return a.demo(cmd.Context(), all[0], f.out)
		},
	}
	f.register(cmd)
	return cmd
}

func (a *app) demo(ctx context.Context, b *built, out string) error {
	signer, public, err := demoKey()
	if err != nil {
		return err
	}
	seg, err := lan.New(lan.Options{})
	if err != nil {
		return err
	}
	defer seg.Close()
	host, err := demoNetwork(seg)
	if err != nil {
		return err
	}
	port, err := seg.Port("node-1")
	if err != nil {
		return err
	}
	userData := fmt.Sprintf("#cloud-config\nhostname: node-1\nssh_authorized_keys:\n  - %s\nslipway:\n  role: control-plane\n", public)
	m := qemu.Machine{Name: "node-1", Arch: b.Arch, Memory: 4096, CPUs: 2, Boot: qemu.CD(b.ISO.Path), NICs: []*lan.Port{port},
		CIDATA: map[string][]byte{"user-data": []byte(userData), "meta-data": []byte("instance-id: demo\n")}}
	vm, err := a.ready(ctx, m, b.ISO.Path)
	if err != nil {
		return err
	}
	defer vm.Close()
	kubeconfig, err := a.showCluster(ctx, vm, host, signer, out)
	if err != nil {
		return err
	}
	for _, v := range seg.Violations() {
		fmt.Fprintf(a.err, "tried to leave the network: %v\n", v)
	}
	if term.IsTerminal(int(os.Stdout.Fd())) {
		fmt.Fprintf(a.err, "\nThe machine runs until Ctrl-C. In another terminal:\n  kubectl --kubeconfig %s get nodes\n", kubeconfig)
		<-ctx.Done()
	}
	return a.powerOff(vm)
}

// ready starts the machine and watches it until it is Ready. It starts it
// again, at most twice, when the emulator broke the kernel (decision 13).
func (a *app) ready(ctx context.Context, m qemu.Machine, iso string) (*qemu.VM, error) {
	for try := 1; ; try++ {
		vm, err := qemu.Start(ctx, m)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(a.err, "power-on: %s from %s\n", m.Name, iso)
		if err = a.watch(ctx, vm); err == nil {
			return vm, nil
		}
		var p *qemu.PanicError
		emulator := errors.As(err, &p) && vm.Console.Stale() != ""
		vm.Close()
		if !emulator || try == 3 {
			return nil, err
		}
		fmt.Fprintln(a.err, "the emulator broke the kernel (docs/decisions.md, 13); starting the machine again")
	}
}

func demoNetwork(seg *lan.Switch) (*lan.Host, error) {
	host, err := seg.Host("lan", seg.Subnet().Addr().Next())
	if err != nil {
		return nil, err
	}
	return host, errors.Join(host.ServeDHCP(lan.DHCP{}), host.ServeDNS())
}

// demoKey makes a login for this one machine.
func demoKey() (ssh.Signer, string, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, "", err
	}
	return signer, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), nil
}

// watch prints the machine's steps until it is Ready.
func (a *app) watch(ctx context.Context, vm *qemu.VM) error {
	ctx, cancel := context.WithTimeout(ctx, demoLimit)
	defer cancel()
	done := vm.Console.Subscribe(ctx, func(e handoff.Event) {
		if line := phaseLine(e); line != "" {
			fmt.Fprintln(a.err, line)
		}
	})
	_, err := vm.Wait(ctx, func(e handoff.Event) bool { return e.Phase == "ready" && e.State == handoff.Done })
	cancel()
	<-done
	return err
}

// phaseLine renders an event for people; progress within a step is left out.
func phaseLine(e handoff.Event) string {
	if e.State == handoff.Running {
		return ""
	}
	name := e.Phase
	if e.Step != "" {
		name += "/" + e.Step
	}
	text := e.Text
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return strings.TrimRight(fmt.Sprintf("%7.1fs  %-8s %-28s %s", e.Uptime, e.State, name, text), " ")
}

// showCluster prints nodes and pods and writes a kubeconfig that reaches the machine
// through a loopback port of this host.
func (a *app) showCluster(ctx context.Context, vm *qemu.VM, host *lan.Host, signer ssh.Signer, out string) (string, error) {
	r, err := vm.SSH(ctx, qemu.SSHOptions{Signer: signer})
	if err != nil {
		return "", err
	}
	defer r.Close()
	for _, what := range []string{"nodes", "pods"} {
		text, err := r.Must(ctx, "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "get", what, "--all-namespaces", "-o", "wide")
		if err != nil {
			return "", err
		}
		fmt.Fprintf(a.out, "\n%s", text)
	}
	conf, err := r.Must(ctx, "cat", "/etc/kubernetes/admin.conf")
	if err != nil {
		return "", err
	}
	addr, _, err := vm.Address()
	if err != nil {
		return "", err
	}
	local, err := host.Forward(ctx, "127.0.0.1:0", addr.String()+":6443")
	if err != nil {
		return "", err
	}
	conf, err = forwarded(conf, addr.String()+":6443", local.String())
	if err != nil {
		return "", err
	}
	name, err := filepath.Abs(filepath.Join(out, "kubeconfig"))
	if err != nil {
		return "", err
	}
	fmt.Fprintf(a.out, "\nkubeconfig: %s\n", name)
	return name, os.WriteFile(name, []byte(conf), 0o600)
}

// forwarded points a kubeconfig at a forwarded port; the certificate is still
// checked against the name it was made for.
func forwarded(conf, from, to string) (string, error) {
	server := "    server: https://" + from
	if strings.Count(conf, server) != 1 {
		return "", fmt.Errorf("kubeconfig: want one server https://%s", from)
	}
	name, _, _ := strings.Cut(from, ":")
	return strings.Replace(conf, server, "    server: https://"+to+"\n    tls-server-name: "+name, 1), nil
}

// powerOff lets the machine go off in its own time, then ends it.
func (a *app) powerOff(vm *qemu.VM) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := vm.PowerButton(ctx); err != nil {
		return err
	}
	select {
	case <-vm.Exited():
		fmt.Fprintln(a.err, "the machine is off")
	case <-ctx.Done():
		fmt.Fprintln(a.err, "the machine did not go off within two minutes and was ended")
	}
	return nil
}
