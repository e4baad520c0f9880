package serve

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/pxe"
	"slipway.dev/slipway/pxe/seed"
)

func site(t testing.TB, spec string) *configs.Cluster {
	t.Helper()
	c, err := configs.ParseCluster("cluster.yaml", []byte("apiVersion: slipway.dev/v1alpha1\nkind: Cluster\nmetadata: {name: site}\nspec:\n"+spec))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const nodes = "  nodes:\n    - {role: control-plane, count: 1, match: {mac: ['52:54:00:00:00:01']}}\n    - {role: worker}\n"

// server is one on a wire that does not exist, with a real seed.
func server(t testing.TB, o seed.Options, spec string) *Server {
	t.Helper()
	c := site(t, spec)
	s, err := seed.Open(t.TempDir(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return New(Options{Wire: Wire{Name: "lan0", Addr: netip.MustParsePrefix("192.168.50.1/24")}, Cluster: c, Seed: s})
}

func TestStatusOfTheWire(t *testing.T) {
	s := server(t, seed.Options{}, nodes)
	s.setMode(Proxy, nil)
	if raw, _ := json.Marshal(s.Status()); !bytes.Contains(raw, []byte(`"foreign":[]`)) {
		t.Errorf("foreign servers are not a list: %s", raw)
	}
	s.nobody = true
	v := s.Status().Verdict
	if v == nil || v.Code != "SW-SEED-NO-DHCP" || !strings.Contains(v.Hint, "seed: {dhcp: {subnet: 192.168.50.0/24}}") {
		t.Fatalf("nobody gives addresses: %+v", v)
	}
	// What the hint says to write is what cluster.yaml takes.
	site(t, nodes+"  seed: {dhcp: {subnet: 192.168.50.0/24}}\n")
	f := pxe.Foreign{ID: netip.MustParseAddr("192.168.50.9"), From: netip.MustParseAddr("192.168.50.9")}
	s.setMode(Proxy, []pxe.Foreign{f})
	f.MAC = pxe.MAC{2, 0, 0, 0, 0, 9} // the watcher hears the one that the probe found
	s.setMode(s.modeNow(), []pxe.Foreign{f})
	if st := s.Status(); st.Verdict != nil || len(st.Foreign) != 1 || st.Foreign[0] != "192.168.50.9 at 02:00:00:00:00:09" {
		t.Errorf("beside a server: %+v %q", st.Verdict, st.Foreign)
	}
	s.setFault(&seed.Verdict{Code: "SW-SEED-WIRE", Text: "down", Hint: "up"})
	if v := s.Status().Verdict; v == nil || v.Code != "SW-SEED-WIRE" {
		t.Errorf("the wire is down: %+v", v)
	}
	s.setFault(nil)
	all := s.Timeline("")
	if n := len(all); n < 2 || all[n-2].Code != "SW-SEED-WIRE" || !strings.Contains(all[n-1].Text, "is back") {
		t.Errorf("steps: %+v", all)
	}
}

func TestWireFault(t *testing.T) {
	w := Wire{Name: "lan0", Addr: netip.MustParsePrefix("10.0.0.1/24")}
	addr := func(s string) net.Addr {
		ip, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		return &net.IPNet{IP: ip, Mask: n.Mask}
	}
	const well = net.FlagUp | net.FlagRunning
	for _, c := range []struct {
		name  string
		dev   net.Interface
		addrs []net.Addr
		err   error
		want  string
	}{
		{"well", net.Interface{Index: 3, Flags: well}, []net.Addr{addr("fe80::1/64"), addr("10.0.0.1/24")}, nil, ""},
		{"gone", net.Interface{}, nil, errors.New("no such network interface"), "cannot be read: no such"},
		{"came back", net.Interface{Index: 4, Flags: well}, []net.Addr{addr("10.0.0.1/24")}, nil, "another device"},
		{"down", net.Interface{Index: 3}, []net.Addr{addr("10.0.0.1/24")}, nil, "is down"},
		{"unplugged", net.Interface{Index: 3, Flags: net.FlagUp}, []net.Addr{addr("10.0.0.1/24")}, nil, "no link"},
		{"another address", net.Interface{Index: 3, Flags: well}, []net.Addr{addr("10.0.0.7/24")}, nil, "lost the address 10.0.0.1/24, which machines know the seed by (it has: 10.0.0.7/24)"},
		{"no address", net.Interface{Index: 3, Flags: well}, nil, nil, "lost the address"},
	} {
		v := wireFault(w, 3, &c.dev, c.addrs, c.err)
		if (v == nil) != (c.want == "") || v != nil && (!strings.Contains(v.Text, c.want) || v.Hint == "" || v.Code == "") {
			t.Errorf("%s: got %+v, want %q", c.name, v, c.want)
		}
	}
}

func TestTakenPortNamesItsOwner(t *testing.T) {
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	_, again := net.Listen("tcp4", tcp.Addr().String())
	_, again2 := net.ListenPacket("udp4", udp.LocalAddr().String())
	for _, c := range []struct {
		port int
		err  error
	}{{tcp.Addr().(*net.TCPAddr).Port, again}, {udp.LocalAddr().(*net.UDPAddr).Port, again2}} {
		got := busy("HTTP", c.err)
		var h *HintedError
		if !errors.As(got, &h) || h.Hint() == "" || !strings.Contains(got.Error(), fmt.Sprintf("HTTP: port %d", c.port)) {
			t.Errorf("got %v", got)
		}
		if runtime.GOOS == "linux" && !strings.Contains(got.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
			t.Errorf("got %v, want this process's number", got)
		}
	}
}

func TestClusterOf(t *testing.T) {
	file := t.TempDir() + "/admin.conf"
	for _, c := range []struct{ text, want string }{
		{"clusters: [{cluster: {server: 'https://10.0.0.1:6443', certificate-authority-data: Y2E=}}]\n", ""},
		{"clusters: []\n", "0 clusters, want one"},
		{"clusters: [{cluster: {server: 'https://x', certificate-authority-data: canary", "not a kubeconfig yet"},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := clusterOf(file)
		switch {
		case c.want == "" && (err != nil || k.Server != "https://10.0.0.1:6443" || k.CA != "ca" || k.Kubeconfig != c.text):
			t.Errorf("got %+v %v", k, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "%!")):
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// TestTransfersAreNoLog: thousands of ranges would bury what matters.
func TestTransfersAreNoLog(t *testing.T) {
	for level, want := range map[slog.Level]int{slog.LevelInfo: 1, slog.LevelDebug: 2} {
		var b bytes.Buffer
		l := worth(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: level})))
		l.With("a", 1).WithGroup("g").Info("http", "name", "blob")
		l.Warn("http", "name", "missing")
		if got := strings.Count(b.String(), "msg=http"); got != want {
			t.Errorf("%s: %d lines, want %d", level, got, want)
		}
	}
	if worth(nil) != nil {
		t.Error("no log became one")
	}
}

// TestWhoseAddress: the site's DHCP server gave a machine's address to another.
func TestWhoseAddress(t *testing.T) {
	s := server(t, seed.Options{}, nodes)
	before, now, a := pxe.MAC{2, 0, 0, 0, 0, 1}, pxe.MAC{2, 0, 0, 0, 0, 2}, netip.MustParseAddr("192.168.50.70")
	for _, m := range []pxe.MAC{now, before} {
		s.Observe(pxe.Event{Machine: pxe.Machine{MAC: m, Arch: "amd64", Firmware: pxe.UEFI, Class: "PXEClient"}, Step: pxe.StepProxyOffer})
	}
	s.Observe(pxe.Event{Machine: pxe.Machine{MAC: before}, Step: pxe.StepAck, Text: a.String()})
	table := map[netip.Addr]pxe.MAC{a: now}
	s.neighbour = func(a netip.Addr) pxe.MAC { return table[a] }
	for mode, want := range map[Mode]pxe.MAC{Full: before, Proxy: now} {
		s.setMode(mode, nil)
		if got := s.machine(a); got != want.String() {
			t.Errorf("%s: got %s, want %s", mode, got, want)
		}
	}
	table[a] = pxe.MAC{2, 0, 0, 0, 0, 9} // its second card
	if got := s.machine(a); got == "" {
		t.Error("nobody")
	}
	if got := s.machine(netip.MustParseAddr("192.168.50.71")); got != "" {
		t.Errorf("an address of nobody: %s", got)
	}
}
