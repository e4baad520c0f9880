package scenario

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
	"slipway.dev/slipway/test/qemu/qemutest"
)

// TestRenewal keeps a node on a volume for years: started again after eleven
// months it renews its certificates before they end, after fourteen more
// without power it renews those that have ended, and makes again what a power
// cut left empty while kubeadm renewed. It is Ready each time, with the CA of
// the first day.
func TestRenewal(t *testing.T) {
	if !*all {
		t.Skip("three whole boots: add -all")
	}
	l := newLogin(t)
	_, port := network(t)
	disk := filepath.Join(t.TempDir(), "state.img")
	stateDisk(t, disk)
	config := l.cidata("node-1")
	config["user-data"] = append(config["user-data"], "  state: SLIPWAY-STATE\n"...)
	today, ca := time.Now(), ""
	for _, c := range []struct {
		months int
		events []string // what the node says of its certificates
		empty  []string // what loses its content at the end
	}{
		{0, nil, nil},
		{11, []string{"renewing all"}, []string{"/etc/kubernetes/pki/apiserver-kubelet-client.crt", "/etc/kubernetes/scheduler.conf"}},
		{25, []string{"renewing all", "apiserver-kubelet-client.crt or its key is missing", "scheduler.conf is missing"}, nil},
	} {
		rtc := today.AddDate(0, c.months, 0)
		vm := start(t, qemu.Machine{Memory: 4096, Boot: qemu.CD(iso(t)), NICs: []*lan.Port{port}, CIDATA: config, RTC: rtc,
			Disks:    []qemu.Drive{{Path: disk, Serial: "STATE"}},
			Tolerate: func(e handoff.Event) bool { return e.Phase == "services" && e.Step != "certificates" }})
		if _, err := vm.Wait(limit(t, 40*time.Minute), done("ready")); err != nil {
			diagnose(t, vm, l)
			t.Fatalf("after %d months: %v", c.months, err)
		}
		said := ""
		for _, e := range vm.Console.Events() {
			if e.Step == "certificates" {
				said += e.Text + "; "
			}
		}
		for _, want := range c.events {
			if !strings.Contains(said, want) {
				t.Errorf("after %d months the node said %q, want %q", c.months, said, want)
			}
		}
		if len(c.events) == 0 && said != "" {
			t.Errorf("a new node said %q of its certificates", said)
		}
		ctx := limit(t, 20*time.Minute)
		r, err := vm.SSH(ctx, qemu.SSHOptions{Signer: l.signer})
		if err != nil {
			t.Fatal(err)
		}
		n := &node{t: t, ctx: ctx, vm: vm, r: r}
		n.everythingRuns(t)
		sum, err := r.Must(ctx, "sha256sum", "/etc/kubernetes/pki/ca.crt")
		if err != nil {
			t.Fatal(err)
		}
		if ca == "" {
			ca = sum
		}
		if sum != ca {
			t.Errorf("after %d months another CA: %s, before %s", c.months, sum, ca)
		}
		end, err := r.Must(ctx, "sh", "-c", "openssl x509 -noout -enddate -in /etc/kubernetes/pki/apiserver.crt; openssl x509 -noout -enddate -in /var/lib/kubelet/pki/kubelet-client-current.pem")
		t.Logf("after %d months: %s%s %v", c.months, said, strings.ReplaceAll(end, "\n", " "), err)
		for _, f := range c.empty {
			if _, err := r.Must(ctx, "truncate", "-s", "0", f); err != nil {
				t.Fatal(err)
			}
		}
		n.powerButton(t)
		r.Close()
		vm.Close()
	}
}

// TestWatchdog stops PID 1 and wants the hardware to start the machine again.
// The freezer of control groups is the only thing that stops PID 1: it ignores
// SIGSTOP (kill(2)).
func TestWatchdog(t *testing.T) {
	if !*all {
		t.Skip("it waits for the minute of the hardware; TestReady looks whether it is armed: add -all")
	}
	_, port := network(t)
	config := newLogin(t).cidata("node-1")
	config["user-data"] = append(config["user-data"], "bootcmd:\n  - [sh, -c, \"echo 1 > /sys/fs/cgroup/init/cgroup.freeze\"]\n"...)
	m := machineFromDisk(t, boot.Cmdline{Consoles: []string{"tty0", "ttyS0"}, Extra: []string{"quiet", steady}})
	m.CPUs, m.Memory, m.NICs, m.CIDATA, m.Extra = 2, 2048, []*lan.Port{port}, config, watchdogDevice()
	vm := qemutest.Start(t, m)
	ctx := limit(t, 20*time.Minute)
	if _, err := vm.Wait(ctx, func(e handoff.Event) bool { return e.Phase == "services" && e.Step == "" && e.State == handoff.Started }); err != nil {
		t.Fatal(err)
	}
	vm.Console.Forget()
	began := time.Now()
	if _, err := vm.Wait(ctx, func(e handoff.Event) bool { return e.Phase == "kernel" && e.State == handoff.Started }); err != nil {
		t.Fatal(err)
	}
	t.Logf("started again %.0f s after PID 1 stood still", time.Since(began).Seconds())
}

// watchdogDevice is a watchdog card; the emulator's own does not restart the
// machine (ICH9-LPC.noreboot).
func watchdogDevice() []string { return []string{"-device", "i6300esb", "-action", "watchdog=reset"} }

// watchdogIsArmed wants PID 1 to have found it.
func (n *node) watchdogIsArmed(t *testing.T) {
	for _, e := range n.vm.Console.Events() {
		if e.Step == "watchdog" && e.State == handoff.Done && strings.Contains(e.Text, "restarts after 60 s") {
			return
		}
	}
	t.Error("no word of the watchdog")
}
