package scenario

import (
	"context"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/enrol"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/test/crash"
	"slipway.dev/slipway/test/crash/nodedisk"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
	"slipway.dev/slipway/test/qemu/qemutest"
)

var killSeed = flag.Uint64("kill-seed", 0, "of the moments at which TestSeedKilled kills the seed; 0 for another one each time")

// kills is how often TestSeedKilled kills the seed.
const kills = 10

// outage is one death of the seed: how far the machine is then (see progress),
// and how long the seed stays away.
type outage struct {
	at   float64
	away time.Duration
}

// outages are the pseudo-random deaths of one seed number, in order. Each lasts
// from a second to two minutes, all of them together about six minutes at most.
func outages(number uint64) []outage {
	rng := rand.New(rand.NewPCG(number, kills))
	out := make([]outage, kills)
	total := 0.0
	for i := range out {
		u := rng.Float64()
		away := 1 + 119*u*u
		out[i] = outage{at: rng.Float64(), away: time.Duration(away * float64(time.Second))}
		total += away
	}
	if most := 360.0; total > most {
		for i := range out {
			out[i].away = max(time.Second, time.Duration(float64(out[i].away)*most/total))
		}
	}
	slices.SortFunc(out, func(a, b outage) int { return int(1000*a.at) - int(1000*b.at) })
	return out
}

// Progress of a machine: a tenth each for firmware and loader, for its kernel
// until it shows its code, for the approval and its config; then its content.
const (
	isKernel  = 0.1
	isWaiting = 0.2
	isLet     = 0.3
	isWritten = 0.95
)

// progress is how far a machine is, from its first request to the end of the
// install.
func progress(events []handoff.Event) (p float64) {
	for _, e := range events {
		switch {
		case step("install", "active", handoff.Done)(e):
			return 1
		case e.Phase == "install" && e.Step == "write":
			done, _ := e.Data["bytes"].(float64)
			total, _ := e.Data["total"].(float64)
			if total > 0 {
				p = max(p, isLet+(isWritten-isLet)*done/total)
			}
		case done("config")(e):
			p = max(p, isLet)
		case e.Step == "code":
			p = max(p, isWaiting)
		case e.Phase == "kernel":
			p = max(p, isKernel)
		}
	}
	return p
}

// TestSeedKilled kills the seed again and again while a blank machine is
// installed from it. The machine waits, goes on where it was, and needs no seed
// when it is installed.
func TestSeedKilled(t *testing.T) {
	if !*all {
		t.Skip("skipped: TestSeed kills a seed once; make test-all does it ten times, which takes ten minutes")
	}
	number := *killSeed
	if number == 0 {
		number = uint64(time.Now().UnixNano())
	}
	t.Logf("again: -args -all -kill-seed %d", number)
	seg := qemutest.LAN(t, lan.Options{Domains: []string{"cluster.local", "local"}})
	l := newLogin(t)
	s := newStation(t, seg, "10.77.0.1/24", l.cluster()+"  install: {disk: {serial: NODE}}\n", iso(t))
	s.start()
	disk := qemu.Drive{Path: filepath.Join(t.TempDir(), "node.img"), Size: crashDisk, Serial: "NODE"}
	vm := qemutest.Start(t, qemu.Machine{Name: "blank", Memory: 4096, Firmware: qemu.UEFI, Boot: qemu.Network(), Serial: "SER-blank",
		NICs: []*lan.Port{qemutest.Port(t, seg, "blank")}, Disks: []qemu.Drive{disk}, Tolerate: func(handoff.Event) bool { return true }})
	ctx := limit(t, 40*time.Minute)
	s.heard(ctx, "DISCOVER")
	long := false
	for i, o := range outages(number) {
		if reached := s.nearly(ctx, vm, o.at); reached >= 1 {
			t.Errorf("the install ended before death %d", i+1)
			break
		}
		s.kill()
		if p := progress(vm.Console.Events()); p >= isLet && p < isWritten && o.away > 30*time.Second {
			long = true // so that the machine ran out of what it had asked for
		}
		t.Logf("death %d: the machine is at %.2f, the seed is away for %.1f s", i+1, progress(vm.Console.Events()), o.away.Seconds())
		time.Sleep(o.away) // the outage itself
		s.start()
	}
	s.nearly(ctx, vm, 1)
	time.Sleep(5 * time.Second) // an installed node goes on for a while
	named := map[string]int{}
	for _, e := range vm.Console.Events() {
		if e.Code != "" {
			named[e.Code]++
		}
		if e.Code == enrol.CodeAway {
			t.Logf("%.0f s: %s (%s)\n  next: %s", e.Uptime, e.Text, e.Code, e.Hint)
		}
	}
	t.Logf("codes on the way: %v\n%s", named, table(vm.Console.Events()))
	if long && named[enrol.CodeAway] == 0 {
		t.Error("the machine did not say that the seed was away")
	}
	for _, code := range []string{"SW-STORE-DIGEST", "SW-INSTALL-VERIFY", "SW-DISK-DIGEST", "SW-MEDIUM-SIGNATURE"} {
		if named[code] > 0 {
			t.Errorf("%d times %s: a seed that dies gives no wrong content", named[code], code)
		}
	}
	m := vm.Machine
	vm.Close() // SIGKILL: a power cut
	s.kill()   // for ever
	verifyDisk(t, disk.Path)

	m.Boot = qemu.Boot{}
	vm = start(t, m)
	l.reach(t, vm, "services")
}

// heard waits until the seed has said something.
func (s *station) heard(ctx context.Context, what string) {
	s.t.Helper()
	for !strings.Contains(s.out.String(), what) {
		select {
		case <-ctx.Done():
			s.t.Fatalf("the seed said no %q: %v", what, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// nearly waits until a machine is at a point between its first request (0) and
// the end of its install (1), and lets it in when it asks. Where the machine says
// nothing for a while a point is a moment of at most six seconds.
func (s *station) nearly(ctx context.Context, vm *qemu.VM, at float64) float64 {
	s.t.Helper()
	began := time.Now()
	var p float64
	since, was := began, -1.0
	for {
		p = progress(vm.Console.Events())
		if p != was {
			since, was = time.Now(), p
		}
		if p == 0 && time.Since(began) > 2*time.Minute { // firmware that found no server asks a person what to do
			s.t.Log("the firmware gave up: the reset button")
			if err := vm.Reset(ctx); err != nil {
				s.t.Fatal(err)
			}
			began = time.Now()
		}
		if late := time.Duration((at - p) * float64(time.Minute)); p >= at || p >= 1 || silent(p, at) && time.Since(since) >= late {
			return p
		}
		if p >= isWaiting && p < isLet && at >= isLet {
			s.letIn(ctx)
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("at %.2f of %.2f: %v; last lines of the console:\n%s", p, at, ctx.Err(), vm.Console.Tail(40))
		case <-vm.Exited():
			s.t.Fatalf("the machine ended: %s", vm.Console.Tail(40))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// silent says whether a machine that is at p says nothing more before it is at
// another point.
func silent(p, at float64) bool {
	return at < 1 && (p < isLet && at < p+0.1 || p > isWritten-0.001)
}

// letIn approves whoever waits, as an operator would.
func (s *station) letIn(ctx context.Context) {
	all, err := s.machines(ctx)
	if err != nil {
		return // it has just been started
	}
	for _, m := range all {
		if m.State != seed.Waiting {
			continue
		}
		if out, err := s.run(ctx, "approve", m.Code); err != nil {
			s.t.Logf("slipway approve %s: %v\n%s", m.Code, err, out)
		}
	}
}

// verifyDisk wants a disk that starts, with all of the bundle on it.
func verifyDisk(t *testing.T, name string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	j := &nodedisk.Node{Geometry: bootdisk.Geometry{Size: crashDisk, Sector: 512}, Scratch: t.TempDir()}
	found, err := bootdisk.Read(f, j.Geometry)
	if err != nil {
		t.Fatal(err)
	}
	j.ID = found.Disk.ID()
	if err := j.ReadMedium(iso(t)); err != nil {
		t.Fatal(err)
	}
	v, err := j.Judge(crash.Disk(f, crashDisk))
	if err != nil || v.Outcome != crash.New {
		t.Fatalf("the disk is judged %s %s (%v)", v.Outcome, v.Why, err)
	}
	t.Logf("the disk starts, and its %d contents are right", j.Digested.Load())
}

// TestOutages holds what TestSeedKilled takes as given, for any number.
func TestOutages(t *testing.T) {
	for number := range uint64(200) {
		total, was := time.Duration(0), 0.0
		for _, o := range outages(number) {
			if o.at < was-0.001 || o.at >= 1 || o.away < time.Second || o.away > 2*time.Minute {
				t.Errorf("%d: %+v after %v", number, o, was)
			}
			total, was = total+o.away, o.at
		}
		if total > 370*time.Second {
			t.Errorf("%d: away for %s", number, total)
		}
	}
	let := handoff.Event{Phase: "config", State: handoff.Done}
	half := handoff.Event{Phase: "install", Step: "write", State: handoff.Running, Data: map[string]any{"bytes": 50.0, "total": 100.0}}
	end := handoff.Event{Phase: "install", Step: "active", State: handoff.Done}
	for i, want := range []float64{0, isLet, (isLet + isWritten) / 2, 1} {
		if got := progress([]handoff.Event{let, half, end}[:i]); got < want-0.001 || got > want+0.001 {
			t.Errorf("after %d events: %.3f, want %.3f", i, got, want)
		}
	}
}
