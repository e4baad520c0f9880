package configs

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"slipway.dev/slipway/configs/arch"
)

// Every spelling cloud-init knows gives the same bytes.
func TestWriteFileBytes(t *testing.T) {
	const b64, gz = "aGVsbG8K", "H4sIAAAAAAACA8tIzcnJ5wIAIDA6NgYAAAA="
	for encoding, content := range map[Encoding]string{
		"": "hello\n", "text/plain": "hello\n", "b64": b64, "base64": b64, "B64": "aGVs\n bG8K\n",
		"gz+b64": gz, "gz+base64": gz, "gzip+b64": gz, "gzip+base64": gz,
	} {
		got, err := WriteFile{Content: content, Encoding: encoding}.Bytes()
		if err != nil || string(got) != "hello\n" {
			t.Errorf("%q: got %q, %v", encoding, got, err)
		}
	}
}

func TestWriteFileModeAndOwner(t *testing.T) {
	for text, want := range map[string]fs.FileMode{
		"":       0o644,
		"0000":   0,
		"'0755'": 0o755,
		"0600":   0o600,
		"'0o60'": 0o060,
		"'4755'": fs.ModeSetuid | 0o755,
		"'1777'": fs.ModeSticky | 0o777,
		"02750":  fs.ModeSetgid | 0o750,
	} {
		in := "#cloud-config\nwrite_files:\n  - path: /a\n    owner: root:adm\n"
		if text != "" {
			in += "    permissions: " + text + "\n"
		}
		u, err := ParseUserData("f", []byte(in))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := u.WriteFiles[0].Mode(); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
	for owner, want := range map[string][2]string{"": {"root", "root"}, "a": {"a", ""}, "a:b": {"a", "b"}, "0:12": {"0", "12"}} {
		user, group := WriteFile{Owner: owner}.UserGroup()
		if got := [2]string{user, group}; got != want {
			t.Errorf("owner %q: got %q, want %q", owner, got, want)
		}
	}
}

func TestHostPort(t *testing.T) {
	for in, want := range map[string]struct {
		host string
		port uint16
	}{
		"":                   {"", 6443},
		"192.0.2.1":          {"192.0.2.1", 6443},
		"api.example:443":    {"api.example", 443},
		"2001:db8::1":        {"2001:db8::1", 6443},
		"[2001:db8::1]:7443": {"2001:db8::1", 7443},
	} {
		if in != "" {
			if err := hostPort(in); err != nil {
				t.Errorf("%q: %v", in, err)
			}
		}
		if host, port := (Slipway{Endpoint: in}).HostPort(); host != want.host || port != want.port {
			t.Errorf("%q: got %q %d, want %q %d", in, host, port, want.host, want.port)
		}
	}
}

func TestDebianAll(t *testing.T) {
	d := Debian{Packages: map[string][]Package{
		"z": {{Name: "bash"}, {Name: "vim"}},
		"a": {{Name: "bash", Version: "5.2"}, {Name: "awk"}},
	}, Optional: map[string][]Package{"on": {{Name: "ceph-common"}, {Name: "vim"}}, "off": {{Name: "glusterfs-client"}}}, Enable: []string{"on"}}
	want := []Package{{Name: "awk"}, {Name: "bash", Version: "5.2"}, {Name: "ceph-common"}, {Name: "vim"}}
	if got := d.All(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSuggest(t *testing.T) {
	keys := []string{"hostname", "write_files", "runcmd", "ntp", "users"}
	for word, want := range map[string]string{
		"hostnmae": "hostname", "HostName": "hostname", "write-files": "write_files", "writeFile": "write_files",
		"user": "users", "npt": "ntp", "quux": "", "x": "", "zzzzzzzz": "", strings.Repeat("h", 1000): "",
	} {
		if got := suggest(word, keys); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

// The editor's byte order mark changes nothing, not even positions.
func TestByteOrderMark(t *testing.T) {
	_, err := ParseUserData("f", []byte("\ufeff#cloud-config\r\nhostnam: a\r\n"))
	if want := `f:2:1: hostnam: unknown key: did you mean "hostname"?`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestPackagesOfOneArchitecture(t *testing.T) {
	var all []Package
	for _, s := range []string{"linux-image-$arch", "bash=5.2.37-2", "intel-microcode [amd64]", "grub=2.12-1 [arm64]"} {
		var p Package
		if err := p.UnmarshalText([]byte(s)); err != nil {
			t.Fatal(err)
		}
		if p.String() != s {
			t.Errorf("%q comes back as %q", s, p)
		}
		all = append(all, p)
	}
	for a, want := range map[arch.Arch]string{
		arch.AMD64: "[linux-image-amd64 bash=5.2.37-2 intel-microcode]",
		arch.ARM64: "[linux-image-arm64 bash=5.2.37-2 grub=2.12-1]",
	} {
		if got := fmt.Sprint(PackagesFor(all, a)); got != want {
			t.Errorf("%s: %s, want %s", a, got, want)
		}
	}
	for s, want := range map[string]string{
		"bash [x86_64]":   `package "bash [x86_64]": want one architecture in brackets at the end, such as "bash [amd64]"`,
		"bash [amd64]=1":  `package "bash [amd64]=1": want one architecture`,
		"$arch":           "",
		"linux-$archive":  "",
		"linux-${arch}":   "is not a Debian package name",
		"bash:amd64":      `write "bash" without ":amd64"`,
		"bash [amd64 ] x": "want one architecture",
	} {
		var p Package
		err := p.UnmarshalText([]byte(s))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", s, err, want)
		}
	}
}
