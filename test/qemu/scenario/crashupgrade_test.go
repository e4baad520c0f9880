package scenario

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/test/crash"
	"slipway.dev/slipway/test/crash/nodedisk"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
)

// recordUpgrade installs a node on a disk, starts it from there and keeps every
// write from then on: while `slipway upgrade`, typed on the node, takes the next
// bundle from a medium and starts it on trial; and with -all, for which the node
// has to be Ready first, until the trial is confirmed.
func recordUpgrade(t *testing.T) recording {
	t.Helper()
	dir := keep(t, "upgrade")
	if _, err := os.Stat(filepath.Join(dir, "user-data")); err == nil {
		return openRecording(t, dir)
	}
	l := newLogin(t)
	_, port := network(t)
	config := l.installing("node-1", "")
	next := filepath.Join(*out, "next")
	node := qemu.Drive{Path: filepath.Join(dir, "node.img"), Size: crashDisk, Serial: "NODE"}
	m := qemu.Machine{Memory: 4096, Boot: qemu.CD(iso(t)), NICs: []*lan.Port{port}, CIDATA: config, Disks: []qemu.Drive{node},
		Tolerate: func(e handoff.Event) bool { return e.Phase == "services" }}
	vm := start(t, m)
	for _, want := range []func(handoff.Event) bool{done("services"), step("install", "active", handoff.Done)} { // either may be first
		if _, err := vm.Wait(limitOf(t), want); err != nil {
			t.Fatal(err)
		}
	}
	vm.Close() // SIGKILL: what the guest has not written is lost
	copyFile(t, filepath.Join(dir, "before.img"), node.Path)

	node.Log = filepath.Join(dir, "write.log")
	m.Boot, m.CIDATA = qemu.Boot{}, nil
	m.Disks = []qemu.Drive{node, {Path: filepath.Join(next, built(t, next).ISO.Path), ReadOnly: true, Serial: "NEXT"}}
	vm = start(t, m)
	until := "services"
	if *all {
		until = "ready"
	}
	l.reach(t, vm, until)
	typed := requests(t, node.Log)
	u := &upgrading{l: l, vm: vm}
	u.run(t, "", "", "")
	e, err := vm.Wait(limitOf(t), step("upgrade", "kexec", handoff.Running))
	tried := requests(t, node.Log)
	if *all && err == nil {
		e, err = vm.Wait(limitOf(t), done("upgrade"))
	}
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second) // what comes after is a part of the story
	vm.Close()
	t.Logf("%s; typed after %d requests, tried after %d", e.Text, typed, tried)
	writeRecording(t, dir, typed, tried, config["user-data"])
	return openRecording(t, dir)
}

// requests is how many a log has that is being written.
func requests(t *testing.T, log string) int {
	t.Helper()
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 50 { // what is promised may come a moment later
		var l *crash.Log
		if l, err = crash.Parse(f, 1<<50); err == nil {
			return len(l.Entries)
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal(err)
	return 0
}

// upgradeEpochs are those of an upgrade, from when it was typed: all in which
// something outside the state volume was written, which is what a slot and the
// loaders are made of, and of the others every nth, so that they are no more. A
// cluster syncs thousands of times where nothing of a slot lies.
func upgradeEpochs(r recording, store bootdisk.Partition) []int {
	var slots, state []int
	for i, e := range r.Epochs {
		if e.End < r.typed {
			continue
		}
		outside := false
		for _, w := range r.Entries[e.Start:e.End] {
			outside = outside || w.Len > 0 && w.Off < store.First+store.Size
		}
		if outside {
			slots = append(slots, i)
		} else {
			state = append(state, i)
		}
	}
	return slices.Sorted(slices.Values(append(slots, crash.Spread(state, len(slots))...)))
}

// TestCrashedUpgrades takes the power away at every kind of moment of one
// upgrade, in a model; see package crash. What starts is the old slot, whole,
// as long as the loaders' default was not changed, and the new one, whole, after
// that. Some of the images are really started.
func TestCrashedUpgrades(t *testing.T) {
	if !*all && *recordDir == "" {
		t.Skip("skipped: two boots and a third for an image; package nodedisk judges an upgrade's power cuts in every make test, make test-all judges a machine's, to the trial's confirmation; -recording DIR ends before the trial")
	}
	r := recordUpgrade(t)
	j := r.judge(t)
	next := filepath.Join(*out, "next")
	b, err := nodedisk.ReadBundle(filepath.Join(next, built(t, next).ISO.Path))
	if err != nil {
		t.Fatal(err)
	}
	j.Before, j.Slots[bootdisk.B] = bootdisk.A, b
	whole, err := bootdisk.Read(r.base, j.Geometry)
	if err != nil {
		t.Fatal(err)
	}
	epochs := upgradeEpochs(r, whole.Disk.Store())
	t.Logf("%d of %d epochs are the upgrade's", len(epochs), len(r.Epochs))
	report := r.run(t, j, r.chosen(t, epochs, 100))
	if *replayed == "" && report.Count(crash.Old) == 0 || *all && report.Count(crash.New) == 0 {
		t.Error("nothing was tried")
	}
	for _, x := range report.Results {
		if x.Verdict.Outcome == crash.New && r.Epochs[x.Point.Epoch].End < r.tried {
			t.Errorf("point %s: the loaders start slot b before its trial began", x.Point)
		}
	}
	r.boots(t, report, 1, crash.Old, crash.New)
}
