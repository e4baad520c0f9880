package audit

import (
	"bytes"
	"errors"
	"io/fs"
	"path"
	"strings"

	"slipway.dev/slipway/images/rootfs"
)

// searched is where env(1) looks on a node; slipway-init sets this PATH.
var searched = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"}

// script checks the interpreter that a script's first line names (execve(2)),
// and the program that env(1) as an interpreter would start.
func (c *checker) script(e rootfs.Entry, head []byte) {
	line, _, _ := bytes.Cut(head[2:], []byte("\n"))
	words := strings.Fields(string(line))
	if len(words) == 0 {
		c.add(e, "its #! line names no interpreter")
		return
	}
	if !path.IsAbs(words[0]) {
		c.add(e, "its interpreter %s is not an absolute path", words[0])
		return
	}
	if !c.executable(words[0]) {
		c.add(e, "its interpreter %s is not in the root", words[0])
		return
	}
	if path.Base(words[0]) != "env" {
		return
	}
	for _, w := range words[1:] {
		if strings.HasPrefix(w, "-") || strings.Contains(w, "=") {
			continue
		}
		for _, dir := range searched {
			if c.executable(path.Join(dir, w)) {
				return
			}
		}
		c.add(e, "its interpreter %s is not in the root", w)
		return
	}
}

func (c *checker) executable(name string) bool {
	e, err := c.follow(name)
	return err == nil && e.Mode.IsRegular() && e.Mode&0o111 != 0
}

// runtime are trees that are empty in the root and filled on the node: links
// into them cannot be judged here.
var runtime = map[string]string{
	"proc": "the kernel's; /etc/mtab points to it",
	"sys":  "the kernel's",
	"dev":  "devtmpfs",
	"run":  "tmpfs that slipway-init mounts",
}

// link checks that a symbolic link ends at something.
func (c *checker) link(e rootfs.Entry) {
	end, err := c.follow("/" + e.Path)
	if err == nil {
		return
	}
	top, _, _ := strings.Cut(end.Path, "/")
	if _, ok := runtime[top]; ok {
		return
	}
	if errors.Is(err, errCircle) {
		c.add(e, "%v", err)
		return
	}
	c.add(e, "points to /%s, which is not in the root", end.Path)
}

const special = fs.ModeSetuid | fs.ModeSetgid

// modes checks what everybody may write and what runs with another's rights.
func (c *checker) modes(e rootfs.Entry) {
	if e.Mode&0o002 != 0 && (!e.Mode.IsDir() || e.Mode&fs.ModeSticky == 0) {
		c.add(e, "everybody may write it: %s", e.Mode)
	}
	if !e.Mode.IsRegular() || e.Mode&special == 0 {
		return
	}
	p, ok := privileged[e.Path]
	switch {
	case !ok:
		c.add(e, "runs with the rights of %d:%d: %s", e.UID, e.GID, e.Mode)
	case e.Mode&special != p.bits || e.UID != p.uid || e.GID != p.gid:
		c.add(e, "runs with other rights than reviewed: %s %d:%d", e.Mode, e.UID, e.GID)
	}
}
