package configs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong (or, as a warning, one thing that will not have
// the effect its writer expects) in one place of a file.
type Problem struct {
	File    string // as given to the parser
	Line    int    // from 1; 0 when the file as a whole is meant
	Col     int    // from 1, in characters
	Path    string // "spec.debian.packages.base[2]"; empty for the document
	Message string
	Hint    string // what to do about it; may be empty
}

// Error renders "file:line:col: path: message" and, on a second line, the hint.
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Col)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	if p.Hint != "" {
		b.WriteString("\n  hint: " + p.Hint)
	}
	return b.String()
}

// Problems is everything wrong with one file, in the order of its lines. It is
// the concrete type behind the error of every Parse function here.
type Problems []Problem

// Error renders one problem after the other, each on its own line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// sorted orders problems as a reader meets them in the file.
func sorted(ps []Problem) []Problem {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return ps
}

// at is a place in a document, whether something is written there or not.
type at struct {
	d     *document
	path  string
	named bool // the key is meant, not its value
}

func (d *document) root() at { return at{d: d} }

// onKey is the key itself.
func (a at) onKey() at { return at{a.d, a.path, true} }

// key is the place of a key of the mapping at a.
func (a at) key(name string) at {
	odd := func(r rune) bool {
		return !(r == '_' || r == '-' || '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z')
	}
	if name == "" || strings.ContainsFunc(name, odd) {
		return at{d: a.d, path: fmt.Sprintf("%s[%q]", a.path, name)}
	}
	if a.path == "" {
		return at{d: a.d, path: name}
	}
	return at{d: a.d, path: a.path + "." + name}
}

// item is the place of an item, counted from 0, of the list at a.
func (a at) item(i int) at { return at{d: a.d, path: fmt.Sprintf("%s[%d]", a.path, i)} }

// set reports whether the place is written in the file.
func (a at) set() bool { _, ok := a.d.spots[a.path]; return ok }

// text is a scalar as the file has it, before YAML gave it a type.
func (a at) text() string { return a.d.spots[a.path].text }

// isNumber reports whether the file has a number there, not text that looks like one.
func (a at) isNumber() bool {
	s := a.d.spots[a.path]
	return s.plain && matches(`[0-9].*`, s.text)
}

// errorf adds a problem, unless one with the value's type says it already. The
// caller may set its hint.
func (a at) errorf(format string, args ...any) *Problem {
	p := a.problem(fmt.Sprintf(format, args...))
	if !slices.ContainsFunc(a.d.misfits, a.around) {
		a.d.problems = append(a.d.problems, p)
	}
	return p
}

// around reports whether another place is this one, above it or below it.
func (a at) around(other string) bool {
	below := func(path, above string) bool {
		rest, ok := strings.CutPrefix(path, above)
		return ok && (rest == "" || above == "" || rest[0] == '.' || rest[0] == '[')
	}
	return below(a.path, other) || below(other, a.path)
}

// warnf adds a warning.
func (a at) warnf(format string, args ...any) *Problem {
	p := a.problem(fmt.Sprintf(format, args...))
	a.d.warnings = append(a.d.warnings, p)
	return p
}

// missing says that a needed key is not there.
func (a at) missing() *Problem { return a.errorf("missing") }

// ambiguous says that two YAML parsers disagree: a node and a tool would, too.
func (a at) ambiguous() {
	a.errorf("YAML parsers read this in different ways").Hint = "write it more plainly: quote strings, use block style"
}

// problem stands at the place or, when that is not in the file, at the nearest
// place around it.
func (a at) problem(message string) *Problem {
	path := a.path
	s, ok := a.d.spots[path]
	for !ok && path != "" {
		i := strings.LastIndexAny(path, ".[")
		path = path[:max(i, 0)]
		s, ok = a.d.spots[path]
	}
	pos := s.position
	switch {
	case !ok:
		pos = position{1, 1}
	case path != a.path && s.key != position{} || a.named:
		pos = s.key
	}
	return &Problem{File: a.d.name, Line: pos.line, Col: pos.col, Path: a.path, Message: message}
}

// must checks a string that has to be there; check may be nil.
func (a at) must(s string, check func(string) error) {
	if s == "" {
		a.missing()
		return
	}
	if check != nil {
		a.may(s, check)
	}
}

// may checks a string unless it is empty.
func (a at) may(s string, check func(string) error) {
	if s == "" {
		return
	}
	if err := check(s); err != nil {
		a.errorf("%s", err)
	}
}

// oneOf checks that a string, unless empty, is one of a few.
func (a at) oneOf(s string, words ...string) {
	if s == "" || slices.Contains(words, s) {
		return
	}
	msg := fmt.Sprintf("want %s, got %q", strings.Join(words, " or "), s)
	if w := suggest(s, words); w != "" {
		msg += fmt.Sprintf(": did you mean %q?", w)
	}
	a.errorf("%s", msg)
}
