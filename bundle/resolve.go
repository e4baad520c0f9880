package bundle

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/oci"
	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/arch"
)

// The sets a package can belong to in the lock. Images made of packages have
// sets of their own: "image " and the name.
const (
	SetSystem  = "system"
	SetLoader  = "loader"
	SetNetbase = oci.Netbase // lowest layer of the images that program the packet filter
)

// ImageSet is the set of a user's image.
func ImageSet(name string) string { return "image " + name }

// loaders are the packages that boot files are taken from, per architecture.
var loaders = map[arch.Arch][]string{
	arch.AMD64: {"shim-signed", "shim-helpers-amd64-signed", "grub-efi-amd64-signed", "isolinux", "syslinux-common", "ipxe"},
	arch.ARM64: {"shim-signed", "shim-helpers-arm64-signed", "grub-efi-arm64-signed"},
}

// scriptsOnly are packages that only maintainer scripts need. Images are made
// without any script, so they are left out of every image.
var scriptsOnly = map[string]string{
	"debconf*": "asks questions for maintainer scripts", "cdebconf*": "the same",
	"dpkg": "nothing is installed in an image", "perl*": "used by maintainer scripts",
	"init-system-helpers": "used by maintainer scripts", "adduser": "used by maintainer scripts",
	"systemd*": "no service manager in an image", "libpam*": "nobody logs in to an image",
}

// maxRelease bounds InRelease and a package list as fetched; Debian's are 0.2 and 10 MB.
const (
	maxRelease  = 8 << 20
	maxPackages = 256 << 20
)

// Resolver answers "what is newest?"; nothing else does.
type Resolver struct {
	Fetch  *Fetcher
	AptDir string // of this machine: /etc/apt
	Dir    string // of bundle.yaml
	Report Report
}

// archive is one suite of one repository.
type archive struct {
	base, suite string
	components  []string
	keyring     []byte
	optional    bool // a mirror without it is no error
}

// Resolved is the packages of a bundle and the date of the newest index.
type Resolved struct {
	Debs []lock.Deb
	Date time.Time
}

// Packages resolves the Debian half of a bundle for all its architectures.
func (r *Resolver) Packages(ctx context.Context, b *configs.Bundle) (*Resolved, error) {
	archives, err := r.archives(b.Spec.Debian)
	if err != nil {
		return nil, err
	}
	indexes := map[arch.Arch]*deb.Index{}
	for _, a := range b.Spec.Architectures {
		indexes[a] = deb.NewIndex(a)
	}
	out := &Resolved{}
	for _, ar := range archives {
		date, err := r.load(ctx, ar, indexes)
		if err != nil {
			return nil, fmt.Errorf("suite %q: %w", ar.suite, err)
		}
		if date.After(out.Date) {
			out.Date = date
		}
	}
	for _, a := range b.Spec.Architectures {
		debs, err := resolveSets(b, a, indexes[a])
		if err != nil {
			return nil, err
		}
		out.Debs = append(out.Debs, debs...)
	}
	return out, nil
}

func (r *Resolver) archives(d configs.Debian) ([]archive, error) {
	m := Mirror{Main: strings.TrimRight(d.Mirror, "/")}
	if m.Main == "" {
		var err error
		if m, err = MachineMirror(r.AptDir); err != nil {
			return nil, &hinted{err, "name a mirror in bundle.yaml: spec.debian.mirror"}
		}
	}
	keyring, err := r.readKeyring(d.Keyring)
	if err != nil {
		return nil, err
	}
	out := []archive{{m.Main, d.Suite, d.Components, keyring, false}, {m.Main, d.Suite + "-updates", d.Components, keyring, true}}
	if m.Security != "" {
		out = append(out, archive{m.Security, d.Suite + "-security", d.Components, keyring, true})
	}
	for _, more := range d.Repositories {
		ar := archive{cmp.Or(strings.TrimRight(more.URL, "/"), m.Main), more.Suite, more.Components, keyring, false}
		if more.Keyring != "" {
			if ar.keyring, err = r.readKeyring(more.Keyring); err != nil {
				return nil, fmt.Errorf("repository %q: %w", more.Suite, err)
			}
		}
		out = append(out, ar)
	}
	return out, nil
}

// keyrings are where Debian machines keep the archive's keys.
var keyrings = []string{"/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"}

// readKeyring reads a keyring; a relative name is one beside bundle.yaml.
func (r *Resolver) readKeyring(name string) ([]byte, error) {
	names := keyrings
	if name != "" {
		if !filepath.IsAbs(name) {
			name = filepath.Join(r.Dir, name)
		}
		names = []string{name}
	}
	var first error
	for _, n := range names {
		raw, err := os.ReadFile(n)
		if err == nil {
			return raw, nil
		}
		first = cmp.Or(first, err)
	}
	return nil, &hinted{fmt.Errorf("keyring of the Debian archive: %w", first),
		"install the package debian-archive-keyring, or name a file in bundle.yaml: spec.debian.keyring"}
}

// load reads one suite's signed index and adds its packages.
func (r *Resolver) load(ctx context.Context, ar archive, into map[arch.Arch]*deb.Index) (time.Time, error) {
	r.Report("reading the package index of "+ar.suite, 0, 0)
	dist := ar.base + "/dists/" + ar.suite + "/"
	raw, err := r.Fetch.get(ctx, dist+"InRelease", maxRelease)
	if err != nil {
		if ar.optional && isNotFound(err) {
			return time.Time{}, nil
		}
		return time.Time{}, err
	}
	rel, err := deb.ParseRelease(raw, ar.keyring, time.Now())
	if err != nil {
		return time.Time{}, err
	}
	for a, index := range into {
		for _, comp := range ar.components {
			pkgs, err := r.list(ctx, dist, rel, comp, a)
			if err != nil {
				return time.Time{}, err
			}
			if err := index.Add(ar.base, pkgs); err != nil {
				return time.Time{}, err
			}
		}
	}
	return rel.Date, nil
}

// list fetches a package list once per digest: the store keeps it.
func (r *Resolver) list(ctx context.Context, dist string, rel *deb.Release, comp string, a arch.Arch) ([]deb.Package, error) {
	name, sum, err := rel.PackagesFile(comp, a)
	if err != nil {
		return nil, err
	}
	if sum.Size > maxPackages {
		return nil, fmt.Errorf("%s: %d bytes are more than a package list can have", name, sum.Size)
	}
	d := lock.Digest(sum.SHA256)
	if !r.Fetch.Store.Has(d, sum.Size) {
		step := "downloading the package list of " + rel.Codename
		got := int64(0)
		if err := r.Fetch.one(ctx, dist+rel.ByHashPath(name), sum.Size, d, func(n int64) { got += n; r.Report(step, got, sum.Size) }); err != nil {
			return nil, err
		}
	}
	raw, err := os.ReadFile(r.Fetch.Store.Path(d))
	if err != nil {
		return nil, err
	}
	return rel.ReadPackages(name, raw)
}

// resolveSets finds the closure of every set and merges them: a package is
// fetched once and may be in several.
func resolveSets(b *configs.Bundle, a arch.Arch, x *deb.Index) ([]lock.Deb, error) {
	byName := map[string]*lock.Deb{}
	add := func(set string, names []string, exclude map[string]string, alone bool) error {
		pkgs, err := closure(x, names, exclude, alone)
		if err != nil {
			return fmt.Errorf("packages of %q for %s: %w", set, a, err)
		}
		for _, p := range pkgs {
			if byName[p.Name] == nil {
				byName[p.Name] = &lock.Deb{Name: p.Name, Version: p.Version, Arch: a, URL: p.Base + "/" + p.Filename,
					Size: p.Size, SHA256: lock.Digest(p.SHA256), Control: p.Control}
			}
			byName[p.Name].Sets = append(byName[p.Name].Sets, set)
		}
		return nil
	}
	exclude := map[string]string{}
	for _, e := range b.Spec.Debian.Exclude {
		exclude[e.Name] = e.Reason
	}
	var names []string
	for _, p := range b.Spec.Debian.For(a) {
		names = append(names, p.String())
	}
	if err := add(SetSystem, names, exclude, false); err != nil {
		return nil, err
	}
	if err := add(SetLoader, loaders[a], nil, true); err != nil {
		return nil, err
	}
	if err := add(SetNetbase, oci.NetbasePackages(), scriptsOnly, false); err != nil {
		return nil, err
	}
	for _, img := range b.Spec.Images {
		var names []string
		for _, p := range configs.PackagesFor(img.Packages, a) {
			names = append(names, p.String())
		}
		if err := add(ImageSet(img.Name), names, scriptsOnly, false); err != nil {
			return nil, err
		}
	}
	out := make([]lock.Deb, 0, len(byName))
	for _, d := range byName {
		slices.Sort(d.Sets)
		out = append(out, *d)
	}
	return out, nil
}

// closure resolves names with what they depend on, or alone: boot files are
// taken out of packages whose dependencies nobody installs.
func closure(x *deb.Index, names []string, exclude map[string]string, alone bool) ([]deb.Package, error) {
	if alone {
		exclude = nil
	}
	res, err := x.Resolve(deb.Request{Names: names, Exclude: exclude})
	if err != nil {
		return nil, err
	}
	if !alone {
		return res.Packages, nil
	}
	return slices.DeleteFunc(res.Packages, func(p deb.Package) bool { return !slices.Contains(names, p.Name) }), nil
}

// hinted is an error with a next step.
type hinted struct {
	error
	hint string
}

func (h *hinted) Hint() string  { return h.hint }
func (h *hinted) Unwrap() error { return h.error }
