package netconf

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs/handoff"
)

const inside = "NETCONF_TEST_NAMESPACE"

// isolated runs the test once more, in a process with a network of its own
// that ends with it, and reports whether this is that process.
func isolated(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("skipped: needs root for a network namespace")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("in a network namespace: %v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP"):
		_, reason, _ := strings.Cut(string(out), "skipped: ")
		reason, _, _ = strings.Cut(reason, "\n")
		t.Skip("skipped: " + reason)
	}
	return false
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// ip runs ip(8) with words separated by spaces.
func ip(t *testing.T, words string) string {
	t.Helper()
	return run(t, append([]string{"ip"}, strings.Fields(words)...)...)
}

// ipJSON decodes what ip -j prints.
func ipJSON(t *testing.T, words string) (out []map[string]any) {
	t.Helper()
	text := ip(t, "-j "+words)
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("ip -j %s: %v\n%s", words, err, text)
	}
	return out
}

// host is another machine: a network namespace.
type host struct {
	t   *testing.T
	pid int
}

func newHost(t *testing.T) host {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	h := host{t, cmd.Process.Pid}
	h.ip("link set lo up")
	return h
}

func (h host) argv(argv ...string) []string {
	return append([]string{"nsenter", "-t", strconv.Itoa(h.pid), "-n"}, argv...)
}

func (h host) ip(words string) {
	h.t.Helper()
	run(h.t, h.argv(append([]string{"ip"}, strings.Fields(words)...)...)...)
}

// cable joins an interface of ours with one of the host's. Ours has a link
// when the host turns its end on.
func (h host) cable(ours, theirs string) {
	h.t.Helper()
	ip(h.t, fmt.Sprintf("link add %s type veth peer name %s netns %d", ours, theirs, h.pid))
}

// serve starts dnsmasq(8) as the host's DHCP server and returns its log.
func (h host) serve(args ...string) (log func() string, stop func()) {
	h.t.Helper()
	if _, err := exec.LookPath("dnsmasq"); err != nil {
		h.t.Skip("skipped: needs dnsmasq (Debian package dnsmasq-base)")
	}
	dir := h.t.TempDir()
	file := filepath.Join(dir, "log")
	argv := h.argv(append([]string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--no-ping", "--log-dhcp",
		"--log-facility=" + file, "--dhcp-leasefile=" + filepath.Join(dir, "leases"), "--pid-file=" + filepath.Join(dir, "pid")}, args...)...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	var once sync.Once
	stop = func() { once.Do(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) }
	h.t.Cleanup(stop)
	log = func() string { b, _ := os.ReadFile(file); return string(b) }
	eventually(h.t, "dnsmasq is up", func() bool { return strings.Contains(log(), "DHCP, IP range") })
	return log, stop
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// cards are the interfaces that stand for hardware here.
func cards() ([]NIC, error) {
	all, err := net.Interfaces()
	var out []NIC
	for _, i := range all {
		if strings.HasPrefix(i.Name, "eth") {
			out = append(out, NIC{Name: i.Name, MAC: i.HardwareAddr.String(), Driver: "veth", Index: i.Index})
		}
	}
	return out, err
}

// node is a manager at work and what it reported.
type node struct {
	*Manager
	t      *testing.T
	resolv string
	mu     sync.Mutex
	events []handoff.Event
	loaded []string
}

// quick is RFC 5227 at a pace for veth.
func quick() Timing {
	return Timing{Wait: time.Millisecond, Probes: 3, Min: 20 * time.Millisecond, Max: 30 * time.Millisecond, Listen: 100 * time.Millisecond}
}

func boot(t *testing.T, yaml string, grace time.Duration) *node {
	t.Helper()
	n := &node{t: t, resolv: filepath.Join(t.TempDir(), "resolv.conf")}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	m, err := Start(ctx, Options{Want: network(t, yaml), Resolv: n.resolv, Hostname: "n1", NICs: cards, Grace: grace, Probe: quick(),
		Report: func(e handoff.Event) { n.mu.Lock(); n.events = append(n.events, e); n.mu.Unlock() },
		Load:   func(module string) error { n.mu.Lock(); n.loaded = append(n.loaded, module); n.mu.Unlock(); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	n.Manager = m
	return n
}

// up waits until the network is ready.
func (n *node) up() []Address {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	all, err := n.Wait(ctx)
	if err != nil {
		n.t.Fatalf("%v\n%s", err, n.reported())
	}
	return all
}

func (n *node) reported() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var b strings.Builder
	for _, e := range n.events {
		fmt.Fprintf(&b, "%s %s %s %s\n", e.Step, e.State, e.Code, e.Text)
	}
	return b.String()
}

// has fails unless a line of what ip prints contains all the words.
func has(t *testing.T, command string, lines ...string) {
	t.Helper()
	out := ip(t, command)
	for _, want := range lines {
		found := false
		for line := range strings.SplitSeq(out, "\n") {
			all := true
			for _, w := range strings.Fields(want) {
				all = all && strings.Contains(" "+line+" ", " "+w+" ")
			}
			found = found || all
		}
		if !found {
			t.Errorf("ip %s: no line with %q in\n%s", command, want, out)
		}
	}
}

func mac(t *testing.T, name string) string {
	t.Helper()
	return ipJSON(t, "link show "+name)[0]["address"].(string)
}

func TestFixedAddressesInNamespace(t *testing.T) {
	if !isolated(t) {
		return
	}
	h := newHost(t)
	h.cable("eth0", "p0")
	h.cable("eth1", "p1")
	h.ip("link set p0 up")
	h.ip("link set p1 up")
	n := boot(t, `version: 2
ethernets:
  lo: {addresses: [192.0.2.200/32]}
  one:
    match: {macaddress: "`+mac(t, "eth0")+`"}
    set-name: eth1
    macaddress: "02:00:00:00:00:77"
    mtu: 1400
    accept-ra: false
    addresses: [192.0.2.10/24, "2001:db8::10/64", 203.0.113.1/28]
    gateway4: 192.0.2.1
    gateway6: "2001:db8::1"
    nameservers: {addresses: [192.0.2.53], search: [site.example]}
    routes:
      - {to: 198.51.100.0/24, via: 192.0.2.2, metric: 7, mtu: 1300}
      - {to: 10.1.0.0/16, via: 172.16.0.1, on-link: true, table: 100}
      - {to: 10.2.0.0/16, type: blackhole}
      - {to: 10.3.0.0/16, scope: link, from: 203.0.113.1}
      - {to: default, via: 192.0.2.3, metric: 500}
      - {to: "2001:db8:9::/48", via: "2001:db8::2"}
  two:
    match: {macaddress: "`+mac(t, "eth1")+`"}
    set-name: eth0
    addresses: [192.0.2.130/25]
    optional: true
    routes: [{to: default, via: 192.0.2.129, metric: 10}]
`, time.Minute)
	all := n.up()
	eventually(t, "the other card has its address", func() bool { return len(n.Addresses()) == 4 })
	if all[0].Prefix != netip.MustParsePrefix("192.0.2.10/24") || all[0].Interface != "eth1" {
		t.Errorf("first address: %+v", all[0])
	}
	link := ipJSON(t, "link show eth1")[0]
	if link["mtu"] != float64(1400) || link["address"] != "02:00:00:00:00:77" {
		t.Errorf("got mtu %v, address %v", link["mtu"], link["address"])
	}
	has(t, "-o addr show dev eth1", "inet 192.0.2.10/24", "inet 203.0.113.1/28", "inet6 2001:db8::10/64")
	has(t, "-o addr show dev lo", "inet 192.0.2.200/32")
	has(t, "-o addr show dev eth0", "inet 192.0.2.130/25")
	has(t, "route", "default via 192.0.2.1 dev eth1", "default via 192.0.2.3 dev eth1 metric 500", "default via 192.0.2.129 dev eth0 metric 10",
		"198.51.100.0/24 via 192.0.2.2 dev eth1 metric 7 mtu 1300", "blackhole 10.2.0.0/16", "10.3.0.0/16 dev eth1 scope link src 203.0.113.1")
	has(t, "route show table 100", "10.1.0.0/16 via 172.16.0.1 dev eth1 onlink")
	has(t, "-6 route", "default via 2001:db8::1 dev eth1", "2001:db8:9::/48 via 2001:db8::2 dev eth1")
	if b, _ := os.ReadFile("/proc/sys/net/ipv6/conf/eth1/accept_ra"); string(b) != "0\n" {
		t.Errorf("accept_ra is %q", b)
	}
	if b, _ := os.ReadFile(n.resolv); string(b) != "search site.example\nnameserver 192.0.2.53\n" {
		t.Errorf("resolv.conf: %q", b)
	}
}

func TestStaticConflictInNamespace(t *testing.T) {
	if !isolated(t) {
		return
	}
	h := newHost(t)
	h.cable("eth0", "p0")
	h.ip("link set p0 address 02:00:00:00:00:99 up")
	h.ip("addr add 192.0.2.10/24 dev p0")
	n := boot(t, "version: 2\nethernets: {eth0: {addresses: [192.0.2.10/24]}}\n", time.Minute)
	want := `eth0 failed SW-NET-CONFLICT interface "eth0": address 192.0.2.10 is in use by 02:00:00:00:00:99`
	eventually(t, want, func() bool { return strings.Contains(n.reported(), want) })
	if out := ip(t, "-4 addr show dev eth0"); strings.Contains(out, "inet") {
		t.Errorf("the address is set:\n%s", out)
	}
	h.ip("addr del 192.0.2.10/24 dev p0")
	if all := n.up(); all[0].Prefix.String() != "192.0.2.10/24" {
		t.Errorf("got %+v", all)
	}
	if c := strings.Count(n.reported(), "SW-NET-CONFLICT"); c != 1 {
		t.Errorf("reported %d times:\n%s", c, n.reported())
	}
}

// Of two cards one is dead. Optional, it holds nothing; required, the boot goes
// on without it after the grace period. Later its cable is plugged in.
func TestDeadCardInNamespace(t *testing.T) {
	if !isolated(t) {
		return
	}
	h := newHost(t)
	h.cable("eth0", "p0")
	h.cable("eth1", "p1") // p1 stays off
	h.ip("link set p0 up")
	n := boot(t, `version: 2
ethernets:
  eth0: {addresses: [192.0.2.10/24], gateway4: 192.0.2.1}
  eth1: {addresses: [198.51.100.10/24], optional: true}
`, time.Hour)
	if all := n.up(); len(all) != 1 {
		t.Errorf("optional: got %+v", all)
	}
	h.ip("link set p1 up")
	eventually(t, "the late link is used", func() bool { return len(n.Addresses()) == 2 })

	h.cable("eth2", "p2")
	h.cable("eth3", "p3")
	h.ip("link set p2 up")
	n = boot(t, `version: 2
ethernets:
  eth2: {addresses: [192.0.2.20/24], gateway4: 192.0.2.1}
  eth3: {addresses: [198.51.100.20/24]}
  eth9: {dhcp4: true}
`, 500*time.Millisecond)
	if all := n.up(); len(all) != 1 || all[0].Interface != "eth2" {
		t.Errorf("required: got %+v", all)
	}
	if got := n.reported(); !strings.Contains(got, "SW-NET-DEGRADED going on without eth3 (") || !strings.Contains(got, "no link; eth9: no interface matches; there are eth0 (") {
		t.Errorf("reported:\n%s", got)
	}
}
