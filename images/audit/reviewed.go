package audit

import (
	"path"
	"strings"
)

// Exception is a finding that somebody looked at and that is as it should be.
type Exception struct {
	Package string // of the finding, verbatim
	Path    string // pattern as in path.Match: * does not match /
	Problem string // of the whole problem; * stands for any text
	Reason  string // why nothing on a node misses it
}

// Review takes the findings that are known away, and returns with the rest the
// exceptions that no finding needed: for another bundle, or out of date.
func Review(found []Finding, known []Exception) (rest []Finding, unused []Exception) {
	used := make([]bool, len(known))
	for _, f := range found {
		open := true
		for i, k := range known {
			if k.covers(f) {
				used[i], open = true, false
			}
		}
		if open {
			rest = append(rest, f)
		}
	}
	for i, k := range known {
		if !used[i] {
			unused = append(unused, k)
		}
	}
	return rest, unused
}

func (k Exception) covers(f Finding) bool {
	ok, err := path.Match(k.Path, f.Path)
	return ok && err == nil && k.Package == f.Package && says(k.Problem, f.Problem)
}

// says compares a text with a pattern in which * stands for anything.
func says(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, parts[0])
	if !ok {
		return false
	}
	last := len(parts) - 1
	for _, p := range parts[1:last] {
		_, after, found := strings.Cut(text, p)
		if !found {
			return false
		}
		text = after
	}
	return strings.HasSuffix(text, parts[last])
}

// Known is the reviewed findings about Debian 13's packages, each with the
// reason why it stays.
func Known() []Exception {
	var out []Exception
	script := func(pkg, reason string, paths ...string) {
		for _, p := range paths {
			out = append(out, Exception{Package: pkg, Path: p, Problem: "script of interpreter *, which is not there", Reason: reason})
		}
	}
	script("openssh-server", "a service for runit, which is not on a node", "etc/sv/ssh/run")
	script("openssl", "perl: makes a hash directory or a demonstration CA; a node's CA bundle is one file", "usr/bin/c_rehash", "usr/lib/ssl/misc/*.pl")
	script("vim-common", "perl: for authors of vim's help", "usr/bin/helpztags")
	script("iproute2", "python: prints routes otherwise; ip route is there", "usr/bin/routel")
	script("nfs-common", "python: statistics; /proc/self/mountstats has them", "usr/sbin/mountstats", "usr/sbin/nfsiostat", "usr/sbin/rpcctl")
	script("libpam-runtime", "perl: edits PAM's configuration, which the table of fixups writes", "usr/sbin/pam-auth-update", "usr/sbin/pam_getenv")
	script("cifs-utils", "python: quotas and file information of an SMB server, for people", "usr/bin/smb2-quota", "usr/bin/smbinfo")
	script("rsync", "python: examples, and a wrapper for keys restricted to rsync", "usr/bin/rrsync", "usr/share/rsync/scripts/*")
	script("xfsprogs", "python: scrubbing and prototypes, which no storage driver uses", "usr/sbin/xfs_protofile", "usr/sbin/xfs_scrub_all")
	return append(out,
		Exception{Package: "xfsprogs", Path: "usr/sbin/xfs_scrub", Problem: "needs libicu*.so.*, which is not there",
			Reason: "38 MB of ICU for an online check that no storage driver uses; xfs_repair is there"},
		Exception{Package: "libsystemd-shared", Path: "usr/lib/*/systemd/libsystemd-core-*.so", Problem: "needs libsystemd-shared-*.so, which is not there",
			Reason: "of systemd alone, which has loaded the other one by then"},
		Exception{Package: "table for libwtmpdb0", Path: "var/lib/wtmpdb/wtmp.db", Problem: `symlink to "../../log/wtmp.db", which is not there`,
			Reason: "made at the first login, as on Debian"},
	)
}
