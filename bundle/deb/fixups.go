package deb

import (
	"io/fs"
	"path"
	"sort"
	"strings"
)

// Kind is what a Fixup does.
type Kind string

// The kinds. A fixup replaces what a package left at its Path, an empty
// directory included.
const (
	Mkdir   Kind = "mkdir"   // directory; one that is there gets the mode and owner
	Write   Kind = "write"   // file with Content
	Copy    Kind = "copy"    // file with the content of From
	Concat  Kind = "concat"  // file of all files that match From (path.Match), sorted by path
	Symlink Kind = "symlink" // link to From
	User    Kind = "user"    // account; Accounts turns all of them into files
	Group   Kind = "group"   // likewise
)

// Fixup is one thing that a maintainer script would have done. Paths are
// those of the root, without a leading slash.
type Fixup struct {
	Package string // whose script it stands for
	Kind    Kind
	Path    string      // what is made; empty for accounts
	From    string      // copy, concat: a path or pattern of the root; symlink: the target, verbatim
	Content string      // write
	Mode    fs.FileMode // permissions with setuid/setgid/sticky
	UID     int         // owner, or the account's own id
	GID     int         // likewise; a user's primary group
	Name    string      // user, group
	Home    string      // user
}

// rule is a fixup with its conditions on the tree.
type rule struct {
	Fixup
	needs  string // skip unless this path is there
	unless string // skip when this path is there
}

// Fixups selects the table's entries for the packages, in an order in which
// they can be applied one after the other: directories and accounts come
// before what needs them. have reports whether a path of the root exists
// (following directory symlinks, as rootfs.Tree.Get does).
//
// What stands below run/ has to be made again at every boot, where /run is a
// tmpfs.
//
// Not in the table on purpose: /etc/ld.so.cache, because glibc's loader finds
// Debian's multiarch directories without it (they are compiled in, ld.so(8))
// and a stale cache would be worse; ssh host keys, /etc/iscsi/initiatorname.iscsi
// and the content of /etc/machine-id, because each node makes its own;
// /etc/hostname, because a node's name comes from its config; modules.dep,
// because it belongs to the kernel's image.
func Fixups(pkgs []Package, have func(path string) bool) []Fixup {
	installed := map[string]bool{}
	for _, p := range pkgs {
		installed[p.Name] = true
	}
	var out []Fixup
	for _, r := range table() {
		if !installed[r.Package] || (r.needs != "" && !have(r.needs)) || (r.unless != "" && have(r.unless)) {
			continue
		}
		out = append(out, r.Fixup)
	}
	return out
}

// Match lists the paths that a Concat fixup joins, in its order.
func (f Fixup) Match(paths []string) []string {
	var out []string
	for _, p := range paths {
		if ok, err := path.Match(f.From, p); err == nil && ok {
			out = append(out, p)
		}
	}
	sort.Strings(out)
	return out
}

// Unreviewed lists the packages whose maintainer scripts nobody has looked at:
// they carry a postinst or preinst, and neither the table nor the list of
// scripts that need no replacement knows them. scripts is Archive.Scripts by
// package name.
func Unreviewed(scripts map[string][]string) []string {
	known := reviewed()
	for _, r := range table() {
		known[r.Package] = "in the table"
	}
	var out []string
	for name, list := range scripts {
		if known[name] != "" || strings.HasPrefix(name, "linux-image-") {
			continue
		}
		for _, s := range list {
			if s == "postinst" || s == "preinst" {
				out = append(out, name)
				break
			}
		}
	}
	sort.Strings(out)
	return out
}
