package kubeadm

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway.dev/slipway/firstboot/report"
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

// TestFollow: a worker of another version takes the cluster's configuration for
// its kubelet, once, and its own over it.
func TestFollow(t *testing.T) {
	b := newBranch(t)
	b.api.TLS.ClientAuth = tls.RequestClientCert
	n := single()
	n.Overrides = map[string]map[string]any{"KubeletConfiguration": {"maxPods": 50}}
	if err := b.runner().Join(t.Context(), n, b.means()); err != nil {
		t.Fatal(err)
	}
	b.gone(patchesDir + "/kubeletconfiguration0+merge.yaml") // /run is another after a restart
	n.KubernetesVersion = "v1.38.2"
	ran := func(r Runner) (string, error) {
		b.ran = nil
		err := r.Join(t.Context(), n, b.means())
		return strings.ReplaceAll(fmt.Sprint(b.ran[1:]), b.root, "ROOT"), err
	}
	const phase = kubeadmProgram + " upgrade node phase kubelet-config --patches ROOT" + patchesDir
	broken := b.runner()
	broken.Exec = func(ctx context.Context, cmd *exec.Cmd, line func(string)) error {
		if err := b.exec(ctx, cmd, line); cmd.Path == nftProgram {
			return err
		}
		return errors.New("exit status 1")
	}
	for _, c := range []struct {
		name string
		r    Runner
		want string
		code string
	}{
		{"kubeadm fails", broken, "[[" + phase + "]]", "SW-KUBEADM-KUBELET-CONFIG"},
		{"the other version", b.runner(), "[[" + phase + "] [restart kubelet]]", ""},
		{"once more", b.runner(), "[]", ""},
	} {
		got, err := ran(c.r)
		if f, _ := errors.AsType[*report.Failure](err); got != c.want || c.code == "" && err != nil || c.code != "" && (f == nil || f.Code != c.code) {
			t.Errorf("%s: ran %s, %v", c.name, got, err)
		}
	}
	if b.read(patchesDir+"/kubeletconfiguration0+merge.yaml") != "maxPods: 50\n" || b.read(joinedMarker) != "v1.38.2\n" {
		t.Errorf("marker %q", b.read(joinedMarker))
	}
}

// TestPlaneFollows: kubelet runs already when kubeadm writes its configuration anew.
func TestPlaneFollows(t *testing.T) {
	for was, want := range map[string]bool{"v1.36.3": true, "v1.37.1": false} {
		s := newSite(t)
		for f, content := range map[string]string{etcdData + "/wal": "x", doneMarker: was, adminConf: s.kubeconfig()} {
			s.put(f, content)
		}
		n := single()
		n.Again = true
		if err := s.runner().Init(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		last := strings.Join(s.ran[len(s.ran)-1], " ")
		if got := last == "restart kubelet"; got != want {
			t.Errorf("after %s: ran %q", was, s.ran)
		}
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
