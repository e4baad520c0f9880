package deb

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"slipway.dev/slipway/configs/arch"
)

// packages makes a Packages text from lines "name version [Field: value; ...]".
func packages(t *testing.T, lines string) []Package {
	t.Helper()
	var text strings.Builder
	for line := range strings.Lines(strings.TrimSpace(lines)) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 3)
		extra := ""
		if len(f) == 3 {
			extra = "\n" + strings.ReplaceAll(f[2], "; ", "\n")
		}
		a := "amd64"
		if strings.Contains(extra, "\nArchitecture: ") {
			a = ""
		} else {
			extra = "\nArchitecture: " + a + extra
		}
		fmt.Fprintf(&text, "Package: %s\nVersion: %s%s\nFilename: pool/%s_%s.deb\nSize: 10\nSHA256: %s\n\n",
			f[0], f[1], extra, f[0], strings.ReplaceAll(f[1], ":", "%3a"), strings.Repeat("ab", 32))
	}
	pkgs, err := ParsePackages(text.String())
	if err != nil {
		t.Fatal(err)
	}
	return pkgs
}

func index(t *testing.T, repos ...string) *Index {
	t.Helper()
	x := NewIndex(arch.AMD64)
	for i, r := range repos {
		if err := x.Add(fmt.Sprintf("http://mirror.example/%d", i), packages(t, r)); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

const world = `
base 1
essential 1 Essential: yes
app 1.0 Depends: lib (>= 2), tool | other
lib 2.1 Pre-Depends: base; Recommends: recommended
lib 1.9
recommended 1
tool 1
other 1
late 1 Depends: tool | other, zother
zother 1 Depends: other
mawk 1 Provides: awk; Priority: required
gawk 2 Provides: awk; Priority: optional
script 1 Depends: awk
old 3 Provides: api (= 3)
newapi 1 Depends: api (>= 2)
anyapi 1 Depends: api (>= 4)
unversioned 1 Provides: thing
needsthing 1 Depends: thing (>= 1)
self 1 Provides: mta; Conflicts: mta
mta2 1 Provides: mta
py 3
pyuser 1 Depends: py:any (>= 3), base:native
foreign 1 Depends: base:armhf
loop1 1 Depends: loop2
loop2 1 Depends: loop1
perl-base 1
perl 1
useperl 1 Depends: perl:any, base
perlalt 1 Depends: perl | tool
onearch 1 Architecture: arm64
doc 1 Architecture: all
libssl3t64 3
breaker 1 Breaks: lib (<< 2)
`

func TestResolve(t *testing.T) {
	for _, c := range []struct {
		name    string
		want    string // names asked for
		exclude map[string]string
		got     string // "name=version ..." or problems, one a line
	}{
		{"closure, newest version, no recommends, no essential", "app", nil, "app=1.0 base=1 lib=2.1 tool=1"},
		{"alternative already asked for", "app other", nil, "app=1.0 base=1 lib=2.1 other=1"},
		{"alternative that comes anyway", "late", nil, "late=1 other=1 zother=1"},
		{"alternative after an excluded one", "app", map[string]string{"tool": "no"}, "app=1.0 base=1 lib=2.1 other=1"},
		{"provider by priority", "script", nil, "mawk=1 script=1"},
		{"provider asked for", "script gawk", nil, "gawk=2 script=1"},
		{"provider not excluded", "script", map[string]string{"mawk": "no"}, "gawk=2 script=1"},
		{"versioned provides", "newapi", nil, "newapi=1 old=3"},
		{"arch qualifiers", "pyuser", nil, "base=1 py=3 pyuser=1"},
		{"a loop ends", "loop1", nil, "loop1=1 loop2=1"},
		{"conflict with what itself provides", "self", nil, "self=1"},
		{"pattern", "useperl", map[string]string{"perl*": "scripts only"}, "base=1 useperl=1"},
		{"pattern leaves alternative", "perlalt", map[string]string{"perl": "no"}, "perlalt=1 tool=1"},
		{"pin", "lib=1.9", nil, "lib=1.9"},
		{"architecture all", "doc", nil, "doc=1"},
		{"twice the same", "lib lib=2.1", nil, "base=1 lib=2.1"},

		{"pin against a dependency", "lib=1.9 app", nil,
			`package "app" needs lib (>= 2), but 1.9 is chosen (by lib) (asked for by app)`},
		{"pin of no version", "lib=7", nil, `package "lib" has no version 7 (there is 2.1, 1.9)`},
		{"unknown, near", "mwak", nil, `package "mwak" is not in the index; did you mean "mawk"?`},
		{"unknown, renamed", "libssl3", nil, `package "libssl3" is not in the index; did you mean "libssl3t64"?`},
		{"unknown, nothing near", "zzzzzzzz", nil, `package "zzzzzzzz" is not in the index`},
		{"virtual", "awk", nil, `package "awk" is not in the index; it is a virtual package, name one of: mawk, gawk`},
		{"other architecture", "onearch", nil, `package "onearch" is not in the index`},
		{"provided version too old", "anyapi", nil,
			`package "anyapi" needs api (>= 4), which is not in the index; it is a virtual package, name one of: old (asked for by anyapi)`},
		{"unversioned provides", "needsthing", nil,
			`package "needsthing" needs thing (>= 1), which is not in the index; it is a virtual package, name one of: unversioned (asked for by needsthing)`},
		{"foreign", "foreign", nil, `package "foreign" needs base:armhf, there is 1 (asked for by foreign)`},
		{"asked for and excluded", "perl", map[string]string{"perl*": "scripts only"},
			`package "perl" is asked for and excluded by "perl*" (scripts only)`},
		{"conflict", "self mta2", nil, `package "self" (asked for by self) conflicts with mta: "mta2" 1 is chosen (asked for by mta2)`},
		{"breaks", "breaker lib=1.9", nil, `package "breaker" (asked for by breaker) breaks lib (<< 2): "lib" 1.9 is chosen (asked for by lib)`},
		{"bad pattern", "base", map[string]string{"[": ""}, `exclude "[": syntax error in pattern`},
		{"all at once", "mwak foreign libssl3", nil,
			`package "foreign" needs base:armhf, there is 1 (asked for by foreign)
package "libssl3" is not in the index; did you mean "libssl3t64"?
package "mwak" is not in the index; did you mean "mawk"?`},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, err := index(t, world).Resolve(Request{Names: strings.Fields(c.want), Exclude: c.exclude})
			if got := render(res, err); got != c.got {
				t.Errorf("got\n%s\nwant\n%s", got, c.got)
			}
			var back []string // the order of names must not matter
			for _, n := range strings.Fields(c.want) {
				back = append([]string{n}, back...)
			}
			res, err = index(t, world).Resolve(Request{Names: back, Exclude: c.exclude})
			if got := render(res, err); got != c.got {
				t.Errorf("reversed: got\n%s\nwant\n%s", got, c.got)
			}
		})
	}
}

func render(res *Result, err error) string {
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, p := range res.Packages {
		out = append(out, p.Name+"="+p.Version)
	}
	return strings.Join(out, " ")
}

func TestResolveTellsWhy(t *testing.T) {
	res, err := index(t, world).Resolve(Request{Names: []string{"app", "useperl"},
		Exclude: map[string]string{"perl*": "scripts only", "nothing": "unused"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := res.Chain["base"], "useperl -> base"; got != want {
		t.Errorf("chain: got %q, want %q", got, want)
	}
	want := []Dropped{{By: "useperl", Needs: "perl:any", Exclude: "perl*", Reason: "scripts only"}}
	if !reflect.DeepEqual(res.Dropped, want) {
		t.Errorf("dropped: got %+v, want %+v", res.Dropped, want)
	}
	if !reflect.DeepEqual(res.Unused, []string{"nothing"}) {
		t.Errorf("unused: got %q", res.Unused)
	}
}

func TestIndexMergesRepositories(t *testing.T) {
	x := index(t, "a 1\nb 1", "a 2", "a 2\nb 1\nc 1:0")
	if got := x.Versions("a"); !reflect.DeepEqual(got, []string{"2", "1"}) {
		t.Errorf("versions: got %q", got)
	}
	res, err := x.Resolve(Request{Names: []string{"a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"http://mirror.example/1", "http://mirror.example/0"} {
		if res.Packages[i].Base != want {
			t.Errorf("%s: base %q, want %q", res.Packages[i].Name, res.Packages[i].Base, want)
		}
	}
	if x.Len() != 4 {
		t.Errorf("got %d packages, want 4", x.Len())
	}
}

func TestParsePackagesRefuses(t *testing.T) {
	good := "Package: a\nVersion: 1\nArchitecture: all\nFilename: pool/a.deb\nSize: 1\nSHA256: " + strings.Repeat("0", 64) + "\n"
	if _, err := ParsePackages(good + "\n\n" + good); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{"Package: a", "Package: ../a", `stanza 1: package name "../a" holds '.'`},
		{"pool/a.deb", "pool/../../a.deb", `stanza 1: package "a": Filename "pool/../../a.deb" is not a relative path`},
		{"pool/a.deb", "/a.deb", `stanza 1: package "a": Filename "/a.deb" is not a relative path`},
		{"Size: 1", "Size: x", `stanza 1: package "a": Size "x" is not a number`},
		{"Size: 1", "Size: -1", `stanza 1: package "a": Size -1`},
		{"SHA256: 0", "SHA256: x", `stanza 1: package "a": SHA256: digest "x` + strings.Repeat("0", 63) + `": want 64 lower-case hex characters`},
		{"Version: 1\n", "", `stanza 1: package "a" version "" architecture "all": one of the three is missing`},
		{"Size: 1", "nonsense", `stanza 1: package "a": line "nonsense" is not a field`},
	} {
		_, err := ParsePackages(strings.Replace(good, c.old, c.new, 1))
		if err == nil || err.Error() != c.want {
			t.Errorf("%q: got %v, want %s", c.new, err, c.want)
		}
	}
}
