package nodedisk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"testing"

	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/test/crash"
	"slipway.dev/slipway/test/crash/ext4"
)

// again is what a disk may be while its node is installed anew, or reset: the
// old node's, whole, as long as it starts; and as long as it does not start,
// known to its own machine.
type again struct {
	old, new *Node
}

func (a again) judge(m *crash.Image) (crash.Verdict, error) {
	bricked := func(format string, args ...any) (crash.Verdict, error) {
		return crash.Verdict{Outcome: crash.Bricked, Why: fmt.Sprintf(format, args...)}, nil
	}
	found, err := bootdisk.Read(m, a.old.Geometry)
	starts, noted := a.old.starts(m), install.NotedIn(m) != nil
	switch {
	case err != nil && !errors.Is(err, bootdisk.ErrNone):
		return bricked("%v", err)
	case err != nil && starts != "":
		return bricked("no table, started by %q", starts)
	case err != nil && noted:
		return crash.Verdict{Outcome: crash.Resumes, Why: "it is noted"}, nil
	case err != nil:
		return a.old.Judge(m)
	case starts != "" && found.Disk.ID() == a.old.ID:
		return a.still(m, found, starts)
	case starts != "":
		return a.new.Judge(m)
	}
	n := a.old
	if found.Disk.ID() == a.new.ID {
		n = a.new
	}
	record, err := n.record(m, found)
	switch {
	case noted:
		return crash.Verdict{Outcome: crash.Resumes, Why: "it is noted"}, nil
	case err == nil && record.Ends != "":
		return crash.Verdict{Outcome: crash.Resumes, Why: "it is marked"}, nil
	}
	looked := n.look(m, found)
	switch {
	case errors.Is(looked, fs.ErrNotExist):
		return bricked("its machine looks at it and does not know it: %v", looked)
	case err == nil && n == a.new && looked == nil:
		return n.Judge(m)
	}
	if n == a.new && n.mended(m, found) {
		return crash.Verdict{Outcome: crash.Resumes, Why: "e2fsck mends it"}, nil
	}
	return bricked("it starts no more, and its machine does not know it: record %+v, %v", record, err)
}

// still judges the old node's disk while it starts.
func (a again) still(m *crash.Image, found *bootdisk.Found, by string) (crash.Verdict, error) {
	v, err := a.old.started(m, found, by)
	if v.Outcome == crash.New {
		v.Outcome = crash.Old
	}
	return v, err
}

// look is install.Look: both files have to be in their places, whatever the journals
// have. A file that is missing is missing; any other error is repaired.
func (j *Node) look(m *crash.Image, found *bootdisk.Found) error {
	var errs []error
	for p, name := range map[bootdisk.Partition]string{found.Disk.Store(): "install.json", found.Disk.State(): "slipway/enrolment.json"} {
		v, err := ext4.OpenInPlace(io.NewSectionReader(m, p.First, p.Size))
		if err == nil {
			_, err = v.ReadFile(name)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", p.Name, name, err))
		}
	}
	return errors.Join(errs...)
}

// mended says whether e2fsck makes both volumes what resume wants of them.
func (j *Node) mended(m *crash.Image, found *bootdisk.Found) bool {
	for p, name := range map[bootdisk.Partition]string{found.Disk.Store(): "install.json", found.Disk.State(): "slipway/enrolment.json"} {
		check := func(v volume) error { _, err := v.ReadFile(name); return err }
		if j.volume(m, found, p, check) != nil && j.repaired(m, found, p, check) != nil {
			return false
		}
	}
	return true
}

// installAs does what a machine with a seed does with its disk.
func installAs(t *testing.T, h *host, dev, instance string, j *Node, b install.Bundle) *install.Disk {
	t.Helper()
	m := h.machine()
	m.Note = []byte(instance + "'s key")
	d, err := install.Begin(t.Context(), m, dev, install.Owner{Node: "node-1", Instance: instance}, j.Content, j.Loaders)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error { return d.KeepConfig(j.Config) },
		func() error { return d.KeepEnrolment(instance + "'s key") },
		func() error { return d.Fill(t.Context(), bootdisk.A, b, func(int64, int64) {}) },
		func() error { return d.Startable(bootdisk.A, b.Manifest, boot.Cmdline{Consoles: []string{"ttyS0"}}) },
		func() error { return d.Finish(bootdisk.A, b.Manifest) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// TestCrashedReimage takes the power while an installed disk is marked and
// written anew, for the instance that a new enrolment makes.
func TestCrashedReimage(t *testing.T) {
	h := newHost(t)
	b, dir := bundle(t, 1)
	node := func(instance string) *Node {
		j := &Node{Geometry: bootdisk.Geometry{Size: size, Sector: 512}, ID: install.Owner{Node: "node-1", Instance: instance}.ID(),
			Config: map[string][]byte{"user-data": []byte("#cloud-config\n"), "meta-data": []byte("instance-id: " + instance + "\n")}, Scratch: h.dir}
		if err := j.ReadMedium(dir); err != nil {
			t.Fatal(err)
		}
		return j
	}
	a := again{node("i-1"), node("i-2")}
	disk := h.create("disk")
	record(t, h, disk, "install", func(dev string) { installAs(t, h, dev, "i-1", a.old, b).Unmount() })
	before := h.create("before")
	if err := crash.Sparse(before, disk, size); err != nil {
		t.Fatal(err)
	}
	l := record(t, h, disk, "reimage", func(dev string) {
		d, err := install.Open(t.Context(), h.machine(), install.Find([]string{dev})[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := d.KeepMark(install.Mark{Verb: install.Reimage, Token: "t"}); err != nil {
			t.Fatal(err)
		}
		d.Unmount()
		installAs(t, h, dev, "i-2", a.new, b).Unmount()
	})
	a.count(t, l, before, crash.Old, crash.New, crash.Resumes)

	bad := withoutFlushes(t, h, l)
	report, err := bad.Run(t.Context(), before, size, bad.Points(60, *seed), a.judge, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Bricked()) == 0 {
		t.Errorf("nothing is bricked without flushes:\n%s", report)
	}
}

// TestCrashedReset takes the power while a disk is wiped.
func TestCrashedReset(t *testing.T) {
	h := newHost(t)
	b, dir := bundle(t, 1)
	j := &Node{Geometry: bootdisk.Geometry{Size: size, Sector: 512}, ID: install.Owner{Node: "node-1", Instance: "i-1"}.ID(),
		Config: map[string][]byte{"user-data": []byte("#cloud-config\n")}, Scratch: h.dir}
	if err := j.ReadMedium(dir); err != nil {
		t.Fatal(err)
	}
	disk := h.create("disk")
	record(t, h, disk, "install", func(dev string) { installAs(t, h, dev, "i-1", j, b).Unmount() })
	before := h.create("before")
	if err := crash.Sparse(before, disk, size); err != nil {
		t.Fatal(err)
	}
	l := record(t, h, disk, "reset", func(dev string) {
		d, err := install.Open(t.Context(), h.machine(), install.Find([]string{dev})[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []func() error{
			func() error { return d.KeepMark(install.Mark{Verb: install.Reset}) },
			d.Deactivate,
			func() error { d.Unmount(); return nil },
			func() error { return d.Shred(t.Context()) },
			func() error { _, err := d.Wipe(t.Context()); return err },
		} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
	})
	w := wiped{again{j, j}}
	report, err := l.Run(t.Context(), before, size, l.Points(max(*points/3, 60), *seed), w.judge, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d: %s", *seed, report)
	if n := report.Bricked(); len(n) > 0 {
		t.Errorf("%d images are bricked", len(n))
	}
	for _, o := range []crash.Outcome{crash.Old, crash.New, crash.Resumes} {
		if report.Count(o) == 0 {
			t.Errorf("no image is %s: nothing was tried", o)
		}
	}
}

// wiped judges a reset: what starts is the node, whole; what does not is on its
// way, and New is a disk that holds nothing.
type wiped struct{ again }

func (w wiped) judge(m *crash.Image) (crash.Verdict, error) {
	found, err := bootdisk.Read(m, w.old.Geometry)
	switch starts := w.old.starts(m); {
	case err != nil && !errors.Is(err, bootdisk.ErrNone), err != nil && starts != "":
		return crash.Verdict{Outcome: crash.Bricked, Why: fmt.Sprintf("%v, started by %q", err, starts)}, nil
	case err != nil:
		return crash.Verdict{Outcome: crash.New}, nil
	case starts != "":
		return w.still(m, found, starts)
	}
	if r, err := w.old.record(m, found); err == nil && r.Ends != install.Reset {
		return crash.Verdict{Outcome: crash.Bricked, Why: fmt.Sprintf("it starts no more, and its record says %+v", r)}, nil
	}
	return crash.Verdict{Outcome: crash.Resumes}, nil
}

func (a again) count(t *testing.T, l *crash.Log, before *os.File, want ...crash.Outcome) {
	t.Helper()
	report, err := l.Run(t.Context(), before, size, l.Points(max(*points, 250), *seed), a.judge, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d: %s", *seed, report)
	if n := report.Bricked(); len(n) > 0 {
		t.Errorf("%d images are bricked", len(n))
	}
	if n := report.Count(crash.Holds); n > 0 {
		t.Errorf("%d images want consent", n)
	}
	for _, o := range want {
		if report.Count(o) == 0 {
			t.Errorf("no image is %s: nothing was tried", o)
		}
	}
}
