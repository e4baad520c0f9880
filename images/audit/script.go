package audit

import (
	"path"
	"strings"

	"slipway.dev/slipway/images/rootfs"
)

// searched are the directories of a node's PATH.
var searched = []string{"usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin"}

// script checks that the interpreter after #! is there and can be run
// (execve(2)); for env(1) the program that env looks for.
func (c *checker) script(e rootfs.Entry, head string) {
	line, _, _ := strings.Cut(head[2:], "\n")
	words := strings.Fields(line)
	if len(words) == 0 {
		c.add(e, "script whose first line names no interpreter")
		return
	}
	if !path.IsAbs(words[0]) {
		c.add(e, "script of interpreter %q, which is no absolute path", words[0])
		return
	}
	if !c.runs(words[0]) {
		c.add(e, "script of interpreter %q, which is not there", words[0])
		return
	}
	if path.Base(words[0]) != "env" {
		return
	}
	for _, w := range words[1:] {
		if strings.HasPrefix(w, "-") || strings.Contains(w, "=") {
			continue
		}
		if path.IsAbs(w) && c.runs(w) || !path.IsAbs(w) && c.inPath(w) {
			return
		}
		c.add(e, "script of interpreter %q, which is not there", w)
		return
	}
}

func (c *checker) runs(name string) bool {
	e, ok := c.follow(name)
	return ok && e.Mode.IsRegular() && e.Mode&0o111 != 0
}

func (c *checker) inPath(name string) bool {
	for _, d := range searched {
		if c.runs(path.Join(d, name)) {
			return true
		}
	}
	return false
}
