package scenario

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
)

// something is what a cluster's users have in it.
const something = `apiVersion: v1
kind: ConfigMap
metadata: {name: kept}
data: {word: WORD}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: something}
spec:
  replicas: 1
  selector: {matchLabels: {app: something}}
  template:
    metadata: {labels: {app: something}}
    spec:
      containers:
      - name: something
        image: slipway.local/busybox:1.37
        imagePullPolicy: IfNotPresent
        command: [/bin/busybox, sleep, "1000000"]
`

// TestUpgradeMinor installs the Kubernetes before the example's and upgrades to
// the example's: first with too little time, so that the node goes back although
// the newer API server has had etcd's data, then for good.
func TestUpgradeMinor(t *testing.T) {
	if !*all {
		t.Skip("skipped: it needs another Kubernetes compiled, and TestReady upgrades within one; make test-all has it")
	}
	l := newLogin(t)
	seg, port := network(t)
	previous := filepath.Join(*out, "previous")
	m := qemu.Machine{Memory: 4096, Boot: qemu.CD(filepath.Join(previous, built(t, previous).ISO.Path)), NICs: []*lan.Port{port}, CIDATA: l.installing("node-1", ""),
		Disks: []qemu.Drive{{Path: filepath.Join(t.TempDir(), "node.img"), Size: nodeDisk, Serial: "NODE"}}}
	vm := start(t, m)
	ca := l.reach(t, vm, "ready")
	vm.Close() // SIGKILL: a power cut
	m.Boot, m.CIDATA = qemu.Boot{}, nil
	vm = start(t, m)
	if again := l.reach(t, vm, "ready"); again != ca {
		t.Errorf("another cluster: CA %.12s, before %.12s", again, ca)
	}
	u := &upgrading{l: l, vm: vm, seg: seg, store: newStore(t, seg), ca: ca}
	u.kubernetes(t, "v1.36.", func(n *node) {
		if _, err := n.r.Must(n.ctx, "bash", "-c", "cat > /run/something.yaml <<'EOF'\n"+something+"EOF"); err != nil {
			t.Fatal(err)
		}
		n.kubectl(t, "apply", "-f", "/run/something.yaml")
		n.kubectl(t, "rollout", "status", "deployment/something", "--timeout=10m")
	})
	rel := newRelease(t, "next", 2)
	rel.sign(t)
	u.store.now.Store(rel)
	t.Run("too little time", func(t *testing.T) {
		vm.Console.Tolerate = func(handoff.Event) bool { return true }
		u.run(t, u.store.url, "2m", "")
		u.back(t, "SW-UPGRADE-LATE")
		u.kubernetes(t, "v1.36.", func(n *node) { u.kept(t, n) })
	})
	t.Run("one minor up", func(t *testing.T) {
		vm.Console.Tolerate = func(e handoff.Event) bool { return e.Phase == "services" }
		u.run(t, u.store.url, "", "")
		e, err := vm.Wait(limitOf(t), done("upgrade"))
		if err != nil {
			t.Fatal(err)
		}
		t.Log(e.Text)
		u.runs(t, "example 2", "b")
		if again := caOf(t, vm, l); again != u.ca {
			t.Errorf("another cluster: CA %.12s, before %.12s", again, u.ca)
		}
		u.kubernetes(t, "v1.37.", func(n *node) { u.kept(t, n) })
	})
}

// kept wants what was in the cluster, running.
func (u *upgrading) kept(t *testing.T, n *node) {
	t.Helper()
	if got := n.kubectl(t, "get", "configmap", "kept", "-o", "jsonpath={.data.word}"); got != "WORD" {
		t.Errorf("the ConfigMap has %q", got)
	}
	n.kubectl(t, "rollout", "status", "deployment/something", "--timeout=10m")
	n.everythingRuns(t)
}

// kubernetes wants API server and kubelet of a version, and does something there.
func (u *upgrading) kubernetes(t *testing.T, version string, then func(*node)) {
	t.Helper()
	ctx := limitOf(t)
	r, err := u.vm.SSH(ctx, qemu.SSHOptions{Signer: u.l.signer})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := &node{t: t, ctx: ctx, vm: u.vm, r: r}
	var server struct{ GitVersion string }
	decode(t, n.kubectl(t, "get", "--raw", "/version"), &server)
	kubelet := n.kubectl(t, "get", "node", "node-1", "-o", "jsonpath={.status.nodeInfo.kubeletVersion}")
	if !strings.HasPrefix(server.GitVersion, version) || !strings.HasPrefix(kubelet, version) {
		t.Errorf("API server %s and kubelet %s, want %s", server.GitVersion, kubelet, version)
	}
	for { // three static pods and kube-proxy: the API shows them some time after they run
		images := n.kubectl(t, "get", "pods", "-A", "-o", "jsonpath={range .items[*]}{.spec.containers[0].image}{\"\\n\"}{end}")
		if strings.Count(images, ":"+version) == 4 {
			t.Logf("API server %s, kubelet %s\n%s", server.GitVersion, kubelet, images)
			break
		}
		time.Sleep(5 * time.Second)
	}
	then(n)
}
