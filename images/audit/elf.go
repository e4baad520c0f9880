package audit

import (
	"bytes"
	"debug/elf"
	"io"
	"path"
	"slices"
	"strings"

	"slipway.dev/slipway/images/rootfs"
)

// kind is what the loader compares before it takes a library.
type kind struct {
	class   elf.Class
	machine elf.Machine
}

// multiarch are Debian's library directories below /usr/lib (dpkg's cputable
// and ostable); the loader has them built in.
var multiarch = map[elf.Machine]string{
	elf.EM_X86_64:  "x86_64-linux-gnu",
	elf.EM_AARCH64: "aarch64-linux-gnu",
	elf.EM_RISCV:   "riscv64-linux-gnu",
	elf.EM_PPC64:   "powerpc64le-linux-gnu",
	elf.EM_S390:    "s390x-linux-gnu",
	elf.EM_386:     "i386-linux-gnu",
	elf.EM_ARM:     "arm-linux-gnueabihf",
}

func isELF(head []byte) bool { return bytes.HasPrefix(head, []byte(elf.ELFMAG)) }

// object checks a program, a library or a kernel module.
func (c *checker) object(e rootfs.Entry, head []byte, rest io.Reader) {
	f, err := open(head, rest)
	if err != nil {
		c.add(e, "is no complete ELF file: %v", err)
		return
	}
	if f.Machine != c.machine {
		c.add(e, "is for %s, want %s", f.Machine, c.machine)
		return
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return
	}
	if interp := interpreter(f); interp != "" {
		if to, err := c.follow(interp); err != nil {
			c.add(e, "needs the loader %s, which is not in the root", interp)
		} else if to.Mode&0o111 == 0 {
			c.add(e, "needs the loader %s, which is not executable", interp)
		}
	}
	if dynamic(f) && f.SectionByType(elf.SHT_DYNAMIC) == nil {
		c.add(e, "has no section headers, so what it needs is not known")
		return
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		c.add(e, "its dynamic section cannot be read: %v", err)
		return
	}
	own := c.ownDirs(e, f)
	libs := map[string]rootfs.Entry{}
	for _, name := range needed {
		if lib, ok := c.library(e, f, name, own); ok {
			libs[name] = lib
		}
	}
	c.versions(e, f, libs)
}

// open reads the whole object, unless it comes from a file that can be read anywhere.
func open(head []byte, rest io.Reader) (*elf.File, error) {
	if at, ok := rest.(io.ReaderAt); ok {
		return elf.NewFile(at)
	}
	raw, err := io.ReadAll(rest)
	if err != nil {
		return nil, err
	}
	return elf.NewFile(bytes.NewReader(append(bytes.Clone(head), raw...)))
}

func dynamic(f *elf.File) bool {
	return slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_DYNAMIC })
}

func interpreter(f *elf.File) string {
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		raw, err := io.ReadAll(p.Open())
		if err != nil {
			return ""
		}
		return string(bytes.TrimRight(raw, "\x00"))
	}
	return ""
}

// ownDirs are the directories that an object itself names. DT_RPATH counts only
// without DT_RUNPATH (ld.so(8)). That a program's DT_RPATH also serves the
// libraries of its libraries is left out: Debian's policy allows neither
// outside of private directories.
func (c *checker) ownDirs(e rootfs.Entry, f *elf.File) []string {
	lists, _ := f.DynString(elf.DT_RUNPATH)
	if len(lists) == 0 {
		lists, _ = f.DynString(elf.DT_RPATH)
	}
	origin := "/" + path.Dir(e.Path)
	tokens := strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin, "$LIB", "lib/"+multiarch[f.Machine], "${LIB}", "lib/"+multiarch[f.Machine])
	var out []string
	for _, list := range lists {
		for dir := range strings.SplitSeq(list, ":") {
			if dir != "" {
				out = append(out, tokens.Replace(dir))
			}
		}
	}
	return out
}

// library looks for one NEEDED name where the loader would (ld.so(8)).
func (c *checker) library(e rootfs.Entry, f *elf.File, name string, own []string) (rootfs.Entry, bool) {
	want := kind{f.Class, f.Machine}
	dirs := slices.Concat(own, c.defaults)
	if strings.Contains(name, "/") {
		dirs = []string{"/"}
	}
	for _, dir := range dirs {
		if lib, ok := c.find(path.Join(dir, name), want); ok {
			return lib, true
		}
	}
	for _, dir := range c.configured {
		lib, ok := c.find(path.Join(dir, name), want)
		if !ok {
			continue
		}
		// The loader reads the cache that ldconfig makes of ld.so.conf, never the file.
		if _, ok := c.tree.Get("etc/ld.so.cache"); !ok {
			c.add(e, "needs %s, which is in %s of ld.so.conf, and there is no /etc/ld.so.cache", name, dir)
		}
		return lib, true
	}
	c.add(e, "needs %s, which is not in the root", name)
	return rootfs.Entry{}, false
}

// find gives the library at a path if it is of the kind; the loader passes over others.
func (c *checker) find(name string, want kind) (rootfs.Entry, bool) {
	e, err := c.follow(name)
	if err != nil || !e.Mode.IsRegular() || e.Open == nil {
		return e, false
	}
	k, ok := c.kinds[e.Path]
	if !ok {
		k = kindOf(e)
		c.kinds[e.Path] = k
	}
	return e, k == want
}

func kindOf(e rootfs.Entry) kind {
	f, err := e.Open()
	if err != nil {
		return kind{}
	}
	defer f.Close()
	head := make([]byte, 20) // e_ident and e_type, then e_machine
	if _, err := io.ReadFull(f, head); err != nil || !isELF(head) {
		return kind{}
	}
	m := uint16(head[18]) | uint16(head[19])<<8
	if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		m = uint16(head[18])<<8 | uint16(head[19])
	}
	return kind{elf.Class(head[elf.EI_CLASS]), elf.Machine(m)}
}
