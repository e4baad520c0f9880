package audit

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/rootfs"
)

// object is what the loader reads of a program or library (elf(5), ld.so(8)).
type object struct {
	entry    rootfs.Entry
	machine  elf.Machine
	interp   string
	needed   []string
	search   []string        // RUNPATH, or RPATH without one; $ORIGIN as written
	provides map[string]bool // symbol versions it defines
	versions []need
}

// need is the symbol versions an object wants of one library.
type need struct {
	library  string
	versions []string
}

// machines are the values of e_machine; a file of another is for another processor.
var machines = map[arch.Arch]elf.Machine{arch.AMD64: elf.EM_X86_64, arch.ARM64: elf.EM_AARCH64}

// elf keeps a program or library until the whole tree is known.
func (c *checker) elf(e rootfs.Entry) error {
	f, err := e.Open()
	if err != nil {
		return fmt.Errorf("auditing /%s: %w", e.Path, err)
	}
	defer f.Close()
	at, ok := f.(io.ReaderAt)
	if !ok {
		raw, err := io.ReadAll(f)
		if err != nil {
			return fmt.Errorf("auditing /%s: %w", e.Path, err)
		}
		at = bytes.NewReader(raw)
	}
	o, err := readObject(at)
	if err != nil {
		c.add(e, "is no valid ELF file: %v", err)
		return nil
	}
	if o != nil {
		o.entry = e
		c.objects = append(c.objects, o)
		c.byPath[e.Path] = o
	}
	return nil
}

// readObject returns nil for what no loader loads: relocatable files.
func readObject(r io.ReaderAt) (*object, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return nil, nil
	}
	o := &object{machine: f.Machine, provides: map[string]bool{}}
	dynamic := false
	for _, p := range f.Progs {
		switch p.Type {
		case elf.PT_INTERP:
			raw, err := io.ReadAll(io.LimitReader(p.Open(), 4096)) // PATH_MAX
			if err != nil {
				return nil, err
			}
			o.interp = string(bytes.TrimRight(raw, "\x00"))
		case elf.PT_DYNAMIC:
			dynamic = true
		}
	}
	if !dynamic || f.SectionByType(elf.SHT_DYNAMIC) == nil {
		return o, nil
	}
	return o, o.dynamic(f)
}

func (o *object) dynamic(f *elf.File) error {
	var err error
	if o.needed, err = f.ImportedLibraries(); err != nil {
		return err
	}
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		dirs, err := f.DynString(tag)
		if err != nil {
			return err
		}
		if len(dirs) > 0 { // RPATH is ignored when there is a RUNPATH
			o.search = strings.Split(dirs[0], ":")
		}
	}
	// Objects without versioned symbols have neither table.
	defined, _ := f.DynamicVersions()
	for _, v := range defined {
		o.provides[v.Name] = true
	}
	wanted, _ := f.DynamicVersionNeeds()
	for _, w := range wanted {
		n := need{library: w.Name}
		for _, v := range w.Needs {
			if v.Flags&elf.VER_FLG_WEAK == 0 {
				n.versions = append(n.versions, v.Dep)
			}
		}
		o.versions = append(o.versions, n)
	}
	return nil
}

// programs checks every object against the whole tree.
func (c *checker) programs() error {
	if err := c.loaderConfig("etc/ld.so.conf", 0); err != nil {
		return err
	}
	for _, o := range c.objects {
		if want := machines[c.want.Arch]; o.machine != want {
			c.add(o.entry, "is for another processor: %s, want %s", o.machine, want)
			continue
		}
		if o.interp != "" && !c.runs(o.interp) {
			c.add(o.entry, "its loader %q is not there", o.interp)
		}
		for _, n := range o.needed {
			c.needs(o, n)
		}
	}
	return nil
}

func (c *checker) needs(o *object, name string) {
	lib := c.library(o, name, append(slices.Clone(o.search), c.defaults()...))
	if lib == nil {
		if hidden := c.library(o, name, c.configured); hidden != nil {
			c.add(o.entry, "needs %s, which is only at /%s, where the loader looks with an ld.so.cache alone", name, hidden.entry.Path)
		} else {
			c.add(o.entry, "needs %s, which is not there", name)
		}
		return
	}
	for _, n := range o.versions {
		if n.library != name || len(lib.provides) == 0 {
			continue
		}
		for _, v := range n.versions {
			if !lib.provides[v] {
				c.add(o.entry, "needs version %s of %s, which /%s does not define", v, name, lib.entry.Path)
			}
		}
	}
}

// defaults are the directories that Debian's loader has compiled in.
func (c *checker) defaults() []string {
	m := c.want.Arch.Multiarch()
	return []string{"/lib/" + m, "/usr/lib/" + m, "/lib", "/usr/lib"}
}

// library finds a needed library as the loader does; one for another processor
// is passed over.
func (c *checker) library(o *object, name string, dirs []string) *object {
	if strings.Contains(name, "/") {
		dirs = []string{""}
	}
	origin := "/" + path.Dir(o.entry.Path)
	for _, d := range dirs {
		d = strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin, "$LIB", "lib/"+c.want.Arch.Multiarch(), "${LIB}", "lib/"+c.want.Arch.Multiarch()).Replace(d)
		e, ok := c.follow(path.Join(d, name))
		if !ok {
			continue
		}
		if lib := c.byPath[e.Path]; lib != nil && lib.machine == o.machine {
			return lib
		}
	}
	return nil
}

// loaderConfig reads the directories of ld.so.conf and of what it includes.
func (c *checker) loaderConfig(name string, depth int) error {
	if depth > 4 {
		return nil
	}
	var includes []string
	err := c.lines(name, func(line string) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		switch {
		case len(f) == 2 && f[0] == "include":
			includes = append(includes, rootfs.Clean(f[1]))
		case len(f) == 1:
			c.configured = append(c.configured, f[0])
		}
	})
	if err != nil || len(includes) == 0 {
		return err
	}
	var names []string
	_ = c.tree.Walk(func(e rootfs.Entry) error {
		for _, pattern := range includes {
			if ok, err := path.Match(pattern, e.Path); ok && err == nil {
				names = append(names, e.Path)
			}
		}
		return nil
	})
	for _, n := range names {
		if err := c.loaderConfig(n, depth+1); err != nil {
			return err
		}
	}
	return nil
}
