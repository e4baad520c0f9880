package scenario

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	args "slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/medium"
	"slipway.dev/slipway/pxe"
	"slipway.dev/slipway/pxe/seed/boot"
	"slipway.dev/slipway/pxe/tftp"
	pxeweb "slipway.dev/slipway/pxe/web"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
	"slipway.dev/slipway/test/qemu/qemutest"
)

// wire is the seed's servers of boot protocols on a segment, as serve has them
// on an interface, and what they were asked for.
type wire struct {
	host *lan.Host
	boot *boot.Boot

	mu    sync.Mutex
	asked map[string]bool // "tftp shimx64.efi", "http amd64/boot/vmlinuz"
	lines []string
}

// note keeps what was asked for until the test is over: a request may end later.
func (w *wire) note(what, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[what] = true
	w.lines = append(w.lines, what+fmt.Sprintf(format, args...))
}

func (w *wire) was(what string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[what]
}

func (w *wire) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.lines, "\n")
}

// rom makes the iPXE in QEMU's card look like a ROM that cannot do more than
// TFTP, until it has fetched a loader.
func (w *wire) rom(m pxe.Machine) pxe.Boot {
	m.IPXE = m.IPXE && w.was("tftp undionly.kpxe")
	return w.boot.Decide(m)
}

// site gives iPXE the URL that a site's own server would, one for all machines.
func (w *wire) site(m pxe.Machine) pxe.Boot {
	b := w.boot.Decide(m)
	if m.IPXE {
		b.URL = fmt.Sprintf("http://%s:%d/boot.ipxe", w.host.Addr, seedPort)
	}
	return b
}

const seedPort = 8080

// serveBoot starts the servers; without a network they speak proxyDHCP only.
func serveBoot(t *testing.T, seg *lan.Switch, media []boot.Medium, decide func(*wire) pxe.Decide, n *pxe.Network) *wire {
	t.Helper()
	addr := netip.MustParseAddr("10.77.0.80")
	w := &wire{host: qemutest.Host(t, seg, "seed", addr), asked: map[string]bool{}}
	var err error
	w.boot, err = boot.New(t.Context(), media, boot.Options{HTTP: netip.AddrPortFrom(addr, seedPort), Extra: []string{"slipway.until=medium"}})
	if err != nil {
		t.Fatal(err)
	}
	d := decide(w)
	srv := &pxe.Server{Proxy: pxe.NewProxy(addr, d), Self: pxe.MAC(w.host.MAC), Event: func(e pxe.Event) { w.note("dhcp", " %s %s", e.Step, e.Text) }}
	if n != nil {
		if srv.Full, err = pxe.NewDHCP(*n, pxe.NewMemory(), d); err != nil {
			t.Fatal(err)
		}
	}
	packet := func(port uint16) net.PacketConn {
		c, err := w.host.ListenPacket(port)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })
	conns := pxe.Conns{DHCP: packet(67), Boot: packet(4011), Client: packet(68)}
	all.Go(func() { report(t, srv.Serve(ctx, conns)) })
	files := &tftp.Server{Files: w.boot.TFTP(), Listen: func() (net.PacketConn, error) { return w.host.ListenPacket(0) }, Events: func(e tftp.Event) {
		w.note("tftp "+e.Name, ": %s, %d bytes in %.1f s, blocks of %d, window %d", e.Outcome, e.Bytes, e.Duration.Seconds(), e.Block, e.Window)
	}}
	port69 := packet(69)
	all.Go(func() { report(t, files.Serve(ctx, port69)) })
	ln, err := w.host.Listen(seedPort)
	if err != nil {
		t.Fatal(err)
	}
	pages := pxeweb.Server(&pxeweb.Handler{Files: w.boot.HTTP(), Events: func(e pxeweb.Event) {
		w.note("http "+e.Name, ": %s %d, %d bytes in %.1f s, %s", e.Method, e.Status, e.Bytes, e.Duration.Seconds(), e.Agent)
	}}, pxeweb.Limits{}, nil)
	all.Go(func() {
		if err := pages.Serve(pxeweb.Listen(ln, pxeweb.Limits{})); err != http.ErrServerClosed {
			report(t, err)
		}
	})
	context.AfterFunc(ctx, func() { pages.Close() })
	return w
}

// trusted is the key that the medium's own initramfs pins.
func trusted(t *testing.T, m *medium.Medium) ed25519.PublicKey {
	t.Helper()
	raw, err := m.ReadFile(args.Initramfs)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for r := cpio.NewReader(z); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("%s in the initramfs: %v", layout.PublicKey, err)
		}
		if h.Name != layout.PublicKey {
			continue
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		key, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
}

func report(t *testing.T, err error) {
	if err != nil {
		t.Error(err)
	}
}

// TestNetworkBoot powers on machines with nothing but a card, beside slipway's
// own DHCP, TFTP and HTTP servers, and waits until PID 1 has the signed manifest
// from the seed. In proxy mode the addresses come from another server.
func TestNetworkBoot(t *testing.T) {
	dir := packed(t)
	m, err := medium.Open(filepath.Join(dir, built(t, dir).ISO.Path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	man, err := m.Manifest(trusted(t, m))
	if err != nil {
		t.Fatal(err)
	}
	// Without the card's ROM, which is iPXE, it is OVMF's own network stack that boots.
	native := []string{"-global", "virtio-net-pci.romfile="}
	httpOnly := append(slices.Clone(native), "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n", "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n")
	as := func(w *wire) pxe.Decide { return w.boot.Decide }
	for _, c := range []struct {
		name     string
		firmware qemu.Firmware
		decide   func(*wire) pxe.Decide
		extra    []string
		proxy    bool
		want     string // what must have been asked for, besides the kernel
	}{
		{"BIOS", qemu.BIOS, as, nil, false, "http amd64/boot.ipxe"},
		{"BIOS-undionly", qemu.BIOS, func(w *wire) pxe.Decide { return w.rom }, nil, false, "tftp undionly.kpxe"},
		{"UEFI-iPXE", qemu.UEFI, func(w *wire) pxe.Decide { return w.site }, nil, false, "http boot.ipxe"},
		{"UEFI", qemu.UEFI, as, native, false, "tftp shimx64.efi"},
		{"SecureBoot", qemu.SecureBoot, as, native, false, "tftp shimx64.efi"},
		{"UEFI-HTTP", qemu.UEFI, as, httpOnly, false, "http shimx64.efi"},
		{"SecureBoot-HTTP", qemu.SecureBoot, as, httpOnly, false, "http shimx64.efi"},
		{"BIOS-proxy", qemu.BIOS, as, nil, true, "http amd64/boot.ipxe"},
		{"UEFI-proxy", qemu.UEFI, as, native, true, "tftp shimx64.efi"},
		{"UEFI-HTTP-proxy", qemu.UEFI, as, httpOnly, true, "http shimx64.efi"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // iPXE waits 16 s for an IPv6 router, OVMF for its prompts
			seg := qemutest.LAN(t, lan.Options{Subnet: netip.MustParsePrefix("10.77.0.0/24")})
			port := qemutest.Port(t, seg, "node-1")
			n := &pxe.Network{Server: netip.MustParseAddr("10.77.0.80"), Subnet: seg.Subnet(), First: netip.MustParseAddr("10.77.0.100"), Last: netip.MustParseAddr("10.77.0.120"), Router: netip.MustParseAddr("10.77.0.80"), LeaseTime: time.Hour}
			if c.proxy {
				qemutest.Gateway(t, seg, lan.DHCP{})
				n = nil
			}
			w := serveBoot(t, seg, []boot.Medium{{Medium: m, Manifest: man}}, c.decide, n)
			began := time.Now()
			vm := qemutest.Start(t, qemu.Machine{Memory: 4096, CPUs: 1, Firmware: c.firmware, Boot: qemu.Network(), NICs: []*lan.Port{port}, Extra: c.extra})
			e, err := vm.Wait(limit(t, 20*time.Minute), done("medium"))
			if err != nil {
				t.Fatalf("%v\nthe seed was asked:\n%s", err, w)
			}
			t.Logf("%s, %.1f s after power-on, %.1f s after the kernel started\n%s", e.Text, time.Since(began).Seconds(), e.Uptime, w)
			for _, what := range []string{c.want, "http amd64/boot/vmlinuz", "http amd64/boot/initrd.img", "http amd64/slipway/manifest.json"} {
				if !w.was(what) {
					t.Errorf("nobody asked for %q", what)
				}
			}
		})
	}
}
