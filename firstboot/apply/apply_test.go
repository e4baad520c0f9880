package apply

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"slipway.dev/slipway/configs"
)

const passwd = "root:x:0:0:root:/root:/bin/bash\nada:x:1000:1000::/home/ada:/bin/sh\n"

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func content(t *testing.T, root, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func key(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := hostKey(root, "/key", "ed25519"); err != nil {
		t.Fatal(err)
	}
	if _, err := ssh.ParsePrivateKey([]byte(content(t, root, "key"))); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(content(t, root, "key.pub"))
}

func TestHostKeysAreThoseOfSSHKeygen(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, sshDir), 0o755); err != nil {
		t.Fatal(err)
	}
	// A key and the fingerprint that OpenSSH 9.2 prints for it.
	const public, print = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILV9xPcoR3HC0QxqoTdEDLtu7KZ1fgokE+fKudX0Mepz", "SHA256:WHXQKaxqzQTXQkkmOCwgTLm1ePcIOESxirn4NK24+sc"
	if err := os.WriteFile(filepath.Join(root, sshDir, "ssh_host_ed25519_key.pub"), []byte(public+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := HostKeys(root); err != nil || len(got) != 1 || got[0] != print {
		t.Errorf("%q, %v", got, err)
	}
}

// needsRoot skips what gives files to other users.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: files get owners")
	}
}

func parse(t *testing.T, text string) *configs.UserData {
	t.Helper()
	u, err := configs.ParseUserData("user-data", []byte("#cloud-config\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// image is what a system root has before any config.
func image(t *testing.T) string {
	return tree(t, map[string]string{"etc/passwd": passwd, "etc/group": "root:x:0:\nadm:x:4:syslog\n", "etc/shadow": "root:*:1::::::\n",
		"usr/share/zoneinfo/Europe/Berlin": "TZif", caBundle: "-----OLD-----\n", "etc/old": "old\n"})
}

// snapshot lists every file with mode, owner and content.
func snapshot(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(p string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		sys := st.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %s %d:%d ", strings.TrimPrefix(p, root), st.Mode(), sys.Uid, sys.Gid)
		if st.Mode().IsRegular() {
			raw, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%q", raw)
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func apply(root string, u *configs.UserData, meta []string, done Instance) error {
	if err := Files(root, u, done); err != nil {
		return err
	}
	return User(root, u, meta, done)
}

const hash = "$6$saltsaltsalt1234$FbL/Iz6KQuJu9cxqUe6W/m/zzM3nHXYAfzEuTWnU2NvowlE.qgrUUhlRx85KS4FiVyjHqdhw2wukHu9tNCjGx/"

// Each case is one way of cloud-init to say something, and what it leaves
// behind: content, or "mode owner" after an @, or "-" for nothing.
func TestUser(t *testing.T) {
	needsRoot(t)
	k := key(t)
	base := "root:x:0:\nadm:x:4:syslog\n"
	for name, c := range map[string]struct {
		in   string
		meta []string
		want map[string]string
	}{
		"keys at the top are root's": {in: "ssh_authorized_keys: [" + k + "]\n", meta: []string{k + " meta"}, want: map[string]string{
			"root/.ssh/authorized_keys": k + "\n" + k + " meta\n", "@root/.ssh": "drwx------ 0:0"}},
		"root disabled": {in: "disable_root: true\nusers: [default, ada]\ndisable_root_opts: command=\"no $DISABLE_USER but $USER\"\nssh_authorized_keys: [" + k + "]\n",
			want: map[string]string{"root/.ssh/authorized_keys": "command=\"no root but ada\" " + k + "\n"}},
		"another default user": {in: "user: {name: ops, shell: /bin/sh}\nssh_authorized_keys: [" + k + "]\npassword: " + hash + "\nchpasswd: {expire: false}\n", want: map[string]string{
			"home/ops/.ssh/authorized_keys": k + "\n",
			"etc/passwd":                    passwd + "ops:x:1001:1001::/home/ops:/bin/sh\n",
			"etc/shadow":                    "root:*:1::::::\nops:" + hash + ":20000:0:99999:7:::\n"}},
		"a whole user": {in: "users:\n- {name: grace, gecos: Grace, uid: '1500', groups: 'adm, wheel', sudo: ['ALL=(ALL) NOPASSWD:ALL', 'ALL=(ada) ALL'], doas: [permit nopass grace], shell: /bin/sh, homedir: /srv/g, passwd: " + hash + ", lock_passwd: false, expiredate: '2031-05-01', inactive: 7, ssh_authorized_keys: [" + k + "]}\n",
			want: map[string]string{
				"etc/passwd":             passwd + "grace:x:1500:1500:Grace:/srv/g:/bin/sh\n",
				"etc/group":              "root:x:0:\nadm:x:4:syslog,grace\ngrace:x:1500:\nwheel:x:1000:grace\n",
				"etc/shadow":             "root:*:1::::::\ngrace:" + hash + ":20000:0:99999:7:7:22400:\n",
				"etc/sudoers.d/90-grace": "grace ALL=(ALL) NOPASSWD:ALL\ngrace ALL=(ada) ALL\n", "@etc/sudoers.d/90-grace": "-r--r----- 0:0",
				"etc/doas.conf": "permit nopass grace\n", "@srv/g": "drwxr-x--- 1500:1500",
				"srv/g/.ssh/authorized_keys": k + "\n", "@srv/g/.ssh/authorized_keys": "-rw------- 1500:1500"}},
		"no home, no own group, system": {in: "users: [{name: logger, system: true, no_create_home: true, no_user_group: true}]\n", want: map[string]string{
			"etc/passwd": passwd + "logger:x:500:100::/home/logger:/bin/bash\n", "etc/group": base + "users:x:100:\n", "home/logger": "-"}},
		"primary group": {in: "users: [{name: bob, primary_group: adm}]\n", want: map[string]string{
			"etc/passwd": passwd + "bob:x:1001:4::/home/bob:/bin/bash\n", "etc/group": base, "etc/shadow": "root:*:1::::::\nbob:*:20000:0:99999:7:::\n"}},
		"locked although it has a password": {in: "users: [{name: bob, passwd: " + hash + "}]\n", want: map[string]string{"etc/shadow": "root:*:1::::::\nbob:*:20000:0:99999:7:::\n"}},
		"a user that exists": {in: "users: [{name: ada, shell: /bin/zsh, hashed_passwd: " + hash + ", lock_passwd: false}]\n", want: map[string]string{
			"etc/passwd": passwd, "etc/shadow": "root:*:1::::::\nada:" + hash + ":20000:0:99999:7:::\n"}},
		"users in one string": {in: "users: 'default, bob'\n", want: map[string]string{"etc/passwd": passwd + "bob:x:1001:1001::/home/bob:/bin/bash\n"}},
		"groups": {in: "groups:\n- one\n- {two: [ada, root]}\n- three: ada\n", want: map[string]string{
			"etc/group": base + "one:x:1000:\ntwo:x:1001:ada,root\nthree:x:1002:ada\n"}},
		"groups in one string": {in: "groups: 'one, two'\n", want: map[string]string{"etc/group": base + "one:x:1000:\ntwo:x:1001:\n"}},
		"chpasswd":             {in: "chpasswd: {users: [{name: root, password: " + hash + "}]}\n", want: map[string]string{"etc/shadow": "root:" + hash + ":0::::::\n"}},
		"chpasswd of old": {in: "chpasswd:\n  expire: false\n  list: |\n    ada:" + hash + "\n", want: map[string]string{
			"etc/shadow": "root:*:1::::::\nada:" + hash + ":20000:0:99999:7:::\n"}},
		"ssh_pwauth": {in: "ssh_pwauth: yes\nssh_genkeytypes: [ed25519, ecdsa]\n", want: map[string]string{
			sshConf: "PasswordAuthentication yes\nHostKey /etc/ssh/ssh_host_ed25519_key\nHostKey /etc/ssh/ssh_host_ecdsa_key\n", "@etc/ssh/ssh_host_ecdsa_key": "-rw------- 0:0"}},
		"files": {in: `write_files:
- {path: /etc/new/secret, content: "s\n", permissions: "0600"}
- {path: /etc/old, content: "more\n", append: true}
- {path: /usr/bin/tool, content: aGVsbG8K, encoding: b64, permissions: "4755", owner: "root:adm"}
- {path: /home/bob/a/note, content: H4sIAAAAAAACA8tIzcnJ5wIAIDA6NgYAAAA=, encoding: gzip+base64, owner: "bob:adm", defer: true}
users: [bob]
`, want: map[string]string{"etc/old": "old\nmore\n", "etc/new/secret": "s\n", "@etc/new/secret": "-rw------- 0:0",
			"usr/bin/tool": "hello\n", "@usr/bin/tool": "urwxr-xr-x 0:4", "home/bob/a/note": "hello\n", "@home/bob/a/note": "-rw-r--r-- 1001:4", "@home/bob/a": "drwxr-xr-x 1001:4"}},
		"time": {in: "timezone: Europe/Berlin\nntp: {servers: [192.0.2.1], pools: [p.example], peers: [n2.example], allow: [192.0.2.0/24], config: {confpath: /etc/chrony/site.conf}}\n", want: map[string]string{
			"etc/timezone":         "Europe/Berlin\n",
			"etc/chrony/site.conf": "server 192.0.2.1 iburst\npool p.example iburst\npeer n2.example\nallow 192.0.2.0/24\ndriftfile /var/lib/chrony/drift\nmakestep 1 -1\nrtcsync\ncmdport 0\n"}},
		"no ntp":         {in: "ntp: {enabled: false, servers: [192.0.2.1]}\n", want: map[string]string{"etc/chrony/chrony.conf": "-"}},
		"ca_certs":       {in: "ca_certs: {trusted: [" + strconv.Quote(pemText) + "]}\n", want: map[string]string{caBundle: "-----OLD-----\n" + pemText + "\n"}},
		"ca-certs alone": {in: "ca-certs: {remove-defaults: true, trusted: [" + strconv.Quote(pemText) + "]}\n", want: map[string]string{caBundle: pemText + "\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := image(t)
			u := parse(t, c.in)
			done := Instance{Dir: filepath.Join(root, "var/lib/slipway/instance"), ID: "i-1"}
			if err := apply(root, u, c.meta, done); err != nil {
				t.Fatal(err)
			}
			for name, want := range c.want {
				file, mode := strings.CutPrefix(name, "@")
				st, err := os.Lstat(filepath.Join(root, file))
				switch {
				case want == "-":
					if err == nil {
						t.Errorf("%s is there", file)
					}
				case err != nil:
					t.Error(err)
				case mode:
					sys := st.Sys().(*syscall.Stat_t)
					if got := fmt.Sprintf("%s %d:%d", st.Mode(), sys.Uid, sys.Gid); got != want {
						t.Errorf("%s: got %s, want %s", file, got, want)
					}
				default:
					if got := content(t, root, file); got != want {
						t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
					}
				}
			}
			first := snapshot(t, root)
			if err := apply(root, u, c.meta, done); err != nil {
				t.Fatal(err)
			}
			if again := snapshot(t, root); again != first {
				t.Errorf("a second time changes the tree:\n%s\nwas\n%s", again, first)
			}
		})
	}
}

const pemText = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"

// Without a record everything is done again, and all but appended files and
// host keys comes out the same, passwords in clear text included.
func TestAgainWithoutRecord(t *testing.T) {
	needsRoot(t)
	root := image(t)
	u := parse(t, "ssh_deletekeys: false\nusers: [{name: bob, plain_text_passwd: secret, lock_passwd: false, doas: [permit bob]}]\nca_certs: {trusted: [\"-----BEGIN CERTIFICATE-----\\nMIIB\\n-----END CERTIFICATE-----\"]}\n")
	if err := apply(root, u, nil, Instance{}); err != nil {
		t.Fatal(err)
	}
	first := snapshot(t, root)
	if !strings.Contains(first, "bob:$6$") {
		t.Errorf("no password in\n%s", first)
	}
	if err := apply(root, u, nil, Instance{}); err != nil {
		t.Fatal(err)
	}
	if again := snapshot(t, root); again != first {
		t.Errorf("got\n%s\nwas\n%s", again, first)
	}
}

func TestInstance(t *testing.T) {
	dir, runs := t.TempDir(), 0
	f := func() error { runs++; return nil }
	fails := errors.New("no")
	for _, id := range []string{"a", "a", "b", "a"} {
		i := Instance{dir, id}
		if err := i.Once("x", func() error { return fails }); !i.Ran("x") && err != fails {
			t.Errorf("%s: %v", id, err)
		}
		if err := i.Once("x", f); err != nil {
			t.Error(err)
		}
	}
	if runs != 2 {
		t.Errorf("ran %d times for two instances", runs)
	}
}

// openssl passwd -6 made these.
func TestCrypt(t *testing.T) {
	for text, want := range map[string]string{
		"abc": hash,
		"a longer pass phrase of more than sixty-four bytes, which is one block of it": "$6$saltsaltsalt1234$JN5BwJY50DFIjRHR3hPTlhzvwaOJkovo85s9UzVi7HlDOUJwDSG1iqON2lWPr8zP6W7tSLbX6sHqtc3/Gx.Lr0",
	} {
		if got := sha512Crypt(text, "saltsaltsalt1234"); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
		if !fits(text, want) || fits(text+"x", want) || !fits(text, hashPassword(text)) {
			t.Errorf("%q: fits is wrong", text)
		}
	}
}

// A symlink of a user's leads nowhere; one of root's stays below the root.
func TestSymlinks(t *testing.T) {
	needsRoot(t)
	root := image(t)
	outside := t.TempDir()
	for _, l := range []struct {
		name, target string
		uid          int
	}{
		{"home/ada/way-out", "/etc", 1000}, {"home/ada/.ssh", "/root/.ssh", 1000}, {"home/ada/file", "/etc/shadow", 1000},
		{"etc/abs", outside, 0}, {"etc/up", "../../../../../../etc", 0}, {"etc/loop", "loop", 0}, {"lib", "usr/lib", 0},
	} {
		p := filepath.Join(root, l.name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.Symlink(l.target, p), os.Lchown(p, l.uid, l.uid)); err != nil {
			t.Fatal(err)
		}
	}
	for in, want := range map[string]string{
		"write_files: [{path: /home/ada/way-out/x, content: a}]":          `write_files[0] "/home/ada/way-out/x": the symlink "/home/ada/way-out" belongs to user 1000 and not to root: not followed`,
		"write_files: [{path: /home/ada/file, content: a}]":               `write_files[0] "/home/ada/file": the symlink "/home/ada/file" belongs to user 1000 and not to root: not followed`,
		"write_files: [{path: /home/ada/file, content: a, append: true}]": `write_files[0] "/home/ada/file": the symlink "/home/ada/file" belongs to user 1000 and not to root: not followed`,
		"users: [{name: ada, ssh_authorized_keys: [" + key(t) + "]}]":     `users: "ada": the symlink "/home/ada/.ssh" belongs to user 1000 and not to root: not followed`,
		"write_files: [{path: /etc/loop/x}]":                              `write_files[0] "/etc/loop/x": "/etc/loop/x": more than 40 symlinks`,
		"write_files: [{path: /etc}]":                                     `write_files[0] "/etc": "/etc" is a directory`,
		"write_files: [{path: /etc/passwd/x}]":                            `write_files[0] "/etc/passwd/x": lstat ` + root + `/etc/passwd/x: not a directory`,
		"write_files: [{path: /x, owner: nobody9}]":                       `write_files[0] "/x": user "nobody9": not known on this node (defer: true writes the file after users are made)`,
		"write_files: [{path: /x, owner: 'root:nogroup9', defer: true}]":  `write_files[0] "/x": group "nogroup9": not known on this node`,
		"timezone: Mars/Base":                                             `timezone "Mars/Base": the bundle's tzdata has no such zone`,
		"groups: [{a: [nobody9]}]":                                        `groups: a: user "nobody9": not known on this node`,
		"users: [{name: bob, groups: [new], create_groups: false}]":       `users: "bob": group "new": not known on this node`,
		"users: [{name: bob, uid: 1000}]":                                 `users: "bob": uid 1000 belongs to "ada"`,
		"chpasswd: {users: [{name: nobody9, password: " + hash + "}]}":    `chpasswd: user "nobody9": not known on this node`,
	} {
		if err := apply(root, parse(t, in), nil, Instance{}); err == nil || err.Error() != want {
			t.Errorf("%s:\ngot  %v\nwant %s", in, err, want)
		}
	}
	if err := apply(root, parse(t, "write_files: [{path: /etc/abs/x, content: a}, {path: /etc/up/y, content: b}, {path: /lib/z, content: c}]"), nil, Instance{}); err != nil {
		t.Fatal(err)
	}
	if list, _ := os.ReadDir(outside); len(list) != 0 {
		t.Errorf("%v is outside of the root", list)
	}
	if content(t, root, "etc/y") != "b" || content(t, root, outside+"/x") != "a" || content(t, root, "usr/lib/z") != "c" {
		t.Error("root's own symlinks lead elsewhere")
	}
}

func TestGivenHostKeys(t *testing.T) {
	from, root := t.TempDir(), image(t)
	for _, k := range []string{"rsa", "ecdsa"} {
		if err := hostKey(from, "/"+k, k); err != nil {
			t.Fatal(err)
		}
	}
	s := configs.SSHServer{SSHKeys: configs.HostKeys{RSAPrivate: content(t, from, "rsa"), RSACertificate: "cert"}}
	for range 2 {
		if err := sshServer(root, s); err != nil {
			t.Fatal(err)
		}
	}
	if content(t, root, "etc/ssh/ssh_host_rsa_key.pub") != content(t, from, "rsa.pub") {
		t.Error("not the public key of the private one")
	}
	if got := content(t, root, sshConf); got != "HostCertificate /etc/ssh/ssh_host_rsa_key-cert.pub\nHostKey /etc/ssh/ssh_host_rsa_key\n" {
		t.Errorf("%s", got)
	}
	s.SSHKeys.RSAPublic = content(t, from, "ecdsa.pub")
	if err := sshServer(root, s); err == nil || err.Error() != "ssh_keys: rsa: the public key is not that of the private one" {
		t.Errorf("got %v", err)
	}
}

func TestHost(t *testing.T) {
	root := tree(t, nil)
	n := Names{Hostname: "n1", Identity: configs.Identity{FQDN: "n1.site.example"}, Address: netip.MustParseAddr("192.0.2.10")}
	if err := Host(root, n); err != nil {
		t.Fatal(err)
	}
	id := content(t, root, "etc/machine-id")
	if len(id) != 33 || !strings.HasSuffix(content(t, root, "etc/hosts"), "192.0.2.10 n1.site.example n1\n") || content(t, root, "etc/hostname") != "n1\n" {
		t.Errorf("id %q, hosts %q", id, content(t, root, "etc/hosts"))
	}
	n.ManageEtcHosts = "localhost"
	n.PreferFQDN = true
	if err := Host(root, n); err != nil {
		t.Fatal(err)
	}
	if content(t, root, "etc/machine-id") != id || !strings.HasSuffix(content(t, root, "etc/hosts"), "127.0.1.1 n1.site.example n1\n") || content(t, root, "etc/hostname") != "n1.site.example\n" {
		t.Errorf("second time: %q", content(t, root, "etc/hosts"))
	}
	n.PreserveHostname, n.FQDN = true, "other.example"
	if err := Host(root, n); err != nil || content(t, root, "etc/hostname") != "n1.site.example\n" {
		t.Errorf("preserve_hostname: %v, %q", err, content(t, root, "etc/hostname"))
	}
	no := false
	n.PreserveHostname, n.CreateHostnameFile = false, &no
	if err := Host(root, n); err != nil || content(t, root, "etc/hostname") != "n1.site.example\n" {
		t.Errorf("create_hostname_file: %v, %q", err, content(t, root, "etc/hostname"))
	}
}

func TestLogins(t *testing.T) {
	root := tree(t, map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\nada:x:1000:1000::/home/ada:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\n" +
			"svc:x:500:500::/:/usr/sbin/nologin\nopen:x:1002:1002::/:/bin/sh\nshort:x\n",
		"etc/shadow": "root:*:20000:0:99999:7:::\nada:$y$j9T$x$y:20000:0:99999:7:::\nbob:!$6$x$y:20000:0:99999:7:::\nsvc:$6$x$y:1::::::\nopen::1::::::\n",
	})
	got, err := Logins(root)
	if err != nil || len(got) != 1 || got[0] != "ada" {
		t.Errorf("got %q, %v, want ada alone: no lock, no empty password, no account without a shell", got, err)
	}
	if none, err := Logins(t.TempDir()); err != nil || len(none) != 0 {
		t.Errorf("no files: %q, %v", none, err)
	}
}

func TestInitiatorName(t *testing.T) {
	names := map[string]bool{}
	for range 2 {
		root := tree(t, map[string]string{"etc/iscsi/iscsid.conf": ""})
		for range 2 {
			if err := Host(root, Names{Hostname: "n1"}); err != nil {
				t.Fatal(err)
			}
			names[content(t, root, "etc/iscsi/initiatorname.iscsi")] = true
		}
	}
	if len(names) != 2 {
		t.Errorf("two machines, started twice, have %d names: %v", len(names), names)
	}
	for n := range names {
		if !strings.HasPrefix(n, "InitiatorName=iqn.1993-08.org.debian:01:") || len(n) != len("InitiatorName=iqn.1993-08.org.debian:01:")+13 {
			t.Errorf("got %q", n)
		}
	}
	own := "# mine\nInitiatorName=iqn.2026-01.example:n1\n"
	root := tree(t, map[string]string{"etc/iscsi/initiatorname.iscsi": own})
	if err := Host(root, Names{Hostname: "n1"}); err != nil || content(t, root, "etc/iscsi/initiatorname.iscsi") != own {
		t.Errorf("%v: a name of user-data was changed", err)
	}
	if err := Host(tree(t, nil), Names{Hostname: "n1"}); err != nil {
		t.Errorf("without open-iscsi: %v", err)
	}
}
