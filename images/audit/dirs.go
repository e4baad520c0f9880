package audit

import (
	"io"
	"path"
	"strings"

	"slipway.dev/slipway/images/rootfs"
)

// libraryDirs are what the loader has built in, and what ld.so.conf adds.
func (c *checker) libraryDirs() (defaults, configured []string) {
	if m, ok := multiarch[c.machine]; ok {
		defaults = append(defaults, "/lib/"+m, "/usr/lib/"+m)
	}
	defaults = append(defaults, "/lib", "/usr/lib", "/lib64", "/usr/lib64")
	return defaults, c.config("/etc/ld.so.conf", 0)
}

// config reads ld.so.conf: a directory a line, comments, and includes with wildcards.
func (c *checker) config(name string, depth int) (dirs []string) {
	raw := c.text(name)
	for line := range strings.Lines(raw) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || fields[0] == "hwcap":
		case fields[0] == "include" && depth < 4:
			for _, pattern := range fields[1:] {
				if !path.IsAbs(pattern) {
					pattern = path.Join(path.Dir(name), pattern)
				}
				for _, n := range c.glob(pattern) {
					dirs = append(dirs, c.config(n, depth+1)...)
				}
			}
		default:
			dirs = append(dirs, fields[0])
		}
	}
	return dirs
}

func (c *checker) glob(pattern string) (out []string) {
	_ = c.tree.Walk(func(e rootfs.Entry) error {
		if ok, err := path.Match(pattern, "/"+e.Path); ok && err == nil {
			out = append(out, e.Path)
		}
		return nil
	})
	return out
}

// text reads a small file; one that is not there is empty.
func (c *checker) text(name string) string {
	e, err := c.follow(name)
	if err != nil || !e.Mode.IsRegular() || e.Open == nil {
		return ""
	}
	f, err := e.Open()
	if err != nil {
		return ""
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return ""
	}
	return string(raw)
}
