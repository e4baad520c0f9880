package audit

import (
	"io/fs"
	"path"
	"strings"
)

// privilege is a reviewed setuid or setgid file.
type privilege struct {
	bits     fs.FileMode
	uid, gid int
	reason   string
}

// privileged are the files that may run with another's rights.
var privileged = map[string]privilege{}

// Accepted is a finding that was looked at and stays.
type Accepted struct {
	Path    string // path.Match pattern; "usr/share/x/..." covers all below it
	Problem string // a part of the problem's text
	Reason  string
}

// Covers says whether an acceptance is about a finding.
func (a Accepted) Covers(f Finding) bool {
	if !strings.Contains(f.Problem, a.Problem) {
		return false
	}
	if dir, ok := strings.CutSuffix(a.Path, "..."); ok {
		return strings.HasPrefix(f.Path, dir)
	}
	ok, err := path.Match(a.Path, f.Path)
	return ok && err == nil
}

// Reviewed is every accepted finding of roots made of Debian 13.
func Reviewed() []Accepted { return []Accepted{} }

// Unexpected leaves the findings that no acceptance covers, and the
// acceptances that cover nothing: these are old and go.
func Unexpected(found []Finding, accepted []Accepted) (rest []Finding, unused []Accepted) {
	used := make([]bool, len(accepted))
	for _, f := range found {
		known := false
		for i, a := range accepted {
			if a.Covers(f) {
				known, used[i] = true, true
			}
		}
		if !known {
			rest = append(rest, f)
		}
	}
	for i, a := range accepted {
		if !used[i] {
			unused = append(unused, a)
		}
	}
	return rest, unused
}
