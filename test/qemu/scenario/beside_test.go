package scenario

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
	"slipway.dev/slipway/test/qemu/qemutest"
)

// TestSeedBesideDHCP is the site whose DHCP server nobody may disturb: dnsmasq
// on a computer of its own gives every address, to the blank machines that boot
// from the seed and to a hundred ordinary clients that never hear of it.
func TestSeedBesideDHCP(t *testing.T) {
	dnsmasq, err := exec.LookPath("dnsmasq")
	if err != nil {
		t.Skip("skipped: dnsmasq is not installed (Debian: dnsmasq-base)")
	}
	dir := packed(t)
	seg := qemutest.LAN(t, lan.Options{Domains: []string{"cluster.local", "local"}})
	s := newStation(t, seg, "10.77.0.1/24", newLogin(t).cluster(), filepath.Join(dir, built(t, dir).ISO.Path))
	site, err := seg.Namespace("site", netip.MustParsePrefix("10.77.0.53/24"))
	if err != nil {
		t.Fatal(err)
	}
	defer site.Close()
	server := exec.Command(dnsmasq, "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--dhcp-authoritative", "--dhcp-no-override", "--no-ping",
		"--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"), "--dhcp-range=10.77.0.60,10.77.0.250,1h", "--dhcp-option=3,10.77.0.53", "--log-facility=-")
	if err := site.Start(server); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	s.start()
	ctx := limit(t, 20*time.Minute)
	for { // it has listened, heard dnsmasq, and speaks
		if st, err := s.status(ctx); err == nil && st.DHCP != "" {
			if st.DHCP != "proxy" || len(st.Foreign) != 1 {
				t.Fatalf("DHCP mode %q, other servers %q", st.DHCP, st.Foreign)
			}
			break
		}
		select {
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
	var vms []*qemu.VM
	for i, fw := range []qemu.Firmware{qemu.BIOS, qemu.UEFI} {
		name := fmt.Sprintf("blank-%d", i)
		vms = append(vms, qemutest.Start(t, qemu.Machine{Name: name, Memory: 4096, CPUs: 1, Firmware: fw, Boot: qemu.Network(), NICs: []*lan.Port{qemutest.Port(t, seg, name)}}))
	}
	office := qemutest.Host(t, seg, "office", netip.MustParseAddr("10.77.0.54"))
	for i := range 100 {
		ordinaryClient(t, ctx, office, i, netip.MustParseAddr("10.77.0.53"))
	}
	all := s.until(ctx, "both machines ask to become nodes", waiting(2), vms...)
	for _, m := range all {
		if !m.Address.IsValid() || m.Facts == nil || m.Facts.Medium != "network" {
			t.Errorf("%+v", m)
		}
	}
	if len(all) != 2 {
		t.Errorf("%d machines, want the two that boot from the network: %+v", len(all), all)
	}
}

// ordinaryClient leases an address as an office computer does and wants every
// answer to be from the site's own server.
func ordinaryClient(t *testing.T, ctx context.Context, h *lan.Host, i int, server netip.Addr) {
	t.Helper()
	c, err := h.ListenPacket(68)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	mac := net.HardwareAddr{2, 0, 0, 0, 1, byte(i)}
	ask := func(p *dhcpv4.DHCPv4, want dhcpv4.MessageType) *dhcpv4.DHCPv4 {
		for ctx.Err() == nil {
			if _, err := c.WriteTo(p.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
			for buf := make([]byte, 1500); ; {
				n, _, err := c.ReadFrom(buf)
				if err != nil {
					break // asked again
				}
				r, err := dhcpv4.FromBytes(buf[:n])
				if err != nil || r.TransactionID != p.TransactionID {
					continue
				}
				if got, _ := netip.AddrFromSlice(r.ServerIdentifier().To4()); got != server {
					t.Fatalf("client %d: %s from %s, want %s only", i, r.MessageType(), got, server)
				}
				if r.MessageType() == want {
					return r
				}
			}
		}
		t.Fatalf("client %d: no %s: %v", i, want, ctx.Err())
		return nil
	}
	discover, err := dhcpv4.NewDiscovery(mac, dhcpv4.WithBroadcast(true))
	if err != nil {
		t.Fatal(err)
	}
	request, err := dhcpv4.NewRequestFromOffer(ask(discover, dhcpv4.MessageTypeOffer), dhcpv4.WithBroadcast(true))
	if err != nil {
		t.Fatal(err)
	}
	ask(request, dhcpv4.MessageTypeAck)
}

// status is `slipway status -o json`.
func (s *station) status(ctx context.Context) (st seed.Status, err error) {
	return st, s.json(ctx, &st, "status")
}
