package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/kubeadm/api"
	"slipway.dev/slipway/firstboot/report"
)

const cpProgram = "/usr/bin/cp"

// kept is what another version of Kubernetes changes on a node. What its kubelet
// writes of its own keys and pods is good for both.
func kept() []string {
	return []string{"/etc/kubernetes", "/var/lib/etcd", kubeletConfig, kubeletFlags, "/var/lib/kubelet/instance-config.yaml", doneMarker, joinedMarker}
}

// Keep copies etcd's data and what kubeadm wrote to dir, before kubelet has
// started: nothing writes to them. Once it is complete it is not made again. A
// control plane of another version than the one to come starts only with the
// manifests that kubeadm will write.
func (r Runner) Keep(ctx context.Context, dir, version string) error {
	if !exists(dir) {
		part := dir + ".new"
		if err := os.RemoveAll(part); err != nil {
			return err
		}
		if err := os.MkdirAll(part, 0o700); err != nil {
			return err
		}
		for _, name := range kept() {
			if err := r.copy(ctx, r.at(name), filepath.Join(part, name)); err != nil {
				return fmt.Errorf("keeping %s: %w", name, err)
			}
		}
		if err := os.Rename(part, dir); err != nil {
			return err
		}
		if err := syncFS(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	if made := r.made(doneMarker); made == "" || made == version { // a worker, or nothing else
		return nil
	}
	manifests, err := filepath.Glob(r.at(manifestDir + "/*.yaml"))
	for _, m := range manifests {
		if err := os.Remove(m); err != nil {
			return err
		}
	}
	return err
}

// Keeps is how many bytes Keep will copy, as things are.
func (r Runner) Keeps() (n int64, err error) {
	for _, name := range kept() {
		err := filepath.WalkDir(r.at(name), func(_ string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) { // etcd removes what it has done with
				return nil
			}
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			fi, err := e.Info()
			if err == nil {
				n += fi.Size()
			}
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return err
		})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Member says that this machine belongs to a cluster already.
func (r Runner) Member() bool { return r.made(doneMarker) != "" || r.made(joinedMarker) != "" }

// made is the version of Kubernetes that a marker was written with, "" without one.
func (r Runner) made(marker string) string {
	raw, err := os.ReadFile(r.at(marker))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// follow gives a worker that has another version of Kubernetes than before the
// kubelet configuration that the cluster has for it, as `kubeadm upgrade node`
// does, and has kubelet start with it.
func (r Runner) follow(ctx context.Context, n Node) error {
	was := r.made(joinedMarker)
	if was == n.KubernetesVersion {
		return nil
	}
	const step = "kubelet-config"
	r.Report(handoff.Event{Step: step, State: handoff.Started, Text: fmt.Sprintf("kubelet was %s: the cluster's configuration for %s", was, n.KubernetesVersion)})
	s := r.session(n)
	s.own = true
	err := s.until(ctx, step, func(c *api.Client) (string, error) { _, err := c.Version(ctx); return "", err })
	if err == nil {
		n, err = r.patched(n)
	}
	if err == nil {
		argv := []string{kubeadmProgram, "upgrade", "node", "phase", "kubelet-config"}
		if n.Patches != "" {
			argv = append(argv, "--patches", n.Patches)
		}
		err = r.Exec.run(ctx, r.Log, nil, argv...)
	}
	if err == nil {
		err = r.Restart("kubelet")
	}
	if err == nil {
		err = r.write(joinedMarker, 0o644, []byte(n.KubernetesVersion+"\n"))
	}
	if err != nil {
		r.Report(handoff.Event{Step: step, State: handoff.Failed, Text: err.Error()})
		return report.Fail("SW-KUBEADM-KUBELET-CONFIG", "The lines above are kubeadm's; the node tries again.", err)
	}
	r.Report(handoff.Event{Step: step, State: handoff.Done})
	return nil
}

// GoBack puts back what Keep has kept, before kubelet has started. It may be
// called again after any interruption. Without anything kept nothing was changed.
func (r Runner) GoBack(ctx context.Context, dir string) error {
	if !exists(dir) {
		return nil
	}
	for _, name := range kept() {
		if err := os.RemoveAll(r.at(name)); err != nil {
			return err
		}
		if err := r.copy(ctx, filepath.Join(dir, name), r.at(name)); err != nil {
			return fmt.Errorf("restoring %s: %w", name, err)
		}
	}
	return nil
}

// ServerVersion asks the cluster's API server with kubelet's certificate.
func (r Runner) ServerVersion(ctx context.Context) (string, error) {
	s := r.session(Node{})
	s.own = true
	c, err := s.connect()
	if err != nil {
		return "", err
	}
	return c.Version(ctx)
}

// copy copies a file or a directory with everything that it is, and returns when
// it is on the disk. What is not there is not copied.
func (r Runner) copy(ctx context.Context, from, to string) error {
	if !exists(from) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := r.Exec.run(ctx, r.Log, nil, cpProgram, "--archive", "--no-target-directory", from, to); err != nil {
		return err
	}
	return syncFS(filepath.Dir(to))
}

// syncFS writes a file system out (syncfs(2)).
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}
