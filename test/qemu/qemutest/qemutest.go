// Package qemutest makes machines and segments of packages qemu and lan that
// live as long as a test, and explain its failure: the console and the
// violations of a failed test are in its output.
//
// It has no scenarios and reads no environment.
package qemutest

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
)

// Start runs a machine until the test ends. Without QEMU or the firmware on
// this host it skips the test and says which package to install.
func Start(t testing.TB, m qemu.Machine) *qemu.VM {
	t.Helper()
	v, err := qemu.Start(context.WithoutCancel(t.Context()), m)
	var missing *qemu.MissingError
	if errors.As(err, &missing) {
		t.Skipf("SKIPPED: %v", missing)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console of %q:\n%s", v.Machine.Name, v.Console.Tail(200))
			if l := v.Console.Stale(); l != "" {
				t.Logf("%s: %s", qemu.StaleTranslation, l)
			}
		}
		if err := v.Close(); err != nil {
			t.Errorf("closing machine %q: %v", v.Machine.Name, err)
		}
	})
	return v
}

// LAN makes a segment until the test ends. A violation fails the test.
func LAN(t testing.TB, o lan.Options) *lan.Switch {
	t.Helper()
	s, err := lan.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing the segment: %v", err)
		}
		for _, v := range s.Violations() {
			t.Errorf("left the segment: %s", v)
		}
		if t.Failed() && o.Capture != "" {
			t.Logf("capture: %s", o.Capture)
		}
	})
	return s
}

// Gateway adds a host at the first address of the segment that serves DHCP and
// DNS: what most tests want of a network.
func Gateway(t testing.TB, s *lan.Switch, d lan.DHCP) *lan.Host {
	t.Helper()
	h := Host(t, s, "gateway", s.Subnet().Addr().Next())
	if err := h.ServeDHCP(d); err != nil {
		t.Fatal(err)
	}
	if err := h.ServeDNS(); err != nil {
		t.Fatal(err)
	}
	return h
}

// Host adds a host that ends with the segment.
func Host(t testing.TB, s *lan.Switch, name string, addr netip.Addr) *lan.Host {
	t.Helper()
	h, err := s.Host(name, addr)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// Port adds a port that ends with the segment.
func Port(t testing.TB, s *lan.Switch, name string) *lan.Port {
	t.Helper()
	p, err := s.Port(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
