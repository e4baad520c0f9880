package deb

import (
	"fmt"
	"sort"
	"strings"

	"pault.ag/go/debian/version"

	"slipway.dev/slipway/configs/arch"
)

// Index is the packages of one architecture (and "all") from any number of
// suites and repositories. It is not safe for concurrent Add.
type Index struct {
	arch     arch.Arch
	byName   map[string][]*Package // newest version first
	provides map[string][]provision
}

// provision is one package's promise to stand for another name.
type provision struct {
	by      *Package
	version string // "" when the Provides has none: then it meets no versioned relation
}

// NewIndex returns an empty index for one architecture.
func NewIndex(a arch.Arch) *Index {
	return &Index{arch: a, byName: map[string][]*Package{}, provides: map[string][]provision{}}
}

// Add merges the packages of a repository whose Filenames are below base;
// packages of other architectures are left out. When two repositories carry
// the same version of a package, the one added first is used.
func (x *Index) Add(base string, pkgs []Package) error {
	for i := range pkgs {
		if pkgs[i].Arch != "all" && pkgs[i].Arch != x.arch.Debian() {
			continue
		}
		p := pkgs[i] // the caller's slice stays as it is
		p.Base = strings.TrimRight(base, "/")
		if err := x.insert(&p); err != nil {
			return fmt.Errorf("package %q %s (%s): %w", p.Name, p.Version, p.Suite, err)
		}
	}
	return nil
}

func (x *Index) insert(p *Package) error {
	v, err := parseVersion(p.Version)
	if err != nil {
		return fmt.Errorf("version %q: %w", p.Version, err)
	}
	list := x.byName[p.Name]
	at := len(list)
	for i, q := range list {
		w, err := parseVersion(q.Version)
		if err != nil {
			return err
		}
		c := version.Compare(v, w)
		if c == 0 {
			return nil
		}
		if c > 0 {
			at = i
			break
		}
	}
	list = append(list, nil)
	copy(list[at+1:], list[at:])
	list[at] = p
	x.byName[p.Name] = list
	groups, err := ParseRelations(p.Provides)
	if err != nil {
		return fmt.Errorf("field Provides: %w", err)
	}
	for _, g := range groups {
		pr := provision{by: p}
		if len(g) != 1 || (g[0].Op != "" && g[0].Op != "=") {
			return fmt.Errorf("field Provides: %q is not a name or a name with (= version)", g)
		}
		pr.version = g[0].Version
		x.provides[g[0].Name] = append(x.provides[g[0].Name], pr)
	}
	return nil
}

// Len is the number of packages, all versions counted.
func (x *Index) Len() int {
	n := 0
	for _, l := range x.byName {
		n += len(l)
	}
	return n
}

// Versions lists the versions of a package, newest first; nil for an unknown name.
func (x *Index) Versions(name string) []string {
	var out []string
	for _, p := range x.byName[name] {
		out = append(out, p.Version)
	}
	return out
}

// candidates lists what can satisfy a relation: real packages newest first,
// then providers by priority and name.
func (x *Index) candidates(r Relation) []*Package {
	if r.Arch != "" && r.Arch != "any" && r.Arch != "native" && r.Arch != x.arch.Debian() {
		return nil
	}
	var out []*Package
	for _, p := range x.byName[r.Name] {
		if r.allows(p.Version) {
			out = append(out, p)
		}
	}
	real := len(out)
	for _, pr := range x.provides[r.Name] {
		if pr.by.Name != r.Name && pr.satisfies(r) {
			out = append(out, pr.by)
		}
	}
	virtual := out[real:]
	sort.SliceStable(virtual, func(i, j int) bool {
		a, b := virtual[i], virtual[j]
		if rank(a) != rank(b) {
			return rank(a) < rank(b)
		}
		return a.Name < b.Name
	})
	return out
}

func (pr provision) satisfies(r Relation) bool {
	return r.Op == "" || (pr.version != "" && r.allows(pr.version))
}

// rank orders priorities (policy 2.5): the provider that Debian itself installs comes first.
func rank(p *Package) int {
	for i, s := range []string{"required", "important", "standard", "optional"} {
		if p.Priority == s {
			return i
		}
	}
	return 4
}
