// Package nodedisk judges power-cut images of a node's disk: what firmware would
// start, what the loaders would find, what the installer would do with it.
//
// It starts nothing and repairs nothing: a machine that really starts from an
// image is a scenario's. It does not know the installer's code either, only its
// promises: those of packages bootdisk and install.
package nodedisk

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/firstboot/disks"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/medium"
	"slipway.dev/slipway/test/crash"
	"slipway.dev/slipway/test/crash/ext4"
)

// Node knows what a disk was to become.
type Node struct {
	Geometry bootdisk.Geometry
	ID       bootdisk.GUID
	// Slots are the bundles that may be started, whole.
	Slots map[bootdisk.Slot]Bundle
	// Before is the slot that started before an upgrade, "" for an install.
	Before  bootdisk.Slot
	Loaders map[string][]byte // as bootdisk.Format wants them
	Content int64             // bytes, as install.Begin was told
	Config  map[string][]byte // as install.KeepConfig was told
	Scratch string            // directory for what e2fsck has to look at

	sums             sync.Map
	Digested, Checks atomic.Int64 // contents read; volumes that needed e2fsck
}

// Bundle is a manifest as its medium has it.
type Bundle struct {
	Manifest       *lock.Manifest
	Raw, Signature []byte
}

// ReadMedium takes slot a's bundle and the loaders from the ISO or directory
// that a machine was installed from, which has plain blobs.
func (j *Node) ReadMedium(name string) error {
	b, err := ReadBundle(name)
	if err != nil {
		return err
	}
	m, err := medium.Open(name)
	if err != nil {
		return err
	}
	defer m.Close()
	j.Slots, j.Loaders, j.Content = map[bootdisk.Slot]Bundle{bootdisk.A: b}, map[string][]byte{}, 0
	for _, b := range b.Manifest.Blobs {
		j.Content += b.Size
		if b.Role != lock.RoleDiskLoader {
			continue
		}
		if len(b.Frames) > 0 {
			return fmt.Errorf("%s: %q is compressed", name, b.Name)
		}
		if j.Loaders[strings.TrimPrefix(b.Name, "disk/")], err = m.ReadFile(medium.Path(b)); err != nil {
			return err
		}
	}
	return nil
}

// ReadBundle takes the bundle of an ISO or a directory.
func ReadBundle(name string) (b Bundle, err error) {
	m, err := medium.Open(name)
	if err != nil {
		return b, err
	}
	defer m.Close()
	if b.Raw, err = m.ReadFile(layout.Manifest); err != nil {
		return b, err
	}
	if b.Signature, err = m.ReadFile(layout.Signature); err != nil {
		return b, err
	}
	b.Manifest = new(lock.Manifest)
	return b, json.Unmarshal(b.Raw, b.Manifest)
}

// Judge says what a machine does that starts with the image and its install
// medium, the disk first.
func (j *Node) Judge(m *crash.Image) (crash.Verdict, error) {
	bricked := func(format string, args ...any) (crash.Verdict, error) {
		return crash.Verdict{Outcome: crash.Bricked, Why: fmt.Sprintf(format, args...)}, nil
	}
	found, err := bootdisk.Read(m, j.Geometry)
	starts := j.starts(m)
	switch {
	case errors.Is(err, bootdisk.ErrNone) && (starts != "" || j.Before != ""):
		return bricked("no table, started by %q", starts)
	case errors.Is(err, bootdisk.ErrNone):
		holds, err := disks.Holdings(m, "vda", m.Size(), j.Geometry.Sector)
		if err != nil || len(holds) == 0 || install.NotedForIn(m, j.ID) {
			return crash.Verdict{Outcome: crash.Resumes}, err
		}
		return crash.Verdict{Outcome: crash.Holds, Why: "SW-DISK-DATA: " + holds[0].String()}, nil
	case err != nil:
		return bricked("%v", err)
	case found.Disk.ID() != j.ID:
		return bricked("the disk of somebody else")
	case j.Before != "" && !found.Active:
		return bricked("it starts no more")
	}
	if starts != "" {
		return j.started(m, found, starts)
	}
	// The medium starts, and install.Begin goes on if it finds a record.
	record, err := j.record(m, found)
	if err != nil || record.Progress != install.Installed {
		return crash.Verdict{Outcome: crash.Resumes}, nil //nolint:nilerr // begun again from the start
	}
	if why := j.volumes(m, found, record.Slot); why != "" {
		return bricked("its record says installed, but %s", why)
	}
	return crash.Verdict{Outcome: crash.Resumes, Why: "and finishes"}, nil
}

// started judges a disk that firmware starts: the slot that each kind of loader
// takes is whole. In an upgrade that is the default itself, never the other one in
// its place: whoever makes a slot the default has it whole before.
func (j *Node) started(m *crash.Image, found *bootdisk.Found, by string) (crash.Verdict, error) {
	outcome := crash.New
	slots := map[bootdisk.Slot]bool{}
	for _, s := range []bootdisk.Slot{found.Default, found.BIOSDefault} {
		if _, ok := found.Slots[s]; !ok && j.Before != "" {
			return crash.Verdict{Outcome: crash.Bricked, Why: fmt.Sprintf("the default is slot %q, which no loader can start", s)}, nil
		} else if !ok {
			s = s.Other()
		}
		slots[s] = true
	}
	for s := range slots {
		if s == j.Before {
			outcome = crash.Old
		}
		why, err := j.whole(m, found, s)
		if why != "" || err != nil {
			return crash.Verdict{Outcome: crash.Bricked, Why: fmt.Sprintf("%s starts slot %q, but %s", by, s, why)}, err
		}
	}
	if len(slots) > 1 {
		return crash.Verdict{Outcome: outcome, Why: "or new: BIOS and UEFI start different slots"}, nil
	}
	return crash.Verdict{Outcome: outcome}, nil
}

// starts says which firmware would run something from the disk.
func (j *Node) starts(m *crash.Image) string {
	var mbr, esp [512]byte
	if _, err := m.ReadAt(mbr[:], 0); err != nil {
		return ""
	}
	if _, err := m.ReadAt(esp[:], 1<<20); err != nil {
		return ""
	}
	var by []string
	if mbr[510] == 0x55 && mbr[511] == 0xaa && !bootdisk.Passes(mbr[:]) { // zeros are run like all else
		by = append(by, "BIOS")
	}
	if esp[510] == 0x55 && esp[511] == 0xaa {
		by = append(by, "UEFI")
	}
	return strings.Join(by, " and ")
}

// whole says what is missing of a slot that starts, "" for nothing.
func (j *Node) whole(m *crash.Image, found *bootdisk.Found, s bootdisk.Slot) (string, error) {
	entry, ok := found.Slots[s]
	bundle, known := j.Slots[s]
	if !ok || !known {
		return "there is nothing in it", nil
	}
	for _, want := range []string{"slipway.disk=" + j.ID.String(), "slipway.slot=" + string(s)} {
		if !slices.Contains(strings.Fields(entry.Cmdline), want) {
			return fmt.Sprintf("its command line lacks %s: %q", want, entry.Cmdline), nil
		}
	}
	if why, err := j.sectors(m, found, s, entry); why != "" || err != nil {
		return why, err
	}
	kernel, ram := found.Disk.Area(s)
	for role, at := range map[lock.Role]int64{lock.RoleKernel: kernel.At, lock.RoleInitramfs: ram.At} {
		b, err := bundle.Manifest.Find(role)
		if err != nil {
			return "", err
		}
		if sum, err := j.sum(m, 0, []ext4.Range{{Disk: at, Len: b.Size}}); sum != string(b.SHA256) || err != nil {
			return fmt.Sprintf("%s is not what the loader needs", b.Name), err
		}
	}
	record, err := j.record(m, found)
	if err != nil || record.Progress != install.Installed {
		return fmt.Sprintf("its record says %q (%v)", record.Progress, err), nil
	}
	// The node takes a start of another slot than its record's for the loaders'
	// last resort, unless the record says that the slot is on trial.
	if s != record.Slot && (record.Trial == nil || record.Trial.Slot != s || record.Trial.Step != install.Trying) && j.Before != "" {
		return fmt.Sprintf("its record says slot %q, trial %+v", record.Slot, record.Trial), nil
	}
	return j.volumes(m, found, s), nil
}

// sectors compares all that firmware and loaders read with what was planned.
func (j *Node) sectors(m *crash.Image, found *bootdisk.Found, s bootdisk.Slot, entry bootdisk.Entry) (string, error) {
	plan, err := bootdisk.Plan(arch.AMD64, j.Geometry, j.ID, j.Content)
	if err != nil {
		return "", err
	}
	format, err := plan.Format(j.Loaders)
	if err != nil {
		return "", err
	}
	fill, err := plan.Fill(s, entry.Kernel, entry.Initramfs, entry.Cmdline)
	if err != nil {
		return err.Error(), nil
	}
	other, err := plan.Fill(s.Other(), entry.Kernel, entry.Initramfs, entry.Cmdline)
	if err != nil {
		return err.Error(), nil
	}
	want := map[int64][]byte{} // by sector: what was written last, nil for anything
	put := func(known bool, groups ...[]bootdisk.Write) {
		for _, w := range slices.Concat(groups...) {
			for at := 0; at < len(w.Data); at += 512 {
				want[w.At+int64(at)] = nil
				if known {
					want[w.At+int64(at)] = w.Data[at:min(at+512, len(w.Data))]
				}
			}
		}
	}
	put(true, plan.Table(), format)
	put(false, other, plan.Default(s))
	// One of Activate's sectors may still be as Table left it.
	put(found.Active, plan.Activate())
	put(true, fill)
	for at, data := range want {
		got := make([]byte, len(data))
		if _, err := m.ReadAt(got, at); err != nil {
			return "", err
		}
		if !bytes.Equal(got, data) {
			return fmt.Sprintf("the sector at byte %d is not what a loader needs", at), nil
		}
	}
	return "", nil
}

// record reads install.json.
func (j *Node) record(m *crash.Image, found *bootdisk.Found) (r install.Record, err error) {
	err = j.volume(m, found, found.Disk.Store(), func(v volume) error {
		raw, err := v.ReadFile("install.json")
		if err != nil {
			return err
		}
		return json.Unmarshal(raw, &r)
	})
	return r, err
}

// volumes says what is missing in the two volumes, "" for nothing.
func (j *Node) volumes(m *crash.Image, found *bootdisk.Found, s bootdisk.Slot) string {
	store := func(v volume) error { return j.store(v, s) }
	for p, check := range map[bootdisk.Partition]func(volume) error{found.Disk.Store(): store, found.Disk.State(): j.state} {
		if err := j.volume(m, found, p, check); err != nil {
			return fmt.Sprintf("%s: %v", p.Name, err)
		}
	}
	return ""
}

// volume is a file system of an image, and a way to digest what lies in it.
type volume struct {
	*ext4.FS
	sum func([]ext4.Range) (string, error)
}

// volume checks a file system. A node asks e2fsck before it mounts; that takes
// long, so only one that is not right without is repaired.
func (j *Node) volume(m *crash.Image, found *bootdisk.Found, p bootdisk.Partition, check func(volume) error) error {
	fs, err := ext4.Open(io.NewSectionReader(m, p.First, p.Size))
	if err == nil {
		err = check(volume{fs, func(r []ext4.Range) (string, error) { return j.sum(m, p.First, r) }})
	}
	if err == nil || !found.Active { // a disk that was only begun is begun again
		return err
	}
	if again := j.repaired(m, found, p, check); again != nil {
		return fmt.Errorf("%w; after e2fsck: %w", err, again)
	}
	return nil
}

// store wants the manifest and every blob of it.
func (j *Node) store(v volume, s bootdisk.Slot) error {
	bundle, slot := j.Slots[s], "slots/"+string(s)+"/"
	if bundle.Manifest == nil {
		return fmt.Errorf("slot %q was never filled", s)
	}
	for name, want := range map[string][]byte{layout.Manifest: bundle.Raw, layout.Signature: bundle.Signature} {
		if got, err := v.ReadFile(slot + name); err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("%s is not the medium's (%w)", name, err)
		}
	}
	for _, b := range bundle.Manifest.Blobs {
		b.Frames = nil
		f, err := v.Lookup(path.Join(slot, medium.Path(b)))
		if err != nil {
			return err
		}
		ranges, ok := f.Ranges()
		if !ok {
			return fmt.Errorf("%s lies in the journal", b.Name) // no data=journal here
		}
		if got, err := v.sum(ranges); err != nil || f.Size != b.Size || got != string(b.SHA256) {
			return fmt.Errorf("%s: %d bytes, %s (%w)", b.Name, f.Size, got, err)
		}
	}
	return nil
}

// state wants the config.
func (j *Node) state(v volume) error {
	for name, want := range j.Config {
		got, err := v.ReadFile(path.Join("slipway/config", name))
		if err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("%s of %d bytes, want %d", name, len(got), len(want))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sum digests ranges of a partition, each content once.
func (j *Node) sum(m *crash.Image, first int64, ranges []ext4.Range) (string, error) {
	key, known := sha256.New(), true
	for _, r := range ranges {
		origin, ok := uint64(0), true
		if r.Disk >= 0 {
			origin, ok = m.Origin(first+r.Disk, r.Len)
		}
		known = known && ok
		fmt.Fprintln(key, r.At, r.Len, r.Disk >= 0, origin)
	}
	id := string(key.Sum(nil))
	if sum, ok := j.sums.Load(id); ok && known {
		return sum.(string), nil
	}
	j.Digested.Add(1)
	sum, err := digest(m, first, ranges)
	if err == nil {
		j.sums.Store(id, sum)
	}
	return sum, err
}

func digest(r io.ReaderAt, first int64, ranges []ext4.Range) (string, error) {
	h := sha256.New()
	b := make([]byte, 1<<20)
	for _, x := range ranges {
		var from io.Reader = io.LimitReader(zeros{}, x.Len)
		if x.Disk >= 0 {
			from = io.NewSectionReader(r, first+x.Disk, x.Len)
		}
		if _, err := io.CopyBuffer(h, struct{ io.Reader }{from}, b); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// repaired does what a node does before it mounts: e2fsck -p, which ends with 0,
// 1 or 2 when all is right afterwards; and where that finds no superblock, e2fsck -y, which takes a backup.
func (j *Node) repaired(m *crash.Image, found *bootdisk.Found, p bootdisk.Partition, check func(volume) error) error {
	n := j.Checks.Add(1)
	file := filepath.Join(j.Scratch, fmt.Sprintf("%s-%d.img", p.Name, n))
	defer os.Remove(file)
	if err := m.WritePart(file, p.First, p.Size); err != nil {
		return err
	}
	code, err := e2fsck("-p", file)
	if code == 8 {
		code, err = e2fsck("-y", file)
	}
	if code > 2 {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	fs, err := ext4.Open(f)
	if err != nil {
		return err
	}
	return check(volume{fs, func(r []ext4.Range) (string, error) { return digest(f, 0, r) }})
}

func e2fsck(how, file string) (code int, err error) {
	cmd := exec.Command("e2fsck", how, file)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return 0, nil
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	code = 8
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return code, fmt.Errorf("e2fsck %s: %w: %s", how, err, line)
}
