// Package kmod reads what a kernel's modules say of themselves (.modinfo) and
// makes what depmod would make: the text indexes, and closures of modules.
//
// It runs no program, loads no module, and writes no binary index: slipway-init
// is the node's modprobe and reads the text.
package kmod

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"maps"
	"path"
	"runtime"
	"slices"
	"sort"
	"strings"

	"github.com/therootcompany/xz"
	"golang.org/x/sync/errgroup"

	"slipway.dev/slipway/images/rootfs"
)

// Module is one .ko or .ko.xz file.
type Module struct {
	Path    string   `json:"path"` // below usr/lib/modules/<release>/: "kernel/fs/erofs/erofs.ko.xz"
	Name    string   `json:"name"` // with underscores, as /proc/modules spells it
	Depends []string `json:"depends,omitempty"`
	Aliases []string `json:"aliases,omitempty"`
	SoftPre []string `json:"softPre,omitempty"` // softdep: load before
	// Firmware are the files that the driver may ask for, below usr/lib/firmware.
	Firmware []string `json:"firmware,omitempty"`
}

// Format is the version of Module's shape, for those who keep it.
const Format = 3

// Dir is where the modules of a kernel release are in a root.
func Dir(release string) string { return "usr/lib/modules/" + release }

// Releases lists the kernel releases that have modules in the tree.
func Releases(t *rootfs.Tree) []string {
	var out []string
	_ = t.Walk(func(e rootfs.Entry) error {
		if path.Dir(e.Path) == "usr/lib/modules" && e.Mode.IsDir() {
			out = append(out, path.Base(e.Path))
		}
		return nil
	})
	return out
}

// Read parses every module of a release, sorted by path.
func Read(t *rootfs.Tree, release string) ([]Module, error) {
	var entries []rootfs.Entry
	prefix := Dir(release) + "/"
	_ = t.Walk(func(e rootfs.Entry) error {
		if strings.HasPrefix(e.Path, prefix) && e.Mode.IsRegular() && isModule(e.Path) {
			entries = append(entries, e)
		}
		return nil
	})
	mods := make([]Module, len(entries))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, e := range entries {
		g.Go(func() error {
			info, err := modinfo(e)
			if err != nil {
				return fmt.Errorf("module %s: %w", e.Path, err)
			}
			mods[i] = parse(strings.TrimPrefix(e.Path, prefix), info)
			return nil
		})
	}
	return mods, g.Wait()
}

func isModule(p string) bool { return strings.HasSuffix(p, ".ko") || strings.HasSuffix(p, ".ko.xz") }

// modinfo returns the .modinfo section: NUL-separated key=value strings.
func modinfo(e rootfs.Entry) ([]byte, error) {
	f, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(e.Path, ".xz") {
		if r, err = xz.NewReader(f, xz.DefaultDictMax); err != nil {
			return nil, err
		}
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	file, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	s := file.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("no .modinfo section")
	}
	return s.Data()
}

func parse(p string, info []byte) Module {
	m := Module{Path: p, Name: Name(p)}
	for _, kv := range strings.Split(string(info), "\x00") {
		k, v, ok := strings.Cut(kv, "=")
		switch {
		case !ok:
		case k == "depends" && v != "":
			for _, d := range strings.Split(v, ",") {
				m.Depends = append(m.Depends, normal(d))
			}
		case k == "alias":
			m.Aliases = append(m.Aliases, v)
		case k == "firmware":
			m.Firmware = append(m.Firmware, v)
		case k == "softdep":
			m.SoftPre = append(m.SoftPre, softPre(v)...)
		}
	}
	return m
}

// softPre picks the names after "pre:" and before "post:" (modprobe.d(5)).
func softPre(v string) (out []string) {
	in := false
	for _, f := range strings.Fields(v) {
		switch f {
		case "pre:":
			in = true
		case "post:":
			in = false
		default:
			if in {
				out = append(out, normal(f))
			}
		}
	}
	return out
}

// Name is a module's name from its path: "kernel/x/snd-hda.ko.xz" is "snd_hda".
func Name(p string) string {
	base := path.Base(p)
	base = strings.TrimSuffix(strings.TrimSuffix(base, ".xz"), ".ko")
	return normal(base)
}

func normal(n string) string { return strings.ReplaceAll(n, "-", "_") }

// Prune drops the modules that need one of those named in gone, and those that
// need them: what is left out of a root takes its users along.
func Prune(mods []Module, gone map[string]bool) (kept, dropped []Module) {
	gone = maps.Clone(gone)
	for kept = mods; ; {
		var next []Module
		for _, m := range kept {
			if gone[m.Name] || slices.ContainsFunc(m.Depends, func(d string) bool { return gone[d] }) {
				gone[m.Name] = true
				dropped = append(dropped, m)
			} else {
				next = append(next, m)
			}
		}
		if len(next) == len(kept) {
			return kept, dropped
		}
		kept = next
	}
}

// Closure returns the modules for which want is true with everything they
// depend on (soft dependencies too, when they exist), sorted by path. A hard
// dependency that is neither a module nor built in is an error.
func Closure(mods []Module, builtin map[string]bool, want func(Module) bool) ([]Module, error) {
	byName := map[string]Module{}
	byAlias := map[string][]Module{} // a soft dependency may be an alias: libcrc32c's is "crc32c"
	for _, m := range mods {
		byName[m.Name] = m
		for _, a := range m.Aliases {
			byAlias[normal(a)] = append(byAlias[normal(a)], m)
		}
	}
	in := map[string]Module{}
	var add func(m Module) error
	add = func(m Module) error {
		if _, ok := in[m.Name]; ok {
			return nil
		}
		in[m.Name] = m
		for _, d := range m.Depends {
			dep, ok := byName[d]
			if !ok {
				if builtin[d] {
					continue
				}
				return fmt.Errorf("module %s depends on %q, which this kernel does not have", m.Path, d)
			}
			if err := add(dep); err != nil {
				return err
			}
		}
		for _, d := range m.SoftPre {
			soft := byAlias[d]
			if dep, ok := byName[d]; ok {
				soft = append(soft, dep)
			}
			for _, dep := range soft {
				if err := add(dep); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for _, m := range mods {
		if want(m) {
			if err := add(m); err != nil {
				return nil, err
			}
		}
	}
	out := make([]Module, 0, len(in))
	for _, m := range in {
		out = append(out, m)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out, nil
}

// Builtin parses modules.builtin: one path per line.
func Builtin(text []byte) map[string]bool {
	out := map[string]bool{}
	for _, l := range strings.Fields(string(text)) {
		out[Name(l)] = true
	}
	return out
}

// Index renders modules.dep, modules.alias and modules.softdep. A line of
// modules.dep lists all dependencies; the last one is loaded first, as depmod
// writes it (modules.dep(5)).
func Index(mods []Module) (dep, alias, softdep []byte) {
	byName := map[string]Module{}
	for _, m := range mods {
		byName[m.Name] = m
	}
	var d, a, s bytes.Buffer
	for _, m := range mods {
		fmt.Fprintf(&d, "%s:", m.Path)
		for _, p := range order(m, byName) {
			fmt.Fprintf(&d, " %s", p)
		}
		d.WriteByte('\n')
		for _, al := range m.Aliases {
			fmt.Fprintf(&a, "alias %s %s\n", al, m.Name)
		}
		if len(m.SoftPre) > 0 {
			fmt.Fprintf(&s, "softdep %s pre: %s\n", m.Name, strings.Join(m.SoftPre, " "))
		}
	}
	return d.Bytes(), a.Bytes(), s.Bytes()
}

// order lists the paths of all dependencies so that each stands before what it needs itself.
func order(m Module, byName map[string]Module) []string {
	var post []string
	seen := map[string]bool{m.Name: true}
	var visit func(n string)
	visit = func(n string) {
		dep, ok := byName[n]
		if !ok || seen[n] {
			return
		}
		seen[n] = true
		for _, d := range dep.Depends {
			visit(d)
		}
		post = append(post, dep.Path)
	}
	for _, d := range m.Depends {
		visit(d)
	}
	for i, j := 0, len(post)-1; i < j; i, j = i+1, j-1 {
		post[i], post[j] = post[j], post[i]
	}
	return post
}
