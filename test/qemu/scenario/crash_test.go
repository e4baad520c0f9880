package scenario

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/test/crash"
	"slipway.dev/slipway/test/crash/nodedisk"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
)

var (
	points    = flag.Int("points", 300, "how many power cuts of an install TestCrashedInstalls judges")
	boots     = flag.Int("boots", 2, "how many of them it really starts")
	recordDir = flag.String("recording", "", "directory that keeps an install's recording, and is used again when it has one")
	replayed  = flag.String("point", "", "judge and start this point alone, as TestCrashedInstalls printed it, of -recording")
)

// crashDisk is as small as the example bundle allows: the judge reads all of it.
const crashDisk = 10 << 30

// recording is what a machine wrote to a disk while it installed itself.
type recording struct {
	*crash.Log
	dir  string
	user []byte // its config
}

// recordInstall installs a node on a disk and keeps every write, until the machine says
// that it is installed and a little longer.
func recordInstall(t *testing.T) recording {
	t.Helper()
	dir := *recordDir
	if dir == "" {
		dir = t.TempDir()
	}
	path, user := filepath.Join(dir, "install.log"), filepath.Join(dir, "user-data")
	if _, err := os.Stat(user); err != nil {
		config := newLogin(t).installing("node-1", "")
		_, port := network(t)
		vm := start(t, qemu.Machine{Memory: 4096, Boot: qemu.CD(iso(t)), NICs: []*lan.Port{port}, CIDATA: config,
			Disks:    []qemu.Drive{{Path: filepath.Join(dir, "node.img"), Size: crashDisk, Serial: "NODE", Log: path}},
			Tolerate: func(e handoff.Event) bool { return e.Phase == "services" }}) // what comes beside is no part of an install
		if _, err := vm.Wait(limit(t, 40*time.Minute), step("install", "active", handoff.Done)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second) // what comes after is a part of the story
		vm.Close()
		if err := os.WriteFile(user, config["user-data"], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	l, err := crash.Parse(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(user)
	if err != nil {
		t.Fatal(err)
	}
	return recording{l, dir, raw}
}

// TestCrashedInstalls takes the power away at every kind of moment of one
// install, in a model; see package crash. Some of the images are really started.
func TestCrashedInstalls(t *testing.T) {
	r := recordInstall(t)
	j := &nodedisk.Node{Geometry: bootdisk.Geometry{Size: crashDisk, Sector: 512}, ID: install.Owner{Node: "node-1", Instance: "test"}.ID(),
		Config: map[string][]byte{"user-data": r.user}, Scratch: t.TempDir()}
	if err := j.ReadMedium(iso(t)); err != nil {
		t.Fatal(err)
	}
	chosen := r.Points(*points, 1)
	if *replayed != "" {
		p, err := r.ParsePoint(*replayed)
		if err != nil {
			t.Fatal(err)
		}
		chosen = []crash.Point{p}
	}
	report, err := r.Run(t.Context(), nil, crashDisk, chosen, j.Judge, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s%d contents digested, e2fsck asked %d times", report, j.Digested.Load(), j.Checks.Load())
	if n := len(report.Bricked()); n > 0 {
		t.Errorf("%d images are bricked; one alone: -args -recording DIR -point POINT", n)
	}
	if *replayed == "" && (report.Count(crash.New) == 0 || report.Count(crash.Resumes) == 0) {
		t.Error("nothing was tried")
	}
	for i, x := range sample(report.Results, *boots) {
		t.Run(x.Point.String(), func(t *testing.T) { r.boot(t, x, i) })
	}
}

// sample takes as many of what starts as of what does not, spread over each.
func sample(results []crash.Result, n int) (out []crash.Result) {
	by := map[crash.Outcome][]crash.Result{}
	for _, x := range results {
		by[x.Verdict.Outcome] = append(by[x.Verdict.Outcome], x)
	}
	for _, half := range []struct {
		o crash.Outcome
		n int
	}{{crash.New, n / 2}, {crash.Resumes, n - n/2}} {
		all := by[half.o]
		half.n = min(half.n, len(all))
		for i := range half.n {
			out = append(out, all[(2*i+1)*len(all)/(2*half.n)])
		}
	}
	return out
}

// boot starts a machine from an image: one that was judged to start from the
// disk alone, every second time with UEFI, any other from the install medium.
func (r recording) boot(t *testing.T, x crash.Result, i int) {
	_, port := network(t)
	disk := filepath.Join(t.TempDir(), "cut.img")
	if err := r.Image(nil, crashDisk, x.Point).WriteFile(disk); err != nil {
		t.Fatal(err)
	}
	m := qemu.Machine{Memory: 4096, NICs: []*lan.Port{port}, Disks: []qemu.Drive{{Path: disk, Serial: "NODE"}},
		Tolerate: func(e handoff.Event) bool { return e.Phase == "services" && e.Step != "" }}
	// kubeadm begins when all of the slot was read back and is right.
	ends := func(e handoff.Event) bool { return e.Phase == "kubernetes" && e.Step != "" }
	if x.Verdict.Outcome == crash.Resumes {
		m.Boot, m.CIDATA = qemu.CD(iso(t)), map[string][]byte{"user-data": r.user, "meta-data": []byte("instance-id: test\n")}
		ends = step("install", "active", handoff.Done)
	} else if i%2 == 1 {
		m.Firmware = qemu.UEFI
	}
	e, err := start(t, m).Wait(limit(t, 40*time.Minute), ends)
	if err != nil {
		t.Fatalf("judged %s: %v", x.Verdict.Outcome, err)
	}
	t.Logf("judged %s: %s %s %.0f s after power-on", x.Verdict.Outcome, e.Phase, e.State, e.Uptime)
}
