// Package configs holds the files a person writes: Bundle (bundle.yaml), and
// what a node consumes, UserData (#cloud-config), MetaData and Network
// (NoCloud). Parsing is strict and reports every problem of a file at once,
// each with its line, column and path.
//
// It does not open files, look at the machine or use the network: it is given
// bytes, and paths in a config are checked as text only.
package configs

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"slipway.dev/slipway/configs/arch"
)

// What a bundle.yaml says it is.
const (
	APIVersion = "slipway.dev/v1alpha1"
	KindBundle = "Bundle"
)

// Bundle is bundle.yaml: what goes into the images. Paths in it are relative
// to the directory bundle.yaml is in.
type Bundle struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"`
	Metadata   Metadata   `json:"metadata"`
	Spec       BundleSpec `json:"spec"`
}

// Metadata names a bundle.
type Metadata struct {
	Name   string `json:"name"`             // RFC 1123 label
	Serial uint64 `json:"serial,omitempty"` // grows with every release; nodes refuse to go back
}

// BundleSpec is the content of a bundle.
type BundleSpec struct {
	Architectures []arch.Arch `json:"architectures"`
	Debian        Debian      `json:"debian"`
	Kubernetes    Kubernetes  `json:"kubernetes"`
	Components    Components  `json:"components,omitzero"`
	Images        []Image     `json:"images,omitempty"`
	Kernel        Kernel      `json:"kernel,omitzero"`
	NoCloud       NoCloud     `json:"nocloud,omitzero"`
	Overlay       string      `json:"overlay,omitempty"` // directory of files laid over the root
	Media         Media       `json:"media,omitzero"`
}

// Debian says which packages the root file system is made of.
type Debian struct {
	Suite      string               `json:"suite"`                // "trixie"
	Mirror     string               `json:"mirror,omitempty"`     // URL; empty: this machine's apt configuration
	Components []string             `json:"components,omitempty"` // default: main
	Keyring    string               `json:"keyring,omitempty"`    // empty: Debian's keyring on this machine
	Packages   map[string][]Package `json:"packages"`             // by group, for people: base, storage, field
	Optional   map[string][]Package `json:"optional,omitempty"`   // likewise: groups that Enable has to name
	Enable     []string             `json:"enable,omitempty"`     // groups of Optional that go into the root
	Exclude    []Exclude            `json:"exclude,omitempty"`    // from the root file system; images are not affected
	// Repositories are further sources; of several versions the newest is taken.
	Repositories []Repository `json:"repositories,omitempty"`
}

// Repository is a signed apt repository besides the suite with its updates and
// security suites: another suite of the mirror, or a vendor's own archive.
type Repository struct {
	URL        string   `json:"url,omitempty"` // empty: the mirror
	Suite      string   `json:"suite"`         // "trixie-backports"
	Components []string `json:"components"`
	Keyring    string   `json:"keyring,omitempty"` // file, relative to bundle.yaml; empty: the suite's
}

// All returns the packages of every group, of the optional ones those that are
// enabled, without repetition, sorted by name.
func (d Debian) All() []Package {
	var all []Package
	for _, group := range d.Packages {
		all = append(all, group...)
	}
	for _, name := range d.Enable {
		all = append(all, d.Optional[name]...)
	}
	slices.SortFunc(all, Package.compare)
	return slices.CompactFunc(all, func(a, b Package) bool { return a.Name == b.Name && a.Arch == b.Arch })
}

// For returns All of one architecture.
func (d Debian) For(a arch.Arch) []Package {
	all := PackagesFor(d.All(), a)
	slices.SortFunc(all, Package.compare)
	return slices.CompactFunc(all, func(a, b Package) bool { return a.Name == b.Name })
}

// Exclude leaves packages out although others depend on them; the name may be
// a pattern: "python3*".
type Exclude struct {
	Name   string `json:"name"`
	Reason string `json:"reason"` // why nothing misses it; ends up in the lock
}

// Kubernetes says which Kubernetes is built.
type Kubernetes struct {
	Version string `json:"version"` // "v1.37.1"
}

// Components are the versions of the pinned Go modules around Kubernetes. An
// empty one takes the default for the Kubernetes version.
type Components struct {
	Containerd string `json:"containerd,omitempty"`  // github.com/containerd/containerd/v2
	Etcd       string `json:"etcd,omitempty"`        // go.etcd.io/etcd/server/v3
	CoreDNS    string `json:"coredns,omitempty"`     // github.com/coredns/coredns
	CNIPlugins string `json:"cni-plugins,omitempty"` // github.com/containernetworking/plugins
	Flannel    string `json:"flannel,omitempty"`     // github.com/flannel-io/flannel
	// FlannelCNI is the version of github.com/containernetworking/plugins
	// whose plugins/meta/flannel is built; the directory left that module
	// after v0.9.1.
	FlannelCNI string `json:"flannel-cni,omitempty"`
}

// Image is a container image made of Debian packages.
type Image struct {
	Name     string    `json:"name"` // with a tag: "slipway.local/busybox:1.37"
	Packages []Package `json:"packages"`
	Command  []string  `json:"command,omitempty"` // default command, argv
}

// Kernel is what the kernel is started with beyond what slipway needs itself.
type Kernel struct {
	Arguments []string `json:"arguments,omitempty"`
	Modules   []string `json:"modules,omitempty"` // carried in the initramfs and loaded early
}

// NoCloud names files that are baked into the ISO as the node's config.
type NoCloud struct {
	UserData      string `json:"userData,omitempty"`
	MetaData      string `json:"metaData,omitempty"`
	NetworkConfig string `json:"networkConfig,omitempty"`
	Cluster       string `json:"cluster,omitempty"` // cluster.yaml: whatever boots from the image is the seed of that site
}

// Media says how images are written.
type Media struct {
	Compression Compression `json:"compression,omitempty"`
}

// Compression is how blobs are packed on media.
type Compression string

// The compressions.
const (
	CompressionNone Compression = "none"
	CompressionZstd Compression = "zstd"
)

// ParseBundle reads bundle.yaml strictly, fills in defaults and checks it. An
// error is a Problems with everything found; name is used in it as the file.
func ParseBundle(name string, data []byte) (*Bundle, error) {
	d := newDocument(name, data)
	if !d.read() || !d.isKind(APIVersion, KindBundle) {
		return nil, d.err()
	}
	var b Bundle
	if !d.decode(&b) {
		return nil, d.err()
	}
	b.setDefaults()
	b.check(d.root())
	if err := d.err(); err != nil {
		return nil, err
	}
	return &b, nil
}

func (b *Bundle) setDefaults() {
	s := &b.Spec
	if len(s.Debian.Components) == 0 {
		s.Debian.Components = []string{"main"}
	}
	if s.Media.Compression == "" {
		s.Media.Compression = CompressionNone
	}
	for i, v := range defaultComponents(s.Kubernetes.Version).versions() {
		if mine := s.Components.versions()[i]; *mine.version == "" {
			*mine.version = *v.version
		}
	}
}

// defaultComponents are the versions that were built and run together with a
// Kubernetes version; empty for one that was not tried. CoreDNS and etcd are
// the ones its kubeadm asks for.
func defaultComponents(kubernetes string) *Components {
	if !strings.HasPrefix(kubernetes, "v1.37.") {
		return &Components{}
	}
	return &Components{
		Containerd: "v2.4.2",
		Etcd:       "v3.7.0",
		CoreDNS:    "v1.14.6",
		CNIPlugins: "v1.9.1",
		Flannel:    "v0.26.7",
		FlannelCNI: "v0.9.1",
	}
}

type componentVersion struct {
	key     string
	version *string
}

func (c *Components) versions() []componentVersion {
	return []componentVersion{
		{"containerd", &c.Containerd},
		{"etcd", &c.Etcd},
		{"coredns", &c.CoreDNS},
		{"cni-plugins", &c.CNIPlugins},
		{"flannel", &c.Flannel},
		{"flannel-cni", &c.FlannelCNI},
	}
}

func (b *Bundle) check(a at) {
	a.key("metadata").key("name").must(b.Metadata.Name, func(s string) error {
		if strings.Contains(s, ".") {
			return fmt.Errorf("%q: want one name without dots", s)
		}
		return dnsName(s, 63)
	})
	a = a.key("spec")
	b.Spec.checkArchitectures(a.key("architectures"))
	b.Spec.Debian.check(a.key("debian"))
	version := a.key("kubernetes").key("version")
	version.must(b.Spec.Kubernetes.Version, moduleVersion)
	if moduleVersion(b.Spec.Kubernetes.Version) == nil {
		b.Spec.Components.check(a.key("components"), b.Spec.Kubernetes.Version)
	}
	seen := map[string]int{}
	for i, img := range b.Spec.Images {
		img.check(a.key("images").item(i))
		if j, ok := seen[img.Name]; ok && img.Name != "" {
			a.key("images").item(i).key("name").errorf("already used by images[%d]", j)
		} else {
			seen[img.Name] = i
		}
	}
	b.Spec.Kernel.check(a.key("kernel"))
	nc := a.key("nocloud")
	nc.key("userData").may(b.Spec.NoCloud.UserData, localPath)
	nc.key("metaData").may(b.Spec.NoCloud.MetaData, localPath)
	nc.key("networkConfig").may(b.Spec.NoCloud.NetworkConfig, localPath)
	nc.key("cluster").may(b.Spec.NoCloud.Cluster, localPath)
	if b.Spec.NoCloud.UserData == "" && b.Spec.NoCloud.Cluster == "" && nc.set() {
		nc.key("userData").missing()
	}
	a.key("overlay").may(b.Spec.Overlay, localPath)
	a.key("media").key("compression").oneOf(string(b.Spec.Media.Compression), string(CompressionNone), string(CompressionZstd))
}

func (s *BundleSpec) checkArchitectures(a at) {
	if len(s.Architectures) == 0 {
		a.missing().Hint = "name the machines to build for: architectures: [amd64]"
	}
	for i, name := range s.Architectures {
		if _, err := arch.Parse(string(name)); err != nil {
			a.item(i).errorf("%s", err)
		}
		if j := slices.Index(s.Architectures, name); j < i {
			a.item(i).errorf("%q is already in architectures[%d]", name, j)
		}
	}
}

func (d *Debian) check(a at) {
	a.key("suite").must(d.Suite, suiteName)
	a.key("mirror").may(d.Mirror, mirrorURL)
	for i, c := range d.Components {
		a.key("components").item(i).oneOf(c, "main", "contrib", "non-free", "non-free-firmware")
	}
	for i, r := range d.Repositories {
		here := a.key("repositories").item(i)
		here.key("url").may(r.URL, mirrorURL)
		here.key("suite").must(r.Suite, suiteName)
		if len(r.Components) == 0 {
			here.key("components").missing().Hint = "Debian's own is main"
		}
		if r.URL != "" && r.Keyring == "" {
			here.key("keyring").errorf("missing: nothing else says whom to trust there").Hint = "keep the vendor's key next to bundle.yaml"
		}
	}
	if len(d.All()) == 0 {
		a.key("packages").missing().Hint = "name at least one package: packages: {base: [base-files]}"
	}
	excluded := d.checkExclude(a.key("exclude"))
	pinned := map[string]string{}
	checkGroups(a.key("packages"), d.Packages, excluded, pinned)
	checkGroups(a.key("optional"), d.Optional, excluded, pinned)
	d.checkEnable(a)
}

// checkEnable wants every enabled group to be an optional one, and no group to
// be both optional and not.
func (d *Debian) checkEnable(a at) {
	for _, group := range slices.Sorted(maps.Keys(d.Optional)) {
		if _, ok := d.Packages[group]; ok {
			a.key("optional").key(group).errorf("the group %q is in packages too", group).Hint = "give one of the two another name"
		}
	}
	for i, group := range d.Enable {
		here := a.key("enable").item(i)
		if j := slices.Index(d.Enable, group); j < i {
			here.errorf("%q is already in enable[%d]", group, j)
			continue
		}
		if _, ok := d.Optional[group]; ok {
			continue
		}
		if _, ok := d.Packages[group]; ok {
			here.errorf("%q is not an optional group: what is in packages is always there", group)
			continue
		}
		msg := fmt.Sprintf("there is no optional group %q", group)
		if s := suggest(group, slices.Sorted(maps.Keys(d.Optional))); s != "" {
			msg += fmt.Sprintf(": did you mean %q?", s)
		}
		here.errorf("%s", msg)
	}
}

func suiteName(s string) error {
	if !matches(`[a-z][a-z0-9./-]*`, s) || strings.Contains(s, "..") {
		return fmt.Errorf("%q is not the name of a suite, such as %q", s, "trixie")
	}
	return nil
}

func mirrorURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%q: want an http or https URL, such as %q", s, "http://mirror.example/debian")
	}
	if u.User != nil {
		return errors.New("the URL holds a password: the lock would publish it")
	}
	return nil
}

// checkExclude returns where each name is excluded.
func (d *Debian) checkExclude(a at) map[string]int {
	at := map[string]int{}
	for i, e := range d.Exclude {
		a.item(i).key("name").must(e.Name, packagePattern)
		a.item(i).key("reason").must(strings.TrimSpace(e.Reason), nil)
		if j, ok := at[e.Name]; ok && e.Name != "" {
			a.item(i).key("name").errorf("%q is already excluded by exclude[%d]", e.Name, j)
			continue
		}
		at[e.Name] = i
	}
	return at
}

// checkGroups checks package lists by group; pinned is the version of the first
// pin by name, shared by all of them.
func checkGroups(a at, groups map[string][]Package, excluded map[string]int, pinned map[string]string) {
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		if !matches(`[a-z0-9]([a-z0-9-]*[a-z0-9])?`, group) {
			a.key(group).errorf("%q is not a group name: want lower-case letters, digits and -", group)
		}
		in := map[string]int{}
		for i, p := range groups[group] {
			here := a.key(group).item(i)
			if j, ok := in[p.Name]; ok && p.Name != "" {
				here.errorf("%q is already in %s[%d]", p.Name, group, j)
				continue
			}
			in[p.Name] = i
			if j, ok := excluded[p.Name]; ok {
				here.errorf("%q is also in exclude[%d]", p.Name, j).Hint = "keep one of the two"
			}
			if v, ok := pinned[p.Name]; ok && p.Version != "" && v != p.Version {
				here.errorf("%q is pinned to %q here and to %q in another group", p.Name, p.Version, v)
			}
			if p.Version != "" {
				pinned[p.Name] = p.Version
			}
		}
	}
}

func (c *Components) check(a at, kubernetes string) {
	for _, v := range c.versions() {
		place := a.key(v.key)
		if *v.version == "" {
			place.errorf("missing: there is no default for Kubernetes %s", kubernetes).
				Hint = "name a version, or take Kubernetes v1.37.x"
			continue
		}
		place.must(*v.version, moduleVersion)
	}
}

func (i *Image) check(a at) {
	a.key("name").must(i.Name, imageName)
	if len(i.Packages) == 0 {
		a.key("packages").missing()
	}
	for n, p := range i.Packages {
		if j := slices.IndexFunc(i.Packages, func(q Package) bool { return q.Name == p.Name }); j < n && p.Name != "" {
			a.key("packages").item(n).errorf("%q is already in packages[%d]", p.Name, j)
		}
	}
	if a.key("command").set() && (len(i.Command) == 0 || i.Command[0] == "") {
		a.key("command").errorf("empty: want a program and its arguments")
	}
}

func (k *Kernel) check(a at) {
	for i, arg := range k.Arguments {
		if !matches(`[!-~]+`, arg) {
			a.key("arguments").item(i).errorf("%q is not one kernel argument", arg).
				Hint = "one argument per list item, without spaces"
		}
	}
	for i, m := range k.Modules {
		if !matches(`[A-Za-z0-9_-]+`, m) {
			a.key("modules").item(i).errorf("%q is not the name of a kernel module", m).
				Hint = "the file name without directory and .ko"
		}
	}
}
