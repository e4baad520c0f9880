package scenario

import (
	"context"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/qemutest"
)

// stamped is a piece of cluster.yaml that keeps a socket open which wants its
// packets stamped with the time. The kernel patches netif_rx when the first such
// socket opens and the last closes (net/core/dev.c, netstamp_needed_key), which
// chronyd's do at every poll of the seed's clock, and QEMU's TCG may let another
// processor run into the patch: see start. It ended an amd64 machine 623 s after
// power-on.
const stamped = "  cloudConfig:\n    " + stampedUser

const stampedUser = `bootcmd: [[sh, -c, "ping -q -i 3600 127.0.0.1 > /dev/null 2>&1 &"]]
`

// dataDisks is one that also gives every node a file system on a disk of its own
// for data.
const dataDisks = stamped + `    fs_setup: [{device: /dev/disk/by-id/virtio-DATA, filesystem: ext4, label: DATA, partition: none}]
    mounts: [["LABEL=DATA", /srv/data]]
`

// keeper is a pod that only the worker may run, whose data outlives it.
const keeper = `apiVersion: apps/v1
kind: Deployment
metadata: {name: keeper}
spec:
  replicas: 1
  selector: {matchLabels: {app: keeper}}
  template:
    metadata: {labels: {app: keeper}}
    spec:
      nodeSelector: {kubernetes.io/hostname: worker-1}
      containers:
      - name: keeper
        image: slipway.local/busybox:1.37
        imagePullPolicy: IfNotPresent
        command: [/bin/busybox, sh, -c, "[ -e /data/mark ] || cat /proc/sys/kernel/random/uuid > /data/mark; exec /bin/busybox httpd -f -p 8080 -h /data"]
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, hostPath: {path: /srv/data, type: Directory}}]
`

// reimages installs the worker anew over the network, as the operator asks for it
// at the seed: it comes back under its name, and a pod finds its data again.
func (s *station) reimages(t *testing.T, l login, plane, worker *qemu.VM) {
	ctx := limitOf(t)
	r := s.ssh(ctx, l, plane, "control-plane-1")
	defer r.Close()
	n := &node{t: t, ctx: ctx, vm: plane, r: r}
	if _, err := r.Must(ctx, "bash", "-c", "cat > /run/keeper.yaml <<'EOF'\n"+keeper+"EOF"); err != nil {
		t.Fatal(err)
	}
	n.kubectl(t, "apply", "-f", "/run/keeper.yaml")
	n.kubectl(t, "rollout", "status", "deployment/keeper", "--timeout=10m")
	mark := func() string {
		return strings.TrimSpace(n.kubectl(t, "exec", "deployment/keeper", "--", "/bin/busybox", "cat", "/data/mark"))
	}
	uid := func() string { return n.kubectl(t, "get", "node", "worker-1", "-o", "jsonpath={.metadata.uid}") }
	before, node := mark(), uid()
	if before == "" {
		t.Fatal("the pod made no mark")
	}
	if out, err := s.run(ctx, "reimage", "control-plane-1", "--yes"); err == nil || !strings.Contains(err.Error(), "only control plane") {
		t.Errorf("the only control plane was not refused: %v\n%s", err, out)
	}
	worker.Console.Forget()
	worker.Console.Tolerate = func(e handoff.Event) bool { return e.Phase == "services" } // as the node ends
	out, err := s.run(ctx, "reimage", "worker-1", "--yes")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("slipway reimage worker-1 --yes:\n%s", out)
	for _, want := range []func(handoff.Event) bool{step("install", "active", handoff.Done), done("ready")} {
		if _, err := worker.Wait(ctx, want); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("worker-1 again:\n%s", table(worker.Console.Events()))
	s.until(ctx, "both nodes are Ready again", func(all []seed.Machine) bool { return len(all) == 2 && count(all, seed.Ready) == 2 })
	n.kubectl(t, "rollout", "status", "deployment/keeper", "--timeout=10m")
	if after := mark(); after != before {
		t.Errorf("the pod finds %q, it had left %q", after, before)
	}
	if again := uid(); again == node {
		t.Error("the Node is the one from before: it did not leave the cluster")
	}
}

// ssh logs in at a node of the seed's.
func (s *station) ssh(ctx context.Context, l login, vm *qemu.VM, name string) *qemu.Remote {
	s.t.Helper()
	all, err := s.machines(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.laptop == nil {
		s.laptop = qemutest.Host(s.t, s.seg, "laptop", netip.MustParseAddr("10.77.0.2"))
	}
	for _, m := range all {
		if m.Name != name {
			continue
		}
		r, err := vm.SSH(ctx, qemu.SSHOptions{Signer: l.signer, Host: s.laptop, Addr: m.Address})
		if err != nil {
			s.t.Fatal(err)
		}
		return r
	}
	s.t.Fatalf("no node %s", name)
	return nil
}

// nodeDisks are a disk for the node and one for data.
func nodeDisks(t *testing.T, name string) []qemu.Drive {
	dir := t.TempDir()
	return []qemu.Drive{{Path: filepath.Join(dir, name), Size: nodeDisk, Serial: "NODE"}, {Path: filepath.Join(dir, name+"-data"), Size: 4 << 30, Serial: "DATA"}}
}

// upgrades starts the seed again with the next bundle's medium, which has the next
// Kubernetes, and upgrades both nodes from there, the control plane first. The
// worker has a kubelet configuration that the cluster has no more.
func (s *station) upgrades(t *testing.T, l login, plane, worker *qemu.VM) {
	if !*all {
		t.Skip("skipped: TestReady upgrades a node, and test/orders carries the order; make test-all upgrades both nodes from the seed")
	}
	ctx := limitOf(t)
	s.kill()
	dir := filepath.Join(*out, "next")
	s.args[len(s.args)-1] = filepath.Join(dir, built(t, dir).ISO.Path)
	s.comesBack(ctx)
	r := s.ssh(ctx, l, worker, "worker-1")
	_, err := r.Must(ctx, "sh", "-c", "echo maxPods: 99 >> /var/lib/kubelet/config.yaml; sync")
	r.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, vm := range []*qemu.VM{plane, worker} {
		vm.Console.Forget()
		vm.Console.Tolerate = func(e handoff.Event) bool { return e.Phase == "services" }
	}
	plan, err := s.run(ctx, "upgrade", "--dry-run")
	if err != nil {
		t.Fatal(err)
	}
	said, err := s.run(ctx, "upgrade", "--yes")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("slipway upgrade --dry-run:\n%s\nslipway upgrade:\n%s", plan, said)
	all, err := s.machines(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.Bundle != "example 2" {
			t.Errorf("%s runs %q, want example 2", m.Name, m.Bundle)
		}
	}
	if _, err := worker.Wait(ctx, step("kubernetes", "kubelet-config", handoff.Done)); err != nil {
		t.Error(err)
	}
	r = s.ssh(ctx, l, plane, "control-plane-1")
	defer r.Close()
	n := &node{t: t, ctx: ctx, vm: plane, r: r}
	for _, name := range []string{"control-plane-1", "worker-1"} {
		kubelet := n.kubectl(t, "get", "node", name, "-o", "jsonpath={.status.nodeInfo.kubeletVersion}")
		if t.Logf("%s: kubelet %s", name, kubelet); !strings.HasPrefix(kubelet, "v1.37.") {
			t.Errorf("%s has kubelet %s, want the next bundle's", name, kubelet)
		}
	}
	for pods := ""; pods != "110"; time.Sleep(time.Second) { // what kubelet says of itself, every ten seconds
		if pods = n.kubectl(t, "get", "node", "worker-1", "-o", "jsonpath={.status.capacity.pods}"); ctx.Err() != nil {
			t.Fatalf("worker-1 has room for %s pods, want the cluster's 110", pods)
		}
	}
	if said, err = s.run(ctx, "upgrade", "--yes"); err != nil || !strings.Contains(said, "example 2") {
		t.Errorf("once more: %v\n%s", err, said)
	}
}
