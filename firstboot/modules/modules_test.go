package modules

import (
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

func index(t *testing.T) *Index {
	t.Helper()
	const dir = "usr/lib/modules/6.12.1/"
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	x, err := Read(fstest.MapFS{
		dir + "modules.dep": file(`kernel/fs/erofs/erofs.ko.xz: kernel/lib/libcrc32c.ko.xz
kernel/lib/libcrc32c.ko.xz:
kernel/crypto/crc32c_generic.ko.xz:
kernel/drivers/net/virtio_net.ko.xz: kernel/net/core/failover.ko.xz kernel/drivers/net/net_failover.ko.xz
kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz
kernel/net/core/failover.ko.xz:
kernel/a/snd-hda.ko.xz: kernel/a/gone.ko.xz
kernel/drivers/watchdog/evil.ko:
`),
		dir + "modules.alias": file(`# comment
alias virtio:d00000001v* virtio_net
alias pci:v00008086d0000100Esv*sd*bc*sc*i* e1000
alias pci:v00008086d*sv*sd*bc0[1-3]sc*i* evil
alias crc32c crc32c_generic
alias fs-erofs erofs
`),
		dir + "modules.softdep":         file("softdep libcrc32c pre: crc32c\n"),
		dir + "modules.builtin":         file("kernel/fs/ext4/ext4.ko\n"),
		"etc/modprobe.d/blacklist.conf": file("blacklist evil\n"),
	}, "6.12.1")
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestMatch(t *testing.T) {
	x := index(t)
	for alias, want := range map[string][]string{
		"virtio:d00000001v00001AF4":                             {"virtio_net"},
		"virtio:d00000002v00001AF4":                             nil,
		"pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00": {"e1000"}, // evil matches too and is denied
		"pci:v00008086d00001111sv00001AF4sd00001100bc02sc00i00": nil,
		"fs_erofs":                       {"erofs"},
		"fs-erofs":                       {"erofs"},
		"of:NserialT(null)Cns16550a/x/y": nil,
	} {
		if got := x.Match(alias); !reflect.DeepEqual(got, want) {
			t.Errorf("Match(%q) = %q, want %q", alias, got, want)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		p, s string
		want bool
	}{
		{"", "", true}, {"*", "", true}, {"*", "a/b", true}, {"a*b", "ab", true}, {"a*b", "axxbxb", true}, {"a*b", "axxc", false},
		{"a?c", "abc", true}, {"a?c", "ac", false}, {"[0-3]x", "2x", true}, {"[0-3]x", "4x", false}, {"[!a]", "b", true}, {"[!a]", "a", false},
		{"[ab-d]", "c", true}, {"[", "[", false}, {"a*[0-9]", "abc7", true}, {"ab", "abc", false},
	} {
		if got := glob(c.p, c.s); got != c.want {
			t.Errorf("glob(%q, %q) = %v, want %v", c.p, c.s, got, c.want)
		}
	}
}

func TestOrder(t *testing.T) {
	x := index(t)
	for name, want := range map[string][]File{
		"erofs":      {{"kernel/crypto/crc32c_generic.ko.xz", true}, {"kernel/lib/libcrc32c.ko.xz", false}, {"kernel/fs/erofs/erofs.ko.xz", false}},
		"virtio-net": {{"kernel/net/core/failover.ko.xz", false}, {"kernel/drivers/net/net_failover.ko.xz", false}, {"kernel/drivers/net/virtio_net.ko.xz", false}},
		"ext4":       nil,
	} {
		got, err := x.Order(name)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Order(%q) = %v, %v, want %v", name, got, err, want)
		}
	}
	for name, want := range map[string]string{
		"nothing": `module "nothing": this kernel has none of that name`,
		"snd_hda": `module "snd_hda": needs module "gone": this kernel has none of that name`,
	} {
		if _, err := x.Order(name); err == nil || err.Error() != want {
			t.Errorf("Order(%q): %v, want %s", name, err, want)
		}
	}
	if !x.Known("ext4") || !x.Known("snd-hda") || x.Known("nothing") {
		t.Error("Known is wrong")
	}
}

func TestReadWithoutIndex(t *testing.T) {
	if _, err := Read(fstest.MapFS{}, "6.12.1"); err == nil || !strings.Contains(err.Error(), "6.12.1") {
		t.Errorf("got %v", err)
	}
}

func TestParseUevent(t *testing.T) {
	u, err := ParseUevent([]byte("add@/devices/pci0/usb1\x00ACTION=add\x00SUBSYSTEM=usb\x00MODALIAS=usb:v1p2=3\x00\x00"))
	if err != nil || u.Action != "add" || u.DevPath != "/devices/pci0/usb1" || u.Env["MODALIAS"] != "usb:v1p2=3" || u.Env["SUBSYSTEM"] != "usb" {
		t.Errorf("got %+v, %v", u, err)
	}
	for _, bad := range []string{"", "libudev\x00\xfe\xed", "@x", "nothing\x00A=b"} {
		if u, err := ParseUevent([]byte(bad)); err == nil {
			t.Errorf("ParseUevent(%q) = %+v, want an error", bad, u)
		}
	}
}
