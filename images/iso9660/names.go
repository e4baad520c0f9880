package iso9660

import (
	"fmt"
	"sort"
	"strings"
)

// maxName is the longest real name: what the Rock Ridge entries of one
// directory record have room for.
const maxName = 140

// identify gives every child a plain identifier of eight and three characters,
// which is all that BIOS loaders read, and sorts the directory by it (ECMA-119 9.3).
func (im *Image) identify(dir *node, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("/%s: more than %d directory levels", dir.path(), maxDepth)
	}
	sort.Slice(dir.children, func(i, j int) bool { return dir.children[i].name < dir.children[j].name })
	used := map[string]bool{}
	for _, c := range dir.children {
		if len(c.name) > maxName {
			return fmt.Errorf("/%s: the name has %d bytes, want at most %d", c.path(), len(c.name), maxName)
		}
		base, ext := shortName(c.name, c.isDir())
		c.iso = join(base, ext)
		for i := 1; used[c.iso]; i++ {
			n := fmt.Sprint(i)
			if len(n) > 7 {
				return fmt.Errorf("/%s: no short name is left", c.path())
			}
			c.iso = join(base[:min(len(base), 8-len(n))]+n, ext)
		}
		used[c.iso] = true
	}
	sort.Slice(dir.children, func(i, j int) bool { return dir.children[i].iso < dir.children[j].iso })
	for _, c := range dir.children {
		if c.isDir() {
			if err := im.identify(c, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func join(base, ext string) string {
	if ext == "" {
		return base
	}
	return base + "." + ext
}

// shortName maps a name to d-characters (ECMA-119 7.4.1). Directories have no extension.
func shortName(name string, dir bool) (base, ext string) {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '.':
			return r
		}
		return '_'
	}, name)
	base = clean
	if i := strings.LastIndexByte(clean, '.'); i > 0 && !dir {
		base, ext = clean[:i], clean[i+1:]
	}
	base = strings.ReplaceAll(base, ".", "_")
	return base[:min(len(base), 8)], ext[:min(len(ext), 3)]
}
