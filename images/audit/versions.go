package audit

import (
	"debug/elf"
	"io"

	"slipway.dev/slipway/images/rootfs"
)

// versions checks that the libraries an object gets define the symbol versions
// it was linked with: the loader refuses to start it otherwise. A library
// without any versions is taken with a warning (LSB Core, 10.7).
func (c *checker) versions(e rootfs.Entry, f *elf.File, libs map[string]rootfs.Entry) {
	if f.SectionByType(elf.SHT_GNU_VERNEED) == nil {
		return
	}
	needs, err := f.DynamicVersionNeeds()
	if err != nil {
		c.add(e, "its symbol versions cannot be read: %v", err)
		return
	}
	for _, need := range needs {
		lib, ok := libs[need.Name]
		if !ok {
			continue // named by library already
		}
		has := c.defined(lib)
		for _, dep := range need.Needs {
			if len(has) > 0 && !has[dep.Dep] && dep.Flags&elf.VER_FLG_WEAK == 0 {
				c.add(e, "needs version %s of %s, which the one in the root does not have", dep.Dep, need.Name)
			}
		}
	}
}

// defined are the symbol versions of a library; none when they cannot be read.
func (c *checker) defined(lib rootfs.Entry) map[string]bool {
	if has, ok := c.symbols[lib.Path]; ok {
		return has
	}
	has := map[string]bool{}
	c.symbols[lib.Path] = has
	in, err := lib.Open()
	if err != nil {
		return has
	}
	defer in.Close()
	f, err := open(nil, io.Reader(in))
	if err != nil || f.SectionByType(elf.SHT_GNU_VERDEF) == nil {
		return has
	}
	defs, err := f.DynamicVersions()
	if err != nil {
		return has
	}
	for _, d := range defs {
		has[d.Name] = true
	}
	return has
}
