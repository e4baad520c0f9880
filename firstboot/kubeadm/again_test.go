package kubeadm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// copying runs cp itself, which takes no root of its own, and fails at the nth.
func (s *site) copying(fails int) Exec {
	n := 0
	return func(ctx context.Context, cmd *exec.Cmd, _ func(string)) error {
		if n++; n == fails {
			return errors.New("no space left on device")
		}
		return exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...).Run()
	}
}

// TestGoBack holds that a node that goes back has what it had, whatever the other
// version wrote, and whenever the copying was interrupted.
func TestGoBack(t *testing.T) {
	before := map[string]string{"/etc/kubernetes/admin.conf": "ADMIN", manifestDir + "/etcd.yaml": "etcd 1", "/var/lib/etcd/member/wal/0.wal": "1",
		kubeletConfig: "config 1", kubeletFlags: "flags 1", doneMarker: "v1.37.1\n"}
	for _, c := range []struct {
		name           string
		version        string
		keeps, returns int // the copy that is interrupted at the first try, 0 for none
		gone           bool
	}{
		{"another version", "v1.38.0", 0, 0, true},
		{"the same version", "v1.37.1", 0, 0, false},
		{"interrupted while it is kept", "v1.38.0", 2, 0, true},
		{"interrupted while it is restored", "v1.38.0", 0, 3, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			for name, text := range before {
				s.put(name, text)
			}
			dir := filepath.Join(s.root, "state/before")
			r := s.runner()
			if c.keeps > 0 {
				r.Exec = s.copying(c.keeps)
				if err := r.Keep(t.Context(), dir, c.version); err == nil {
					t.Fatal("an interrupted copy went well")
				}
				if s.read(manifestDir+"/etcd.yaml") != "etcd 1" {
					t.Fatal("changed before everything was kept")
				}
			}
			r.Exec = s.copying(0)
			if err := r.Keep(t.Context(), dir, c.version); err != nil {
				t.Fatal(err)
			}
			if gone := !exists(filepath.Join(s.root, manifestDir, "etcd.yaml")); gone != c.gone {
				t.Errorf("the old manifest is gone: %v, want %v", gone, c.gone)
			}
			for _, name := range []string{manifestDir + "/etcd.yaml", manifestDir + "/new.yaml", kubeletConfig, "/var/lib/etcd/member/wal/1.wal", doneMarker} {
				s.put(name, "of the trial")
			}
			if err := r.Keep(t.Context(), dir, c.version); err != nil { // the trial starts its services again
				t.Fatal(err)
			}
			if c.returns > 0 {
				r.Exec = s.copying(c.returns)
				if err := r.GoBack(t.Context(), dir); err == nil {
					t.Fatal("an interrupted copy went well")
				}
			}
			r.Exec = s.copying(0)
			if err := r.GoBack(t.Context(), dir); err != nil {
				t.Fatal(err)
			}
			for name, want := range before {
				if got := s.read(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			for _, name := range []string{manifestDir + "/new.yaml", "/var/lib/etcd/member/wal/1.wal"} {
				if exists(filepath.Join(s.root, name)) {
					t.Errorf("%s of the trial is there", name)
				}
			}
			if info, err := os.Stat(filepath.Join(s.root, "/etc/kubernetes/admin.conf")); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("admin.conf: %v, %v", info, err)
			}
		})
	}
}

func TestNothingKept(t *testing.T) {
	s := newSite(t)
	s.put(doneMarker, "v1.37.1")
	if err := s.runner().GoBack(t.Context(), filepath.Join(s.root, "state/before")); err != nil {
		t.Fatal(err)
	}
	if s.read(doneMarker) != "v1.37.1" {
		t.Error("a trial that ended before it kept anything took the marker away")
	}
}
