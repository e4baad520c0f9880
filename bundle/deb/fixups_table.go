package deb

import (
	"io/fs"
	"strings"
)

// Fixed ids. Debian gives them out at install time from 100-999 (policy 9.2.2);
// here they are constants, so that two images agree about a disk they share.
// They never change; new ones take the next free number.
const (
	uidSSHD    = 101
	uidChrony  = 102
	uidRPC     = 103
	uidStatd   = 104
	uidTcpdump = 105
	uidLLDPD   = 106
	gidInput   = 110
	gidSGX     = 111
	gidClock   = 112
	gidKVM     = 113
	gidRender  = 114
	gidRDMA    = 115

	gidShadow  = 42 // base-passwd's group.master
	gidUtmp    = 43
	gidNogroup = 65534
)

// table is every replacement of a maintainer script, by the package whose
// script it stands for. Read from the scripts of Debian 13.
func table() []rule {
	var t []rule
	t = append(t, baseRules()...)
	t = append(t, accountRules()...)
	t = append(t, alternativeRules()...)
	t = append(t, pamRules()...)
	t = append(t, daemonRules()...)
	return t
}

func dir(pkg, path string, mode fs.FileMode, uid, gid int) rule {
	return rule{Fixup: Fixup{Package: pkg, Kind: Mkdir, Path: path, Mode: mode, UID: uid, GID: gid}}
}

func write(pkg, path, content string) rule {
	return rule{Fixup: Fixup{Package: pkg, Kind: Write, Path: path, Content: content, Mode: 0o644}}
}

func copied(pkg, from, to string) rule {
	return rule{Fixup: Fixup{Package: pkg, Kind: Copy, Path: to, From: from, Mode: 0o644}, needs: from}
}

// link makes a symlink whose target is beside it, if the target is there.
func link(pkg, path, target string) rule {
	beside := path[:strings.LastIndexByte(path, '/')+1] + target
	return rule{Fixup: Fixup{Package: pkg, Kind: Symlink, Path: path, From: target, Mode: 0o777}, needs: beside}
}

// anyLink makes a symlink whatever its target.
func anyLink(pkg, path, target string) rule {
	return rule{Fixup: Fixup{Package: pkg, Kind: Symlink, Path: path, From: target, Mode: 0o777}}
}

func baseRules() []rule {
	return []rule{
		copied("base-passwd", "usr/share/base-passwd/passwd.master", "etc/passwd"),
		copied("base-passwd", "usr/share/base-passwd/group.master", "etc/group"),

		dir("base-files", "media", 0o755, 0, 0),
		dir("base-files", "mnt", 0o755, 0, 0),
		dir("base-files", "opt", 0o755, 0, 0),
		dir("base-files", "srv", 0o755, 0, 0),
		dir("base-files", "usr/local/bin", 0o755, 0, 0),
		dir("base-files", "usr/local/sbin", 0o755, 0, 0),
		dir("base-files", "run/lock", 0o777|fs.ModeSticky, 0, 0),
		anyLink("base-files", "var/run", "/run"),
		anyLink("base-files", "var/lock", "/run/lock"),
		link("base-files", "etc/dpkg/origins/default", "debian"),
		copied("base-files", "usr/share/base-files/profile", "etc/profile"),
		copied("base-files", "usr/share/base-files/dot.profile", "root/.profile"),
		copied("base-files", "usr/share/base-files/dot.bashrc", "root/.bashrc"),
		{Fixup: Fixup{Package: "base-files", Kind: Write, Path: "var/log/wtmp", Mode: 0o664, GID: gidUtmp}},
		{Fixup: Fixup{Package: "base-files", Kind: Write, Path: "var/log/btmp", Mode: 0o660, GID: gidUtmp}},
		// Empty and writable means "not initialised" (machine-id(5)); the node fills it.
		write("base-files", "etc/machine-id", ""),
		write("base-files", "etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n"),
		anyLink("base-files", "etc/resolv.conf", "/run/slipway/resolv.conf"),
		write("mount", "etc/fstab", "# empty: slipway-init mounts\n"),

		// Without dash, bash is the shell that scripts get.
		{Fixup: Fixup{Package: "bash", Kind: Symlink, Path: "usr/bin/sh", From: "bash", Mode: 0o777}, unless: "usr/bin/sh"},
		copied("debianutils", "usr/share/debianutils/shells", "etc/shells"),
		copied("readline-common", "usr/share/readline/inputrc", "etc/inputrc"),
		write("libc6", "etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\ngshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\nethers: files\nrpc: files\n"),
		{Fixup: Fixup{Package: "tzdata", Kind: Symlink, Path: "etc/localtime", From: "/usr/share/zoneinfo/Etc/UTC", Mode: 0o777},
			needs: "usr/share/zoneinfo/Etc/UTC"},
		{Fixup: Fixup{Package: "ca-certificates", Kind: Concat, Path: "etc/ssl/certs/ca-certificates.crt",
			From: "usr/share/ca-certificates/mozilla/*.crt", Mode: 0o644}, needs: "usr/share/ca-certificates/mozilla"},
		write("netbase", "etc/networks", "default 0.0.0.0\nloopback 127.0.0.0\nlink-local 169.254.0.0\n"),
	}
}

func user(pkg, name string, uid, gid int, home string) rule {
	return rule{Fixup: Fixup{Package: pkg, Kind: User, Name: name, UID: uid, GID: gid, Home: home}}
}

func group(pkg, name string, gid int) rule {
	return rule{Fixup: Fixup{Package: pkg, Kind: Group, Name: name, GID: gid}}
}

func accountRules() []rule {
	return []rule{
		user("openssh-server", "sshd", uidSSHD, gidNogroup, "/run/sshd"),
		group("chrony", "_chrony", uidChrony),
		user("chrony", "_chrony", uidChrony, uidChrony, "/var/lib/chrony"),
		user("rpcbind", "_rpc", uidRPC, gidNogroup, "/run/rpcbind"),
		user("nfs-common", "statd", uidStatd, gidNogroup, "/var/lib/nfs"),
		group("tcpdump", "tcpdump", uidTcpdump),
		user("tcpdump", "tcpdump", uidTcpdump, uidTcpdump, "/nonexistent"),
		group("lldpd", "_lldpd", uidLLDPD),
		user("lldpd", "_lldpd", uidLLDPD, uidLLDPD, "/run/lldpd"),
		// sysusers.d/debian-udev.conf: udev's rules name them.
		group("udev", "input", gidInput),
		group("udev", "sgx", gidSGX),
		group("udev", "clock", gidClock),
		group("udev", "kvm", gidKVM),
		group("udev", "render", gidRender),
		group("libibverbs1", "rdma", gidRDMA), // rdma-core's udev rules name it
	}
}

// alternativeRules are the links that update-alternatives would choose.
func alternativeRules() []rule {
	t := []rule{
		link("mawk", "usr/bin/awk", "mawk"),
		link("mawk", "usr/bin/nawk", "mawk"),
		link("debianutils", "usr/bin/which", "which.debianutils"),
		link("less", "usr/bin/pager", "less"),
		link("tar", "usr/sbin/rmt", "rmt-tar"),
		link("iotop-c", "usr/sbin/iotop", "iotop-c"),
		link("netcat-openbsd", "usr/bin/nc", "nc.openbsd"),
		link("netcat-openbsd", "usr/bin/netcat", "nc.openbsd"),
		link("sysstat", "usr/bin/sar", "sar.sysstat"),
		link("traceroute", "usr/bin/traceroute", "traceroute.db"),
		link("traceroute", "usr/bin/traceroute6", "traceroute6.db"),
		link("traceroute", "usr/sbin/tcptraceroute", "tcptraceroute.db"),
	}
	for _, name := range []string{"vi", "view", "ex", "rview", "editor"} {
		t = append(t, link("vim-tiny", "usr/bin/"+name, "vim.tiny"))
	}
	for _, name := range []string{"iptables", "ip6tables", "ebtables", "arptables"} {
		for _, verb := range []string{"", "-save", "-restore"} {
			t = append(t, link("iptables", "usr/sbin/"+name+verb, "xtables-nft-multi"))
		}
	}
	return t
}

// pamRules write what pam-auth-update makes of the "unix" profile, without
// nullok: an account without a password is not open. login, su and the like use
// them; sshd runs with UsePAM no.
func pamRules() []rule {
	const onlyUnix = "%s [success=1 default=ignore] pam_unix.so\n%s requisite pam_deny.so\n%s required pam_permit.so\n"
	const session = "session required pam_permit.so\nsession optional pam_umask.so\nsession required pam_unix.so\n"
	t := []rule{
		write("libpam-runtime", "etc/pam.d/common-session", session),
		write("libpam-runtime", "etc/pam.d/common-session-noninteractive", session),
	}
	for _, kind := range []string{"auth", "account", "password"} {
		text := strings.ReplaceAll(onlyUnix, "%s", kind)
		if kind == "password" { // who has to change an expired one gets Debian's hash
			text = strings.Replace(text, "pam_unix.so", "pam_unix.so obscure yescrypt", 1)
		}
		t = append(t, write("libpam-runtime", "etc/pam.d/common-"+kind, text))
	}
	return t
}

func daemonRules() []rule {
	return []rule{
		write("openssh-server", "etc/ssh/sshd_config", sshdConfig),
		dir("openssh-server", "run/sshd", 0o755, 0, 0),

		write("chrony", "etc/chrony/chrony.conf", chronyConfig),
		dir("chrony", "var/lib/chrony", 0o750, uidChrony, uidChrony),
		dir("chrony", "var/log/chrony", 0o750, uidChrony, uidChrony),
		dir("chrony", "run/chrony", 0o750, uidChrony, uidChrony),

		dir("rpcbind", "run/rpcbind", 0o755, uidRPC, 0), // tmpfiles.d/rpcbind.conf
		copied("nfs-common", "usr/share/nfs-common/conffiles/idmapd.conf", "etc/idmapd.conf"),
		copied("nfs-common", "usr/share/nfs-common/conffiles/nfs.conf", "etc/nfs.conf"),
		copied("nfs-common", "usr/share/nfs-common/conffiles/nfs-common.default", "etc/default/nfs-common"),
		dir("nfs-common", "var/lib/nfs/sm", 0o700, uidStatd, gidNogroup),
		dir("nfs-common", "var/lib/nfs/sm.bak", 0o700, uidStatd, gidNogroup),
		{Fixup: Fixup{Package: "nfs-common", Kind: Write, Path: "var/lib/nfs/state", Mode: 0o600, UID: uidStatd, GID: gidNogroup}},

		// Dangling until the first login, as in Debian.
		anyLink("libwtmpdb0", "var/lib/wtmpdb/wtmp.db", "../../log/wtmp.db"),
		dir("lvm2", "run/lvm", 0o700, 0, 0), // tmpfiles.d/lvm2.conf
		dir("lvm2", "run/lock/lvm", 0o700, 0, 0),
		dir("open-iscsi", "run/lock/iscsi", 0o700, 0, 0),
		dir("cryptsetup-bin", "run/cryptsetup", 0o700, 0, 0), // tmpfiles.d/cryptsetup.conf
		dir("multipath-tools", "run/multipath", 0o700, 0, 0), // tmpfiles.d/multipath.conf
		dir("lldpd", "run/lldpd", 0o755, 0, 0),               // it locks itself in there
		dir("ceph-common", "run/ceph", 0o755, 0, 0),          // admin sockets of clients; the account ceph is for servers
		dir("glusterfs-common", "var/log/glusterfs", 0o755, 0, 0),
		write("mdadm", "etc/mdadm/mdadm.conf", mdadmConfig),
	}
}

// sshdConfig: keys only. Host keys are the node's own and are made on it.
// Root's password is "*", which sshd does not take for a locked account when
// it runs without PAM ("!" would be; platform.c, LOCKED_PASSWD_PREFIX).
const sshdConfig = `Include /etc/ssh/sshd_config.d/*.conf
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
X11Forwarding no
PrintMotd no
AcceptEnv LANG LC_* COLORTERM NO_COLOR
Subsystem sftp /usr/lib/openssh/sftp-server
`

// chronyConfig names no public pool: the node's servers go to sources.d.
const chronyConfig = `sourcedir /etc/chrony/sources.d
confdir /etc/chrony/conf.d
driftfile /var/lib/chrony/chrony.drift
ntsdumpdir /var/lib/chrony
logdir /var/log/chrony
maxupdateskew 100.0
rtcsync
makestep 1 3
`

// mdadmConfig keeps udev's rules from starting every array that they find on a
// disk (mdadm.conf(5), AUTO): starting one writes to its members, and the disks
// of a node are somebody else's until its config names them.
const mdadmConfig = `AUTO -all
HOMEHOST <system>
`

// reviewed lists packages whose scripts need no replacement, with the reason.
func reviewed() map[string]string {
	const (
		service = "only enables services for other init systems"
		upgrade = "only matters on upgrades"
		merged  = "only diverts files for the move to /usr, which base-files has made"
	)
	return map[string]string{
		"dmeventd": service, "ipvsadm": service, "procps": service, "nftables": service,
		"iperf3": service, "keepalived": service, "rsync": service, "uuid-runtime": service,
		"iputils-arping": "capabilities for users", "mtr-tiny": "capabilities for users",
		"libglib2.0-0t64": "compiles settings of desktop programs", "sg3-utils-udev": "initramfs",
		"nvme-cli": "names of the host, which nvme makes of the machine's UUID when they are missing", "pciutils": upgrade,
		"cifs-utils": "a plug-in for accounts of a domain, which no node joins", "smartmontools": "the list of drives that it installs is built in, too",
		"e2fsprogs": "initramfs and services", "xfsprogs": "initramfs and services",
		"libpam0g": upgrade, "login": upgrade, "login.defs": upgrade, "libpam-modules-bin": upgrade, "libgssapi-krb5-2": upgrade, "vim-common": upgrade,
		"dash": merged, "gzip": merged, "libext2fs2t64": merged, "libreadline8t64": merged, "libtirpc3t64": merged, "util-linux-extra": merged,
		"ebtables":       "alternatives: iptables has the preferred ones",
		"iproute2":       "capabilities for `ip vrf exec` as a user",
		"kmod":           "an /etc/modules without modules",
		"libc-bin":       "ld.so.cache (see Fixups), and nsswitch.conf, which libc6's entry makes",
		"libpam-modules": "an empty opasswd: no passwords on a node",
		"libselinux1":    "/run/setrans is for SELinux translation",
		"libwrap0":       "hosts.allow and hosts.deny may be absent (hosts_access(5))",
		"openssh-client": "setgid of ssh-agent: no agent runs on a node",
		"openssl":        "the links are in the package",
		"shim-signed":    "installs to the running machine's ESP",
		"util-linux":     "pager: less has it",

		// Of the example's optional groups.
		"hdparm": upgrade, "libparted2t64": merged, "parted": upgrade,
		"bridge-utils": "takes back questions that old versions asked",
		"tmux":         "keeps systemd-tmpfiles off its sockets",
		"xz-utils":     "names of the lzma programs that xz replaced",
	}
}
