package bundle

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"

	"slipway.dev/slipway/bundle/gobuild"
	"slipway.dev/slipway/configs"
)

// component is one Go module of the bundle with the programs taken from it.
type component struct {
	name     string // key in bundle.yaml's components
	module   gobuild.Module
	programs []gobuild.Program
}

const kubernetesPath = "k8s.io/kubernetes"

// kubernetesModule describes how to build k8s.io/kubernetes at a version: its
// go.mod replaces the staging modules by directories, which a published
// version lacks; each has a release of its own, v0.X.Y for Kubernetes v1.X.Y.
func kubernetesModule(ctx context.Context, b *gobuild.Builder, version string) (component, gobuild.Info, error) {
	const path = kubernetesPath
	info, err := b.Download(ctx, path, version)
	if err != nil {
		return component{}, info, err
	}
	raw, err := os.ReadFile(filepath.Join(info.Dir, "go.mod"))
	if err != nil {
		return component{}, info, err
	}
	f, err := modfile.Parse("go.mod", raw, nil)
	if err != nil {
		return component{}, info, err
	}
	staging := "v0" + strings.TrimPrefix(version, "v1")
	replace := map[string]string{}
	for _, r := range f.Replace {
		if r.New.Version == "" {
			replace[r.Old.Path] = staging
		}
	}
	c := component{name: "kubernetes", module: gobuild.Module{Path: path, Version: version, Replace: replace}}
	flags := versionFlags(version, info)
	for _, n := range []string{"kubeadm", "kubelet", "kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"} {
		c.programs = append(c.programs, gobuild.Program{Name: n, Package: path + "/cmd/" + n, LDFlags: flags})
	}
	return c, info, nil
}

// versionFlags sets what upstream's build scripts set; without them everything
// reports v0.0.0-master and kubeadm's version skew checks refuse the cluster.
func versionFlags(version string, info gobuild.Info) []string {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	const pkg = "k8s.io/component-base/version."
	var out []string
	for _, kv := range [][2]string{
		{"gitVersion", version}, {"gitMajor", major}, {"gitMinor", minor}, {"gitTreeState", "clean"},
		// The module carries no commit; its checksum names the source as exactly.
		{"gitCommit", strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(strings.TrimPrefix(info.Sum, "h1:"))},
		{"buildDate", info.Time.UTC().Format("2006-01-02T15:04:05Z")},
	} {
		out = append(out, "-X", pkg+kv[0]+"="+kv[1])
	}
	return out
}

// components lists every other Go program of a node and its images. The
// versions are bundle.yaml's.
func components(v configs.Components) ([]component, error) {
	const (
		containerd = "github.com/containerd/containerd/v2"
		plugins    = "github.com/containernetworking/plugins"
		etcd       = "go.etcd.io/etcd"
		flannel    = "github.com/flannel-io/flannel"
		coredns    = "github.com/coredns/coredns"
	)
	cni := func(names ...string) (out []gobuild.Program) {
		for _, n := range names {
			out = append(out, gobuild.Program{Name: filepath.Base(n), Package: plugins + "/plugins/" + n})
		}
		return out
	}
	all := []component{
		{name: "containerd", module: gobuild.Module{Path: containerd}, programs: []gobuild.Program{
			{Name: "containerd", Package: containerd + "/cmd/containerd", LDFlags: []string{"-X", containerd + "/version.Version=" + v.Containerd}},
			{Name: "containerd-shim-runc-v2", Package: containerd + "/cmd/containerd-shim-runc-v2", LDFlags: []string{"-X", containerd + "/version.Version=" + v.Containerd}},
			{Name: "ctr", Package: containerd + "/cmd/ctr", LDFlags: []string{"-X", containerd + "/version.Version=" + v.Containerd}}}},
		{name: "cni-plugins", module: gobuild.Module{Path: plugins},
			programs: cni("main/bridge", "main/loopback", "main/ptp", "main/host-device", "main/macvlan", "main/ipvlan", "main/vlan", "ipam/host-local", "ipam/static", "meta/portmap", "meta/bandwidth", "meta/tuning", "meta/firewall")},
		// The last release of the plugins that still had flannel's; flannel's own module of it is not published.
		{name: "flannel-cni", module: gobuild.Module{Path: plugins}, programs: cni("meta/flannel")},
		{name: "etcd", module: gobuild.Module{Path: etcd + "/server/v3"}, programs: []gobuild.Program{{Name: "etcd", Package: etcd + "/server/v3"}}},
		{name: "etcdctl", module: gobuild.Module{Path: etcd + "/etcdctl/v3"}, programs: []gobuild.Program{{Name: "etcdctl", Package: etcd + "/etcdctl/v3"}}},
		{name: "etcdutl", module: gobuild.Module{Path: etcd + "/etcdutl/v3"}, programs: []gobuild.Program{{Name: "etcdutl", Package: etcd + "/etcdutl/v3"}}},
		{name: "coredns", module: gobuild.Module{Path: coredns}, programs: []gobuild.Program{{Name: "coredns", Package: coredns}}},
		{name: "flannel", module: gobuild.Module{Path: flannel, Stub: []string{
			// C on amd64, nothing on arm64, and superseded by VXLAN: with the stub both build alike, in pure Go.
			"pkg/backend/udp"}},
			programs: []gobuild.Program{{Name: "flanneld", Package: flannel, LDFlags: []string{"-X", flannel + "/pkg/version.Version=" + v.Flannel}}}},
	}
	versions := map[string]string{"containerd": v.Containerd, "cni-plugins": v.CNIPlugins, "flannel-cni": v.FlannelCNI,
		"etcd": v.Etcd, "etcdctl": v.Etcd, "etcdutl": v.Etcd, "coredns": v.CoreDNS, "flannel": v.Flannel}
	for i := range all {
		if all[i].module.Version = versions[all[i].name]; all[i].module.Version == "" {
			return nil, fmt.Errorf("component %q has no version", all[i].name)
		}
	}
	return all, nil
}
