package scenario

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/test/crash"
	"slipway.dev/slipway/test/crash/nodedisk"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
)

var (
	points    = flag.Int("points", 0, "how many power cuts of an install, and of an upgrade, the tests of crashes judge; 0: 300 and 100")
	boots     = flag.Int("boots", -1, "how many of them are really started; -1: 2 and 1")
	recordDir = flag.String("recording", "", "directory that keeps the recordings of an install and an upgrade, and is used again when it has them")
	replayed  = flag.String("point", "", "judge and start this point alone, as a test of crashes printed it, of -recording")
)

// crashDisk is as small as the example bundle allows: the judge reads all of it.
const crashDisk = 10 << 30

// recording is what a machine wrote to a disk while something happened to it.
type recording struct {
	*crash.Log
	base *os.File // the disk before, nil for a blank one
	user []byte   // the machine's config
	// How many requests there were when an upgrade was typed, and when its trial began.
	typed, tried int
}

// keep is the directory of a recording.
func keep(t *testing.T, name string) string {
	t.Helper()
	if *recordDir == "" {
		return t.TempDir()
	}
	dir := filepath.Join(*recordDir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// writeRecording says that a recording is complete.
func writeRecording(t *testing.T, dir string, typed, tried int, user []byte) {
	t.Helper()
	err := os.WriteFile(filepath.Join(dir, "requests"), fmt.Appendf(nil, "%d %d", typed, tried), 0o600)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "user-data"), user, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func openRecording(t *testing.T, dir string) recording {
	t.Helper()
	open := func(name string) *os.File {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	r := recording{Log: parseLog(t, open("write.log"))}
	requests, err := os.ReadFile(filepath.Join(dir, "requests"))
	if err == nil {
		_, err = fmt.Sscan(string(requests), &r.typed, &r.tried)
	}
	if err == nil {
		r.user, err = os.ReadFile(filepath.Join(dir, "user-data"))
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "before.img")); err == nil {
		r.base = open("before.img")
	}
	return r
}

func parseLog(t *testing.T, f *os.File) *crash.Log {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	l, err := crash.Parse(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// recordInstall installs a node on a disk and keeps every write, until the machine says
// that it is installed and a little longer.
func recordInstall(t *testing.T) recording {
	t.Helper()
	dir := keep(t, "install")
	if _, err := os.Stat(filepath.Join(dir, "user-data")); err == nil {
		return openRecording(t, dir)
	}
	config := newLogin(t).installing("node-1", "")
	_, port := network(t)
	vm := start(t, qemu.Machine{Memory: 4096, Boot: qemu.CD(iso(t)), NICs: []*lan.Port{port}, CIDATA: config,
		Disks:    []qemu.Drive{{Path: filepath.Join(dir, "node.img"), Size: crashDisk, Serial: "NODE", Log: filepath.Join(dir, "write.log")}},
		Tolerate: func(e handoff.Event) bool { return e.Phase == "services" }}) // what comes beside is no part of an install
	if _, err := vm.Wait(limit(t, 40*time.Minute), step("install", "active", handoff.Done)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second) // what comes after is a part of the story
	vm.Close()
	writeRecording(t, dir, 0, 0, config["user-data"])
	return openRecording(t, dir)
}

// judge is one that knows what the recorded node was installed with.
func (r recording) judge(t *testing.T) *nodedisk.Node {
	t.Helper()
	j := &nodedisk.Node{Geometry: bootdisk.Geometry{Size: crashDisk, Sector: 512}, ID: install.Owner{Node: "node-1", Instance: "test"}.ID(),
		Config: map[string][]byte{"user-data": r.user}, Scratch: scratch(t)}
	if err := j.ReadMedium(iso(t)); err != nil {
		t.Fatal(err)
	}
	return j
}

// scratch is in memory where it can be: a volume that e2fsck has to look at is
// copied there, a gigabyte and a half, for one in thirty power cuts of an upgrade.
func scratch(t *testing.T) string {
	var room unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &room); err != nil || int64(room.Bavail)*room.Bsize < 4<<30 { // a container's has 64 MB
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "crash-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// chosen are the points to judge.
func (r recording) chosen(t *testing.T, epochs []int, otherwise int) []crash.Point {
	t.Helper()
	if *replayed != "" {
		p, err := r.ParsePoint(*replayed)
		if err != nil {
			t.Fatal(err)
		}
		return []crash.Point{p}
	}
	if *points > 0 {
		otherwise = *points
	}
	return r.PointsOf(epochs, otherwise, 1)
}

// image is the disk at a point.
func (r recording) image(p crash.Point) *crash.Image {
	if r.base == nil {
		return r.Image(nil, crashDisk, p)
	}
	return r.Image(r.base, crashDisk, p)
}

// run judges points; none may be bricked.
func (r recording) run(t *testing.T, j *nodedisk.Node, chosen []crash.Point) *crash.Report {
	t.Helper()
	var base io.ReaderAt
	if r.base != nil {
		base = r.base
	}
	began := time.Now()
	report, err := r.Run(t.Context(), base, crashDisk, chosen, j.Judge, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	t.Logf("%s%d contents digested, e2fsck asked %d times, %.1f s, %.0f ms a point", report, j.Digested.Load(), j.Checks.Load(), took.Seconds(), took.Seconds()*1000/float64(len(chosen)))
	if n := len(report.Bricked()); n > 0 {
		t.Errorf("%d images are bricked; one alone: -args -recording DIR -point POINT", n)
	}
	return report
}

// TestCrashedInstalls takes the power away at every kind of moment of one
// install, in a model; see package crash. Some of the images are really started.
func TestCrashedInstalls(t *testing.T) {
	r := recordInstall(t)
	epochs := make([]int, len(r.Epochs))
	for i := range epochs {
		epochs[i] = i
	}
	report := r.run(t, r.judge(t), r.chosen(t, epochs, 300))
	if *replayed == "" && (report.Count(crash.New) == 0 || report.Count(crash.Resumes) == 0) {
		t.Error("nothing was tried")
	}
	r.boots(t, report, 2, crash.New, crash.Resumes)
}

// boots starts a sample of images that were judged so, as many of each as there
// are, BIOS and UEFI in turn, two at a time: they have one processor each.
func (r recording) boots(t *testing.T, report *crash.Report, otherwise int, outcomes ...crash.Outcome) {
	if *boots >= 0 {
		otherwise = *boots
	}
	for i, x := range sample(report.Results, otherwise, outcomes...) {
		firmware := []qemu.Firmware{qemu.BIOS, qemu.UEFI}[i%2]
		t.Run(string(firmware)+" "+x.Point.String(), func(t *testing.T) {
			t.Parallel()
			r.boot(t, x, firmware)
		})
	}
}

// sample takes n results in all, of some outcomes in turn, spread over each.
func sample(results []crash.Result, n int, outcomes ...crash.Outcome) (out []crash.Result) {
	var by [][]crash.Result
	for _, o := range outcomes {
		var all []crash.Result
		for _, x := range results {
			if x.Verdict.Outcome == o {
				all = append(all, x)
			}
		}
		if len(all) > 0 {
			by = append(by, all)
		}
	}
	for i, all := range by {
		share := min((n+len(by)-1-i)/len(by), len(all))
		for k := range share {
			out = append(out, all[(2*k+1)*len(all)/(2*share)])
		}
	}
	return out
}

// boot starts a machine from an image: one that was judged to start from the
// disk alone, any other from the install medium.
func (r recording) boot(t *testing.T, x crash.Result, firmware qemu.Firmware) {
	_, port := network(t)
	disk := filepath.Join(t.TempDir(), "cut.img")
	if err := r.image(x.Point).WriteFile(disk); err != nil {
		t.Fatal(err)
	}
	m := qemu.Machine{Memory: 4096, CPUs: 1, Firmware: firmware, NICs: []*lan.Port{port}, Disks: []qemu.Drive{{Path: disk, Serial: "NODE"}},
		// A service that ended badly is started again; that an upgrade was cut short is
		// said; and no control plane goes on from there with one processor.
		Tolerate: func(e handoff.Event) bool {
			return e.Phase == "services" && e.Step != "" || e.Phase == "upgrade" || e.Code == "SW-PREFLIGHT"
		}}
	ends := step("system", "content", handoff.Done) // all of the slot was read back and is right
	if x.Verdict.Outcome == crash.Resumes {
		m.Boot, m.CIDATA = qemu.CD(iso(t)), map[string][]byte{"user-data": r.user, "meta-data": []byte("instance-id: test\n")}
		ends = step("install", "active", handoff.Done)
	}
	vm := start(t, m)
	e, err := vm.Wait(limit(t, 40*time.Minute), ends)
	if err != nil {
		t.Fatalf("judged %s: %v", x.Verdict.Outcome, err)
	}
	slot := ""
	for _, e := range vm.Console.Events() {
		if s, _ := e.Data["slot"].(string); done("medium")(e) {
			slot = s
		}
	}
	want := map[crash.Outcome]string{crash.Old: "a", crash.New: "a"}[x.Verdict.Outcome]
	if r.base != nil && x.Verdict.Outcome == crash.New {
		want = "b"
	}
	if slot != want && !(x.Verdict.Why != "" && r.base != nil) { // where the firmwares start different slots, either is right
		t.Errorf("it started slot %q, want %q", slot, want)
	}
	t.Logf("judged %s: %s %s of slot %q %.0f s after power-on", x.Verdict.Outcome, e.Phase, e.State, slot, e.Uptime)
}
