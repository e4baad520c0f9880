package seed

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe"
)

func netboot(n int, step pxe.Step, text string) pxe.Event {
	var m pxe.MAC
	m[0] = 0x52
	binary.BigEndian.PutUint32(m[2:], uint32(n))
	return pxe.Event{Machine: pxe.Machine{MAC: m, Arch: arch.AMD64, Firmware: pxe.UEFI, Class: "PXEClient"}, Step: step, Text: text}
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	openSeed(t, dir, site(t, twoRules), Options{})
	if _, err := Open(dir, site(t, twoRules), Options{}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("got %v", err)
	}
	if i, err := os.Stat(filepath.Join(dir, stateFile)); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("state file: %v %v", i.Mode(), err)
	}
}

// TestStorm: machines that nobody knows push out only each other.
func TestStorm(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")), Options{})
	c := newClient(t, serve(t, s), "", facts(1))
	code := c.enrol(t)
	began := time.Now()
	for n := range 65536 {
		s.Observe(netboot(n, pxe.StepDiscover, "PXEClient"))
		s.Observe(netboot(n, pxe.StepOffer, "10.0.0.5"))
		s.Observe(pxe.Event{Machine: pxe.Machine{MAC: pxe.MAC{2, byte(n >> 8), byte(n)}}, Step: pxe.StepDiscover})
		if n%8192 == 0 {
			s.Status() // sorts in
		}
	}
	t.Logf("%s for each of 196,608 packets", time.Since(began)/196608)
	all := s.Machines()
	if len(all) > maxStrangers+1 || len(all) < maxStrangers/2 {
		t.Errorf("%d machines", len(all))
	}
	if m, err := s.Machine(code); err != nil || m.State != Waiting {
		t.Errorf("the machine that enrolled: %+v %v", m, err)
	}
	if n := len(s.Timeline(c.facts.Boot)); n != 1 {
		t.Errorf("it has %d steps, want 1", n)
	}
	if all, _ := s.Steps(0); len(all) > perSeed {
		t.Errorf("%d steps", len(all))
	}
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	if i, err := os.Stat(filepath.Join(s.dir, stateFile)); err != nil || i.Size() > 64<<20 {
		t.Errorf("the state file has %d MB", i.Size()>>20)
	} else {
		t.Logf("state file: %d KB", i.Size()>>10)
	}
}

func TestTimelineIsBounded(t *testing.T) {
	dir := t.TempDir()
	s := openSeed(t, dir, site(t, twoRules), Options{})
	for n := range 50 {
		s.Observe(netboot(n, pxe.StepDiscover, ""))
	}
	id := netboot(7, "", "").Machine.MAC.String()
	for n := range 2000 {
		s.Record(Step{Machine: id, Stage: StageTFTP, Text: fmt.Sprint("file ", n), State: "done"})
	}
	all := s.Timeline(id)
	if len(all) != perMachine || all[len(all)-1].Text != "file 1999" {
		t.Errorf("%d steps, the last %+v", len(all), all[len(all)-1])
	}
	before, changed := s.Steps(all[len(all)-1].Seq)
	if len(before) != 0 {
		t.Errorf("%d steps after the newest", len(before))
	}
	s.Record(Step{Machine: id, Stage: StageTFTP, Text: "\x1b[31mlast\x00"})
	s.Machines()
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Fatal("no follower was told")
	}
	if after, _ := s.Steps(all[len(all)-1].Seq); len(after) != 1 || after[0].Text != "[31mlast" {
		t.Errorf("got %+v", after)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := Open(dir, site(t, twoRules), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got := r.Timeline(id); len(got) != perMachine || got[len(got)-1].Text != "[31mlast" {
		t.Errorf("after a restart: %d steps, the last %+v", len(got), got[len(got)-1])
	}
	if m := r.Machines(); len(m) != 50 || m[7].Step.Text != "[31mlast" {
		t.Errorf("after a restart: %d machines, %+v", len(m), m[7])
	}
}

func TestObserve(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, twoRules), Options{})
	s.Observe(netboot(1, pxe.StepDiscover, "PXEClient"))
	s.Observe(netboot(1, pxe.StepAck, "10.0.0.17 for 3600 s"))
	os := netboot(1, pxe.StepDiscover, "udhcp")
	os.Machine = pxe.Machine{MAC: os.Machine.MAC}
	s.Observe(os)
	s.Observe(pxe.Event{Step: pxe.StepForeign, Text: "DHCP server 10.0.0.254"})
	s.Observe(pxe.Event{Step: pxe.StepForeign, Text: "DHCP server 10.0.0.254"})
	m, err := s.Machine("52-00-00-00-00-01")
	if err != nil || m.Address != netip.MustParseAddr("10.0.0.17") || m.Firmware != "uefi" || m.Arch != arch.AMD64 || m.State != Seen {
		t.Errorf("%+v %v", m, err)
	}
	if id, ok := s.At(netip.MustParseAddr("10.0.0.17")); !ok || id != m.ID {
		t.Errorf("At: %q %v", id, ok)
	}
	if _, ok := s.At(netip.MustParseAddr("10.0.0.18")); ok {
		t.Error("a machine at nobody's address")
	}
	if tl := s.Timeline(m.ID); len(tl) != 3 || tl[2].Text != "running system: DISCOVER: udhcp" {
		t.Errorf("%+v", tl)
	}
	if own := s.Timeline(""); len(own) != 2 {
		t.Errorf("%+v", own)
	}
}

func TestLeases(t *testing.T) {
	dir := t.TempDir()
	s := openSeed(t, dir, site(t, twoRules), Options{})
	a, b := netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("10.0.0.6")
	x, y := pxe.MAC{2, 1}, pxe.MAC{2, 2}
	put := func(m pxe.MAC, a netip.Addr, d time.Duration) {
		t.Helper()
		if err := s.Leases().Put(pxe.Lease{MAC: m, Addr: a, For: d}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(lines ...string) {
		t.Helper()
		all, err := s.Leases().All()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range all {
			got = append(got, fmt.Sprint(l.Addr, " ", l.MAC, " ", l.For.Round(time.Hour)))
		}
		if fmt.Sprint(got) != fmt.Sprint(lines) {
			t.Errorf("got %q, want %q", got, lines)
		}
	}
	put(x, a, time.Hour)
	put(x, b, 2*time.Hour) // it moved
	put(y, a, 3*time.Hour)
	want("10.0.0.5 02:02:00:00:00:00 3h0m0s", "10.0.0.6 02:01:00:00:00:00 2h0m0s")
	put(y, b, time.Hour) // the address changed hands
	want("10.0.0.6 02:02:00:00:00:00 1h0m0s")
	if err := s.Leases().Drop(a); err != nil {
		t.Error(err)
	}
	put(x, a, time.Hour)
	s.began = s.began.Add(-59 * time.Minute) // 59 minutes pass
	put(y, b, time.Hour)
	s.began = s.began.Add(-2 * time.Minute)
	want("10.0.0.6 02:02:00:00:00:00 1h0m0s")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// Nobody knows how long it was away: all that was given runs again.
	s = openSeed(t, dir, site(t, twoRules), Options{Clock: func() time.Time { return time.Date(2011, 11, 11, 0, 0, 0, 0, time.UTC) }})
	want("10.0.0.5 02:01:00:00:00:00 1h0m0s", "10.0.0.6 02:02:00:00:00:00 1h0m0s")
	if err := s.Leases().Drop(a); err != nil {
		t.Error(err)
	}
	want("10.0.0.6 02:02:00:00:00:00 1h0m0s")
}

func TestArm(t *testing.T) {
	dir := t.TempDir()
	s := openSeed(t, dir, site(t, approve("auto")), Options{})
	if err := s.Arm(25 * time.Hour); err == nil {
		t.Error("armed for more than a day")
	}
	if err := s.Arm(time.Hour); err != nil || s.Status().Armed.IsZero() {
		t.Errorf("%v %+v", err, s.Status())
	}
	s.Close()
	s = openSeed(t, dir, site(t, approve("auto")), Options{})
	if s.Status().Armed.IsZero() {
		t.Error("a restart closed the window")
	}
	if err := s.Arm(0); err != nil || !s.Status().Armed.IsZero() {
		t.Errorf("%v %+v", err, s.Status())
	}
	s.Close()
	s = openSeed(t, dir, site(t, approve("auto")), Options{})
	if !s.Status().Armed.IsZero() {
		t.Error("a restart opened the window")
	}
	now := time.Now()
	for name, raw := range map[string]string{
		"over":                fmt.Sprintf(`{"From":%q,"To":%q}`, now.Add(-2*time.Hour).Format(time.RFC3339), now.Add(-time.Hour).Format(time.RFC3339)),
		"the clock went back": fmt.Sprintf(`{"From":%q,"To":%q}`, now.Add(time.Hour).Format(time.RFC3339), now.Add(2*time.Hour).Format(time.RFC3339)),
		"endless":             fmt.Sprintf(`{"From":%q,"To":%q}`, now.Add(-time.Hour).Format(time.RFC3339), now.Add(9999*time.Hour).Format(time.RFC3339)),
	} {
		if err := s.rearm([]byte(raw)); err != nil || s.armedNow() {
			t.Errorf("%s: open (%v)", name, err)
		}
	}
	other := openSeed(t, t.TempDir(), site(t, approve("ask")), Options{})
	if err := other.Arm(time.Minute); HTTPStatus(err) != 400 {
		t.Errorf("armed with approve: ask: %v", err)
	}
}

// TestAuthority: certificates hold in any year, and the CA lasts.
func TestAuthority(t *testing.T) {
	dir := t.TempDir()
	s := openSeed(t, dir, site(t, twoRules), Options{})
	pin := s.Pin()
	cert := s.TLS(netip.MustParseAddr("10.0.0.1")).Certificates[0]
	if len(cert.Certificate) != 2 || handoff.KeyID(cert.Certificate[1]) != pin {
		t.Error("the chain has no CA")
	}
	if s.ca.cert.NotBefore.Year() != 2000 || s.ca.cert.NotAfter.Year() != 2090 || !s.ca.cert.IsCA {
		t.Errorf("%v %v", s.ca.cert.NotBefore, s.ca.cert.NotAfter)
	}
	s.Close()
	if s = openSeed(t, dir, site(t, twoRules), Options{}); s.Pin() != pin {
		t.Error("another CA after a restart")
	}
}

// TestStateOfAnotherCluster: its nodes would join the wrong one.
func TestStateOfAnotherCluster(t *testing.T) {
	dir := t.TempDir()
	s := openSeed(t, dir, site(t, twoRules), Options{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	other := site(t, twoRules)
	other.Metadata.Name = "plant"
	o, err := Open(dir, other, Options{})
	if err == nil {
		o.Close()
		t.Fatal("opened")
	}
	for _, want := range []string{dir, `made for cluster "site"`, `is of "plant"`, "--state"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q in it", err, want)
		}
	}
	openSeed(t, dir, site(t, twoRules), Options{}) // and is not harmed by it
}
