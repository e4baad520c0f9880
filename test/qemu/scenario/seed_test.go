package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
	"slipway.dev/slipway/test/qemu/qemutest"
)

// station is `slipway serve`, the real program, on a computer of the segment.
type station struct {
	t       testing.TB
	program string
	state   string
	args    []string
	seg     *lan.Switch
	ns      *lan.Namespace
	laptop  *lan.Host // beside the seed, for ssh; nil until it is wanted
	cmd     *exec.Cmd
	ends    bool // with the test
	out     *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newStation builds slipway and gives it a computer at addr on the segment.
func newStation(t testing.TB, seg *lan.Switch, addr, cluster string, media ...string) *station {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("skipped: a seed in a network namespace needs root")
	}
	dir := t.TempDir()
	s := &station{t: t, seg: seg, program: filepath.Join(dir, "slipway"), state: filepath.Join(dir, "state"), out: &lockedBuffer{}}
	if b, err := exec.CommandContext(t.Context(), "go", "build", "-o", s.program, "slipway.dev/slipway/cmd/slipway").CombinedOutput(); err != nil {
		t.Fatalf("building slipway: %v\n%s", err, b)
	}
	site := filepath.Join(dir, "cluster.yaml")
	if err := os.WriteFile(site, []byte(cluster), 0o600); err != nil {
		t.Fatal(err)
	}
	s.args = append([]string{"serve", "--cluster", site, "--state", s.state}, media...)
	var err error
	if s.ns, err = seg.Namespace("seed", netip.MustParsePrefix(addr)); err != nil {
		t.Skipf("skipped: no network namespaces or tap devices here: %v", err)
	}
	t.Cleanup(func() { s.ns.Close() })
	return s
}

// start runs `slipway serve` until the test ends or kill.
func (s *station) start() {
	s.t.Helper()
	cmd := exec.Command(s.program, s.args...)
	cmd.Stdout, cmd.Stderr = s.out, s.out
	if err := s.ns.Start(cmd); err != nil {
		s.t.Fatal(err)
	}
	s.cmd = cmd
	if s.ends {
		return // it was started before
	}
	s.ends = true
	s.t.Cleanup(func() {
		s.kill()
		if s.t.Failed() {
			s.t.Logf("slipway serve:\n%s", s.out.String())
		}
	})
}

// comesBack starts it again and waits until its verbs find it.
func (s *station) comesBack(ctx context.Context) {
	s.t.Helper()
	s.start()
	s.until(ctx, "the seed is back", func([]seed.Machine) bool { return true })
}

// kill ends it as a power cut would.
func (s *station) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// run is another verb of slipway, typed on the same computer.
func (s *station) run(ctx context.Context, args ...string) (string, error) {
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, s.program, append(args, "--state", s.state)...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("slipway %s: %w: %s", strings.Join(args, " "), err, errOut.String())
	}
	return out.String(), nil
}

// machines is `slipway nodes -o json`.
func (s *station) machines(ctx context.Context) ([]seed.Machine, error) {
	var all []seed.Machine
	return all, s.json(ctx, &all, "nodes")
}

// json reads what a verb prints for programs.
func (s *station) json(ctx context.Context, into any, verb string) error {
	out, err := s.run(ctx, verb, "-o", "json")
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), into)
}

// until asks for the machines until they are what is wanted, or the seed or a VM is gone.
func (s *station) until(ctx context.Context, what string, want func([]seed.Machine) bool, vms ...*qemu.VM) []seed.Machine {
	s.t.Helper()
	var last []seed.Machine
	var lastErr error
	for {
		all, err := s.machines(ctx)
		if err == nil {
			last = all
			if want(all) {
				return all
			}
		}
		lastErr = err
		for _, vm := range vms {
			for _, e := range vm.Console.Events() {
				if e.State == handoff.Failed {
					s.t.Fatalf("%s: %s failed: %+v", what, vm.Machine.Name, e)
				}
			}
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("%s: %v; last seen %+v, %v", what, ctx.Err(), last, lastErr)
		case <-time.After(time.Second):
		}
	}
}

// cluster is a site of one control plane and any number of workers, with no
// DHCP server but the seed.
func (l login) cluster() string {
	return fmt.Sprintf(`apiVersion: slipway.dev/v1alpha1
kind: Cluster
metadata: {name: test}
spec:
  nodes:
    - {role: control-plane, count: 1}
    - {role: worker, name: "worker-{n}"}
  access:
    sshAuthorizedKeys: [%q]
  seed:
    dhcp: {subnet: 10.77.0.0/24}
`, l.public)
}

func waiting(n int) func([]seed.Machine) bool {
	return func(all []seed.Machine) bool { return count(all, seed.Waiting) == n }
}

func count(all []seed.Machine, st seed.State) (n int) {
	for _, m := range all {
		if m.State == st {
			n++
		}
	}
	return n
}

// TestSeed is the product in one: a laptop with an ISO, two blank machines, one
// of them BIOS and one UEFI, two commands and one confirmation. They become a
// control plane and a worker, although one clock says 2011 and the other 2038,
// a switch port takes thirty seconds to forward, a cable is pulled while blobs
// are fetched, and the seed is killed and comes back. They are installed on their
// disks on the way, and after a power cut need no seed.
func TestSeed(t *testing.T) {
	dir := packed(t)
	if *all { // it is upgraded to the next Kubernetes
		dir = filepath.Join(*out, "previous")
	}
	medium := filepath.Join(dir, built(t, dir).ISO.Path)
	seg := qemutest.LAN(t, lan.Options{Domains: []string{"cluster.local", "local"}})
	l := newLogin(t)
	s := newStation(t, seg, "10.77.0.1/24", l.cluster()+"  install: {disk: {serial: NODE}}\n"+dataDisks, medium)
	s.start()
	blank := func(name string, fw qemu.Firmware, cpus int, clock time.Time) *qemu.VM {
		return qemutest.Start(t, qemu.Machine{Name: name, Memory: 4096, CPUs: cpus, Firmware: fw, Boot: qemu.Network(), Serial: "SER-" + name, RTC: clock,
			NICs: []*lan.Port{qemutest.Port(t, seg, name)}, Disks: nodeDisks(t, name)})
	}
	ctx := limit(t, 60*time.Minute)
	first := blank("bios", qemu.BIOS, 2, time.Date(2011, 11, 11, 11, 11, 0, 0, time.UTC))
	all := s.until(ctx, "the BIOS machine asks to become a node", waiting(1), first)
	code := codeOnScreen(t, ctx, first)
	if all[0].Code != code {
		t.Fatalf("the seed shows code %q, the machine's screen %q", all[0].Code, code)
	}
	second := blank("uefi", qemu.UEFI, 1, time.Date(2038, 1, 20, 0, 0, 0, 0, time.UTC))
	slowLink(t, ctx, second)
	s.until(ctx, "the UEFI machine asks to become a node", waiting(2), first, second)
	// One confirmation: what both screens show.
	out, err := s.run(ctx, "approve", code, codeOnScreen(t, ctx, second))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("slipway approve:\n%s", out)
	s.until(ctx, "both fetch their config", func(all []seed.Machine) bool { return count(all, seed.Taken)+count(all, seed.Ready) == 2 }, first, second)
	s.kill()
	cable(t, ctx, second, false)
	time.Sleep(10 * time.Second) // longer than a TCP connection of the node waits before it asks again
	s.start()
	cable(t, ctx, second, true)
	for _, vm := range []*qemu.VM{first, second} {
		if _, err := vm.Wait(ctx, done("ready")); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s:\n%s", vm.Machine.Name, table(vm.Console.Events()))
	}
	all = s.until(ctx, "both nodes are Ready", func(all []seed.Machine) bool { return count(all, seed.Ready) == 2 })
	names := map[string]string{}
	for _, m := range all {
		names[m.Name] = string(m.Role)
	}
	if names["control-plane-1"] != "control-plane" || names["worker-1"] != "worker" {
		t.Errorf("names and roles: %v", names)
	}
	s.kubeconfigWorks(ctx)
	table, err := s.run(ctx, "nodes")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("slipway nodes:\n%s", table)
	t.Run("reimage", func(t *testing.T) { s.reimages(t, l, first, second) })
	t.Run("upgrade", func(t *testing.T) { s.upgrades(t, l, first, second) })
	s.goesOnWithout(ctx, first, second)
}

// goesOnWithout takes the power from installed machines whose firmware asks the
// network first. The seed that installed them sends them on to their disks, and
// is gone before they are Ready again.
func (s *station) goesOnWithout(ctx context.Context, was ...*qemu.VM) {
	t := s.t
	var vms []*qemu.VM
	for _, vm := range was {
		vm.Close() // SIGKILL: a power cut
	}
	for _, vm := range was {
		m := vm.Machine
		m.RTC = time.Time{}
		again := qemutest.Start(t, m)
		e, err := again.Wait(ctx, done("medium"))
		if err != nil {
			t.Fatal(err)
		}
		if e.Data["slot"] == nil {
			t.Fatalf("%s did not start from its disk: %s", m.Name, e.Text)
		}
		vms = append(vms, again)
	}
	s.kill()
	until := "services" // TestReady goes from there to Ready, with a disk alone
	if *all {
		until = "ready"
	}
	for _, vm := range vms {
		if _, err := vm.Wait(ctx, done(until)); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s from its own disk, without a seed:\n%s", vm.Machine.Name, table(vm.Console.Events()))
	}
	s.reimagesUnready(ctx, vms[0], vms[1])
}

// reimagesUnready orders a worker to be installed anew that waits for a control
// plane which is gone: it need not be Ready to hear that.
func (s *station) reimagesUnready(ctx context.Context, plane, worker *qemu.VM) {
	plane.Close()
	worker.Console.Forget()
	worker.Console.Tolerate = func(e handoff.Event) bool { return e.Phase != "reimage" } // as it ends
	s.comesBack(ctx)
	if out, err := s.run(ctx, "reimage", "worker-1", "--yes"); err == nil {
		s.t.Errorf("it was ordered although nobody knows what would be lost:\n%s", out)
	}
	out, err := s.run(ctx, "reimage", "worker-1", "--yes", "--force")
	if err != nil {
		s.t.Fatal(err)
	}
	e, err := worker.Wait(ctx, func(e handoff.Event) bool { return e.Phase == "reimage" && e.Step == "kexec" })
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Logf("slipway reimage worker-1 --yes --force:\n%s%s", out, e.Text)
}

// slowLink takes the link from a machine for thirty seconds once its kernel runs,
// as a switch does that looks for loops first (IEEE 802.1D: two times 15 s).
func slowLink(t testing.TB, ctx context.Context, vm *qemu.VM) {
	t.Helper()
	if _, err := vm.Wait(ctx, func(e handoff.Event) bool { return e.Phase == "modules" }); err != nil {
		t.Fatal(err)
	}
	cable(t, ctx, vm, false)
	time.Sleep(30 * time.Second)
	cable(t, ctx, vm, true)
}

func cable(t testing.TB, ctx context.Context, vm *qemu.VM, plugged bool) {
	t.Helper()
	if err := vm.SetLink(ctx, 0, plugged); err != nil {
		t.Fatal(err)
	}
}

// codeOnScreen is the code that a machine shows on its console.
func codeOnScreen(t testing.TB, ctx context.Context, vm *qemu.VM) string {
	t.Helper()
	e, err := vm.Wait(ctx, func(e handoff.Event) bool { return e.Step == "code" })
	if err != nil {
		t.Fatal(err)
	}
	code, _ := e.Data["code"].(string)
	return code
}

// kubeconfigWorks asks the cluster for its nodes with the operator's
// kubeconfig, from the seed's own computer.
func (s *station) kubeconfigWorks(ctx context.Context) {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "kubeconfig")
	if _, err := s.run(ctx, "kubeconfig", "--out", file); err != nil {
		s.t.Fatal(err)
	}
	client, server, err := kubeClient(file, s.dial)
	if err != nil {
		s.t.Fatal(err)
	}
	var body []byte
	r, err := client.Get(server + "/api/v1/nodes")
	if err == nil {
		defer r.Body.Close()
		if body, err = io.ReadAll(r.Body); err == nil && r.StatusCode != 200 {
			err = errors.New(r.Status)
		}
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				NodeInfo struct{ KubeletVersion string }
			}
		}
	}
	if err == nil {
		err = json.Unmarshal(body, &list)
	}
	if err != nil || len(list.Items) != 2 {
		s.t.Fatalf("nodes by the operator's kubeconfig: %v, %+v", err, list)
	}
}

// dial connects from the seed's computer.
func (s *station) dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = s.ns.Do(func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// TestSeedFromTheISO boots one server from the ISO with a cluster.yaml beside it:
// it becomes the seed and the first control plane by itself. A blank machine
// boots from it over the network and joins, let in by who is logged in there.
func TestSeedFromTheISO(t *testing.T) {
	seg := qemutest.LAN(t, lan.Options{Domains: []string{"cluster.local", "local"}})
	host := qemutest.Host(t, seg, "laptop", netip.MustParseAddr("10.77.0.2"))
	l := newLogin(t)
	server := start(t, qemu.Machine{Name: "server", Memory: 4096, Boot: qemu.CD(iso(t)), NICs: []*lan.Port{qemutest.Port(t, seg, "server")}, CIDATA: map[string][]byte{
		"cluster.yaml":   []byte(l.cluster()),
		"network-config": []byte("version: 2\nethernets:\n  eth0:\n    addresses: [10.77.0.1/24]\n    routes: [{to: default, via: 10.77.0.3}]\n"),
	}})
	ctx := limit(t, 60*time.Minute)
	if _, err := server.Wait(ctx, done("services")); err != nil {
		t.Fatal(err)
	}
	blank := qemutest.Start(t, qemu.Machine{Name: "blank", Memory: 4096, CPUs: 1, Firmware: qemu.UEFI, Boot: qemu.Network(), NICs: []*lan.Port{qemutest.Port(t, seg, "blank")}})
	code := codeOnScreen(t, ctx, blank)
	r, err := server.SSH(ctx, qemu.SSHOptions{Signer: l.signer, Host: host, Addr: netip.MustParseAddr("10.77.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out, err := r.Must(ctx, "slipway", "approve", code)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out)
	if _, err := blank.Wait(ctx, done("config")); err != nil {
		t.Fatal(err)
	}
	if !*all { // TestSeed goes the rest of the way with the same seed on a laptop
		return
	}
	for _, vm := range []*qemu.VM{server, blank} {
		if _, err := vm.Wait(ctx, done("ready")); err != nil {
			t.Fatal(err)
		}
	}
	if out, err = r.Must(ctx, "slipway", "nodes", "--wait", "ready", "--count", "2", "--timeout", "10m"); err != nil {
		t.Fatal(err)
	}
	t.Logf("slipway nodes:\n%s", out)
	if out, err = r.Must(ctx, "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "get", "nodes", "--no-headers"); err != nil || strings.Count(out, " Ready ") != 2 {
		t.Errorf("kubectl get nodes: %v\n%s", err, out)
	}
}
