package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
)

// TestReady takes a machine from power-on to a working cluster of one node, on
// a network that leads nowhere, installed on its disk on the way; then breaks
// things on it, starts it from the disk alone, and upgrades it there.
func TestReady(t *testing.T) {
	l := newLogin(t)
	seg, port := timedNetwork(t)
	started := time.Now()
	config := l.installing("node-1", "")
	config["user-data"] = append(config["user-data"], "  services: [iscsid, multipathd, rpcbind]\nusers:\n  - {name: ada, lock_passwd: false, hashed_passwd: "+adaHash+"}\n"+stampedUser...)
	m := qemu.Machine{Memory: 4096, Boot: qemu.CD(iso(t)), NICs: []*lan.Port{port}, CIDATA: config, RTC: year2001(), Extra: watchdogDevice(),
		Disks:    []qemu.Drive{{Path: filepath.Join(t.TempDir(), "node.img"), Size: nodeDisk, Serial: "NODE"}},
		Tolerate: func(e handoff.Event) bool { return e.Phase == "services" }}
	vm := start(t, m)
	if _, err := vm.Wait(limit(t, 40*time.Minute), done("ready")); err != nil {
		t.Fatal(err)
	}
	t.Logf("power-on to Ready: %.0f s\n%s", time.Since(started).Seconds(), table(vm.Console.Events()))
	ctx := limit(t, 40*time.Minute)
	r, err := vm.SSH(ctx, qemu.SSHOptions{Signer: l.signer})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := &node{t: t, ctx: ctx, vm: vm, r: r}
	t.Run("everything runs", n.everythingRuns)
	t.Run("watchdog is armed", n.watchdogIsArmed)
	t.Run("clock is right", n.clockIsRight)
	t.Run("nothing was unpacked", n.nothingUnpacked)
	t.Run("pod and service", n.podAndService)
	t.Run("services come back", n.servicesComeBack)
	t.Run("status on the node", n.statusOnTheNode)
	t.Run("init is small", n.initIsSmall)
	t.Run("storage clients", n.storageClients)
	t.Run("console login", n.consoleLogin)
	t.Run("clock jumps", n.clockJumps)
	ca := caOf(t, vm, l)
	t.Run("power button", n.powerButton)
	vm.Close()
	m.Boot, m.CIDATA = qemu.Boot{}, nil
	next := filepath.Join(*out, "next") // what it is upgraded from, and does not start
	m.Disks = append(m.Disks, qemu.Drive{Path: filepath.Join(next, built(t, next).ISO.Path), ReadOnly: true, Serial: "NEXT"})
	vm = start(t, m)
	t.Run("from its own disk", func(t *testing.T) {
		if again := l.reach(t, vm, "ready"); again != ca {
			t.Errorf("another cluster: CA %.12s, before %.12s", again, ca)
		}
	})
	u := &upgrading{l: l, vm: vm, seg: seg, store: newStore(t, seg), ca: ca}
	t.Run("upgrade", u.test)
	t.Run("from its own disk, upgraded", func(t *testing.T) {
		vm.Close() // SIGKILL: a power cut
		u.vm = start(t, m)
		l.reach(t, u.vm, "services")
		u.runs(t, "example 2", "b")
	})
}

// table shows how long each phase took and its share of the time to Ready, and
// the same for the steps of Kubernetes, where a person waits longest. A step
// lasts until the next one begins; addons go on behind it.
func table(events []handoff.Event) string {
	var b strings.Builder
	total := 0.0
	for _, e := range events {
		total = max(total, e.Uptime) // of a boot that was cut short, its end
		if done("ready")(e) {
			total = e.Uptime
			break
		}
	}
	row := func(name string, from, took float64) {
		fmt.Fprintf(&b, "  %-22s from %6.1f s  took %6.1f s  %5.1f %%\n", name, from, took, 100*took/total)
	}
	begin := map[string]float64{}
	step, since := "", 0.0
	for _, e := range events {
		switch {
		case e.Step == "" && e.State == handoff.Started:
			begin[e.Phase] = e.Uptime
			step, since = "content, import", e.Uptime
		case e.Step == "" && e.State == handoff.Done:
			row(e.Phase, begin[e.Phase], e.Uptime-begin[e.Phase])
		case e.Phase == "kubernetes" && e.State == handoff.Started && e.Step != step:
			row("  "+step, since, e.Uptime-since)
			step, since = e.Step, e.Uptime
		case e.Phase == "kubernetes" && e.Step == "ready" && e.State == handoff.Done:
			row("  ready", since, e.Uptime-since)
		}
	}
	return b.String()
}

// node is the machine of TestReady, logged in.
type node struct {
	t   *testing.T
	ctx context.Context
	vm  *qemu.VM
	r   *qemu.Remote
}

// kubectl is what it prints, run on the node. While nobody listens it is run again:
// where the host is so busy that etcd reads for seven seconds, probes fail and
// kubelet starts the API server anew.
func (n *node) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	for {
		s, err := n.r.Must(n.ctx, append([]string{"kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf"}, args...)...)
		if err == nil {
			return s
		}
		if n.ctx.Err() != nil || !strings.Contains(err.Error(), "connect: connection refused") {
			t.Fatal(err)
		}
		t.Logf("kubectl %s: nobody listens, trying again", strings.Join(args, " "))
		time.Sleep(5 * time.Second)
	}
}

// everythingRuns wants the node Ready and schedulable and every system pod Running and ready.
func (n *node) everythingRuns(t *testing.T) {
	var nodes struct {
		Items []struct {
			Spec struct {
				Taints []struct{ Key string }
			}
			Status struct {
				Conditions []struct{ Type, Status string }
				NodeInfo   struct{ KubeletVersion, ContainerRuntimeVersion string }
			}
		}
	}
	decode(t, n.kubectl(t, "get", "nodes", "-o", "json"), &nodes)
	if len(nodes.Items) != 1 || len(nodes.Items[0].Spec.Taints) != 0 {
		t.Fatalf("nodes: %+v", nodes)
	}
	ready := false
	for _, c := range nodes.Items[0].Status.Conditions {
		ready = ready || c.Type == "Ready" && c.Status == "True"
	}
	if !ready {
		t.Errorf("conditions: %+v", nodes.Items[0].Status.Conditions)
	}
	t.Logf("kubelet %s, %s", nodes.Items[0].Status.NodeInfo.KubeletVersion, nodes.Items[0].Status.NodeInfo.ContainerRuntimeVersion)
	want := []string{"coredns", "etcd", "kube-apiserver", "kube-controller-manager", "kube-flannel", "kube-proxy", "kube-scheduler"}
	n.until(t, "every system pod ready", func() error {
		have := n.readyPods(t)
		for _, w := range want {
			if !have[w] {
				return fmt.Errorf("%s is not ready (have %v)", w, have)
			}
		}
		return nil
	})
}

func (n *node) readyPods(t *testing.T) map[string]bool {
	t.Helper()
	var pods struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Phase             string
				ContainerStatuses []struct{ Ready bool }
			}
		}
	}
	decode(t, n.kubectl(t, "get", "pods", "-A", "-o", "json"), &pods)
	have := map[string]bool{}
	for _, p := range pods.Items {
		ok := p.Status.Phase == "Running" && len(p.Status.ContainerStatuses) > 0
		for _, c := range p.Status.ContainerStatuses {
			ok = ok && c.Ready
		}
		for _, w := range []string{"coredns", "etcd", "kube-apiserver", "kube-controller-manager", "kube-flannel", "kube-proxy", "kube-scheduler", "web"} {
			if strings.HasPrefix(p.Metadata.Name, w) && ok {
				have[w] = true
			}
		}
	}
	return have
}

// nothingUnpacked wants no layer content on the node: neither in containerd's
// content store nor as unpacked snapshots.
func (n *node) nothingUnpacked(t *testing.T) {
	list, err := n.r.Must(n.ctx, "ctr", "-n", "k8s.io", "content", "ls")
	if err != nil {
		t.Fatal(err)
	}
	var big []string
	for _, line := range strings.Split(list, "\n")[1:] {
		f := strings.Fields(line)
		if len(f) > 1 && (strings.HasSuffix(f[1], "MB") || strings.HasSuffix(f[1], "MiB") || strings.HasSuffix(f[1], "GB")) {
			big = append(big, line)
		}
	}
	if len(big) > 0 {
		t.Errorf("layers in the content store:\n%s", strings.Join(big, "\n"))
	}
	found, err := n.r.Must(n.ctx, "find", "/var/lib/containerd", "-name", "layer.erofs")
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(found) != "" {
		t.Errorf("layers written by the snapshotter:\n%s", found)
	}
}

const web = `apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: web
    image: slipway.local/busybox:1.37
    imagePullPolicy: IfNotPresent
    command: [/bin/busybox, httpd, -f, -p, "8080", -h, /etc]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
`

// podAndService runs a pod from an image baked into the ISO and asks it
// through its Service's cluster address, from the node and from another pod by name.
func (n *node) podAndService(t *testing.T) {
	if _, err := n.r.Must(n.ctx, "bash", "-c", "cat > /run/web.yaml <<'EOF'\n"+web+"EOF"); err != nil {
		t.Fatal(err)
	}
	n.kubectl(t, "apply", "-f", "/run/web.yaml")
	n.kubectl(t, "wait", "--for=condition=Ready", "pod/web", "--timeout=15m")
	ip := strings.TrimSpace(n.kubectl(t, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"))
	n.until(t, "the service answers on its cluster address", func() error {
		res, err := n.r.Run(n.ctx, "curl", "-sS", "--max-time", "20", "http://"+ip+"/hostname")
		if err != nil {
			return err
		}
		if res.Code != 0 || strings.TrimSpace(string(res.Stdout)) != "web" {
			return fmt.Errorf("curl: exit %d, %q %s", res.Code, res.Stdout, res.Stderr)
		}
		return nil
	})
	n.until(t, "the service's name resolves in a pod", func() error {
		res, err := n.r.Run(n.ctx, "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "exec", "web", "--",
			"/bin/busybox", "wget", "-q", "-O", "-", "-T", "20", "http://web.default.svc.cluster.local/hostname")
		if err != nil {
			return err
		}
		if res.Code != 0 || strings.TrimSpace(string(res.Stdout)) != "web" {
			return fmt.Errorf("wget in the pod: exit %d, %q %s", res.Code, res.Stdout, res.Stderr)
		}
		return nil
	})
}

// servicesComeBack kills the children of PID 1 the hard way: one after the
// other, then all at once. sshd's own connections go with it, so that PID 1's
// child is the first, oldest one.
func (n *node) servicesComeBack(t *testing.T) {
	all := []string{"kubelet", "containerd", "chronyd", "sshd", "iscsid", "multipathd", "rpcbind"}
	n.supervised(t, all)
	kill := [][]string{all} // each, then all of them
	for _, name := range slices.Backward(all) {
		kill = slices.Insert(kill, 0, []string{name})
	}
	for _, names := range kill {
		before := map[string]string{}
		argv := []string{"kill", "-9"}
		for _, name := range names {
			before[name] = n.oldest(t, name)
			argv = append(argv, before[name])
		}
		if _, err := n.r.Run(n.ctx, argv...); err != nil { // not that one had ended by itself
			t.Fatal(err)
		}
		for _, name := range names {
			n.until(t, name+" runs again", func() error {
				now, err := n.r.Run(n.ctx, "pgrep", "-o", "-x", name)
				if err != nil {
					return err
				}
				if f := strings.TrimSpace(string(now.Stdout)); f == "" || f == before[name] {
					return fmt.Errorf("pid before %s, now %q", before[name], f)
				}
				return nil
			})
		}
	}
	n.until(t, "the node is Ready and the pod still there", func() error {
		res, err := n.r.Run(n.ctx, "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "get", "node", "node-1", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if err != nil {
			return err
		}
		if string(res.Stdout) != "True" {
			return fmt.Errorf("Ready is %q %s", res.Stdout, res.Stderr)
		}
		return nil
	})
	if !n.readyPods(t)["web"] {
		t.Error("the pod did not survive")
	}
}

// supervised wants PID 1 to have these children and no others, so that none is
// left out here.
func (n *node) supervised(t *testing.T, want []string) {
	t.Helper()
	for _, e := range n.vm.Console.Events() {
		if !done("services")(e) {
			continue
		}
		got := strings.Fields(strings.TrimPrefix(e.Text, "supervised:"))
		if want = slices.Sorted(slices.Values(want)); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
			t.Errorf("PID 1 supervises %q, want %q", got, want)
		}
		return
	}
	t.Error("no word of what is supervised")
}

// oldest waits for a program and is its process ID: kubelet ends, and is started
// again, some time after the containerd that it talked to.
func (n *node) oldest(t *testing.T, name string) (pid string) {
	t.Helper()
	n.until(t, name+" runs", func() error {
		out, err := n.r.Must(n.ctx, "pgrep", "-o", "-x", name)
		pid = strings.TrimSpace(out)
		return err
	})
	return pid
}

// statusOnTheNode asks the node's own command line.
func (n *node) statusOnTheNode(t *testing.T) {
	for want, argv := range map[string][]string{
		"ready ":         {"slipway", "status"},
		"kubelet ":       {"slipway", "status"},
		"containerd":     {"slipway", "logs"},
		`"slipway":1`:    {"slipway", "events", "-o", "json"},
		"kubernetes":     {"slipway", "events"},
		"level=":         {"slipway", "logs", "containerd"},
		"usage: slipway": {"sh", "-c", "slipway status of something 2>&1; true"},
		// All other verbs are the operator's tool.
		`unknown command "nonsense"`: {"sh", "-c", "slipway nonsense 2>&1; true"},
	} {
		if out, err := n.r.Must(n.ctx, argv...); err != nil || !strings.Contains(out, want) {
			t.Errorf("%q: no %q: %v\n%.800s", argv, want, err, out)
		}
	}
}

// initIsSmall measures PID 1 of an idle node: memory, and processor time over
// half a minute. The figures are logged and bounded generously: they are a
// promise about the size of things, not about a busy host's speed.
func (n *node) initIsSmall(t *testing.T) {
	script := `rss() { grep VmRSS /proc/1/status | tr -dc 0-9; }; cpu() { cut -d' ' -f14,15 /proc/1/stat | tr ' ' +; }
own() { for d in /sys/fs/cgroup/system/*/; do echo $(basename $d) $(grep -m1 '^anon ' $d/memory.stat | tr -dc 0-9) $(grep -m1 ^usage_usec $d/cpu.stat | tr -dc 0-9); done; }
a=$(($(cpu))); x=$(own); sleep 30; b=$(($(cpu))); y=$(own); echo $(rss) $((b-a)) $(getconf CLK_TCK); echo "$x"; echo --; echo "$y"`
	out, err := n.r.Must(n.ctx, "bash", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	var kib, ticks, hz float64
	if _, err := fmt.Sscan(out, &kib, &ticks, &hz); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	_, services, _ := strings.Cut(out, "\n")
	earlier, later, _ := strings.Cut(services, "--")
	used := map[string]float64{}
	for line := range strings.Lines(earlier + later) { // a service twice: the figures of before are taken off
		var name string
		var anon, usec float64
		if n, _ := fmt.Sscan(line, &name, &anon, &usec); n != 3 {
			continue
		}
		if before, ok := used[name]; ok {
			t.Logf("%-12s %5.1f MB, %.2f %% of one processor", name, anon/1e6, (usec-before)/30e6*100)
		}
		used[name] = usec
	}
	t.Logf("slipway-init: %.1f MB resident, %.2f %% of one processor over 30 s", kib/1e3, 100*ticks/hz/30)
	if kib > 80e3 {
		t.Errorf("slipway-init has %.0f MB resident, want at most 80", kib/1e3)
	}
}

// powerButton wants an orderly end.
func (n *node) powerButton(t *testing.T) {
	if err := n.vm.PowerButton(n.ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case <-n.vm.Exited():
	case <-n.ctx.Done():
		t.Fatalf("still on: %v\n%s", n.ctx.Err(), n.vm.Console.Tail(40))
	}
}

// until asks again every two seconds: the state of a cluster is polled.
func (n *node) until(t *testing.T, what string, check func() error) {
	t.Helper()
	var last error
	for n.ctx.Err() == nil {
		if last = check(); last == nil {
			return
		}
		select {
		case <-n.ctx.Done():
		case <-time.After(2 * time.Second):
		}
	}
	t.Fatalf("%s: %v\n%s", what, last, n.vm.Console.Tail(40))
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
}
