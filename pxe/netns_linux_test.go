package pxe

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const clients = 100

// clientsEnv names the namespace of the clients; the test runs itself again in
// the server's.
const clientsEnv = "SLIPWAY_PXE_CLIENTS"

func TestRealClients(t *testing.T) {
	if os.Getenv(clientsEnv) != "" {
		t.Skip("skipped: the inner run")
	}
	if os.Getuid() != 0 {
		t.Skip("skipped: network namespaces need root")
	}
	for _, tool := range []string{"ip", "busybox", "dhclient", "dhcpcd", "dnsmasq"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("skipped: %s is not installed (Debian: iproute2 busybox isc-dhcp-client dhcpcd-base dnsmasq-base)", tool)
		}
	}
	server, client := fmt.Sprintf("pxes%d", os.Getpid()), fmt.Sprintf("pxec%d", os.Getpid())
	for _, ns := range []string{server, client} {
		if out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
			t.Skipf("skipped: no network namespaces here: %s", out)
		}
		t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
	}
	cmd := exec.CommandContext(t.Context(), "ip", "netns", "exec", server, os.Args[0], "-test.run=^TestInside$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), clientsEnv+"="+client)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.WaitDelay = 2 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("inside:\n%s", out)
}

// lan is a bridge with our address, and clients on the far ends of veth pairs
// c1..c100; c0 is the other DHCP server's.
type lan struct {
	ns  string // of the clients
	dir string
	mac MAC // of the bridge
}

func must(t *testing.T, input string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

func build(t *testing.T) *lan {
	t.Helper()
	l := &lan{ns: os.Getenv(clientsEnv), dir: t.TempDir()}
	here, there := "link set lo up\nlink add br0 type bridge forward_delay 0\naddr add 10.77.0.1/24 dev br0\nlink set br0 address 02:77:00:00:00:01 up\n", "link set lo up\n"
	for i := range clients + 1 {
		here += fmt.Sprintf("link add s%d type veth peer name c%d netns %s\nlink set s%d master br0 up\n", i, i, l.ns, i)
		there += fmt.Sprintf("link set c%d address %s up\n", i, macN(i+1))
	}
	must(t, here, "ip", "-batch", "-")
	must(t, there+"addr add 10.77.0.254/24 dev c0\n", "ip", "-n", l.ns, "-batch", "-")
	// All clients share a host: only c0 may answer ARP for c0's address.
	must(t, "", "ip", "netns", "exec", l.ns, "busybox", "sysctl", "-w", "net.ipv4.conf.all.arp_ignore=1")
	l.mac = MAC{2, 0x77, 0, 0, 0, 1}
	return l
}

// result is what a client's hook wrote when it was bound.
type result struct{ addr, server, file, next, log string }

// hook writes the script a client calls; udhcpc names the event by argument,
// the others by $reason.
func (l *lan) hook(iface string) (script, out string, err error) {
	script, out = filepath.Join(l.dir, iface+".hook"), filepath.Join(l.dir, iface+".out")
	os.Remove(out)
	os.Remove("/var/lib/dhcpcd/" + iface + ".lease")
	text := fmt.Sprintf(`#!/bin/sh
[ "$1" = bound ] && echo "$ip/$serverid/$boot_file/$siaddr" > %[1]s.new && mv %[1]s.new %[1]s
[ "$reason" = BOUND ] && echo "$new_ip_address/$new_dhcp_server_identifier/$new_filename/" > %[1]s.new && mv %[1]s.new %[1]s
exit 0
`, out)
	return script, out, os.WriteFile(script, []byte(text), 0o755)
}

// client runs one program on interface c<i> until it has a lease or gives up.
func (l *lan) client(t *testing.T, program string, i int, extra ...string) (r result) {
	iface := fmt.Sprintf("c%d", i)
	script, out, err := l.hook(iface)
	if err != nil {
		return result{log: err.Error()}
	}
	argv := []string{"netns", "exec", l.ns}
	switch program {
	case "udhcpc":
		argv = append(argv, "busybox", "udhcpc", "-f", "-n", "-q", "-t", "8", "-T", "1", "-i", iface, "-s", script)
	case "dhclient":
		argv = append(argv, "dhclient", "-4", "-1", "-d", "-sf", script, "-lf", filepath.Join(l.dir, iface+".leases"), "-pf", filepath.Join(l.dir, iface+".pid"), "-cf", "/dev/null", iface)
	case "dhcpcd":
		argv = append(argv, "dhcpcd", "-4", "-B", "-A", "-f", "/dev/null", "-c", script, "-t", "20", iface)
	}
	cmd := exec.CommandContext(t.Context(), "ip", append(argv, extra...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 2 * time.Second
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		return result{log: err.Error()}
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	got := func() bool { _, err := os.Stat(out); return err == nil }
	for ended, n := false, 0; !ended && (program == "udhcpc" || !got()) && n < 600; n++ { // dhclient and dhcpcd stay
		select {
		case <-done:
			ended = true
		case <-time.After(50 * time.Millisecond):
		}
	}
	syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-done:
	case <-time.After(3 * time.Second): // dhcpcd 9.4.1 sometimes stays
	}
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // and leaves helpers behind
	<-done
	b, _ := os.ReadFile(out)
	f := append(strings.Split(strings.TrimSpace(string(b)), "/"), "", "", "")
	return result{addr: f[0], server: f[1], file: f[2], next: f[3], log: log.String()}
}

// dnsmasq is the other server; end it before its interface goes.
func (l *lan) dnsmasq(t *testing.T) (end func()) {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", l.ns, "dnsmasq", "-k", "-C", "/dev/null", "-i", "c0", "--bind-interfaces", "--except-interface=lo", "--port=0", "--no-ping", "--user=root",
		"--pid-file=", "--dhcp-range=10.77.0.20,10.77.0.219,1h", "--dhcp-leasefile="+filepath.Join(l.dir, "dnsmasq.leases"), "--log-facility="+filepath.Join(l.dir, "dnsmasq.log"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() { cmd.Process.Kill(); cmd.Wait() }
}

// serve runs a server on br0 until end is called.
func (l *lan) serve(t *testing.T, full *DHCP, decide Decide) (s *Server, conns Conns, end func()) {
	t.Helper()
	conns, err := Listen(t.Context(), "br0")
	if err != nil {
		t.Fatal(err)
	}
	s = &Server{Full: full, Proxy: NewProxy(serverAddr, decide), Self: l.mac, Who: ARPTable("br0"), Event: func(e Event) {
		if e.Step == StepNak || e.Step == StepForeign {
			t.Log(e)
		}
	}}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, conns) }()
	return s, conns, func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		conns.Close()
		if c := s.Counters(); c.Panics+c.Busy+c.Malformed != 0 {
			t.Errorf("counters %+v", c)
		}
	}
}

// sniff counts UDP frames of ours from ports 67, 68 and 4011 on br0.
func (l *lan) sniff(t *testing.T) (count *atomic.Int64, end func()) {
	t.Helper()
	all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
	if err != nil {
		t.Fatal(err)
	}
	br, err := net.InterfaceByName("br0")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: br.Index}); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "br0")
	count = new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 2048); ; {
			n, err := f.Read(b)
			if err != nil {
				return
			}
			// Ethernet 14, IPv4 20 without options, UDP 8.
			if n >= 42 && MAC(b[6:12]) == l.mac && b[12] == 8 && b[13] == 0 && b[23] == unix.IPPROTO_UDP {
				if p := binary.BigEndian.Uint16(b[34:]); p == serverPort || p == clientPort || p == bootPort {
					count.Add(1)
				}
			}
		}
	}()
	return count, func() { f.Close(); <-done }
}

// TestInside is the part of TestRealClients within the namespace.
func TestInside(t *testing.T) {
	if os.Getenv(clientsEnv) == "" {
		t.Skip("skipped: TestRealClients runs it")
	}
	l := build(t)
	boot := func(Machine) Boot { return Boot{File: "ipxe.efi", Known: true} }
	n := network()
	n.First, n.Last, n.Reserved = at(20), at(219), map[MAC]netip.Addr{macN(5): at(10)}
	t.Run("full", func(t *testing.T) { l.full(t, n, boot) })
	t.Run("conflict", func(t *testing.T) { l.conflict(t, n, boot) })
	t.Run("probe", l.probe)
	t.Run("yield", func(t *testing.T) { l.yield(t, n, boot) })
	t.Run("proxy", func(t *testing.T) { l.proxy(t, boot) })
}

func (l *lan) full(t *testing.T, n Network, boot Decide) {
	leases := NewMemory()
	full, err := NewDHCP(n, leases, boot)
	if err != nil {
		t.Fatal(err)
	}
	_, conns, end := l.serve(t, full, boot)
	defer end()
	var mu sync.Mutex
	owners := map[string]int{}
	var g errgroup.Group
	g.SetLimit(8)
	for i := range 30 {
		program := []string{"udhcpc", "dhclient", "dhcpcd"}[i%3]
		g.Go(func() error {
			got := l.client(t, program, i+1)
			mu.Lock()
			defer mu.Unlock()
			if other, twice := owners[got.addr]; twice || got.addr == "" || got.server != serverAddr.String() {
				return fmt.Errorf("%s on c%d got %q of %q (already c%d's: %v)\n%s", program, i+1, got.addr, got.server, other, twice, got.log)
			}
			owners[got.addr] = i + 1
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if owners["10.77.0.10"] != 4 { // c4 has macN(5)
		t.Errorf("the reservation went to c%d", owners["10.77.0.10"])
	}
	all, _ := leases.All()
	for _, lease := range all {
		if i := owners[lease.Addr.String()]; macN(i+1) != lease.MAC {
			t.Errorf("recorded %s for %s; c%d has it", lease.Addr, lease.MAC, i)
		}
	}
	t.Logf("%d clients (udhcpc, dhclient, dhcpcd), %d addresses, %d recorded", 30, len(owners), len(all))
	if got := l.client(t, "udhcpc", 40, "-V", "PXEClient:Arch:00007:UNDI:003016", "-x", "0x5d:0007", "-O", "bootfile"); got.file != "ipxe.efi" || got.next != "10.77.0.1" {
		t.Errorf("as PXE firmware: %+v", got)
	}
	if got := l.client(t, "udhcpc", 41, "-O", "bootfile"); got.file != "" || got.addr == "" {
		t.Errorf("an ordinary client: %+v", got)
	}
	if found, err := Probe(t.Context(), conns.Client, l.mac, serverAddr, time.Second, nil); err != nil || len(found) != 0 {
		t.Errorf("took ourselves for foreign: %v %v", found, err)
	}
}

// conflict: two addresses of the range are in use by machines with fixed
// addresses. One the server sees by its own probe; the other, on a server that
// does not probe, the client declines.
func (l *lan) conflict(t *testing.T, n Network, boot Decide) {
	must(t, "addr add 10.77.0.30/24 dev c60\naddr add 10.77.0.33/24 dev c60\n", "ip", "-n", l.ns, "-batch", "-")
	arp, err := ARPProbe("br0")
	if err != nil {
		t.Fatal(err)
	}
	if m, taken := arp(at(30)); !taken || m != macN(61) {
		t.Errorf("in use: got %s %v", m, taken)
	}
	if m, taken := arp(at(31)); taken {
		t.Errorf("not in use: got %s", m)
	}
	for _, c := range []struct {
		client  int
		want    string
		options []DHCPOption
		extra   []string
	}{{61, "10.77.0.30", []DHCPOption{WithConflict(arp)}, nil}, {62, "10.77.0.33", nil, []string{"-a"}}} {
		full, err := NewDHCP(n, NewMemory(), boot, c.options...)
		if err != nil {
			t.Fatal(err)
		}
		_, _, end := l.serve(t, full, boot)
		got := l.client(t, "udhcpc", c.client, append(c.extra, "-r", c.want, "-A", "1", "-t", "20")...)
		end()
		if got.addr == c.want || got.addr == "" {
			t.Errorf("c%d got %+v", c.client, got)
		}
		if s := full.pool.slots[full.pool.index(netip.MustParseAddr(c.want))]; s.state != slotDeclined {
			t.Errorf("c%d: %s is not held back", c.client, c.want)
		}
		t.Logf("c%d asked for %s, in use elsewhere, and got %s", c.client, c.want, got.addr)
	}
	must(t, "", "ip", "-n", l.ns, "-4", "addr", "flush", "dev", "c60")
}

func (l *lan) probe(t *testing.T) {
	conns, err := Listen(t.Context(), "br0")
	if err != nil {
		t.Fatal(err)
	}
	defer conns.Close()
	if found, err := Probe(t.Context(), conns.Client, l.mac, serverAddr, time.Second, nil); err != nil || len(found) != 0 {
		t.Errorf("on a quiet wire: %v %v", found, err)
	}
	defer l.dnsmasq(t)()
	found, err := Probe(t.Context(), conns.Client, l.mac, serverAddr, ProbeTime, ARPTable("br0"))
	if err != nil || len(found) != 1 || found[0] != (Foreign{otherAddr, otherAddr, macN(1)}) {
		t.Fatalf("beside dnsmasq: %v %v", found, err)
	}
	t.Logf("found %s", found[0])
}

func (l *lan) yield(t *testing.T, n Network, boot Decide) {
	full, err := NewDHCP(n, NewMemory(), boot)
	if err != nil {
		t.Fatal(err)
	}
	s, conns, end := l.serve(t, full, boot)
	defer end()
	if got := l.client(t, "udhcpc", 50); got.server != serverAddr.String() {
		t.Fatalf("got %+v", got)
	}
	defer l.dnsmasq(t)()
	for range 100 { // until dnsmasq is up: a client names it, we look, it answers
		q := packet(mac1, dhcpv4.MessageTypeRequest, map[uint8]string{54: raw(otherAddr), 50: raw(at(30))})
		if _, err := conns.Client.WriteTo(q.ToBytes(), everyone(serverPort)); err != nil {
			t.Fatal(err)
		}
		if s.Yielded() {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	if !s.Yielded() {
		t.Fatal("still leasing beside dnsmasq")
	}
	for i := range 5 {
		if got := l.client(t, "udhcpc", 51+i); got.server != otherAddr.String() {
			t.Errorf("after yielding c%d got %+v", 51+i, got)
		}
	}
}

func (l *lan) proxy(t *testing.T, boot Decide) {
	defer l.dnsmasq(t)()
	_, _, end := l.serve(t, nil, boot)
	defer end()
	sent, stop := l.sniff(t)
	defer stop()
	var g errgroup.Group
	g.SetLimit(10)
	for i := range clients {
		program := "udhcpc"
		if i%10 == 1 {
			program = "dhclient"
		} else if i%10 == 2 {
			program = "dhcpcd"
		}
		g.Go(func() error {
			if got := l.client(t, program, i+1); got.server != otherAddr.String() {
				return fmt.Errorf("%s on c%d got %+v", program, i+1, got)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := sent.Load(); n != 0 {
		t.Errorf("%d packets of ours among ordinary clients, want none", n)
	}
	t.Logf("%d clients (80 udhcpc, 10 dhclient, 10 dhcpcd) have dnsmasq's leases; packets of ours: %d", clients, sent.Load())
	// The counter does count: firmware is answered.
	l.client(t, "udhcpc", 1, "-t", "1", "-V", "PXEClient:Arch:00007:UNDI:003016", "-x", "0x5d:0007")
	for range 100 {
		if sent.Load() > 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if sent.Load() == 0 {
		t.Error("firmware was not answered, or the counter does not count")
	}
}
