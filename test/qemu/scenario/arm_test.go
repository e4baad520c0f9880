package scenario

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/medium"
	"slipway.dev/slipway/pxe"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/boot"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
	"slipway.dev/slipway/test/qemu/qemutest"
)

// both is the directory with the bundle built for both architectures by one command.
func both(t testing.TB) string {
	if *out == "" {
		t.Skip(noISO)
	}
	return filepath.Join(*out, "both")
}

// image is the ISO of one architecture out of both, or the "combined" one.
func image(t testing.TB, a arch.Arch) string {
	dir := both(t)
	return filepath.Join(dir, builtFor(t, dir, a).ISO.Path)
}

// TestReadyARM takes an arm64 machine with UEFI from power-on to a working
// cluster of one node, with the ISO that this host, of whatever architecture, built.
func TestReadyARM(t *testing.T) {
	l := newLogin(t)
	_, port := network(t)
	began := time.Now()
	vm := start(t, qemu.Machine{Arch: arch.ARM64, Memory: 4096, Boot: qemu.CD(image(t, arch.ARM64)), NICs: []*lan.Port{port}, CIDATA: l.cidata("node-1")})
	ctx := limit(t, 40*time.Minute)
	if _, err := vm.Wait(ctx, done("ready")); err != nil {
		t.Fatal(err)
	}
	t.Logf("power-on to Ready: %.0f s\n%s", time.Since(began).Seconds(), table(vm.Console.Events()))
	r, err := vm.SSH(ctx, qemu.SSHOptions{Signer: l.signer})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := &node{t: t, ctx: ctx, vm: vm, r: r}
	t.Run("everything runs", n.everythingRuns)
	t.Run("is arm64", func(t *testing.T) {
		if s := n.kubectl(t, "get", "nodes", "-o", "jsonpath={.items[*].status.nodeInfo.architecture}"); strings.TrimSpace(s) != "arm64" {
			t.Errorf("the node's architecture is %q", s)
		}
	})
	t.Run("nothing was unpacked", n.nothingUnpacked)
	t.Run("pod and service", n.podAndService)
	t.Run("power button", n.powerButton)
}

// TestCombined boots the one ISO for both architectures in each way a machine of
// either may, until PID 1 has found its own manifest and read the config.
func TestCombined(t *testing.T) {
	iso := image(t, "combined")
	for _, c := range []struct {
		name string
		qemu.Machine
	}{
		{"arm64-CD", qemu.Machine{Arch: arch.ARM64, Boot: qemu.CD(iso)}},
		{"BIOS-CD", qemu.Machine{Boot: qemu.CD(iso)}},
		{"UEFI-disk", qemu.Machine{Firmware: qemu.UEFI, Boot: qemu.DiskCopy(iso)}},
		{"SecureBoot-CD", qemu.Machine{Firmware: qemu.SecureBoot, Boot: qemu.CD(iso)}},
		{"arm64-USB", qemu.Machine{Arch: arch.ARM64, Boot: qemu.USB(iso)}},
		{"arm64-SecureBoot-CD", qemu.Machine{Arch: arch.ARM64, Firmware: qemu.SecureBoot, Boot: qemu.CD(iso)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, port := network(t)
			m := c.Machine
			m.Memory, m.CPUs, m.NICs, m.CIDATA = 2048, 1, []*lan.Port{port}, newLogin(t).cidata("node-1")
			vm := start(t, m)
			for _, e := range vm.Console.Events() {
				if done("config")(e) || done("medium")(e) {
					t.Logf("%.1f s after the kernel started: %s", e.Uptime, e.Text)
				}
			}
		})
	}
}

// TestCombinedNetworkBoot serves the combined ISO as a seed does, and powers on
// machines with nothing but a card: arm64's firmware by TFTP (client
// architecture 11) and by HTTP (19), until PID 1 has arm64's signed manifest.
func TestCombinedNetworkBoot(t *testing.T) {
	m, err := medium.Open(image(t, "combined"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	parts, err := m.Parts()
	if err != nil {
		t.Fatal(err)
	}
	var media []boot.Medium
	for _, part := range parts {
		man, err := part.Manifest(trusted(t, part))
		if err != nil {
			t.Fatal(err)
		}
		media = append(media, boot.Medium{Medium: part, Manifest: man})
	}
	native := []string{"-global", "virtio-net-pci.romfile="}
	for _, c := range []struct {
		name  string
		extra []string
		want  string
	}{
		{"PXE", native, "tftp shimaa64.efi"},
		{"HTTP", append(slices.Clone(native), "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n", "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"), "http shimaa64.efi"},
	} {
		t.Run(c.name, func(t *testing.T) {
			seg := qemutest.LAN(t, lan.Options{Subnet: netip.MustParsePrefix("10.77.0.0/24")})
			self := netip.MustParseAddr("10.77.0.80")
			n := &pxe.Network{Server: self, Subnet: seg.Subnet(), First: netip.MustParseAddr("10.77.0.100"), Last: netip.MustParseAddr("10.77.0.120"), Router: self, LeaseTime: time.Hour}
			w := serveBoot(t, seg, media, func(w *wire) pxe.Decide { return w.boot.Decide }, n)
			vm := qemutest.Start(t, qemu.Machine{Arch: arch.ARM64, Memory: 4096, CPUs: 1, Boot: qemu.Network(), NICs: []*lan.Port{qemutest.Port(t, seg, "node-1")}, Extra: c.extra})
			e, err := vm.Wait(limit(t, 20*time.Minute), done("medium"))
			if err != nil {
				t.Fatalf("%v\nthe seed was asked:\n%s", err, w)
			}
			t.Logf("%s, %.1f s after the kernel started\n%s", e.Text, e.Uptime, w)
			for _, what := range []string{c.want, "http arm64/boot/vmlinuz", "http arm64/slipway/manifest.json"} {
				if !w.was(what) {
					t.Errorf("nobody asked for %q", what)
				}
			}
		})
	}
}

// TestMixedCluster is one seed on this host that serves both architectures at
// once: an amd64 machine with nothing but a card becomes the control plane, an
// arm64 one a worker, and the scheduler puts a pod on each.
func TestMixedCluster(t *testing.T) {
	if !*all {
		t.Skip("skipped: TestReadyARM and TestCombinedNetworkBoot have its parts; make test-all joins both architectures in one cluster")
	}
	seg := qemutest.LAN(t, lan.Options{Domains: []string{"cluster.local", "local"}})
	l := newLogin(t)
	s := newStation(t, seg, "10.77.0.1/24", l.cluster()+stamped, image(t, arch.AMD64), image(t, arch.ARM64))
	s.start()
	blank := func(name string, a arch.Arch, extra ...string) *qemu.VM {
		return qemutest.Start(t, qemu.Machine{Name: name, Arch: a, Memory: 5120, Boot: qemu.Network(), Extra: extra, NICs: []*lan.Port{qemutest.Port(t, seg, name)}})
	}
	ctx := limit(t, 60*time.Minute)
	first := blank("amd64", arch.AMD64)
	s.until(ctx, "the amd64 machine asks to become a node", waiting(1), first)
	s.approve(ctx, first)
	if _, err := first.Wait(ctx, done("ready")); err != nil {
		t.Fatal(err)
	}
	second := blank("arm64", arch.ARM64, "-global", "virtio-net-pci.romfile=") // UEFI's own network stack, client architecture 11
	s.until(ctx, "the arm64 machine asks to become a node", waiting(1), first, second)
	s.approve(ctx, second)
	if _, err := second.Wait(ctx, done("ready")); err != nil {
		t.Fatal(err)
	}
	t.Logf("arm64:\n%s", table(second.Console.Events()))
	all := s.until(ctx, "both nodes are Ready", func(all []seed.Machine) bool { return count(all, seed.Ready) == 2 })
	for _, m := range all {
		t.Logf("%s: %s, %s, %s", m.Name, m.Arch, m.Firmware, m.Role)
	}
	host := qemutest.Host(t, seg, "laptop", netip.MustParseAddr("10.77.0.2"))
	r, err := first.SSH(ctx, qemu.SSHOptions{Signer: l.signer, Host: host, Addr: address(t, all, arch.AMD64)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := &node{t: t, ctx: ctx, vm: first, r: r}
	podOnEach(t, n)
}

// approve lets a machine in by the code on its screen.
func (s *station) approve(ctx context.Context, vm *qemu.VM) {
	s.t.Helper()
	if _, err := s.run(ctx, "approve", codeOnScreen(s.t, ctx, vm)); err != nil {
		s.t.Fatal(err)
	}
}

// address is that of the first machine of an architecture.
func address(t *testing.T, all []seed.Machine, a arch.Arch) netip.Addr {
	t.Helper()
	for _, m := range all {
		if m.Arch == a {
			return m.Address
		}
	}
	t.Fatalf("no machine is %s: %+v", a, all)
	return netip.Addr{}
}

const onEach = `apiVersion: apps/v1
kind: DaemonSet
metadata: {name: each}
spec:
  selector: {matchLabels: {app: each}}
  template:
    metadata: {labels: {app: each}}
    spec:
      tolerations: [{operator: Exists}]
      containers:
      - name: each
        image: slipway.local/busybox:1.37
        imagePullPolicy: IfNotPresent
        command: [/bin/busybox, httpd, -f, -p, "8080", -h, /etc]
`

// podOnEach runs the same image by the same name on both machines; each says
// what it is, and each answers the other's node.
func podOnEach(t *testing.T, n *node) {
	if _, err := n.r.Must(n.ctx, "bash", "-c", "cat > /run/each.yaml <<'EOF'\n"+onEach+"EOF"); err != nil {
		t.Fatal(err)
	}
	n.kubectl(t, "apply", "-f", "/run/each.yaml")
	if _, err := n.r.Must(n.ctx, "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "rollout", "status", "daemonset/each", "--timeout=8m"); err != nil {
		t.Fatalf("%v\n%s\n%s", err, n.kubectl(t, "get", "nodes,pods", "-A", "-o", "wide"), n.kubectl(t, "describe", "pods", "-l", "app=each"))
	}
	got := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(n.kubectl(t, "get", "pods", "-l", "app=each", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{"\n"}{end}`)), "\n") {
		var name, ip string
		if _, err := fmt.Sscan(line, &name, &ip); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		machine := strings.TrimSpace(n.kubectl(t, "exec", name, "--", "/bin/busybox", "uname", "-m"))
		n.until(t, "the pod "+name+" answers the control plane", func() error {
			_, err := n.r.Must(n.ctx, "curl", "-sS", "--max-time", "20", "http://"+ip+":8080/hostname")
			return err
		})
		t.Logf("%s at %s runs on %s", name, ip, machine)
		got[machine] = true
	}
	if len(got) != 2 || !got["x86_64"] || !got["aarch64"] {
		t.Errorf("pods run on %v, want x86_64 and aarch64", got)
	}
}
