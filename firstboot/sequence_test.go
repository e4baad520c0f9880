package firstboot

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/netconf"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/volume"
)

// recorder keeps events and calls stop when one matches.
type recorder struct {
	mu   sync.Mutex
	all  []handoff.Event
	stop func(handoff.Event)
}

func (r *recorder) Write(_, serial []byte) {
	for _, l := range bytes.Split(serial, []byte("\n")) {
		if e, ok, err := handoff.ParseLine(l); ok && err == nil {
			r.mu.Lock()
			r.all = append(r.all, e)
			r.mu.Unlock()
			if r.stop != nil {
				r.stop(e)
			}
		}
	}
}

func (r *recorder) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, e := range r.all {
		s := e.Phase + " " + string(e.State)
		if e.Step != "" {
			s = e.Phase + "/" + e.Step + " " + string(e.State)
		}
		if e.Code != "" {
			s += " " + e.Code
		}
		out = append(out, s)
	}
	return out
}

func TestBoot(t *testing.T) {
	ok := func(context.Context, *Node) error { return nil }
	attempts := 0
	for _, c := range []struct {
		name   string
		until  string
		phases []phase
		want   []string
	}{
		{"until", "b", []phase{{name: "a", run: ok}, {name: "b", run: ok}, {name: "c", run: ok}},
			[]string{"a started", "a done", "b started", "b done", "until done"}},
		{"a failure holds", "", []phase{{name: "a", run: func(context.Context, *Node) error {
			return report.Fail("SW-A", "hint", errors.New("no"))
		}}, {name: "b", run: ok}}, []string{"a started", "a failed SW-A", "a/hold running"}},
		{"a panic is a failure", "", []phase{{name: "a", run: func(context.Context, *Node) error { panic("oops") }}},
			[]string{"a started", "a failed SW-INTERNAL", "a/hold running"}},
		{"a retry says the same thing once", "a", []phase{{name: "a", retry: time.Millisecond, run: func(context.Context, *Node) error {
			if attempts++; attempts < 4 {
				return report.Fail("SW-A", "", errors.New("not yet"))
			}
			return nil
		}}}, []string{"a started", "a failed SW-A", "a done", "until done"}},
		{"a limit ends an attempt", "a", []phase{{name: "a", limit: time.Millisecond, retry: time.Millisecond, run: func(ctx context.Context, n *Node) error {
			if n.Hostname == "second" {
				return nil
			}
			n.Hostname = "second"
			<-ctx.Done()
			return ctx.Err()
		}}}, []string{"a started", "a failed SW-INTERNAL", "a done", "until done"}},
		{"an unknown phase to stop after", "x", []phase{{name: "a", run: ok}}, []string{"a started", "a done", "until failed SW-CMDLINE"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			rec := &recorder{stop: func(e handoff.Event) {
				if e.Step == "hold" || (e.Phase == "until" && e.State == handoff.Failed) {
					cancel()
				}
			}}
			n := New(ctx)
			n.Report = report.New(rec, true, func() float64 { return 0 })
			n.Cmdline.Until = c.until
			n.boot(ctx, c.phases)
			if got := rec.lines(); !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			for i, e := range rec.all {
				if e.Seq != i+1 {
					t.Errorf("event %d has seq %d", i+1, e.Seq)
				}
				if _, ok := e.Data["seconds"]; e.State == handoff.Done && e.Phase != "until" && !ok {
					t.Errorf("%s is done in no time", e.Phase)
				}
			}
		})
	}
}

func TestSequenceNames(t *testing.T) {
	var got []string
	for _, p := range sequence() {
		got = append(got, p.name)
	}
	want := []string{"kernel", "modules", "medium", "config", "network", "install", "system", "services", "kubernetes", "ready"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestHostname(t *testing.T) {
	a := netconf.Address{MAC: "52:54:00:ab:cd:ef", Hostname: "from-dhcp"}
	for _, c := range []struct{ name, fqdn, local, want string }{
		{"n1", "n1.site.example", "meta", "n1"}, {"", "n2.site.example", "meta", "n2"}, {"", "", "Meta", "meta"}, {"", "", "", "from-dhcp"},
	} {
		if got := hostname(c.name, c.fqdn, c.local, a); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	a.Hostname = ""
	if got := hostname("", "", "", a); got != "slipway-abcdef" {
		t.Errorf("got %q", got)
	}
}

func TestWholeLeavesOutPartitionsOfTheSameDisk(t *testing.T) {
	got := whole([]volume.Device{{Name: "sda", Disk: true}, {Name: "sda1"}, {Name: "sdb1"}, {Name: "sdaa1"}})
	if len(got) != 3 || got[1].Name != "sdb1" || got[2].Name != "sdaa1" {
		t.Errorf("got %+v", got)
	}
}

func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	if _, err := readDir("here", dir); err == nil || !strings.Contains(err.Error(), "has no file user-data") {
		t.Errorf("got %v", err)
	}
	for name, text := range map[string]string{"user-data": "#cloud-config\nhostname: n1\n", "network-config": "version: 2\nethernets: {eth0: {dhcp4: true}}\n", "other": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := readDir("here", dir)
	if err != nil || len(r.files) != 2 {
		t.Fatalf("got %+v, %v", r, err)
	}
	n := New(t.Context())
	n.Report = report.New(&recorder{}, true, func() float64 { return 0 })
	if err := n.parse(r); err != nil || n.User.Hostname != "n1" || !n.Network.Ethernets["eth0"].DHCP4 {
		t.Errorf("got %+v, %v", n.User, err)
	}
	r.files["network-config"] = []byte("version: 1\n")
	before := n.Network
	if err := n.parse(r); err == nil || n.Network != before {
		t.Errorf("a wrong file changed the config: %v", err)
	}
}

func TestImageNames(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	index, _ := json.Marshal(map[string]any{"manifests": []any{map[string]any{"annotations": map[string]string{"io.containerd.image.name": "r.example/pause:3"}}}})
	for _, f := range []struct {
		name string
		data []byte
	}{{"blobs/x", []byte("{}")}, {"index.json", index}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.data)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := imageNames(&b); err != nil || !slices.Equal(got, []string{"r.example/pause:3"}) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := imageNames(strings.NewReader("")); err == nil {
		t.Error("an archive without an index was accepted")
	}
}

func TestBanner(t *testing.T) {
	got := banner("n1", "v1.37.1", configs.RoleControlPlane, []netconf.Address{{Interface: "eth0", Prefix: netip.MustParsePrefix("192.0.2.10/24")}}, "off: for a reason", "")
	for _, want := range []string{"node n1 is Ready (Kubernetes v1.37.1)", "192.0.2.10 on eth0", "ssh root@192.0.2.10", "/etc/kubernetes/admin.conf", "console     off: for a reason"} {
		if !strings.Contains(got, want) {
			t.Errorf("banner lacks %q:\n%s", want, got)
		}
	}
}

func TestOffered(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	got := offered([]netconf.Address{{NTP: []netip.Addr{a, b}}, {}, {NTP: []netip.Addr{b}}})
	if strings.Join(got, " ") != "192.0.2.1 192.0.2.2" {
		t.Errorf("got %q", got)
	}
}

func TestSysctls(t *testing.T) {
	dir := t.TempDir()
	for _, k := range []string{"vm/overcommit_memory"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, k)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := setSysctls(dir, map[string]string{"vm/overcommit_memory": "1", "net/ipv6/conf/all/forwarding": "1", "kernel/gone": "2"})
	if err == nil || !strings.HasPrefix(err.Error(), "sysctl kernel.gone=2: ") || strings.Contains(err.Error(), "ipv6") {
		t.Errorf("got %v", err)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "vm/overcommit_memory")); string(raw) != "1" {
		t.Errorf("got %q, %v", raw, err)
	}
}

func TestVendorDataComesSecond(t *testing.T) {
	for name, c := range map[string]struct{ vendor, want string }{
		"merged": {"#cloud-config\nhostname: theirs\ntimezone: Europe/Oslo\n", "mine Europe/Oslo"},
		"empty":  {"\n", "mine "},
		"wrong":  {"#cloud-config\nhostnam: x\n", `vendor-data:2:1: hostnam: unknown key: did you mean "hostname"?`},
	} {
		n := New(t.Context())
		n.Report = report.New(&recorder{}, true, func() float64 { return 0 })
		err := n.parse(raw{files: map[string][]byte{"user-data": []byte("#cloud-config\nhostname: mine\n"), "vendor-data": []byte(c.vendor)}})
		got := fmt.Sprint(err)
		if err == nil {
			got = n.User.Hostname + " " + n.User.Timezone
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// TestAnswers: a name that a dead program left is no answer.
func TestAnswers(t *testing.T) {
	name := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := answers(t.Context(), "unix", name); err != nil {
		t.Error(err)
	}
	l.Close()
	ctx, stop := context.WithTimeout(t.Context(), 250*time.Millisecond)
	defer stop()
	if err := answers(ctx, "unix", name); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a socket that nobody listens on: got %v", err)
	}
}
