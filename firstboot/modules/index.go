package modules

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// Index is what the text indexes of one kernel release say.
type Index struct {
	deps    map[string][]string // name → its path, then the paths of what it needs, last first
	soft    map[string][]string // name → names to load before
	aliases map[string][]alias  // by the part up to the first ":"
	builtin map[string]bool
	deny    map[string]bool
}

type alias struct{ pattern, module string }

// Read reads modules.dep, and where they exist modules.alias, modules.softdep
// and modules.builtin, from root/usr/lib/modules/<release>, and the blacklist
// lines of modprobe.d (modprobe.d(5)).
func Read(root fs.FS, release string) (*Index, error) {
	x := &Index{deps: map[string][]string{}, soft: map[string][]string{}, aliases: map[string][]alias{}, builtin: map[string]bool{}, deny: map[string]bool{}}
	dir := path.Join("usr/lib/modules", release)
	raw, err := fs.ReadFile(root, dir+"/modules.dep")
	if err != nil {
		return nil, fmt.Errorf("modules of kernel %s: %w", release, err)
	}
	eachLine(raw, x.dep)
	for name, line := range map[string]func(string){"modules.alias": x.alias, "modules.softdep": x.softdep, "modules.builtin": x.built} {
		if raw, err := fs.ReadFile(root, dir+"/"+name); err == nil {
			eachLine(raw, line)
		}
	}
	for _, d := range []string{"usr/lib/modprobe.d", "etc/modprobe.d"} {
		files, _ := fs.Glob(root, d+"/*.conf")
		for _, f := range files {
			if raw, err := fs.ReadFile(root, f); err == nil {
				eachLine(raw, x.blacklist)
			}
		}
	}
	return x, nil
}

// eachLine cuts lines out of one string: the names kept share its memory.
func eachLine(raw []byte, f func(string)) {
	for l := range strings.Lines(string(raw)) {
		if l = strings.TrimSpace(l); l != "" && l[0] != '#' {
			f(l)
		}
	}
}

func (x *Index) dep(l string) {
	file, rest, _ := strings.Cut(l, ":")
	x.deps[Name(file)] = append([]string{file}, strings.Fields(rest)...)
}

func (x *Index) alias(l string) {
	l, ok := strings.CutPrefix(l, "alias ")
	i := strings.LastIndexByte(l, ' ')
	if !ok || i < 0 {
		return
	}
	p := normal(strings.TrimSpace(l[:i]))
	bus, _, _ := strings.Cut(p, ":")
	if strings.ContainsAny(bus, "*?[") {
		bus = ""
	}
	x.aliases[bus] = append(x.aliases[bus], alias{p, Name(l[i+1:])})
}

func (x *Index) softdep(l string) {
	f := strings.Fields(l)
	if len(f) < 3 || f[0] != "softdep" {
		return
	}
	pre := false
	for _, w := range f[2:] {
		switch {
		case w == "pre:":
			pre = true
		case w == "post:":
			pre = false
		case pre:
			x.soft[Name(f[1])] = append(x.soft[Name(f[1])], Name(w))
		}
	}
}

func (x *Index) built(l string) { x.builtin[Name(l)] = true }

func (x *Index) blacklist(l string) {
	if f := strings.Fields(l); len(f) == 2 && f[0] == "blacklist" {
		x.deny[Name(f[1])] = true
	}
}

// Known reports whether the kernel has the module, as a file or built in.
func (x *Index) Known(name string) bool {
	_, ok := x.deps[Name(name)]
	return ok || x.builtin[Name(name)]
}

// Match returns the modules whose alias fits, sorted as the index lists them
// and without those that modprobe.d denies to devices.
func (x *Index) Match(modalias string) []string {
	m := normal(modalias)
	bus, _, _ := strings.Cut(m, ":")
	var out []string
	seen := map[string]bool{}
	for _, key := range []string{bus, ""} {
		for _, a := range x.aliases[key] {
			if !seen[a.module] && !x.deny[a.module] && glob(a.pattern, m) {
				seen[a.module] = true
				out = append(out, a.module)
			}
		}
		if bus == "" {
			break
		}
	}
	return out
}

// File is one module file to load, below the release's directory.
type File struct {
	Path string
	// Soft: only a soft dependency wants it, and goes without when the
	// hardware refuses it.
	Soft bool
}

// Order lists the files to load for a module, in order. A built-in module has none.
func (x *Index) Order(name string) ([]File, error) {
	o := ordering{x: x, at: map[string]int{}}
	err := o.visit(Name(name), false)
	return o.files, err
}

type ordering struct {
	x     *Index
	at    map[string]int // name → index in files, -1 while it is being visited
	files []File
}

func (o *ordering) visit(n string, soft bool) error {
	files, ok := o.x.deps[n]
	if i, seen := o.at[n]; seen {
		if i >= 0 && !soft {
			o.files[i].Soft = false
		}
		return nil
	}
	if o.x.builtin[n] || (!ok && soft) {
		return nil
	}
	if !ok {
		return fmt.Errorf("module %q: this kernel has none of that name", n)
	}
	o.at[n] = -1
	for _, s := range o.x.soft[n] {
		// A soft dependency may be an alias: libcrc32c's is "crc32c",
		// which is crc32c_generic or a processor's own.
		for _, m := range append([]string{s}, o.x.Match(s)...) {
			if err := o.visit(m, true); err != nil {
				return err
			}
		}
	}
	for i := len(files) - 1; i > 0; i-- {
		if err := o.visit(Name(files[i]), soft); err != nil {
			return fmt.Errorf("module %q: needs %w", n, err)
		}
	}
	o.at[n] = len(o.files)
	o.files = append(o.files, File{Path: files[0], Soft: soft})
	return nil
}

// Name is a module's name from its path or any spelling: "a/snd-hda.ko.xz" is "snd_hda".
func Name(p string) string {
	n := path.Base(p)
	for _, s := range []string{".xz", ".zst", ".gz", ".ko"} {
		n = strings.TrimSuffix(n, s)
	}
	return strings.ReplaceAll(n, "-", "_")
}

// normal makes "-" and "_" equal outside of brackets, where "-" is a range.
func normal(s string) string {
	if strings.IndexByte(s, '-') < 0 {
		return s
	}
	b := []byte(s)
	in := false
	for i, c := range b {
		switch {
		case c == '[':
			in = true
		case c == ']':
			in = false
		case c == '-' && !in:
			b[i] = '_'
		}
	}
	return string(b)
}

// glob matches as fnmatch(3) without flags: * ? and [a-z], where * matches "/" too.
func glob(p, s string) bool {
	star, mark := -1, 0
	i, j := 0, 0
	for j < len(s) {
		if i < len(p) && p[i] == '*' {
			star, mark = i, j
			i++
			continue
		}
		if n := one(p[i:], s[j]); n > 0 {
			i, j = i+n, j+1
			continue
		}
		if star < 0 {
			return false
		}
		mark++
		i, j = star+1, mark
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// one returns how much of the pattern p matches the character c, 0 for no match.
func one(p string, c byte) int {
	if p == "" {
		return 0
	}
	if p[0] != '[' {
		if p[0] == '?' || p[0] == c {
			return 1
		}
		return 0
	}
	end := strings.IndexByte(p[1:], ']')
	if end < 0 {
		return 0
	}
	set := p[1 : 1+end]
	not := strings.HasPrefix(set, "!")
	set = strings.TrimPrefix(set, "!")
	hit := false
	for i := 0; i < len(set); i++ {
		if i+2 < len(set) && set[i+1] == '-' {
			hit = hit || set[i] <= c && c <= set[i+2]
			i += 2
		} else {
			hit = hit || set[i] == c
		}
	}
	if hit == not {
		return 0
	}
	return end + 2
}
