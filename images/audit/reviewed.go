package audit

import (
	"io/fs"
	"path"
	"strings"
)

// privilege is a reviewed setuid or setgid file.
type privilege struct {
	bits     fs.FileMode
	uid, gid int
	reason   string
}

const gidShadow = 42 // base-passwd's group.master

// privileged are the files that may run with another's rights. A file that is
// not in the root is no finding: the table serves every bundle.
var privileged = map[string]privilege{
	"usr/bin/mount":               {fs.ModeSetuid, 0, 0, "users mount what fstab lets them; the node's fstab is empty"},
	"usr/bin/umount":              {fs.ModeSetuid, 0, 0, "the other half of mount"},
	"usr/bin/su":                  {fs.ModeSetuid, 0, 0, "users become root with a password; root has none by default"},
	"usr/bin/newgrp":              {fs.ModeSetuid, 0, 0, "users change to a group of theirs; groups have no passwords"},
	"usr/sbin/mount.cifs":         {fs.ModeSetuid, 0, 0, "the same for SMB mounts"},
	"usr/sbin/mount.nfs":          {fs.ModeSetuid, 0, 0, "mount(8) calls it for a user's NFS mounts of fstab"},
	"usr/lib/openssh/ssh-keysign": {fs.ModeSetuid, 0, 0, "does nothing unless ssh_config says EnableSSHKeysign"},
	"usr/sbin/unix_chkpwd":        {fs.ModeSetgid, 0, gidShadow, "pam_unix reads a user's own line of shadow with it"},
}

// Accepted is a finding that was looked at and stays.
type Accepted struct {
	Path    string // path.Match pattern; "usr/share/x/..." covers all below it
	Problem string // a part of the problem's text
	Reason  string
}

// Covers says whether an acceptance is about a finding.
func (a Accepted) Covers(f Finding) bool {
	if !strings.Contains(f.Problem, a.Problem) {
		return false
	}
	if dir, ok := strings.CutSuffix(a.Path, "..."); ok {
		return strings.HasPrefix(f.Path, dir)
	}
	ok, err := path.Match(a.Path, f.Path)
	return ok && err == nil
}

// Reviewed is every accepted finding of roots made of Debian 13.
//
// A command that is in a package only for its own reasons stays when what it
// needs is left out: a bundle that adds perl or python3 gets it whole.
func Reviewed() []Accepted {
	const (
		perl   = "a Perl program of a package whose other programs a node needs; no Perl in the root"
		python = "a Python program of a package whose other programs a node needs; no Python in the root"
	)
	return []Accepted{
		{"usr/bin/c_rehash", "/usr/bin/perl", perl + " (openssl rehash is the same)"},
		{"usr/lib/ssl/misc/*.pl", "/usr/bin/perl", perl + ": a sample CA"},
		{"usr/bin/helpztags", "/usr/bin/perl", perl + ": indexes Vim's help, which is not there"},
		{"usr/sbin/pam-auth-update", "/usr/bin/perl", perl + ": bundle/deb writes what it would"},
		{"usr/sbin/pam_getenv", "/usr/bin/perl", perl + ": for maintainer scripts"},
		{"usr/bin/routel", "python3", python + " (ip route list table all)"},
		{"usr/sbin/mountstats", "/usr/bin/python3", python + ": statistics of NFS (/proc/self/mountstats)"},
		{"usr/sbin/nfsiostat", "/usr/bin/python3", python + ": statistics of NFS"},
		{"usr/sbin/rpcctl", "/usr/bin/python3", python + ": shows /sys/kernel/sunrpc"},
		{"usr/sbin/xfs_protofile", "/usr/bin/python3", python + ": prepares mkfs.xfs -p"},
		{"usr/sbin/xfs_scrub_all", "/usr/bin/python3", python + ": calls xfs_scrub"},
		{"usr/bin/rrsync", "python3", python + ": restricts rsync in authorized_keys"},
		{"usr/share/rsync/scripts/...", "its interpreter", "samples for administrators, in Perl and Python"},
		{"usr/bin/smb2-quota", "python3", python + ": shows SMB quotas"},
		{"usr/bin/smbinfo", "python3", python + ": shows SMB file information"},
		{"usr/bin/ceph", "python3", python + ": administers a cluster; rbd, rados and mount.ceph are programs"},
		{"usr/bin/crushdiff", "python3", python + ": plans a cluster"},
		{"usr/bin/radosgw-admin", "libicu", "administers an object gateway, which no node is"},
		{"usr/lib/*/ceph/compressor/libceph_snappy.so.*", "libsnappy", "a compressor of Ceph's servers"},
		{"usr/bin/glusterfind", "python3", python + ": lists what changed on a server"},
		{"usr/lib/x86_64-linux-gnu/glusterfs/...", "python3", python + ": replication and events of servers"},
		{"usr/lib/aarch64-linux-gnu/glusterfs/...", "python3", python + ": the same"},
		{"usr/lib/*/ganesha/*.py", "python3", python + ": a server for NFS"},
		{"usr/share/glusterfs/scripts/...", "python3", "samples for administrators of servers"},
		{"usr/sbin/xfs_scrub", "libicu", "libicu is 38 MB for one warning about look-alike names; xfs_repair checks file systems"},
		{"usr/lib/*/systemd/libsystemd-core-*.so", "libsystemd-shared-", "comes with the library of udevadm beside it; only systemd loads it, and after that one"},
		{"var/lib/wtmpdb/wtmp.db", "/var/log/wtmp.db", "the first login makes the file (tmpfiles.d/wtmpdb.conf has the same link)"},
	}
}

// Unexpected leaves the findings that no acceptance covers, and the
// acceptances that cover nothing: these are old and go.
func Unexpected(found []Finding, accepted []Accepted) (rest []Finding, unused []Accepted) {
	used := make([]bool, len(accepted))
	for _, f := range found {
		known := false
		for i, a := range accepted {
			if a.Covers(f) {
				known, used[i] = true, true
			}
		}
		if !known {
			rest = append(rest, f)
		}
	}
	for i, a := range accepted {
		if !used[i] {
			unused = append(unused, a)
		}
	}
	return rest, unused
}
