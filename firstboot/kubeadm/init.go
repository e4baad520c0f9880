package kubeadm

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/report"
)

// Runner takes a machine to a Ready cluster. Containerd runs already; kubelet
// is kept by the supervisor (KubeletService), which must run at the same time.
type Runner struct {
	Exec   Exec
	Log    *slog.Logger
	Report func(handoff.Event)
	// Restart has a service of the supervisor start again.
	Restart func(name string) error
	Root    string // prefix of every path, "" on a machine
	// Patience is how long Init waits for the API server and for Ready, each; 0 is 15 minutes.
	Patience time.Duration

	server string // tests: in place of https://<address>:6443
}

// Import makes the images of a metadata archive known to containerd (namespace
// k8s.io) and pins them: kubelet must never remove what cannot be pulled again.
func (r Runner) Import(ctx context.Context, archive string) error {
	err := r.Exec.run(ctx, r.Log, nil, ctrProgram, "--namespace", "k8s.io", "images", "import",
		"--snapshotter", "erofs", "--label", "io.cri-containerd.pinned=pinned", archive)
	return report.Fail("SW-IMAGES-IMPORT", "Every layer named in the archive must be below containerd's layer_content_caches.", err)
}

// Init runs kubeadm init as far as it has not run, applies flannel and the
// manifests of the system, and returns when the node and its system pods are
// Ready. It may be called again after any failure or power cut.
func (r Runner) Init(ctx context.Context, n Node) error {
	n, err := n.complete()
	if err != nil {
		return report.Fail("SW-KUBEADM-NODE", "Correct the node's configuration.", err)
	}
	if err := r.Repair(); err != nil {
		return report.Fail("SW-KUBEADM-REPAIR", "look at the state volume with e2fsck", fmt.Errorf("repairing after an interruption: %w", err))
	}
	state, err := r.progress()
	if err != nil {
		return report.Fail("SW-KUBEADM-DATA", "Put back /var/lib/etcd from a copy, or remove "+doneMarker+" to make a new cluster.", err)
	}
	doc, err := Documents(n)
	if err == nil {
		err = r.write(kubeadmConfig, 0o600, doc)
	}
	if err != nil {
		return report.Fail("SW-KUBEADM-PREPARE", "", fmt.Errorf("preparing for kubeadm: %w", err))
	}
	if err := r.host(ctx, n); err != nil {
		return err
	}
	if r.Patience == 0 {
		r.Patience = 15 * time.Minute
	}
	if state != fresh {
		r.Report(handoff.Event{Step: "resume", State: handoff.Running, Text: fmt.Sprintf("an earlier boot got as far as %q", state), Data: map[string]any{"state": string(state), "ca": r.ca()}})
	}
	r.Log.Info("kubernetes", "state", state, "node", n.Name, "address", n.Address, "version", n.KubernetesVersion)
	if state == done && n.Again {
		state = partial
	}
	if state == done {
		r.Report(handoff.Event{Step: "init", State: handoff.Skipped, Text: "this node's cluster exists"})
		if err := r.network(ctx, n); err != nil {
			return err
		}
	} else if err := r.kubeadm(ctx, n, state); err != nil {
		return err
	}
	if n.Seeded {
		if err := r.session(n).close(ctx); err != nil {
			return err
		}
	}
	if err := r.manifests(ctx, n); err != nil {
		return err
	}
	return r.session(n).ready(ctx)
}

// ca is the sha256 of the cluster's CA certificate, "" before there is one: it
// tells one cluster from another.
func (r Runner) ca() string {
	raw, err := os.ReadFile(r.at(pkiDir + "/ca.crt"))
	if err != nil || len(raw) == 0 {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(raw))
}

// kubeadm runs `kubeadm init`. The network is applied while kubeadm is still
// busy with its later phases: flanneld's start takes as long as they do.
func (r Runner) kubeadm(ctx context.Context, n Node, state progress) error {
	// show-join-command prints the token.
	skip := "show-join-command"
	if state == partial {
		// Preflight wants an untouched machine; every other phase accepts what an earlier run left.
		skip = "preflight," + skip
	}
	g, gctx := errgroup.WithContext(ctx)
	applying := false
	tell := newNarrator(r.Report, func(step string) {
		if step == "wait-control-plane" && !applying {
			applying = true
			g.Go(func() error { return r.network(gctx, n) })
		}
	})
	g.Go(func() error {
		err := r.Exec.run(gctx, r.Log, tell.line, kubeadmProgram, "init", "--config", r.at(kubeadmConfig), "--skip-phases="+skip)
		if err == nil {
			tell.end(handoff.Done, "")
			return nil
		}
		first, _, _ := strings.Cut(err.Error(), "\n")
		step := tell.end(handoff.Failed, first)
		if step == "" {
			step = "init"
		}
		return report.Fail("SW-KUBEADM-"+strings.ToUpper(step), "The lines above are kubeadm's; running it again goes on where it stopped.", err)
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if !applying { // a kubeadm without that phase
		if err := r.network(ctx, n); err != nil {
			return err
		}
	}
	if was := r.made(doneMarker); was != "" && was != n.KubernetesVersion { // kubelet runs with what that had written for it
		if err := r.Restart("kubelet"); err != nil {
			return report.Fail("SW-KUBEADM-KUBELET-CONFIG", "The node tries again.", err)
		}
	}
	return report.Fail("SW-KUBEADM-MARK", "", r.write(doneMarker, 0o644, []byte(n.KubernetesVersion+"\n")))
}

// network applies flannel.
func (r Runner) network(ctx context.Context, n Node) error {
	m, err := FlannelManifest(n)
	if err != nil {
		return report.Fail("SW-NETWORK-MANIFEST", "", err)
	}
	return r.session(n).applyAll(ctx, "network", map[string][]byte{"flannel": m}, []string{"flannel"})
}

// manifests applies *.yaml and *.yml of the system, in the order of their names.
func (r Runner) manifests(ctx context.Context, n Node) error {
	list, err := os.ReadDir(r.at(manifestsDir))
	if os.IsNotExist(err) || err == nil && len(list) == 0 {
		return nil
	}
	if err != nil {
		return report.Fail("SW-MANIFESTS-READ", "", err)
	}
	var names []string
	files := map[string][]byte{}
	for _, e := range list { // ReadDir sorts
		ext := filepath.Ext(e.Name())
		if e.IsDir() || ext != ".yaml" && ext != ".yml" {
			continue
		}
		raw, err := os.ReadFile(r.at(filepath.Join(manifestsDir, e.Name())))
		if err != nil {
			return report.Fail("SW-MANIFESTS-READ", "", err)
		}
		names = append(names, e.Name())
		files[e.Name()] = raw
	}
	return r.session(n).applyAll(ctx, "manifests", files, names)
}
