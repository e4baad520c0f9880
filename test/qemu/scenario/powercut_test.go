package scenario

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
)

var (
	cuts     = flag.Int("cuts", 1, "how often TestPowerCut takes the power away")
	firstCut = flag.Int("first-cut", 0, "index of the step that the first cut of TestPowerCut is after: several short runs can go where a long one would")
)

// cutSteps are the steps after whose beginning power is cut, so that a few
// cuts still hit what matters: keys, manifests, etcd's first writes, addons.
var cutSteps = []string{"certs", "control-plane", "wait-control-plane", "addon", "kubeconfig", "etcd", "kubelet-start", "upload-config", "mark-control-plane", "bootstrap-token"}

// TestPowerCut takes the power away again and again while kubeadm init runs on
// a machine with a state volume; the boot after the last cut ends Ready, with
// the CA that the first one made. Where init has ended, the node gets Ready and
// the rest of the cuts is for a new one.
func TestPowerCut(t *testing.T) {
	if !*all {
		t.Skip("skipped: TestInstall takes the power from one kubeadm init; make test-all does it twenty times")
	}
	l := newLogin(t)
	_, port := network(t)
	disk := filepath.Join(t.TempDir(), "state.img")
	stateDisk(t, disk)
	config := l.cidata("node-1")
	config["user-data"] = append(config["user-data"], "  state: SLIPWAY-STATE\n"...)
	m := qemu.Machine{Memory: 4096, Boot: qemu.CD(iso(t)), NICs: []*lan.Port{port}, CIDATA: config,
		Disks: []qemu.Drive{{Path: disk, Serial: "STATE"}},
		// A service that ends after a power cut is started again; that is no failure of the boot.
		Tolerate: func(e handoff.Event) bool { return e.Phase == "services" && e.Step != "" }}
	var all []cut
	ca := ""
	same := func(vm *qemu.VM) { // as the cut before it left things
		for _, e := range vm.Console.Events() {
			if e.Phase != "kubernetes" || e.Step != "resume" {
				continue
			}
			got, _ := e.Data["ca"].(string)
			all[len(all)-1].found = fmt.Sprintf("%s, CA %.12s", e.Text, got)
			if ca != "" && got != ca {
				t.Fatalf("another cluster: CA %s, before %s", got, ca)
			}
			ca = got
		}
	}
	nodes := 1
	for i := range *cuts {
		step := cutSteps[(*firstCut+i)%len(cutSteps)]
		vm := start(t, m)
		e, err := vm.Wait(limit(t, 40*time.Minute), inStep(step))
		if err != nil {
			t.Fatal(err)
		}
		if e.Step == "ready" || done("ready")(e) { // init is over: this node gets Ready, the next cuts are another's
			if _, err := vm.Wait(limit(t, 40*time.Minute), done("ready")); err != nil {
				diagnose(t, vm, l)
				t.Fatal(err)
			}
			same(vm)
			t.Logf("node %d is Ready with CA %.12s", nodes, ca)
			vm.Close()
			stateDisk(t, disk)
			ca = ""
			nodes++
			vm = start(t, m)
			if e, err = vm.Wait(limit(t, 40*time.Minute), inStep(step)); err != nil {
				t.Fatal(err)
			}
		}
		after := time.Duration(rand.Int64N(int64(4 * time.Second)))
		time.Sleep(after) // the moment is what is random here
		same(vm)
		vm.Close() // SIGKILL: what the guest has not written is lost
		all = append(all, cut{node: nodes, step: e.Step, at: e.Uptime, after: after.Seconds(), found: "the boot ended before it looked"})
		t.Logf("cut %d: %s", i+1, all[len(all)-1])
	}
	vm := start(t, m)
	if _, err := vm.Wait(limit(t, 20*time.Minute), done("ready")); err != nil {
		diagnose(t, vm, l)
		t.Fatal(err)
	}
	same(vm)
	ctx := limit(t, 20*time.Minute)
	r, err := vm.SSH(ctx, qemu.SSHOptions{Signer: l.signer})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := &node{t: t, ctx: ctx, vm: vm, r: r}
	n.everythingRuns(t)
	sum, err := r.Must(ctx, "sha256sum", "/etc/kubernetes/pki/ca.crt")
	if err != nil {
		t.Fatal(err)
	}
	if ca != "" && sum[:64] != ca {
		t.Errorf("the CA is %s, after the first cut it was %s", sum[:64], ca)
	}
	t.Logf("Ready after %d cuts, %d nodes, with CA %.12s", *cuts, nodes, sum)
	for i, c := range all {
		t.Logf("cut %2d: %s; next boot: %s", i+1, c, c.found)
	}
}

// cut is one loss of power and what the boot after it found.
type cut struct {
	node      int
	step      string  // of kubeadm init, the last that began
	at, after float64 // seconds: its beginning since power-on, and the cut after that
	found     string
}

func (c cut) String() string {
	return fmt.Sprintf("node %d, %.1f s after %s began at %.1f s", c.node, c.after, c.step, c.at)
}

// inStep is the beginning of a step of kubeadm init, or the end of all steps.
func inStep(step string) func(handoff.Event) bool {
	return func(e handoff.Event) bool {
		return e.Phase == "kubernetes" && (e.Step == step && e.State != handoff.Failed || e.Step == "ready") || done("ready")(e)
	}
}

// stateDisk makes an empty volume for state.
func stateDisk(t *testing.T, path string) {
	t.Helper()
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-L", "SLIPWAY-STATE", path, "8G").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
}

// diagnose prints what the node itself says, if it can still be asked.
func diagnose(t *testing.T, vm *qemu.VM, l login) {
	t.Helper()
	ctx := limit(t, time.Minute)
	r, err := vm.SSH(ctx, qemu.SSHOptions{Signer: l.signer})
	if err != nil {
		t.Logf("the node does not answer: %v", err)
		return
	}
	defer r.Close()
	for _, argv := range [][]string{{"slipway", "status"}, {"tail", "-n", "40", "/run/slipway/log/kubelet.log"}, {"tail", "-n", "15", "/run/slipway/log/containerd.log"},
		{"ls", "-laR", "/etc/kubernetes", "/var/lib/kubelet/pki"}} {
		out, err := r.Must(ctx, argv...)
		t.Logf("%q: %v\n%s", argv, err, out)
	}
}
