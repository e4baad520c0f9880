package audit

import (
	"bufio"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"slipway.dev/slipway/images/rootfs"
)

// raised are the programs that may run with more rights than their caller, with
// the reason. Nobody but root logs in to a node, so there is little need.
func raised() map[string]string {
	const (
		password = "changes a password or shell, and asks for the old one"
		other    = "becomes another user after asking for a password"
		mounts   = "mounts what fstab allows a user; the fstab is empty"
	)
	return map[string]string{
		"usr/bin/chfn": password, "usr/bin/chsh": password, "usr/bin/passwd": password, "usr/bin/gpasswd": password,
		"usr/bin/newgrp": other, "usr/bin/su": other, "usr/bin/mount": mounts, "usr/bin/umount": mounts, "usr/sbin/mount.nfs": mounts,
		"usr/sbin/mount.cifs": mounts, "usr/bin/fusermount3": "mounts FUSE file systems of a user",
		"usr/lib/openssh/ssh-keysign":            "signs with the host key; off unless ssh_config asks for it",
		"usr/sbin/unix_chkpwd":                   "pam_unix reads shadow through it (setgid shadow)",
		"usr/bin/chage":                          "reads the caller's line of shadow (setgid shadow)",
		"usr/bin/expiry":                         "reads the caller's line of shadow (setgid shadow)",
		"usr/lib/mc/cons.saver":                  "reads the console's screen",
		"usr/bin/ssh-agent":                      "setgid, so that nobody traces it",
		"usr/lib/polkit-1/polkit-agent-helper-1": "asks for a password",
	}
}

// mode judges permissions, owner and group of an entry.
func (c *checker) mode(e rootfs.Entry) {
	if e.Mode.Type() != fs.ModeSymlink {
		if e.Mode&0o002 != 0 && (!e.Mode.IsDir() || e.Mode&fs.ModeSticky == 0) {
			c.add(e, "everybody may write it (mode %04o)", e.Mode.Perm())
		}
		if raisedMode := e.Mode & (fs.ModeSetuid | fs.ModeSetgid); raisedMode != 0 && e.Mode.IsRegular() && raised()[e.Path] == "" {
			c.add(e, "is setuid or setgid (%s, owner %d:%d) and not on the list of those that may be", e.Mode, e.UID, e.GID)
		}
	}
	if !c.users[e.UID] {
		c.add(e, "belongs to user %d, who is not in /etc/passwd", e.UID)
	}
	if !c.groups[e.GID] {
		c.add(e, "belongs to group %d, which is not in /etc/group", e.GID)
	}
}

// accounts reads the ids that files may belong to; root is always one.
func (c *checker) accounts() error {
	c.users, c.groups = map[int]bool{0: true}, map[int]bool{0: true}
	for name, into := range map[string]map[int]bool{"etc/passwd": c.users, "etc/group": c.groups} {
		err := c.lines(name, func(line string) {
			if f := strings.Split(line, ":"); len(f) >= 4 {
				if id, err := strconv.Atoi(f[2]); err == nil {
					into[id] = true
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// lines calls f for each line of a file; one that is not there has none.
func (c *checker) lines(name string, f func(string)) error {
	e, ok := c.follow(name)
	if !ok || !e.Mode.IsRegular() {
		return nil
	}
	in, err := e.Open()
	if err != nil {
		return fmt.Errorf("auditing /%s: %w", name, err)
	}
	defer in.Close()
	sc := bufio.NewScanner(in)
	for sc.Scan() {
		f(sc.Text())
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("auditing /%s: %w", name, err)
	}
	return nil
}
