// Package audit reads a finished root and says what in it cannot work: programs
// without their loader or a library, scripts without their interpreter, links to
// nowhere, and modes that give more away than somebody decided to.
//
// It runs nothing and changes nothing, so it judges any architecture on any
// machine. It does not know what a program opens at run time.
package audit

import (
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"slipway.dev/slipway/images/rootfs"
)

// Finding is one thing that is wrong with one name of a tree.
type Finding struct {
	Path    string // as in the tree: "usr/bin/kubelet"
	Package string // rootfs.Entry.Source: "deb kubelet_1.37"
	Problem string // "needs libfoo.so.1, which is not in the root"
}

// String is one line for people.
func (f Finding) String() string { return fmt.Sprintf("/%s (%s): %s", f.Path, f.Package, f.Problem) }

// Check lists everything that is wrong with a root for machines of type m,
// sorted by path and problem.
func Check(t *rootfs.Tree, m elf.Machine) []Finding {
	c := &checker{tree: t, machine: m, kinds: map[string]kind{}, symbols: map[string]map[string]bool{}}
	c.defaults, c.configured = c.libraryDirs()
	_ = t.Walk(func(e rootfs.Entry) error { c.one(e); return nil })
	slices.SortFunc(c.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Problem, b.Problem))
	})
	return slices.Compact(c.found)
}

type checker struct {
	tree       *rootfs.Tree
	machine    elf.Machine
	defaults   []string                   // library directories of the loader itself
	configured []string                   // library directories of ld.so.conf
	kinds      map[string]kind            // by path
	symbols    map[string]map[string]bool // versions that a library defines, by path
	found      []Finding
}

func (c *checker) add(e rootfs.Entry, format string, args ...any) {
	c.found = append(c.found, Finding{Path: e.Path, Package: e.Source, Problem: fmt.Sprintf(format, args...)})
}

func (c *checker) one(e rootfs.Entry) {
	switch {
	case e.Mode.Type() == fs.ModeSymlink:
		c.link(e)
		return
	case e.Mode.IsRegular():
		c.file(e)
	}
	c.modes(e)
}

// file looks at the first bytes, as execve(2) does.
func (c *checker) file(e rootfs.Entry) {
	if e.Size < 2 || e.Open == nil {
		return
	}
	f, err := e.Open()
	if err != nil {
		c.add(e, "reading: %v", err)
		return
	}
	defer f.Close()
	// Linux reads 256 bytes of a script to find its first line (BINPRM_BUF_SIZE).
	head := make([]byte, 256)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.ErrUnexpectedEOF {
		c.add(e, "reading: %v", err)
		return
	}
	head = head[:n]
	switch {
	case isELF(head):
		c.object(e, head, f)
	case head[0] == '#' && head[1] == '!' && e.Mode&0o111 != 0:
		c.script(e, head)
	}
}

// errCircle is a link that leads to itself.
var errCircle = errors.New("points in a circle")

// follow walks a path as the kernel does (path_resolution(7)) and gives the
// entry it ends at; on fs.ErrNotExist, Path says what is not there.
func (c *checker) follow(name string) (rootfs.Entry, error) {
	todo := strings.Split(name, "/")
	at := rootfs.Entry{Path: "."}
	for links := 0; len(todo) > 0; {
		el := todo[0]
		todo = todo[1:]
		if el == "" || el == "." {
			continue
		}
		next, ok := c.tree.Get(path.Join(at.Path, el))
		if el == ".." {
			next, ok = c.tree.Get(path.Dir(at.Path))
		}
		if !ok {
			return rootfs.Entry{Path: path.Join(at.Path, el)}, fs.ErrNotExist
		}
		if next.Mode.Type() != fs.ModeSymlink {
			at = next
			continue
		}
		if links++; links > 40 { // MAXSYMLINKS of Linux
			return next, errCircle
		}
		todo = append(strings.Split(next.Link, "/"), todo...)
		if path.IsAbs(next.Link) {
			at = rootfs.Entry{Path: "."}
		}
	}
	if at.Path == "." {
		at, _ = c.tree.Get(".")
	}
	return at, nil
}
