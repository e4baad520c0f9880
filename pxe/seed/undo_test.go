package seed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
)

const wipeSpec = "  install: {disk: {type: ssd}}\n"

// saved is a saved beginning with an ID of a number; what follows the line is no matter of the seed's.
func saved(n int, begun bool, rest string) []byte {
	sum := sha256.Sum256([]byte(rest))
	line, _ := json.Marshal(handoff.Saved{Format: 1, ID: fmt.Sprintf("%032x", n), Node: "w", Disk: handoff.Disk{Name: "sda", Serial: "S1", Size: 480e9}, Begun: begun,
		Places: []handoff.Place{{At: 0, Size: 512}}, SHA256: hex.EncodeToString(sum[:])})
	return append(append(line, '\n'), rest...)
}

// consented is a machine whose disk S1 a person lets lose what it holds.
func consented(t *testing.T, s *Seed, base string, n int) *client {
	t.Helper()
	c := newClient(t, base, "", withDisks(n))
	if _, err := s.Approve(c.enrol(t), "", "S1"); err != nil {
		t.Fatal(err)
	}
	c.config(t)
	return c
}

// wiping asks whether to go on; on a refusal w is zero.
func (c *client) wiping(t *testing.T, stage handoff.WipeStage, n int) (w handoff.Window, r *handoff.Refusal) {
	t.Helper()
	q := handoff.Wiping{ID: fmt.Sprintf("%032x", n), Stage: stage, Text: "as it was"}
	if stage == handoff.WipeAgain {
		q = handoff.Wiping{Stage: stage, Disk: handoff.Disk{Name: "vda", Serial: "S1", Size: 480e9}}
	}
	_, r, err := c.do(t.Context(), "POST", handoff.PathWipe, q, &w)
	if err != nil {
		t.Fatal(err)
	}
	return w, r
}

func (c *client) save(t *testing.T, body []byte) (w handoff.Window, r *handoff.Refusal) {
	t.Helper()
	_, r, err := c.do(t.Context(), "POST", handoff.PathSaved, body, &w)
	if err != nil {
		t.Fatal(err)
	}
	return w, r
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := os.ReadDir(filepath.Join(dir, savedDir))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range all {
		i, err := e.Info()
		if err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %s, %v", e.Name(), i.Mode(), err)
		}
		names = append(names, e.Name())
	}
	return names
}

func TestUndoWipeWhileItWaits(t *testing.T) {
	dir := t.TempDir()
	s := openSeed(t, dir, site(t, approve("ask")+wipeSpec), Options{})
	c := consented(t, s, serve(t, s), 1)
	w, r := c.save(t, saved(1, false, "beginning"))
	if r != nil || w.Wait != 30 || w.Undo {
		t.Fatalf("%+v, %+v", w, r)
	}
	if names := files(t, dir); len(names) != 1 || !strings.Contains(names[0], "_S1_") {
		t.Errorf("files %q", names)
	}
	m, err := s.Machine(c.facts.Boot)
	if err != nil || m.Verdict == nil || m.Verdict.Code != "SW-UNDO-WINDOW" || m.Verdict.Hint != "to stop that: slipway undo-wipe control-plane-1" {
		t.Errorf("%v, verdict %+v", err, m.Verdict)
	}
	stopped := make(chan handoff.Window, 1)
	go func() {
		var w handoff.Window
		c.do(context.Background(), "POST", handoff.PathWipe, handoff.Wiping{ID: fmt.Sprintf("%032x", 1), Stage: handoff.WipeWaits}, &w)
		stopped <- w
	}()
	if _, err := s.UndoWipe("control-plane-1"); err != nil {
		t.Fatal(err)
	}
	if w := <-stopped; !w.Undo {
		t.Errorf("the node waits for %+v", w)
	}
	if w, r := c.wiping(t, handoff.WipeTables, 1); !w.Undo {
		t.Errorf("it may write: %+v, %+v", w, r)
	}
	for range 2 { // the first answer is lost
		if _, r := c.wiping(t, handoff.WipeUndone, 1); r != nil {
			t.Errorf("%+v", r)
		}
	}
	m, _ = s.Machine(c.facts.Boot)
	if m.State != Rejected || m.Wipe.Text != "as it was" || m.Wipe.Ended.IsZero() {
		t.Errorf("%s, %+v", m.State, m.Wipe)
	}
	if _, err := s.UndoWipe(c.facts.Boot); code(err) != codeUndoNone {
		t.Errorf("once more: %v", err)
	}
	again := newClient(t, c.base, "", withDisks(1))
	again.enrol(t)
	if m, _ := s.Machine(c.facts.Boot); m.State != Waiting || !strings.Contains(m.Reason, "rejected before: the wipe of disk sda was undone") {
		t.Errorf("after a restart: %s, %s", m.State, m.Reason)
	}
}

// TestUndoWipeOutlivesTheSeed: after every step another seed begins with what a
// killed one would have left, and the node lost power and its memory.
func TestUndoWipeOutlivesTheSeed(t *testing.T) {
	dir := t.TempDir()
	spec := site(t, approve("ask")+wipeSpec)
	s := openSeed(t, dir, spec, Options{})
	c := consented(t, s, serve(t, s), 1)
	restart := func() {
		t.Helper()
		left := t.TempDir()
		if err := os.CopyFS(left, os.DirFS(dir)); err != nil { // everything that was answered is in the files
			t.Fatal(err)
		}
		all, _ := filepath.Glob(filepath.Join(left, savedDir, "*"))
		for _, n := range all { // CopyFS adds to the modes
			if err := os.Chmod(n, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		dir, s = left, openSeed(t, left, spec, Options{})
		c.base = serve(t, s)
	}
	body := saved(1, false, "beginning")
	if _, r := c.save(t, body); r != nil {
		t.Fatalf("%+v", r)
	}
	restart()
	if w, r := c.wiping(t, handoff.WipeTables, 1); r != nil || w.Undo {
		t.Fatalf("%+v, %+v", w, r)
	}
	// What is left of the disk must not take the place of what was there.
	if w, r := c.save(t, saved(2, true, "what is left")); r != nil || w.ID != fmt.Sprintf("%032x", 1) || w.Wait != 0 || len(files(t, dir)) != 1 {
		t.Errorf("%+v, %+v, %q", w, r, files(t, dir))
	}
	restart()
	if _, err := s.UndoWipe(c.facts.Boot); err != nil {
		t.Fatal(err)
	}
	restart()
	if w, r := c.wiping(t, handoff.WipeAgain, 0); r != nil || !w.Undo || w.ID != fmt.Sprintf("%032x", 1) {
		t.Errorf("%+v, %+v", w, r)
	}
	if status, raw := c.raw(t, handoff.PathSaved+"/"+fmt.Sprintf("%032x", 1)); status != 200 || !bytes.Equal(raw, body) {
		t.Errorf("%d, %d bytes", status, len(raw))
	}
	if w, r := c.wiping(t, handoff.WipeLarge, 1); !w.Undo {
		t.Errorf("it may make file systems: %+v, %+v", w, r)
	}
	if _, r := c.wiping(t, handoff.WipeUndone, 1); r != nil {
		t.Errorf("%+v", r)
	}
}

// raw gets something that is not JSON.
func (c *client) raw(t *testing.T, path string) (int, []byte) {
	t.Helper()
	resp, err := c.http.Get(c.base + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b.Bytes()
}

func TestUndoWipeTooLate(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")+wipeSpec), Options{})
	c := consented(t, s, serve(t, s), 1)
	if _, r := c.save(t, saved(1, false, "beginning")); r != nil {
		t.Fatalf("%+v", r)
	}
	for _, stage := range []handoff.WipeStage{handoff.WipeTables, handoff.WipeLarge, handoff.WipeLarge} {
		if w, r := c.wiping(t, stage, 1); r != nil || w.Undo {
			t.Fatalf("%s: %+v, %+v", stage, w, r)
		}
	}
	for range 2 {
		_, err := s.UndoWipe(c.facts.Boot)
		if code(err) != codeUndoLate || !strings.Contains(err.(*handoff.Refusal).Hint, "_S1_") {
			t.Errorf("got %v", err)
		}
		c.do(t.Context(), "POST", handoff.PathTaken, nil, nil)
	}
	if w, r := c.wiping(t, handoff.WipeAgain, 0); r != nil || w.ID != "" {
		t.Errorf("a start after that: %+v, %+v", w, r)
	}
}

// TestUndoWipeBeforeAnything: the machine has its config and has not come to its disk.
func TestUndoWipeBeforeAnything(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")+wipeSpec), Options{})
	base := serve(t, s)
	c := consented(t, s, base, 1)
	if _, err := s.UndoWipe(c.facts.Boot); err != nil {
		t.Fatal(err)
	}
	if w, r := c.save(t, saved(1, false, "beginning")); r != nil || !w.Undo {
		t.Errorf("%+v, %+v", w, r)
	}
	d := consented(t, s, base, 2)
	if _, err := s.UndoWipe(d.facts.Boot); err != nil {
		t.Fatal(err)
	}
	d.must(t, 204, "POST", handoff.PathTaken, nil, nil)
	if m, _ := s.Machine(d.facts.Boot); m.Wipe.Ended.IsZero() || m.State != Taken {
		t.Errorf("%s, %+v", m.State, m.Wipe)
	}
	if _, err := s.UndoWipe(d.facts.Boot); code(err) != codeUndoNone {
		t.Errorf("got %v", err)
	}
}

// TestUndoWipeOfARejected: whoever rejects the machine first can have its disk back.
func TestUndoWipeOfARejected(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")+wipeSpec), Options{})
	c := consented(t, s, serve(t, s), 1)
	c.save(t, saved(1, false, "beginning"))
	c.wiping(t, handoff.WipeTables, 1)
	if _, err := s.Reject(c.facts.Boot, "wrong machine"); err != nil {
		t.Fatal(err)
	}
	if _, r := c.wiping(t, handoff.WipeLarge, 1); r == nil || r.Code != codeRejected {
		t.Errorf("it may go on: %+v", r)
	}
	if _, err := s.UndoWipe(c.facts.Boot); err != nil {
		t.Fatal(err)
	}
	if status, _ := c.raw(t, handoff.PathSaved+"/"+fmt.Sprintf("%032x", 1)); status != http.StatusOK {
		t.Errorf("it is not given what it saved: %d", status)
	}
	for _, stage := range []handoff.WipeStage{handoff.WipeAgain, handoff.WipeLarge, handoff.WipeUndone, handoff.WipeUndone} {
		if w, r := c.wiping(t, stage, 1); r != nil || !w.Undo {
			t.Errorf("%s: %+v, %+v", stage, w, r)
		}
	}
	if m, _ := s.Machine(c.facts.Boot); m.State != Rejected || m.Wipe.Ended.IsZero() {
		t.Errorf("%s, %+v", m.State, m.Wipe)
	}
}

func TestSavedIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := openSeed(t, dir, site(t, approve("ask")+wipeSpec), Options{})
	base := serve(t, s)
	c := consented(t, s, base, 1)
	waits := newClient(t, base, "", withDisks(2))
	waits.enrol(t)
	good := saved(1, false, "beginning")
	for name, tc := range map[string]struct {
		by   *client
		body []byte
		code string
	}{
		"of one that is not approved": {waits, good, codeWaiting},
		"of a stranger":               {newClient(t, base, "", withDisks(3)), good, codeUnknown},
		"no JSON":                     {c, []byte("hello\n"), codeBody},
		"no line":                     {c, bytes.Repeat([]byte("x"), handoff.MaxSavedHead+1), codeBody},
		"cut short":                   {c, good[:len(good)-1], codeBody},
		"a path for an ID":            {c, bytes.Replace(good, []byte(fmt.Sprintf("%032x", 1)), []byte("../../../../../../../../etc/cron"), 1), codeBody},
		"too much":                    {c, append(bytes.Clone(good), make([]byte, handoff.MaxSaved)...), codeBody},
	} {
		if w, r := tc.by.save(t, tc.body); r == nil || r.Code != tc.code {
			t.Errorf("%s: %+v, %+v", name, w, r)
		}
	}
	if names := files(t, dir); len(names) != 0 {
		t.Errorf("left %q", names)
	}
	if _, r := c.save(t, good); r != nil {
		t.Fatalf("%+v", r)
	}
	other := consented(t, s, base, 4)
	if status, _ := other.raw(t, handoff.PathSaved+"/"+fmt.Sprintf("%032x", 1)); status != http.StatusConflict {
		t.Errorf("another machine is given it: %d", status)
	}
	if _, r := other.wiping(t, handoff.WipeLarge, 1); r == nil || r.Code != codeUndoNone {
		t.Errorf("another machine tells of it: %+v", r)
	}
	if _, r := c.wiping(t, handoff.WipeUndone, 1); r == nil || r.Code != codeBody {
		t.Errorf("undone, and nobody asked: %+v", r)
	}
	for i := range mostSaved + 2 {
		time.Sleep(2 * time.Millisecond) // files by age
		if _, r := c.save(t, saved(10+i, false, "beginning")); r != nil {
			t.Fatalf("%+v", r)
		}
	}
	if names := files(t, dir); len(names) != mostSaved {
		t.Errorf("%d files are kept: %q", len(names), names)
	}
	for i := range mostOfDisks { // as if it had as many
		if _, r := c.save(t, bytes.Replace(saved(40+i, false, "beginning"), []byte(`"S1"`), fmt.Appendf(nil, `"S%d"`, 40+i), 1)); r != nil {
			t.Fatalf("%+v", r)
		}
	}
	if names := files(t, dir); len(names) != mostOfDisks {
		t.Errorf("%d files of one machine are kept", len(names))
	}
}

func TestNoGraceWithoutAPerson(t *testing.T) {
	s := openSeed(t, t.TempDir(), site(t, approve("ask")+"  install: {disk: {type: ssd}, wipe: [S1]}\n"), Options{})
	c := newClient(t, serve(t, s), "", withDisks(1))
	if _, err := s.Approve(c.enrol(t), ""); err != nil {
		t.Fatal(err)
	}
	if w, r := c.save(t, saved(1, false, "beginning")); r != nil || w.Wait != 0 || w.ID == "" {
		t.Errorf("%+v, %+v", w, r)
	}
}
