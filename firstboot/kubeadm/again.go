package kubeadm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
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
	made, err := os.ReadFile(r.at(doneMarker))
	if err != nil || strings.TrimSpace(string(made)) == version {
		return nil //nolint:nilerr // a worker
	}
	manifests, err := filepath.Glob(r.at(manifestDir + "/*.yaml"))
	for _, m := range manifests {
		if err := os.Remove(m); err != nil {
			return err
		}
	}
	return err
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
