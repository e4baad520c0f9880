package deb

import (
	"fmt"
	"path"
	"sort"
	"strings"
)

// Request is what a root file system asks of an Index.
type Request struct {
	// Names are package names, each optionally pinned: "runc=1.1.15+ds1-2".
	// `Essential: yes` adds nothing by itself.
	Names []string
	// Exclude maps a name or a pattern of path.Match ("perl*") to the reason
	// for leaving it out. A dependency that only excluded packages meet is
	// dropped and reported in Result.Dropped.
	Exclude map[string]string
}

// Result is the closure, sorted by name.
type Result struct {
	Packages []Package
	// Chain tells for each package who asked for it: "sshd -> libpam0g".
	Chain map[string]string
	// Dropped lists the dependencies not followed, sorted.
	Dropped []Dropped
	// Unused lists exclusions that matched nothing, sorted.
	Unused []string
}

// Dropped is a dependency that an exclusion cut.
type Dropped struct {
	By, Needs string // package; the alternatives as written
	Exclude   string // the name or pattern that matched
	Reason    string
}

// ResolveError lists everything that is wrong with a request, sorted.
type ResolveError struct{ Problems []string }

func (e *ResolveError) Error() string { return strings.Join(e.Problems, "\n") }

type resolver struct {
	index    *Index
	req      Request
	chosen   map[string]*Package
	chain    map[string]string
	standsIn map[string][]provision // by provided name, of chosen packages
	queue    []*Package
	choices  []need
	dropped  []Dropped
	used     map[string]bool
	problems map[string]bool
}

// need is a dependency with several possible answers; it waits until all that
// is certain has been chosen, so that it can be met by what is there anyway.
type need struct {
	by    *Package
	group AnyOf
}

// Resolve returns the closure of Pre-Depends and Depends. Recommends are not
// followed. An alternative that is already chosen wins, then the first that is
// available and not excluded; among providers of a virtual package the one of
// the highest Debian priority, then the first by name. Every problem is found
// in one run and returned as a *ResolveError.
func (x *Index) Resolve(req Request) (*Result, error) {
	s := &resolver{index: x, req: req, chosen: map[string]*Package{}, chain: map[string]string{},
		standsIn: map[string][]provision{}, used: map[string]bool{}, problems: map[string]bool{}}
	s.checkPatterns()
	s.requested()
	for len(s.queue) > 0 || len(s.choices) > 0 {
		if len(s.queue) > 0 {
			p := s.queue[0]
			s.queue = s.queue[1:]
			s.dependencies(p)
			continue
		}
		sort.SliceStable(s.choices, func(i, j int) bool { return s.choices[i].by.Name < s.choices[j].by.Name })
		n := s.choices[0]
		s.choices = s.choices[1:]
		s.choose(n)
	}
	s.conflicts()
	if len(s.problems) > 0 {
		return nil, &ResolveError{Problems: sortedKeys(s.problems)}
	}
	return s.result()
}

func (s *resolver) checkPatterns() {
	for pat := range s.req.Exclude {
		if _, err := path.Match(pat, ""); err != nil {
			s.problem("exclude %q: %v", pat, err)
		}
	}
}

// requested takes the names first and together, so that a pin or an
// alternative among them does not depend on their order.
func (s *resolver) requested() {
	names := append([]string(nil), s.req.Names...)
	sort.Strings(names)
	for _, n := range names {
		name, pin, pinned := strings.Cut(n, "=")
		if ex, reason, ok := s.excluded(name); ok {
			s.problem("package %q is asked for and excluded by %q (%s)", name, ex, reason)
			continue
		}
		if old, ok := s.chosen[name]; ok {
			if pinned && old.Version != pin {
				s.problem("package %q is asked for as %s and as %s", name, old.Version, pin)
			}
			continue
		}
		versions := s.index.byName[name]
		if len(versions) == 0 {
			s.problem("package %q is not in the index%s", name, s.hint(name))
			continue
		}
		var take *Package
		for _, p := range versions {
			if !pinned || p.Version == pin {
				take = p
				break
			}
		}
		if take == nil {
			s.problem("package %q has no version %s (there is %s)", name, pin, strings.Join(s.index.Versions(name), ", "))
			continue
		}
		s.take(take, name)
	}
}

func (s *resolver) take(p *Package, chain string) {
	s.chosen[p.Name] = p
	s.chain[p.Name] = chain
	s.queue = append(s.queue, p)
	groups, err := ParseRelations(p.Provides)
	if err != nil { // Index.Add parsed it before
		s.problem("package %q: Provides: %v", p.Name, err)
	}
	for _, g := range groups {
		s.standsIn[g[0].Name] = append(s.standsIn[g[0].Name], provision{p, g[0].Version})
	}
}

func (s *resolver) dependencies(p *Package) {
	for _, field := range []string{p.PreDepends, p.Depends} {
		groups, err := ParseRelations(field)
		if err != nil {
			s.problem("package %q: %v", p.Name, err)
			continue
		}
		for _, g := range groups {
			if s.met(g) {
				continue
			}
			if answers, _ := s.answers(g); len(g) == 1 && len(answers) > 0 && answers[0].Name == g[0].Name {
				s.choose(need{p, g}) // a real package: no choice to wait for
				continue
			}
			s.choices = append(s.choices, need{p, g})
		}
	}
}

// met reports whether what is chosen satisfies one of the alternatives.
func (s *resolver) met(g AnyOf) bool {
	for _, r := range g {
		if p, ok := s.chosen[r.Name]; ok && r.allows(p.Version) {
			return true
		}
		for _, pr := range s.standsIn[r.Name] {
			if pr.satisfies(r) {
				return true
			}
		}
	}
	return false
}

// answers lists the packages that could be added for the group, in order of
// preference, and the exclusion that cut one off.
func (s *resolver) answers(g AnyOf) (list []*Package, cut string) {
	for _, r := range g {
		if ex, _, ok := s.excluded(r.Name); ok {
			cut = firstOf(cut, ex)
			continue
		}
		for _, p := range s.index.candidates(r) {
			if ex, _, ok := s.excluded(p.Name); ok {
				cut = firstOf(cut, ex)
				continue
			}
			list = append(list, p)
		}
	}
	return list, cut
}

func firstOf(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func (s *resolver) choose(n need) {
	if s.met(n.group) {
		return
	}
	list, cut := s.answers(n.group)
	for _, p := range list {
		if _, taken := s.chosen[p.Name]; !taken {
			s.take(p, s.chain[n.by.Name]+" -> "+p.Name)
			return
		}
	}
	if cut != "" && len(list) == 0 {
		s.dropped = append(s.dropped, Dropped{By: n.by.Name, Needs: n.group.String(), Exclude: cut, Reason: s.req.Exclude[cut]})
		return
	}
	s.unmet(n, list)
}

func (s *resolver) unmet(n need, list []*Package) {
	asked := "(asked for by " + s.chain[n.by.Name] + ")"
	for _, p := range list { // satisfying, but another version was chosen before
		s.problem("package %q needs %s, but %s is chosen (by %s) %s", n.by.Name, n.group, s.chosen[p.Name].Version, s.chain[p.Name], asked)
		return
	}
	r := n.group[0]
	if v := s.index.Versions(r.Name); v != nil {
		s.problem("package %q needs %s, there is %s %s", n.by.Name, n.group, strings.Join(v, ", "), asked)
		return
	}
	s.problem("package %q needs %s, which is not in the index%s %s", n.by.Name, n.group, s.hint(r.Name), asked)
}

// excluded finds the exclusion for a name: the exact one, else the first pattern by order.
func (s *resolver) excluded(name string) (pattern, reason string, ok bool) {
	if reason, ok := s.req.Exclude[name]; ok {
		s.used[name] = true
		return name, reason, true
	}
	for _, pat := range sortedKeys(s.req.Exclude) {
		if hit, err := path.Match(pat, name); err == nil && hit {
			s.used[pat] = true
			return pat, s.req.Exclude[pat], true
		}
	}
	return "", "", false
}

// conflicts holds Conflicts and Breaks of all chosen packages against all.
func (s *resolver) conflicts() {
	for _, p := range s.chosen {
		for field, text := range map[string]string{"conflicts with": p.Conflicts, "breaks": p.Breaks} {
			groups, err := ParseRelations(text)
			if err != nil {
				s.problem("package %q: %v", p.Name, err)
			}
			for _, g := range groups {
				for _, r := range g {
					s.conflict(p, field, r)
				}
			}
		}
	}
}

func (s *resolver) conflict(p *Package, verb string, r Relation) {
	hit := map[string]bool{}
	if q, ok := s.chosen[r.Name]; ok && r.allows(q.Version) {
		hit[q.Name] = true
	}
	for _, pr := range s.standsIn[r.Name] {
		if pr.satisfies(r) {
			hit[pr.by.Name] = true
		}
	}
	delete(hit, p.Name) // a package may conflict with what it provides itself (policy 7.6.2)
	for _, name := range sortedKeys(hit) {
		s.problem("package %q (asked for by %s) %s %s: %q %s is chosen (asked for by %s)",
			p.Name, s.chain[p.Name], verb, r, name, s.chosen[name].Version, s.chain[name])
	}
}

func (s *resolver) result() (*Result, error) {
	res := &Result{Chain: s.chain, Dropped: s.dropped}
	for _, name := range sortedKeys(s.chosen) {
		p := s.chosen[name]
		// The index's strings are cuts of whole package lists (57 MB for main);
		// the result keeps only its own.
		own, err := ParseStanza(strings.Clone(p.Control))
		if err != nil {
			return nil, err
		}
		own.Suite, own.Base = p.Suite, p.Base
		res.Packages = append(res.Packages, own)
	}
	sort.Slice(res.Dropped, func(i, j int) bool {
		a, b := res.Dropped[i], res.Dropped[j]
		return a.By+"\x00"+a.Needs < b.By+"\x00"+b.Needs
	})
	for _, pat := range sortedKeys(s.req.Exclude) {
		if !s.used[pat] {
			res.Unused = append(res.Unused, pat)
		}
	}
	return res, nil
}

func (s *resolver) problem(format string, args ...any) {
	s.problems[fmt.Sprintf(format, args...)] = true
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// hint renders the nearest known name for a message, or nothing.
func (s *resolver) hint(name string) string {
	if len(s.index.provides[name]) > 0 {
		var by []string
		for _, p := range s.index.candidates(Relation{Name: name}) {
			by = append(by, p.Name)
		}
		return "; it is a virtual package, name one of: " + strings.Join(by, ", ")
	}
	if near := s.index.nearest(name); near != "" {
		return "; did you mean \"" + near + "\"?"
	}
	return ""
}

// nearest finds the known name within two edits (one for short names), else
// the shortest that continues it ("libssl3" -> "libssl3t64"). Ties go to the
// first by name.
func (x *Index) nearest(name string) string {
	limit := 2
	if len(name) < 4 {
		limit = 1
	}
	best, bestCost := "", limit+1
	longer := ""
	for have := range x.byName {
		if d := len(have) - len(name); d <= limit && -d <= limit {
			c := distance(name, have)
			if c < bestCost || (c == bestCost && c <= limit && have < best) {
				best, bestCost = have, c
			}
		}
		if len(name) > 2 && strings.HasPrefix(have, name) &&
			(longer == "" || len(have) < len(longer) || (len(have) == len(longer) && have < longer)) {
			longer = have
		}
	}
	if best == "" {
		return longer
	}
	return best
}

// distance is the edit distance of Levenshtein, in bytes: package names are ASCII.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
