package scenario

import (
	"os"
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

// TestFailureScreens boots machines that cannot go on and wants, for each, the
// code, the cause and the next step on the console.
func TestFailureScreens(t *testing.T) {
	good := newLogin(t).cidata("node-1")
	with := func(name, content string) map[string][]byte {
		out := map[string][]byte{"user-data": good["user-data"], "meta-data": good["meta-data"]}
		if out[name] = []byte(content); content == "" {
			delete(out, name)
		}
		return out
	}
	for _, c := range []struct {
		name   string
		cidata map[string][]byte
		config string // slipway.config=
		memory int
		code   string
		want   []string // in the event's text
	}{
		{"config missing", nil, "cidata", 2048, "SW-CONFIG-MISSING", []string{`no volume "CIDATA"`}},
		{"config wrong", with("user-data", "#cloud-config\nhostname: node_1\nslipway:\n  rolle: worker\n"), "", 2048, "SW-CONFIG-INVALID",
			[]string{"user-data:2:11: hostname", `user-data:4:3: slipway.rolle: unknown key: did you mean "role"?`}},
		{"config unreadable", with("user-data", ""), "", 2048, "SW-CONFIG-VOLUME", []string{"has no file user-data"}},
		{"memory too small", good, "", 1536, "SW-PREFLIGHT", []string{"MiB of memory, a control-plane needs 1700"}},
		{"state volume missing", with("user-data", string(good["user-data"])+"  state: NOWHERE\n"), "", 2048, "SW-STATE-MISSING", []string{`no ext4 volume "NOWHERE"`, "devices: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, port := network(t)
			args := boot.Cmdline{Consoles: []string{"tty0", "ttyS0"}, Config: c.config, Extra: []string{"quiet", steady}}
			m := machineFromDisk(t, args)
			m.Memory, m.CIDATA, m.NICs, m.Tolerate = c.memory, c.cidata, []*lan.Port{port}, failed(c.code)
			vm := qemutest.Start(t, m)
			e, err := vm.Wait(limit(t, 30*time.Minute), failed(c.code))
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range c.want {
				if !strings.Contains(e.Text, w) {
					t.Errorf("no %q in %q", w, e.Text)
				}
			}
			if dir := os.Getenv("SLIPWAY_SCREENS"); dir != "" { // to look at what a person would see
				if err := vm.Screendump(limit(t, time.Minute), filepath.Join(dir, strings.ReplaceAll(c.name, " ", "-")+".ppm")); err != nil {
					t.Error(err)
				}
			}
			screen := string(vm.Console.Bytes())
			if e.Hint == "" || !strings.Contains(screen, "code: "+c.code) || !strings.Contains(screen, "next: ") {
				t.Errorf("no code and next step on the console: %+v", e)
			}
			t.Logf("%s: %s\n  next: %s", e.Code, e.Text, e.Hint)
		})
	}
}

// machineFromDisk starts the netboot kernel, so that its arguments can be
// chosen, with the plain ISO as a disk. One processor is enough and safe from
// the emulator (see start).
func machineFromDisk(t *testing.T, args boot.Cmdline) qemu.Machine {
	t.Helper()
	dir := filepath.Join(*out, "plain")
	netboot := filepath.Join(dir, built(t, dir).Netboot)
	return qemu.Machine{CPUs: 1, Boot: qemu.Kernel(filepath.Join(netboot, boot.Kernel), filepath.Join(netboot, boot.Initramfs), args.String()),
		Disks: []qemu.Drive{{Path: iso(t), ReadOnly: true, Serial: "MEDIUM"}}}
}

// TestClocks starts machines whose hardware clock is far off and wants to be
// told, and a clock that is not before the build.
func TestClocks(t *testing.T) {
	for rtc, want := range map[string]string{
		"2001-01-01": "the clock was behind and is set to the build time",
		"2011-11-11": "the clock was behind and is set to the build time",
		"2038-01-20": "years after the build: correct it",
	} {
		t.Run(rtc, func(t *testing.T) {
			t.Parallel()
			when, err := time.Parse(time.DateOnly, rtc)
			if err != nil {
				t.Fatal(err)
			}
			m := machineFromDisk(t, boot.Cmdline{Consoles: []string{"tty0", "ttyS0"}, Until: "medium", Extra: []string{"quiet", steady}})
			m.Memory, m.RTC = 2048, when
			vm := qemutest.Start(t, m)
			e, err := vm.Wait(limit(t, 20*time.Minute), done("kernel"))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(e.Text, want) {
				t.Errorf("got %q, want %q", e.Text, want)
			}
			t.Log(e.Text)
		})
	}
}

// TestDeadCard has two cards, the first without a link: the boot goes on with
// the second.
func TestDeadCard(t *testing.T) {
	t.Parallel()
	seg, live := network(t)
	dead := qemutest.Port(t, seg, "dead")
	m := machineFromDisk(t, boot.Cmdline{Consoles: []string{"tty0", "ttyS0"}, Extra: []string{"quiet", steady}})
	m.Memory, m.NICs, m.CIDATA = 2048, []*lan.Port{dead, live}, newLogin(t).cidata("node-1")
	vm := qemutest.Start(t, m)
	ctx := limit(t, 20*time.Minute)
	if err := vm.SetLink(ctx, 0, false); err != nil {
		t.Fatal(err)
	}
	e, err := vm.Wait(ctx, func(e handoff.Event) bool { return done("network")(e) })
	if err != nil {
		t.Fatal(err)
	}
	if e.Data["interface"] != "eth1" {
		t.Errorf("the network is on %v, want eth1: %s", e.Data["interface"], e.Text)
	}
	t.Log(e.Text)
}

// TestBond makes one interface of two cards and gets an address over it.
func TestBond(t *testing.T) {
	t.Parallel()
	seg, one := network(t)
	two := qemutest.Port(t, seg, "two")
	m := machineFromDisk(t, boot.Cmdline{Consoles: []string{"tty0", "ttyS0"}, Extra: []string{"quiet", steady}})
	m.Memory, m.NICs, m.CIDATA = 2048, []*lan.Port{one, two}, newLogin(t).cidata("node-1")
	m.CIDATA["network-config"] = []byte(`version: 2
ethernets:
  eth0: {}
  eth1: {}
bonds:
  bond0:
    interfaces: [eth0, eth1]
    dhcp4: true
    parameters: {mode: active-backup, mii-monitor-interval: 100}
`)
	vm := start(t, m)
	e, err := vm.Wait(limit(t, 20*time.Minute), done("network"))
	if err != nil {
		t.Fatal(err)
	}
	if e.Data["interface"] != "bond0" {
		t.Errorf("the network is on %v, want bond0: %s", e.Data["interface"], e.Text)
	}
	t.Log(e.Text)
}
