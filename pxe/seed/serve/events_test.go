package serve

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/medium"
	"slipway.dev/slipway/pxe"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/boot"
	"slipway.dev/slipway/pxe/tftp"
	"slipway.dev/slipway/pxe/web"
)

// loaders makes what a small bundle boots.
func loaders(t testing.TB) *boot.Boot {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	m := &lock.Manifest{Format: lock.ManifestFormat, Name: "t", Serial: 7, Arch: arch.AMD64, Built: time.Unix(1e9, 0).UTC(), Kubernetes: "v1.37.1"}
	dir := t.TempDir()
	put := func(name string, raw []byte) {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, raw, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for name, role := range map[string]lock.Role{"boot/vmlinuz": lock.RoleKernel, "boot/initrd.img": lock.RoleInitramfs, "netboot/cmdline": lock.RoleLoader,
		"netboot/shimx64.efi": lock.RoleLoader, "netboot/undionly.kpxe": lock.RoleLoader} {
		raw := []byte(strings.Repeat(name, 200))
		if name == "netboot/cmdline" {
			raw = []byte("console=tty0 quiet\n")
		}
		b := lock.Blob{Name: name, Role: role, Size: int64(len(raw)), SHA256: lock.SumBytes(raw), Chunks: []lock.Digest{lock.SumBytes(raw)}}
		m.Blobs = append(m.Blobs, b)
		put(medium.Path(b), raw)
	}
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	put(layout.Manifest, raw)
	put(layout.Signature, lock.Sign(key, raw))
	d, err := medium.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	man, err := d.Manifest(key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	b, err := boot.New(t.Context(), []boot.Medium{{Medium: d, Manifest: man}}, boot.Options{HTTP: netip.MustParseAddrPort("127.0.0.1:80")})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// lab is a seed with its real servers on loopback, and one machine at 127.0.0.9
// whose clock runs as the test says.
type lab struct {
	*Server
	t          *testing.T
	passed     atomic.Int64 // ns
	full       *pxe.DHCP
	proxied    *pxe.Proxy
	tftp, http string
}

const (
	labMAC  = "52:54:00:00:00:02"
	labAddr = "127.0.0.9"
)

func newLab(t *testing.T) *lab {
	l := &lab{t: t}
	began := time.Now()
	l.Server = server(t, seed.Options{Clock: func() time.Time { return began.Add(time.Duration(l.passed.Load())) }}, nodes)
	l.o.Boot = loaders(t)
	l.neighbour = func(netip.Addr) pxe.MAC { return pxe.MAC{} }
	only := netip.MustParseAddr(labAddr)
	n := pxe.Network{Server: netip.MustParseAddr("127.0.0.1"), Subnet: netip.MustParsePrefix("127.0.0.0/24"), First: only, Last: only.Next(), LeaseTime: time.Hour}
	mac, _ := pxe.ParseMAC(labMAC)
	var err error
	if err = l.Leases().Put(pxe.Lease{MAC: mac, Addr: only, For: time.Hour}); err == nil { // its from before
		l.full, err = pxe.NewDHCP(n, l.Leases(), l.decide)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.proxied = pxe.NewProxy(n.Server, l.decide)
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	files := &tftp.Server{Files: l.o.Boot.TFTP(), Events: l.onTFTP, Log: slog.New(slog.DiscardHandler)}
	go func() { done <- files.Serve(ctx, pc) }()
	h := web.Server(&web.Handler{Files: l.o.Boot.HTTP(), Events: l.onHTTP, Log: slog.New(slog.DiscardHandler)}, web.Limits{}, nil)
	go h.Serve(ln)
	t.Cleanup(func() { stop(); h.Close(); pc.Close(); <-done })
	l.tftp, l.http = pc.LocalAddr().String(), "http://"+ln.Addr().String()
	return l
}

// ask sends a DHCP packet of the machine to a handler.
func (l *lab) ask(proxy bool, kind dhcpv4.MessageType, class string, code uint16) {
	l.t.Helper()
	mac, _ := net.ParseMAC(labMAC)
	with := []dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithHwAddr(mac)}
	if class != "" {
		with = append(with, dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class)), dhcpv4.WithOption(dhcpv4.OptClientArch(iana.Arch(code))))
	}
	if kind == dhcpv4.MessageTypeRequest && !proxy {
		with = append(with, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(labAddr))), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(127, 0, 0, 1))))
	}
	q, err := dhcpv4.New(with...)
	if err != nil {
		l.t.Fatal(err)
	}
	var a pxe.Answer
	switch {
	case proxy && kind == dhcpv4.MessageTypeDiscover:
		a = l.proxied.Handle67(q)
	case proxy:
		a = l.proxied.Handle4011(q, netip.MustParseAddrPort(labAddr+":4011"))
	default:
		a = l.full.Handle(q)
	}
	for _, e := range a.Events {
		l.Observe(e)
	}
}

// address has the machine be where its firmware was told.
func (l *lab) address(class string, code uint16) {
	l.ask(false, dhcpv4.MessageTypeDiscover, class, code)
	l.ask(false, dhcpv4.MessageTypeRequest, class, code)
}

// get fetches by TFTP (RFC 1350); with abort it sends an ERROR after the first block.
func (l *lab) get(name string, abort bool) {
	l.t.Helper()
	c, err := net.ListenPacket("udp4", labAddr+":0")
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	to, _ := net.ResolveUDPAddr("udp4", l.tftp)
	before := len(l.Timeline(labMAC))
	c.WriteTo([]byte("\x00\x01"+name+"\x00octet\x00"), to)
	b := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			l.t.Fatalf("TFTP %s: %v", name, err)
		}
		if binary.BigEndian.Uint16(b) != 3 { // DATA
			break
		}
		if abort {
			c.WriteTo([]byte("\x00\x05\x00\x00no\x00"), from)
			break
		}
		c.WriteTo([]byte{0, 4, b[2], b[3]}, from)
		if n < 4+512 {
			break
		}
	}
	l.until(func() bool { return len(l.Timeline(labMAC)) > before })
}

func (l *lab) until(f func() bool) {
	l.t.Helper()
	for range 2000 {
		if f() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	l.t.Fatalf("it never came: %+v", l.Timeline(labMAC))
}

// web fetches over HTTP from the machine's address.
func (l *lab) web(name string) {
	l.t.Helper()
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(labAddr)}}
	c := http.Client{Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}}
	r, err := c.Get(l.http + "/" + name)
	if err != nil {
		l.t.Fatal(err)
	}
	defer r.Body.Close()
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		l.t.Fatal(err)
	}
	l.until(func() bool {
		all := l.Timeline(labMAC)
		return strings.Contains(all[len(all)-1].Text, name)
	})
}

// TestVerdictsOfRealEvents plays machines that stop at every place of a boot
// against the real servers, and reads what the operator is told.
func TestVerdictsOfRealEvents(t *testing.T) {
	const class, uefi = "PXEClient:Arch:00007:UNDI:003016", 7
	vmlinuz, initrd := "amd64/boot/vmlinuz", "amd64/boot/initrd.img"
	for _, c := range []struct {
		name  string
		boots func(l *lab)
		after time.Duration
		want  string
	}{
		{"no medium for it", func(l *lab) { l.ask(false, dhcpv4.MessageTypeDiscover, "PXEClient:Arch:00011", 11) }, time.Second, "SW-SEED-IGNORED"},
		{"offer not taken", func(l *lab) { l.ask(false, dhcpv4.MessageTypeDiscover, class, uefi) }, time.Minute, "SW-SEED-NO-REQUEST"},
		{"address, no loader", func(l *lab) { l.address(class, uefi) }, time.Minute, "SW-SEED-NO-TFTP"},
		{"proxy, never came to 4011", func(l *lab) { l.ask(true, dhcpv4.MessageTypeDiscover, class, uefi) }, time.Minute, "SW-SEED-NO-4011"},
		{"proxy, 4011, no loader", func(l *lab) {
			l.ask(true, dhcpv4.MessageTypeDiscover, class, uefi)
			l.ask(true, dhcpv4.MessageTypeRequest, class, uefi)
		}, time.Minute, "SW-SEED-NO-TFTP"},
		{"loader breaks off", func(l *lab) {
			l.address(class, uefi)
			for range 3 {
				l.get("shimx64.efi", true)
			}
		}, time.Second, "SW-SEED-TFTP"},
		{"loader, no kernel", func(l *lab) { l.address(class, uefi); l.get("shimx64.efi", false) }, 2 * time.Minute, "SW-SEED-NO-KERNEL"},
		{"loader and its config, no kernel", func(l *lab) { l.address(class, uefi); l.get("shimx64.efi", false); l.web("grub/grub.cfg") }, 2 * time.Minute, "SW-SEED-NO-KERNEL"},
		{"kernel over HTTP, never started", func(l *lab) { l.address(class, uefi); l.get("shimx64.efi", false); l.web(vmlinuz); l.web(initrd) }, 5 * time.Minute, "SW-SEED-NO-START"},
		{"kernel over TFTP, starting", func(l *lab) {
			l.address(class, uefi)
			l.get("shimx64.efi", false)
			l.get(vmlinuz, false)
			l.get(initrd, false)
		}, 2 * time.Minute, ""},
		{"kernel over TFTP, never started", func(l *lab) {
			l.address(class, uefi)
			l.get("shimx64.efi", false)
			l.get(vmlinuz, false)
			l.get(initrd, false)
		}, 5 * time.Minute, "SW-SEED-NO-START"},
		{"kernel runs, never spoke", func(l *lab) {
			l.address(class, uefi)
			l.get("shimx64.efi", false)
			l.web(vmlinuz)
			l.web(initrd)
			l.address("", 0)
		}, 5 * time.Minute, "SW-SEED-NO-HELLO"},
		{"kernel runs beside another DHCP server, never spoke", func(l *lab) {
			l.address(class, uefi)
			l.get("shimx64.efi", false)
			l.web(vmlinuz)
			l.web(initrd)
			l.web("amd64/" + layout.Manifest)
		}, 5 * time.Minute, "SW-SEED-NO-HELLO"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			c.boots(l)
			l.passed.Add(int64(c.after))
			m, err := l.Machine(labMAC)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if m.Verdict != nil {
				got = m.Verdict.Code
			}
			if got != c.want {
				var steps []string
				for _, st := range l.Timeline(labMAC) {
					steps = append(steps, fmt.Sprintf("%s/%s %s", st.Stage, st.State, st.Text))
				}
				t.Errorf("got %+v, want %q after\n%s", m.Verdict, c.want, strings.Join(steps, "\n"))
			}
		})
	}
}
