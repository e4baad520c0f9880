package firstboot

import (
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/control"
	"slipway.dev/slipway/firstboot/install"
)

func TestAsked(t *testing.T) {
	for line, want := range map[string]bool{
		"": false, "status": false, "reset": true, "reset --yes": true, "reset --yes --yes-lose-the-cluster": true,
		"reset w-1": false, "reset --yes w-1": false, "reset --help": false, "seed reset w-1": false,
	} {
		r, ok := Asked(strings.Fields(line))
		if ok != want || ok && (r.Verb != "reset" || len(r.Args) != len(strings.Fields(line))-1) {
			t.Errorf("%q: %+v, %t", line, r, ok)
		}
	}
}

func TestResetNeedsConsent(t *testing.T) {
	_, sign, _ := ed25519.GenerateKey(nil)
	dev := emptyDisk(t)
	s := serveBundle(t, 7, sign)
	b := newBench(t, s.key, 7, dev)
	b.install(t, dev, s, nil)
	for _, c := range []struct {
		role      configs.Role
		args      []string
		code      string
		says, not string
	}{
		{configs.RoleWorker, nil, "SW-RESET-CONSENT: slipway reset --yes", "slipway remove node-1", "control plane"},
		{configs.RoleControlPlane, nil, "SW-RESET-CONSENT: slipway reset --yes --yes-lose-the-cluster", "the cluster ends with it", "slipway remove"},
		{configs.RoleControlPlane, []string{"--yes"}, "SW-RESET-CONSENT: slipway reset --yes --yes-lose-the-cluster", dev + " is emptied", "the seed"},
		{configs.RoleWorker, []string{"--yes-lose-the-cluster"}, "SW-RESET-CONSENT: slipway reset --yes", "other disks stay", ""},
		{configs.RoleWorker, []string{"--yse"}, "SW-RESET-USAGE: slipway reset --yes", "", "emptied"},
	} {
		b.User.Slipway.Role = c.role
		var said []string
		err := b.asked(t.Context(), control.Request{Verb: "reset", Args: c.args}, func(e handoff.Event) { said = append(said, e.Text) })
		text := strings.Join(said, "\n")
		if got := codeOf(err) + ": " + hintOf(err); got != c.code || !strings.Contains(text, c.says) || c.not != "" && strings.Contains(text, c.not) {
			t.Errorf("%s %q: %s, says\n%s", c.role, c.args, got, text)
		}
		if b.disk.Record.Ends != "" || len(b.ended) != 0 {
			t.Fatalf("the node ends: %+v, %v", b.disk.Record, b.ended)
		}
	}
	if err := b.asked(t.Context(), control.Request{Verb: "dance"}, nil); codeOf(err) != "SW-CONTROL-VERB" {
		t.Errorf("another verb: %v", err)
	}
	d := b.disk
	b.disk = nil
	if err := b.resetThen(t.Context(), nil); codeOf(err) != "SW-RESET-DISK" {
		t.Errorf("without a disk: %v", err)
	}
	b.disk = d
}

// ending has the machine's end do what Shutdown does with the disk.
func (b *bench) ending() chan bool {
	ended := make(chan bool, 1)
	d := b.disk
	b.hardware.unmount = d.Unmount
	b.end = func(p Power) {
		b.ended = append(b.ended, p)
		ended <- b.last()
	}
	return ended
}

func TestReset(t *testing.T) {
	_, sign, _ := ed25519.GenerateKey(nil)
	s := serveBundle(t, 7, sign)
	for name, do := range map[string]func(b *bench, told func(error)) error{
		"ordered by the seed": func(b *bench, told func(error)) error { _ = b.resetThen(b.life, told); return nil },
		"asked for on the machine": func(b *bench, told func(error)) error {
			told(nil)
			return b.asked(b.life, control.Request{Verb: "reset", Args: []string{"--yes"}}, func(handoff.Event) {})
		},
		"a start after a power cut": func(b *bench, told func(error)) error {
			told(nil)
			if err := b.disk.KeepMark(install.Mark{Verb: install.Reset}); err != nil {
				return err
			}
			_ = configPhase(b.life, b.Node)
			return nil
		},
		"the installer after a power cut": func(b *bench, told func(error)) error {
			told(nil)
			d := b.disk
			if err := errors.Join(d.KeepMark(install.Mark{Verb: install.Reset}), d.Deactivate()); err != nil {
				return err
			}
			d.Unmount()
			b.disk = nil
			b.Cmdline.Seed = "https://192.0.2.1:8443"
			_ = configPhase(b.life, b.Node)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			dev := emptyDisk(t)
			b := newBench(t, s.key, 7, dev)
			b.install(t, dev, s, keptBy("https://192.0.2.1:8443"))
			b.User.Slipway.Role = configs.RoleWorker
			ended, told := b.ending(), 0
			if err := do(b, func(err error) {
				if told++; err != nil {
					t.Errorf("told %v", err)
				}
			}); err != nil {
				t.Fatal(err)
			}
			select {
			case ok := <-ended:
				if !ok {
					t.Errorf("the machine holds: %q", b.rec.lines())
				}
			case <-time.After(time.Minute):
				t.Fatal("the machine does not end")
			}
			if !slices.Equal(b.ended, []Power{Off}) || told != 1 {
				t.Errorf("ended %v, told %d times", b.ended, told)
			}
			if found := install.Find([]string{dev}); len(found) != 0 {
				t.Errorf("the disk is still %+v", found)
			}
			if l := b.rec.lines(); !slices.Contains(l, "reset done") {
				t.Errorf("events %q", l)
			}
		})
	}
}

// A disk that does not take writes: nobody is told that it is empty.
func TestResetOfADiskThatIsGone(t *testing.T) {
	_, sign, _ := ed25519.GenerateKey(nil)
	s := serveBundle(t, 7, sign)
	dev := emptyDisk(t)
	b := newBench(t, s.key, 7, dev)
	b.install(t, dev, s, nil)
	ended := b.ending()
	b.disk.Path = filepath.Join(t.TempDir(), "gone")
	var told error
	_ = b.resetThen(context.Background(), func(err error) { told = err })
	if <-ended || codeOf(told) != "SW-INSTALL-GONE" || !slices.Contains(b.rec.lines(), "reset failed SW-RESET-WRITE") {
		t.Errorf("told %v, events %q", told, b.rec.lines())
	}
	if _, err := os.Stat(b.disk.Path); err == nil {
		t.Error("it made a file")
	}
}
