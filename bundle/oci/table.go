package oci

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// Netbase is the name of the layer below kube-proxy and flannel, made of
// NetbasePackages; it is also the set name in lock.Deb.Sets.
const Netbase = "netbase"

// NetbasePackages are the Debian packages that kube-proxy and flanneld run
// programs of: nft (both), conntrack, ip, modprobe; iptables for clusters that
// choose that mode.
func NetbasePackages() []string {
	return []string{"conntrack", "iproute2", "iptables", "kmod", "nftables"}
}

// Spec says how an image is made: programs at paths over a base.
type Spec struct {
	Ref      Ref
	Base     string // Netbase, or "" for no layer below
	Programs []Program
	Config   Config
}

// Program is a built program in an image.
type Program struct {
	Name string // as gobuild names it: "kube-apiserver"
	Path string // in the image, without a leading slash
}

// Content is where a program's bytes come from.
type Content struct {
	Size int64
	Open func() (io.ReadCloser, error)
}

const imagePath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// KubernetesImages says how to make each image that kubeadm wants (the result
// of KubeadmImages) and flannel's. Entrypoints, users and paths are those of
// the images upstream publishes, because kubeadm's static pods and addons
// depend on them. An image it does not know is an error.
func KubernetesImages(kubeadm []Ref, flannel Ref) ([]Spec, error) {
	var out []Spec
	for _, r := range kubeadm {
		s := Spec{Ref: r, Config: Config{Env: []string{imagePath}}}
		bin := func(names ...string) {
			for _, n := range names {
				s.Programs = append(s.Programs, Program{Name: n, Path: "usr/local/bin/" + n})
			}
		}
		switch r.Name() {
		case "kube-apiserver", "kube-controller-manager", "kube-scheduler":
			bin(r.Name())
			s.Config.Entrypoint = []string{r.Name()}
		case "kube-proxy":
			bin(r.Name())
			s.Base = Netbase
			s.Config.Entrypoint = []string{"/usr/local/bin/kube-proxy"}
		case "etcd":
			bin("etcd", "etcdctl", "etcdutl")
		case "coredns":
			s.Programs = []Program{{Name: "coredns", Path: "coredns"}}
			s.Config.Entrypoint, s.Config.User = []string{"/coredns"}, "65532:65532"
		case "pause":
			s.Programs = []Program{{Name: "pause", Path: "pause"}}
			s.Config.Entrypoint, s.Config.User = []string{"/pause"}, "65535:65535"
		default:
			return nil, fmt.Errorf("image %q: no rule says what is in it", r)
		}
		out = append(out, s)
	}
	return append(out, Spec{Ref: flannel, Base: Netbase,
		Programs: []Program{{Name: "flanneld", Path: "opt/bin/flanneld"}},
		Config:   Config{Env: []string{imagePath}, Entrypoint: []string{"/opt/bin/flanneld"}}}), nil
}

// Entries are the files of the image's own layer. Programs come from the map by
// name; images without a base get the few files that programs expect of a root.
func (s Spec) Entries(programs map[string]Content) ([]Entry, error) {
	var out []Entry
	if s.Base == "" {
		out = skeleton()
	}
	for _, p := range s.Programs {
		c, ok := programs[p.Name]
		if !ok {
			return nil, fmt.Errorf("image %q: program %q was not built", s.Ref, p.Name)
		}
		out = append(out, Entry{Path: strings.TrimPrefix(path.Clean(p.Path), "/"), Mode: 0o755, Size: c.Size, Open: c.Open})
	}
	return out, nil
}

// skeleton is what programs of a static image look for: names for the users
// they run as, a lookup order that reads /etc/hosts first (Go's net package,
// nsswitch.conf), a place for temporary files.
func skeleton() []Entry {
	return []Entry{
		Dir("tmp", 0o777|fs.ModeSticky),
		File("etc/passwd", 0o644, []byte("root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n")),
		File("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\nnonroot:x:65532:\n")),
		File("etc/nsswitch.conf", 0o644, []byte("hosts: files dns\n")),
	}
}
