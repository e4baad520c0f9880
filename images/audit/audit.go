// Package audit looks at a root file system before anything has run in it and
// says what could not work there: programs whose loader or libraries are not in
// the tree, scripts without their interpreter, dangling links, modes and owners
// that nobody expects, a package database that is not the lock's.
//
// It runs nothing, so it reads a tree of any architecture; that a program
// really starts is shown by test/audit. It does not see what a program looks
// for by itself at run time (dlopen, configuration, other programs).
package audit

import (
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/rootfs"
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Path    string // as in rootfs.Entry; "." when the root as a whole is meant
	Package string // name of the Debian package, or the entry's source when it came from elsewhere: "overlay"
	Problem string
}

func (f Finding) String() string { return fmt.Sprintf("/%s (%s): %s", f.Path, f.Package, f.Problem) }

// Want is what the root was made for.
type Want struct {
	Arch     arch.Arch
	Packages []deb.Package // of the lock
}

// Check returns everything that it finds, sorted by path and problem. An error
// means that a file of the tree could not be read.
func Check(t *rootfs.Tree, want Want) ([]Finding, error) {
	c := &checker{tree: t, want: want, byPath: map[string]*object{}}
	if err := c.accounts(); err != nil {
		return nil, err
	}
	if err := t.Walk(c.entry); err != nil {
		return nil, err
	}
	if err := c.programs(); err != nil {
		return nil, err
	}
	if err := c.status(); err != nil {
		return nil, err
	}
	slices.SortFunc(c.found, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Problem, b.Problem))
	})
	return c.found, nil
}

type checker struct {
	tree       *rootfs.Tree
	want       Want
	users      map[int]bool
	groups     map[int]bool
	objects    []*object          // programs and libraries
	byPath     map[string]*object // the same
	configured []string           // directories that ld.so.conf names
	found      []Finding
}

func (c *checker) add(e rootfs.Entry, format string, args ...any) {
	c.found = append(c.found, Finding{Path: e.Path, Package: owner(e.Source), Problem: fmt.Sprintf(format, args...)})
}

// owner takes the package's name out of an entry's source.
func owner(source string) string {
	if deb, ok := strings.CutPrefix(source, "deb "); ok {
		name, _, _ := strings.Cut(deb, "_")
		return name
	}
	return source
}

func (c *checker) entry(e rootfs.Entry) error {
	c.mode(e)
	switch e.Mode.Type() {
	case 0:
		return c.file(e)
	case fs.ModeSymlink:
		c.link(e)
	case fs.ModeDir:
	default:
		c.add(e, "is a %s: devtmpfs makes device nodes", e.Mode.Type())
	}
	return nil
}

// file looks at the first bytes of a file, which say whether it is run.
func (c *checker) file(e rootfs.Entry) error {
	if e.Size < 4 {
		return nil
	}
	f, err := e.Open()
	if err != nil {
		return fmt.Errorf("auditing /%s: %w", e.Path, err)
	}
	defer f.Close()
	head := make([]byte, min(e.Size, 256))
	if _, err := io.ReadFull(f, head); err != nil {
		return fmt.Errorf("auditing /%s: %w", e.Path, err)
	}
	switch {
	case string(head[:4]) == "\x7fELF":
		return c.elf(e)
	case string(head[:2]) == "#!" && e.Mode&0o111 != 0:
		c.script(e, string(head))
	}
	return nil
}

// made are directories whose content the kernel or slipway-init makes when a
// node starts: links into them cannot be followed in an image.
var made = []string{"proc", "sys", "dev", "run"}

func (c *checker) link(e rootfs.Entry) {
	if e.Link == "" {
		c.add(e, "symlink without a target")
		return
	}
	at := target(e)
	if first, _, _ := strings.Cut(at, "/"); slices.Contains(made, first) {
		return
	}
	if _, ok := c.follow(at); !ok {
		c.add(e, "symlink to %q, which is not there", e.Link)
	}
}

// target is where a symlink points, as a path of the tree.
func target(e rootfs.Entry) string {
	if path.IsAbs(e.Link) {
		return rootfs.Clean(e.Link)
	}
	return rootfs.Clean(path.Join(path.Dir("/"+e.Path), e.Link))
}

// follow finds what is at a path after every symlink, the last one included.
// The kernel gives up after 40 links (path_resolution(7)).
func (c *checker) follow(name string) (rootfs.Entry, bool) {
	for range 40 {
		e, ok := c.tree.Get(name)
		if !ok || e.Mode.Type() != fs.ModeSymlink {
			return e, ok
		}
		name = target(e)
	}
	return rootfs.Entry{}, false
}
