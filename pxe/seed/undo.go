package seed

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
)

// savedDir, in the state directory, has what disks held before they were written:
// boot sectors, tables, superblocks, and whatever else was in those places.
const savedDir = "saved"

const (
	graceFor    = 30 * time.Second
	mostSaved   = 3                // of one disk of one machine
	mostOfDisks = 24               // of one machine, whatever it calls its disks
	slowSaved   = 10 * time.Minute // for one to travel
)

// Wipe is the newest time that a machine writes a disk that held others' data.
// It is never altered, only replaced.
type Wipe struct {
	ID    string            `json:"id,omitempty"` // of handoff.Saved; "" while nothing is saved
	Key   string            `json:"key"`          // KeyID of the node that writes
	Disk  handoff.Disk      `json:"disk"`
	File  string            `json:"file,omitempty"` // of what was saved, in the state directory
	Bytes int64             `json:"bytes,omitempty"`
	Stage handoff.WipeStage `json:"stage"`
	Saved time.Time         `json:"saved,omitzero"`
	Until time.Time         `json:"until,omitzero"` // nothing is written before
	Large time.Time         `json:"large,omitzero"` // from here on there is no undoing
	Asked time.Time         `json:"asked,omitzero"` // the operator wants it undone
	By    string            `json:"by,omitempty"`   // key of the node when he asked
	Ended time.Time         `json:"ended,omitzero"`
	Text  string            `json:"text,omitempty"` // how
}

// Undoable says that the disk can be had back as it was.
func (w *Wipe) Undoable() bool { return w != nil && w.Ended.IsZero() && w.Large.IsZero() }

// Undoing says that the operator wants that and the node has not done it yet.
func (w *Wipe) Undoing() bool { return w.Undoable() && !w.Asked.IsZero() }

func (w *Wipe) of(d handoff.Disk) bool {
	return cmp.Or(w.Disk.Serial, w.Disk.WWN, w.Disk.Path, w.Disk.Name) == cmp.Or(d.Serial, d.WWN, d.Path, d.Name) && w.Disk.Size == d.Size
}

func (w *Wipe) window() handoff.Window {
	return handoff.Window{ID: w.ID, Undo: !w.Asked.IsZero() && w.Large.IsZero()}
}

// Stable codes of what is refused here.
const (
	codeUndoLate = "SW-UNDO-LATE" // large writes have begun
	codeUndoNone = "SW-UNDO-NONE" // nothing is being written, or nothing was saved
)

// writer is the enrolment of a node that may be writing its disk.
func (c *change) writer(key string) (*enrolment, error) {
	e := c.peek(key)
	if e == nil || e.Phase == introduced {
		return nil, errUnknown()
	}
	r := c.peekMachine(e.Machine)
	if e.Phase != granted && e.Phase != used {
		return nil, c.s.turnedDown(e)
	}
	if r == nil || r.Node != key {
		return nil, refusal(codeNotYours, "", "this key holds no node: another start of the machine took its place")
	}
	return e, nil
}

// undoer is writer, or the enrolment of a node that was rejected or replaced while
// it gives a disk back: it does that still.
func (c *change) undoer(key string) (*enrolment, error) {
	e, err := c.writer(key)
	if err == nil {
		return e, nil
	}
	if e = c.peek(key); e == nil || c.peekMachine(e.Machine) == nil {
		return nil, err
	}
	if w := c.peekMachine(e.Machine).Wipe; w == nil || w.Key != key || w.Asked.IsZero() || !w.Large.IsZero() {
		return nil, err
	}
	return e, nil
}

// serveSaved keeps a saved beginning. The answer says that it is on the disk.
func (s *Seed) serveSaved(_ context.Context, p peer, body io.Reader) (reply, error) {
	var e *enrolment
	if err := s.do(func(c *change) (err error) { e, err = c.writer(p.key); return err }); err != nil {
		return reply{}, err
	}
	head, file, n, err := s.store(e.Machine, body)
	if err != nil {
		return reply{}, err
	}
	var out handoff.Window
	stands := file
	err = s.do(func(c *change) error {
		e, err := c.writer(p.key)
		if err != nil {
			return err
		}
		r := c.machine(e.Machine)
		if old := r.Wipe; head.Begun && old != nil && old.ID != "" && old.Ended.IsZero() && old.of(head.Disk) {
			w := *old // that one was saved while the disk was whole
			w.Key, r.Wipe, out, stands = p.key, &w, w.window(), w.File
			return nil
		}
		w := &Wipe{ID: head.ID, Key: p.key, Disk: head.Disk, File: file, Bytes: n, Stage: handoff.WipeWaits, Saved: s.now()}
		if old := r.Wipe; old.Undoing() && old.By == p.key { // before there was anything to save
			w.Asked, w.By = old.Asked, old.By
		}
		out = w.window()
		c.step(r.ID, StageSystem, handoff.Running, "saved what disk %s (%s) holds in places that are overwritten first, %d kB: %s", w.Disk.Name, cmp.Or(w.Disk.Serial, w.Disk.WWN, w.Disk.Path), n/1000, s.at(file))
		called := func(name string) bool { return configs.Called(name, w.Disk.Serial, w.Disk.WWN, w.Disk.Path) }
		if grace := cmp.Or(s.o.Grace, graceFor); slices.ContainsFunc(e.Wipe, called) && !out.Undo { // a person said so a minute ago
			out.Wait, w.Until = int((grace+time.Second-1)/time.Second), s.now().Add(grace)
			c.step(r.ID, StageSystem, handoff.Running, "disk %s is written in %d s. To stop that: slipway undo-wipe %s", w.Disk.Name, out.Wait, r.called())
		}
		r.Wipe = w
		return nil
	})
	if err != nil || stands != file {
		_ = os.Remove(s.at(file))
	}
	s.thin(file, stands)
	return reply{http.StatusOK, out}, err
}

// store writes a saved beginning into a file of its own, and returns when the
// disk has it.
func (s *Seed) store(machine string, body io.Reader) (head handoff.Saved, file string, n int64, err error) {
	lines := bufio.NewReaderSize(body, handoff.MaxSavedHead)
	line, err := lines.ReadSlice('\n')
	if err == nil {
		err = json.Unmarshal(line, &head)
	}
	if id, e := hex.DecodeString(head.ID); err != nil || e != nil || len(id) != 16 || head.Format != handoff.SavedFormat {
		return head, "", 0, refusal(codeBody, "is the machine's image of this seed's version?", "not a saved beginning: %v", err)
	}
	d := &head.Disk
	for _, t := range []*string{&d.Name, &d.Model, &d.Serial, &d.WWN, &d.Type, &d.Path} {
		*t = clean(*t, 128)
	}
	d.Holds = nil // the machine's facts have it
	dir := s.at(savedDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return head, "", 0, err
	}
	f, err := os.CreateTemp(dir, ".new-*") // 0600
	if err != nil {
		return head, "", 0, err
	}
	defer os.Remove(f.Name())
	sum := sha256.New()
	if _, err = f.Write(line); err == nil {
		n, err = io.Copy(io.MultiWriter(f, sum), lines)
	}
	if err != nil {
		err = errors.Join(err, f.Close())
		if big, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return head, "", 0, refusal(codeBody, "", "a saved beginning of more than %d bytes", big.Limit)
		}
		return head, "", 0, fmt.Errorf("keeping what a disk holds: %w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != head.SHA256 {
		_ = f.Close()
		return head, "", 0, refusal(codeBody, "it tries again by itself", "digest mismatch: got %s, want %s", got, clean(head.SHA256, 64))
	}
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' {
			return r
		}
		return '-'
	}, machine+"_"+cmp.Or(d.Serial, d.WWN, d.Path, d.Name))
	file = filepath.Join(savedDir, plain+"_"+head.ID+".saved")
	return head, file, n + int64(len(line)), errors.Join(f.Sync(), f.Close(), os.Rename(f.Name(), s.at(file)), syncDir(dir))
}

// at is the path of a file in the state directory.
func (s *Seed) at(file string) string { return filepath.Join(s.dir, file) }

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	_ = d.Sync() // not every file system can
	return d.Close()
}

// thin removes all but the newest files of one disk, and of one machine.
func (s *Seed) thin(file, stands string) {
	machine, _, _ := strings.Cut(file, "_") // a MAC
	s.keepNewest(file[:strings.LastIndex(file, "_")], mostSaved, stands)
	s.keepNewest(machine, mostOfDisks, stands)
}

func (s *Seed) keepNewest(prefix string, most int, stands string) {
	all, _ := filepath.Glob(s.at(prefix + "_*.saved"))
	age := func(n string) int64 {
		if st, err := os.Stat(n); err == nil {
			return st.ModTime().UnixNano()
		}
		return 0
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Compare(age(b), age(a)) })
	for i, n := range all {
		if i >= most && n != s.at(stands) {
			_ = os.Remove(n)
		}
	}
}

// serveWiping says whether a node may go on. What it is told is on disk first.
func (s *Seed) serveWiping(ctx context.Context, p peer, body io.Reader) (reply, error) {
	var q handoff.Wiping
	if err := read(body, &q); err != nil {
		return reply{}, err
	}
	return s.poll(ctx, func() (done any, wait handoff.Standing, err error) {
		err = s.do(func(c *change) error {
			out, err := c.wiping(p.key, q)
			if err != nil {
				return err
			}
			if wait = (handoff.Standing{State: "waiting", Text: "nothing is written yet"}); q.Stage != handoff.WipeWaits || out.Undo {
				done = out
			}
			return nil
		})
		return done, wait, err
	})
}

func (c *change) wiping(key string, q handoff.Wiping) (out handoff.Window, err error) {
	e, err := c.undoer(key)
	if err != nil {
		return out, err
	}
	if _, turned := c.writer(key); turned != nil {
		if w := c.peekMachine(e.Machine).Wipe; !w.Ended.IsZero() { // the answer was lost
			return w.window(), nil
		}
	}
	r := c.machine(e.Machine)
	if q.Stage == handoff.WipeAgain {
		if r.Wipe.Undoable() && r.Wipe.ID != "" && r.Wipe.of(q.Disk) {
			w := *r.Wipe
			w.Key, r.Wipe, out = key, &w, w.window()
		}
		return out, nil
	}
	if r.Wipe == nil || r.Wipe.ID == "" || r.Wipe.ID != q.ID {
		return out, refusal(codeUndoNone, "it saves it again by itself", "nothing is saved here of what %s writes", r.called())
	}
	w := *r.Wipe
	w.Key = key
	if out = w.window(); out.Undo && q.Stage != handoff.WipeUndone {
		r.Wipe = &w
		return out, nil
	}
	switch {
	case q.Stage == handoff.WipeTables && w.Large.IsZero():
		w.Stage = q.Stage
	case q.Stage == handoff.WipeLarge && w.Large.IsZero():
		w.Stage, w.Large = q.Stage, c.s.now()
		c.step(r.ID, StageSystem, handoff.Running, "file systems are made on disk %s: its wipe cannot be undone any more; what was saved: %s", w.Disk.Name, c.s.at(w.File))
	case q.Stage == handoff.WipeUndone && w.Asked.IsZero():
		return out, refusal(codeBody, "", "nobody asked to undo that")
	case q.Stage == handoff.WipeUndone:
		r.Wipe = &w
		c.undone(r, c.enrolment(key), clean(q.Text, maxText))
		return out, nil
	}
	r.Wipe = &w
	return out, nil
}

// undone: the disk is as it was, and this start of the machine gets no further.
// The next one waits for the operator, whatever a rule says.
func (c *change) undone(r *record, e *enrolment, text string) {
	w := *r.Wipe
	w.Stage, w.Ended, w.Text = handoff.WipeUndone, c.s.now(), text
	r.Wipe, r.Back = &w, ""
	reason := fmt.Sprintf("the wipe of disk %s was undone: %s", w.Disk.Name, text)
	c.outlived(r, false, "the wipe of its disk was undone")
	e.Phase, e.Reason, e.Commit, r.Refused = refused, reason, "", reason
	c.step(r.ID, StageSystem, handoff.Done, "%s", reason)
	c.fall(e, Rejected, reason)
}

// UndoWipe has a node write nothing to the disk that held others' data, or give
// back what it has written, as long as it makes no file systems.
func (s *Seed) UndoWipe(ref string) (Machine, error) {
	var m Machine
	err := s.do(func(c *change) error {
		r, e, err := c.find(ref)
		if err != nil {
			return err
		}
		if e == nil {
			e = c.peek(r.Node)
		}
		coming := e != nil && e.Phase == granted && r.Node == e.Key // it has written nothing, as far as is known
		w := Wipe{Stage: handoff.WipeWaits}
		switch {
		case r.Wipe.Undoing() && r.Wipe.By == r.Node:
			m = r.Machine
			return nil
		case r.Wipe.Undoable():
			w = *r.Wipe
		case r.Wipe != nil && !r.Wipe.Large.IsZero() && (!coming || r.Wipe.Key == r.Node):
			return refusal(codeUndoLate, "power the machine off now if what is on it matters; its tables and superblocks of before are in "+s.at(r.Wipe.File)+": docs/install.md says how they are used",
				"too late: %s began to make file systems on disk %s at %s", r.called(), r.Wipe.Disk.Name, r.Wipe.Large.Format(time.TimeOnly))
		case !coming && r.Wipe != nil && !r.Wipe.Ended.IsZero():
			return refusal(codeUndoNone, "list them: slipway nodes", "nothing is to be undone: %s", cmp.Or(r.Wipe.Text, "that has ended"))
		case !coming:
			return refusal(codeUndoNone, "to turn away a machine that waits: slipway reject "+r.called(), "%s writes no disk that held others' data, or nothing of it was saved", r.called())
		}
		w.Asked, w.By = s.now(), r.Node
		r.Wipe, r.Refused = &w, "the operator undoes the wipe of its disk"
		c.step(r.ID, StageSystem, handoff.Started, "the operator undoes the wipe of its disk")
		m = r.Machine
		return nil
	})
	return m, err
}

// wiped: the config is on the node's disk. What can be undone still is of another
// disk, or of none.
func (c *change) wiped(r *record) {
	if !r.Wipe.Undoable() {
		return
	}
	w := *r.Wipe
	w.Ended, w.Text = c.s.now(), "the node was installed on a disk that held nothing of others"
	if r.Wipe.Undoing() {
		c.step(r.ID, StageSystem, handoff.Skipped, "nothing was undone: %s", w.Text)
	}
	r.Wipe, r.Refused = &w, ""
}

// giveSaved sends a node what it saved before it lost power.
func (s *Seed) giveSaved(w http.ResponseWriter, r *http.Request) {
	patient(w)
	p, err := peerOf(r)
	var file string
	if err == nil {
		err = s.do(func(c *change) error {
			e, err := c.undoer(p.key)
			if err != nil {
				return err
			}
			m := c.peekMachine(e.Machine)
			if m.Wipe == nil || m.Wipe.ID == "" || m.Wipe.ID != r.PathValue("id") {
				return refusal(codeUndoNone, "", "nothing is saved of %s under that", m.called())
			}
			file = m.Wipe.File
			return nil
		})
	}
	var f *os.File
	if err == nil {
		if f, err = os.Open(s.at(file)); err != nil {
			s.log.Error("what a disk held is not there", "file", file, "err", err)
			err = refusal(codeState, "look at the seed's own log", "what was saved cannot be read")
		}
	}
	if err != nil {
		answer(w, reply{HTTPStatus(err), err})
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.Copy(w, f)
}

// patient gives one exchange longer than the server has for others.
func patient(w http.ResponseWriter) {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(slowSaved)) // a recorder has none
	_ = c.SetWriteDeadline(time.Now().Add(slowSaved))
}
