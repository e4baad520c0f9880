package firstboot

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/kubeadm"
	"slipway.dev/slipway/firstboot/netconf"
	"slipway.dev/slipway/firstboot/report"
)

// clusterNode is what kubeadm has to know of this node. This file is the only
// one that knows package kubeadm.
func clusterNode(name, version, flannel string, u *configs.UserData, a netconf.Address) kubeadm.Node {
	k := u.Slipway.Kubernetes
	overrides := map[string]map[string]any{}
	for kind, p := range u.Slipway.ByKind() {
		overrides[kind] = p
	}
	return kubeadm.Node{
		Name:              name,
		Address:           a.Prefix.Addr(),
		Endpoint:          u.Slipway.Endpoint,
		KubernetesVersion: version,
		Networks:          kubeadm.Networks{Pods: k.PodSubnet, Services: k.ServiceSubnet, Domain: k.DNSDomain},
		Nameservers:       a.Nameservers,
		FlannelImage:      flannel,
		Overrides:         overrides,
	}
}

// images are names of the bundle's images that the node itself has to know.
type images struct {
	archive        string // path of the metadata archive
	pause, flannel string
}

// findImages reads the names in the bundle's image archive, once it is verified.
func (n *Node) findImages(ctx context.Context) (images, error) {
	b, err := n.Manifest.Find(lock.RoleImages)
	if err != nil {
		return images{}, report.Fail("SW-MEDIUM-MANIFEST", "build the image again", err)
	}
	if err := n.Store.Bring(ctx, b, nil); err != nil {
		return images{}, storeFailure(err)
	}
	i := images{archive: n.Store.Path(b)}
	f, err := os.Open(i.archive)
	if err != nil {
		return i, err
	}
	defer f.Close()
	refs, err := imageNames(f)
	if err != nil {
		return i, report.Fail("SW-MEDIUM-MANIFEST", "build the image again", fmt.Errorf("blob %q: %w", b.Name, err))
	}
	for _, r := range refs {
		switch name, _, _ := strings.Cut(r[strings.LastIndexByte(r, '/')+1:], ":"); name {
		case "pause":
			i.pause = r
		case "flannel":
			i.flannel = r
		}
	}
	return i, nil
}

// imageNames lists the names in the index of an OCI archive, as containerd's
// importer reads them.
func imageNames(r io.Reader) ([]string, error) {
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("image archive: no index.json")
		}
		if err != nil {
			return nil, fmt.Errorf("image archive: %w", err)
		}
		if h.Name != "index.json" {
			continue
		}
		var index struct {
			Manifests []struct {
				Annotations map[string]string `json:"annotations"`
			} `json:"manifests"`
		}
		if err := json.NewDecoder(t).Decode(&index); err != nil {
			return nil, fmt.Errorf("image archive: index.json: %w", err)
		}
		var out []string
		for _, m := range index.Manifests {
			out = append(out, m.Annotations["io.containerd.image.name"])
		}
		return out, nil
	}
}

// startCluster adds containerd and kubelet and names the services to wait for.
func (n *Node) startCluster(ctx context.Context) ([]string, error) {
	i, err := n.findImages(ctx)
	if err != nil {
		return nil, err
	}
	conf, err := kubeadm.ContainerdConfig(kubeadm.Runtime{Arch: n.Manifest.Arch, Sandbox: i.pause, Layers: layerDir})
	if err != nil {
		return nil, report.Fail("SW-SERVICE-CONFIG", "build the image again", err)
	}
	if err := os.MkdirAll("/etc/containerd", 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile("/etc/containerd/config.toml", conf, 0o644); err != nil {
		return nil, err
	}
	n.images = i
	if err := n.settleTrial(ctx); err != nil {
		return nil, err
	}
	if err := n.runner().Repair(); err != nil {
		return nil, report.Fail("SW-KUBEADM-REPAIR", "look at the state volume with e2fsck", fmt.Errorf("repairing after an interruption: %w", err))
	}
	// Before kubelet starts: after a year without power its certificate has ended.
	if _, err := n.runner().Renew(ctx, time.Now()); err != nil {
		n.Report.Error("services", "certificates", err, nil)
	}
	if err := n.Services.Add(n.life, kubeadm.ContainerdService()); err != nil {
		return nil, err
	}
	return []string{"containerd"}, n.Services.Add(n.life, kubeadm.KubeletService())
}

func (n *Node) runner() kubeadm.Runner {
	return kubeadm.Runner{Exec: n.Children.Run, Restart: n.Services.Restart, Log: n.log, Report: func(e handoff.Event) {
		e.Phase = "kubernetes"
		n.Report.Emit(e)
	}}
}

func kubernetesPhase(ctx context.Context, n *Node) error {
	worker := n.User.Slipway.Role == configs.RoleWorker
	if worker && n.enrol == nil && !n.runner().Joined() {
		return report.Fail("SW-KUBEADM-ROLE", "start it from a seed (slipway.seed=), or write role: control-plane", errors.New("a worker is let into its cluster by a seed, and this node has none"))
	}
	if err := n.contentVerified(ctx); err != nil {
		return err
	}
	if err := n.loaded.wait(ctx); err != nil {
		return err
	}
	r := n.runner()
	if !n.imported {
		if err := r.Import(ctx, n.images.archive); err != nil {
			return err
		}
		n.imported = true
	}
	node := clusterNode(n.Hostname, n.Manifest.Kubernetes, n.images.flannel, n.User, n.Address[0])
	if worker {
		if err := r.Join(ctx, node, n.means()); err != nil {
			return err
		}
		n.done(fmt.Sprintf("%s has joined the cluster", node.Name), nil)
		return nil
	}
	node.Seeded, node.Again = n.enrol != nil, n.onTrial()
	if err := r.Init(ctx, node); err != nil {
		return err
	}
	renewed := make(chan struct{}, 1)
	if node.Seeded {
		if _, err := r.Cluster(node); err != nil {
			return report.Fail("SW-KUBEADM-DATA", "start the node again", err)
		}
		n.own("kubernetes", "cluster", func(ctx context.Context) {
			telling(ctx, renewed, func() (handoff.Cluster, error) { return r.Cluster(node) }, n.enrol.Cluster,
				func(err error) { n.Report.Error("kubernetes", "cluster", err, nil) })
		})
	}
	n.own("kubernetes", "certificates", func(ctx context.Context) { n.renewing(ctx, r, renewed) })
	n.done(fmt.Sprintf("Kubernetes %s runs on %s", node.KubernetesVersion, node.Name), nil)
	return nil
}

// means are the seed's, which a node that has joined before can do without.
func (n *Node) means() kubeadm.Means {
	if n.enrol == nil {
		return kubeadm.Means{Done: func() {}}
	}
	return kubeadm.Means{Ask: n.enrol.Join, Done: n.joined}
}

// joined tells the seed that this node's token is not needed any more.
func (n *Node) joined() { n.tellSeed("joined", n.enrol.Joined) }

// tellSeed says something to the seed as soon as it is there; the node goes on.
func (n *Node) tellSeed(step string, say func(context.Context) error) {
	n.own("kubernetes", step, func(ctx context.Context) {
		if err := say(ctx); err != nil && ctx.Err() == nil {
			n.Report.Error("kubernetes", step, err, nil)
		}
	})
}

// telling says how the cluster is reached, and says it again after every look at the
// certificates that has made that another: a seed that is not told of the admin's new
// one loses the cluster when the one that it has ends.
func telling(ctx context.Context, looked <-chan struct{}, read func() (handoff.Cluster, error), say func(context.Context, handoff.Cluster) error, fail func(error)) {
	for told := (handoff.Cluster{}); ; {
		k, err := read()
		if err == nil && k != told {
			if err = say(ctx, k); err == nil {
				told = k
			}
		}
		if err != nil && ctx.Err() == nil {
			fail(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-looked:
		}
	}
}

// renewing looks at the certificates twice a day, and says that it did.
func (n *Node) renewing(ctx context.Context, r kubeadm.Runner, looked chan<- struct{}) {
	for {
		next, err := r.Renew(ctx, time.Now())
		if err != nil {
			n.Report.Error("kubernetes", "certificates", err, nil)
		}
		select {
		case looked <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(next)):
		}
	}
}
