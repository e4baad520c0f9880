package deb

import (
	"io/fs"
	"path"
	"reflect"
	"sort"
	"strings"
	"testing"
)

func named(names ...string) []Package {
	var out []Package
	for _, n := range names {
		out = append(out, Package{Name: n})
	}
	return out
}

func tree(paths ...string) func(string) bool {
	return func(p string) bool {
		for _, have := range paths {
			if have == p {
				return true
			}
		}
		return false
	}
}

// What every entry of the table must satisfy, whoever adds one.
func TestTableIsSound(t *testing.T) {
	paths, uids, gids := map[string]string{}, map[int]string{}, map[int]string{}
	for _, r := range table() {
		if r.Package == "" || checkName(r.Package) != nil {
			t.Errorf("%+v: no package", r.Fixup)
		}
		switch r.Kind {
		case User, Group:
			ids, id := gids, r.GID
			if r.Kind == User {
				ids, id = uids, r.UID
			}
			if by := ids[id]; by != "" || id < 100 || id > 999 {
				t.Errorf("%s %q: id %d (taken by %q)", r.Kind, r.Name, id, by)
			}
			ids[id] = r.Name
			continue
		case Write, Copy, Mkdir, Symlink, Concat:
		default:
			t.Errorf("%s: kind %q", r.Path, r.Kind)
		}
		if by := paths[r.Path]; by != "" || r.Path == "" {
			t.Errorf("path %q of %s is made by %q too", r.Path, r.Package, by)
		}
		paths[r.Path] = r.Package
		for _, p := range []string{r.Path, r.needs, r.unless} {
			if p != "" && (path.Clean(p) != p || path.IsAbs(p) || strings.HasPrefix(p, "..")) {
				t.Errorf("path %q is not clean and relative", p)
			}
		}
		if r.Mode == 0 || r.Mode&^(fs.ModePerm|fs.ModeSticky|fs.ModeSetuid|fs.ModeSetgid) != 0 {
			t.Errorf("%s: mode %v", r.Path, r.Mode)
		}
		if (r.Kind == Copy || r.Kind == Concat || r.Kind == Symlink) != (r.From != "") {
			t.Errorf("%s: %s with From %q", r.Path, r.Kind, r.From)
		}
		if r.Content != "" && !strings.HasSuffix(r.Content, "\n") {
			t.Errorf("%s: content does not end in a newline", r.Path)
		}
	}
	for name := range reviewed() {
		for _, r := range table() {
			if r.Package == name {
				t.Errorf("package %q is in the table and reviewed as needing nothing", name)
			}
		}
	}
}

func TestFixups(t *testing.T) {
	for _, c := range []struct {
		name string
		pkgs []Package
		have func(string) bool
		want []string
	}{
		{"nothing", nil, tree(), nil},
		{"alternatives need their target", named("mawk", "iptables"), tree("usr/bin/mawk"),
			[]string{"symlink usr/bin/awk mawk", "symlink usr/bin/nawk mawk"}},
		{"iptables", named("iptables"), tree("usr/sbin/xtables-nft-multi"), []string{
			"symlink usr/sbin/iptables xtables-nft-multi", "symlink usr/sbin/iptables-save xtables-nft-multi", "symlink usr/sbin/iptables-restore xtables-nft-multi",
			"symlink usr/sbin/ip6tables xtables-nft-multi", "symlink usr/sbin/ip6tables-save xtables-nft-multi", "symlink usr/sbin/ip6tables-restore xtables-nft-multi",
			"symlink usr/sbin/ebtables xtables-nft-multi", "symlink usr/sbin/ebtables-save xtables-nft-multi", "symlink usr/sbin/ebtables-restore xtables-nft-multi",
			"symlink usr/sbin/arptables xtables-nft-multi", "symlink usr/sbin/arptables-save xtables-nft-multi", "symlink usr/sbin/arptables-restore xtables-nft-multi"}},
		{"bash is sh", named("bash"), tree(), []string{"symlink usr/bin/sh bash"}},
		{"dash is sh", named("bash", "dash"), tree("usr/bin/sh"), nil},
		{"certificates", named("ca-certificates"), tree("usr/share/ca-certificates/mozilla"),
			[]string{"concat etc/ssl/certs/ca-certificates.crt usr/share/ca-certificates/mozilla/*.crt"}},
		{"copy needs its source", named("base-passwd"), tree("usr/share/base-passwd/passwd.master"),
			[]string{"copy etc/passwd usr/share/base-passwd/passwd.master"}},
		{"sshd", named("openssh-server"), tree(), []string{"user sshd", "write etc/ssh/sshd_config", "mkdir run/sshd"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, f := range Fixups(c.pkgs, c.have) {
				got = append(got, strings.TrimSpace(string(f.Kind)+" "+f.Name+f.Path+" "+f.From))
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestFixupContents(t *testing.T) {
	for _, f := range Fixups(named("openssh-server", "chrony", "base-files", "libpam-runtime"), tree()) {
		switch f.Path {
		case "etc/ssh/sshd_config":
			for _, line := range []string{"PasswordAuthentication no", "PermitRootLogin prohibit-password", "UsePAM no", "HostKey /etc/ssh/ssh_host_ed25519_key"} {
				if !strings.Contains("\n"+f.Content, "\n"+line+"\n") {
					t.Errorf("sshd_config lacks %q", line)
				}
			}
		case "etc/chrony/chrony.conf":
			for _, word := range []string{"pool ", "server "} {
				if strings.Contains("\n"+f.Content, "\n"+word) {
					t.Errorf("chrony.conf names a time source: %q", word)
				}
			}
		case "etc/machine-id":
			if f.Content != "" {
				t.Errorf("machine-id is the same on every node: %q", f.Content)
			}
		case "etc/hostname", "etc/ld.so.cache":
			t.Errorf("%s is made", f.Path)
		case "etc/pam.d/common-auth":
			if want := "auth [success=1 default=ignore] pam_unix.so\nauth requisite pam_deny.so\nauth required pam_permit.so\n"; f.Content != want {
				t.Errorf("common-auth: got %q, want %q", f.Content, want)
			}
		case "etc/pam.d/common-password":
			if !strings.Contains(f.Content, "pam_unix.so obscure yescrypt\n") {
				t.Errorf("common-password: no hash of today: %q", f.Content)
			}
		}
		if strings.HasPrefix(path.Base(f.Path), "ssh_host_") {
			t.Errorf("host key %s in an image", f.Path)
		}
	}
}

func TestConcatMatch(t *testing.T) {
	f := Fixup{From: "certs/*.crt"}
	got := f.Match([]string{"certs/b.crt", "certs/sub/c.crt", "certs/a.crt", "certs/a.txt", "x.crt"})
	if want := []string{"certs/a.crt", "certs/b.crt"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAccounts(t *testing.T) {
	passwd := "root:*:0:0:root:/root:/bin/bash\nnobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
	group := "root:*:0:\nadm:*:4:root\nnogroup:*:65534:\n"
	files, err := Accounts(passwd, group, Fixups(named("openssh-server", "chrony"), tree()))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"etc/passwd":  "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n_chrony:x:102:102::/var/lib/chrony:/usr/sbin/nologin\n",
		"etc/group":   "root:x:0:\nadm:x:4:root\nnogroup:x:65534:\n_chrony:x:102:\n",
		"etc/shadow":  "root:*::0:99999:7:::\nnobody:*::0:99999:7:::\nsshd:*::0:99999:7:::\n_chrony:*::0:99999:7:::\n",
		"etc/gshadow": "root:*::\nadm:*::root\nnogroup:*::\n_chrony:*::\n",
	}
	for _, f := range files {
		if f.Content != want[f.Path] {
			t.Errorf("%s: got\n%s\nwant\n%s", f.Path, f.Content, want[f.Path])
		}
		secret := strings.HasSuffix(f.Path, "shadow")
		if secret != (f.Mode == 0o640 && f.GID == gidShadow) {
			t.Errorf("%s: mode %o group %d", f.Path, f.Mode, f.GID)
		}
	}
	_, err = Accounts(passwd, group, []Fixup{{Kind: User, Name: "root", UID: 5}, {Kind: User, Name: "x", UID: 65534}, {Kind: Group, Name: "adm", GID: 9}})
	if msg := `accounts: user "root" is there twice; user "x": id 65534 belongs to "nobody"; group "adm" is there twice`; err == nil || err.Error() != msg {
		t.Errorf("got %v, want %s", err, msg)
	}
}

func TestUnreviewed(t *testing.T) {
	got := Unreviewed(map[string][]string{
		"chrony": {"postinst"}, "bash": {"postinst", "prerm"}, "linux-image-6.12.1-amd64": {"postinst"},
		"mydaemon": {"postinst"}, "other": {"preinst"}, "onlyrm": {"postrm"}, "libx": {"triggers"}, "plain": nil,
	})
	if want := []string{"mydaemon", "other"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestStatus(t *testing.T) {
	text := "Package: b\nVersion: 2\nArchitecture: all\nDepends: a,\n c\nDescription: two\nDescription-md5: 00\nTag: x::y,\n z::w\nSection: admin\n" +
		"Filename: pool/b.deb\nSize: 1\nMD5sum: 0\nSHA256: " + strings.Repeat("0", 64) + "\n\n" +
		"Package: a\nVersion: 1\nArchitecture: amd64\nFilename: pool/a.deb\nSize: 1\nSHA256: " + strings.Repeat("0", 64) + "\n"
	pkgs, err := ParsePackages(text)
	if err != nil {
		t.Fatal(err)
	}
	want := "Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n\n" +
		"Package: b\nStatus: install ok installed\nVersion: 2\nArchitecture: all\nDepends: a,\n c\nDescription: two\nSection: admin\n\n"
	if got := string(Status(pkgs)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if sort.SliceIsSorted(pkgs, func(i, j int) bool { return pkgs[i].Name < pkgs[j].Name }) {
		t.Error("Status sorted the caller's slice")
	}
}
