package apply

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
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

func read(t *testing.T, root, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func key(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := HostKey(path); err != nil {
		t.Fatal(err)
	}
	priv, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ssh.ParsePrivateKey(priv); err != nil {
		t.Fatal(err)
	}
	pub, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(pub))
}

func TestUser(t *testing.T) {
	k := key(t)
	root := tree(t, map[string]string{"etc/passwd": passwd, "etc/group": "root:x:0:\nadm:x:4:syslog\n", "etc/shadow": "root:*:1::::::\n",
		"usr/share/zoneinfo/Europe/Berlin": "TZif", caBundle: "-----OLD-----\n", "etc/old": "old\n"})
	u, err := configs.ParseUserData("user-data", []byte(`#cloud-config
ssh_authorized_keys: ["`+k+`"]
timezone: Europe/Berlin
ntp: {servers: [192.0.2.123]}
users:
  - name: grace
    uid: 1500
    groups: [adm, wheel]
    sudo: ALL=(ALL) NOPASSWD:ALL
    ssh_authorized_keys: ["`+k+`"]
write_files:
  - {path: /etc/new/secret, content: "s\n", permissions: "0600"}
  - {path: /etc/old, content: "more\n", append: true}
  - {path: /home/grace/note, content: "hi", owner: "grace:grace", defer: true}
`))
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		t.Skip("needs root: files get owners")
	}
	if err := User(root, u); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"etc/old": "old\nmore\n", "etc/new/secret": "s\n", "home/grace/note": "hi", "etc/timezone": "Europe/Berlin\n",
		"root/.ssh/authorized_keys": k + "\n", "home/grace/.ssh/authorized_keys": k + "\n",
		"etc/passwd":             passwd + "grace:x:1500:1500::/home/grace:/bin/bash\n",
		"etc/group":              "root:x:0:\nadm:x:4:syslog,grace\ngrace:x:1500:\nwheel:x:1000:grace\n",
		"etc/sudoers.d/90-grace": "grace ALL=(ALL) NOPASSWD:ALL\n", caBundle: "-----OLD-----\n",
	} {
		if got := read(t, root, name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if got := read(t, root, ChronyConf); !strings.HasPrefix(got, "server 192.0.2.123 iburst\n") {
		t.Errorf("chrony: %q", got)
	}
	for name, mode := range map[string]os.FileMode{"etc/new/secret": 0o600, "home/grace/.ssh": os.ModeDir | 0o700, "etc/sudoers.d/90-grace": 0o440, "etc/shadow": 0o640} {
		if st, err := os.Stat(filepath.Join(root, name)); err != nil || st.Mode() != mode {
			t.Errorf("%s: %v, %v, want %v", name, st.Mode(), err, mode)
		}
	}
}

func TestUserRefuses(t *testing.T) {
	root := tree(t, map[string]string{"etc/passwd": passwd, "etc/group": "root:x:0:\n"})
	for want, u := range map[string]configs.UserData{
		`timezone "Mars/Base": the bundle's tzdata has no such zone`:    {Services: configs.Services{Timezone: "Mars/Base"}},
		`write_files[0] "/x": user "nobody9": not known on this node`:   {Scripts: configs.Scripts{WriteFiles: []configs.WriteFile{{Path: "/x", Owner: "nobody9"}}}},
		`write_files[0] "/x": group "nogroup9": not known on this node`: {Scripts: configs.Scripts{WriteFiles: []configs.WriteFile{{Path: "/x", Owner: "root:nogroup9"}}}},
	} {
		if err := User(root, &u); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestHost(t *testing.T) {
	root := tree(t, nil)
	n := Names{Hostname: "n1", FQDN: "n1.site.example", Address: netip.MustParseAddr("192.0.2.10")}
	if err := Host(root, n); err != nil {
		t.Fatal(err)
	}
	id := read(t, root, "etc/machine-id")
	if len(id) != 33 || !strings.HasSuffix(read(t, root, "etc/hosts"), "192.0.2.10 n1.site.example n1\n") || read(t, root, "etc/hostname") != "n1\n" {
		t.Errorf("id %q, hosts %q", id, read(t, root, "etc/hosts"))
	}
	n.Hosts = "localhost"
	if err := Host(root, n); err != nil {
		t.Fatal(err)
	}
	if read(t, root, "etc/machine-id") != id || !strings.HasSuffix(read(t, root, "etc/hosts"), "127.0.1.1 n1.site.example n1\n") {
		t.Errorf("second time: %q", read(t, root, "etc/hosts"))
	}
}
