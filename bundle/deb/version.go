package deb

import (
	"fmt"
	"strings"

	"pault.ag/go/debian/version"
)

func parseVersion(s string) (version.Version, error) { return version.Parse(s) }

// CompareVersions orders two version strings as dpkg does (policy 5.6.12):
// negative when a is older. A string that is no version is an error.
func CompareVersions(a, b string) (int, error) {
	va, err := parseVersion(a)
	if err != nil {
		return 0, fmt.Errorf("version %q: %w", a, err)
	}
	vb, err := parseVersion(b)
	if err != nil {
		return 0, fmt.Errorf("version %q: %w", b, err)
	}
	return version.Compare(va, vb), nil
}

// Relation is one alternative of a dependency: name[:arch] [(op version)].
type Relation struct {
	Name    string
	Arch    string // qualifier: "", "any", "native", or an architecture
	Op      string // "", "<<", "<=", "=", ">=", ">>"
	Version string
}

// AnyOf is a list of alternatives of which one is enough.
type AnyOf []Relation

// ParseRelations reads a Depends-like field: groups are separated by commas,
// alternatives by bars (policy 7.1).
func ParseRelations(field string) ([]AnyOf, error) {
	var out []AnyOf
	for _, g := range strings.Split(field, ",") {
		if strings.TrimSpace(g) == "" {
			continue
		}
		var group AnyOf
		for _, alt := range strings.Split(g, "|") {
			r, err := parseRelation(strings.TrimSpace(alt))
			if err != nil {
				return nil, err
			}
			group = append(group, r)
		}
		out = append(out, group)
	}
	return out, nil
}

func parseRelation(s string) (Relation, error) {
	var r Relation
	name, rest, versioned := strings.Cut(s, "(")
	name = strings.TrimSpace(name)
	r.Name, r.Arch, _ = strings.Cut(name, ":")
	if r.Name == "" {
		return r, fmt.Errorf("relation %q has no name", s)
	}
	if err := checkName(r.Name); err != nil {
		return r, fmt.Errorf("relation %q: %w", s, err)
	}
	if !versioned {
		return r, nil
	}
	rest, after, ok := strings.Cut(rest, ")")
	if !ok || strings.TrimSpace(after) != "" {
		return r, fmt.Errorf("relation %q: the version is not in parentheses", s)
	}
	rest = strings.TrimSpace(rest)
	n := len(rest) - len(strings.TrimLeft(rest, "<>="))
	r.Op, r.Version = rest[:n], strings.TrimSpace(rest[n:])
	switch r.Op {
	case "<": // deprecated spellings mean "or equal" (policy 7.1)
		r.Op = "<="
	case ">":
		r.Op = ">="
	case "<<", "<=", "=", ">=", ">>":
	default:
		return r, fmt.Errorf("relation %q: operator %q", s, r.Op)
	}
	if _, err := parseVersion(r.Version); err != nil {
		return r, fmt.Errorf("relation %q: version %q: %w", s, r.Version, err)
	}
	return r, nil
}

// String writes the relation as a control file does.
func (r Relation) String() string {
	s := r.Name
	if r.Arch != "" {
		s += ":" + r.Arch
	}
	if r.Op != "" {
		s += " (" + r.Op + " " + r.Version + ")"
	}
	return s
}

// String writes the alternatives as a control file does.
func (g AnyOf) String() string {
	s := make([]string, len(g))
	for i, r := range g {
		s[i] = r.String()
	}
	return strings.Join(s, " | ")
}

// allows reports whether a version satisfies the relation's constraint. Both
// versions were parsed before; one that does not parse satisfies nothing.
func (r Relation) allows(v string) bool {
	if r.Op == "" {
		return true
	}
	c, err := CompareVersions(v, r.Version)
	if err != nil {
		return false
	}
	switch r.Op {
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	}
	return c > 0
}
