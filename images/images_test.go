package images

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/kmod"
	"slipway.dev/slipway/images/rootfs"
)

var built = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func file(name, content string) deb.File {
	return deb.File{Path: name, Mode: 0o644, Size: int64(len(content)), Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }}
}

func link(name, target string) deb.File {
	return deb.File{Path: name, Mode: fs.ModeSymlink | 0o777, Link: target}
}

const release = "6.12.0-amd64"

func sample() *Content {
	c := &Content{Name: "t", Serial: 1, Arch: arch.AMD64, Kubernetes: "v1.37.1", Built: built, PublicKey: make([]byte, 32), Programs: map[string]Program{},
		Boot: Boot{Cmdline: boot.Cmdline{Consoles: []string{"tty0"}}, NoCloud: map[string][]byte{}}}
	for _, n := range append(sorted(places), plugins...) {
		c.Programs[n] = Program{GoBinary: lock.GoBinary{Name: n, Size: 3}, Path: "/proc/self/exe"}
	}
	mod := "lib/modules/" + release + "/"
	c.System = Root{Overlay: func(*rootfs.Tree) error { return nil }, Packages: []Package{
		{Name: "acl", Version: "1", Files: []deb.File{file("bin/acl", "acl"), file("usr/share/man/man1/acl.1.gz", "m"), file("usr/share/doc/acl/copyright", "c"), file("usr/share/doc/acl/README", "r")}},
		{Name: "base-files", Version: "13", Files: []deb.File{link("bin", "usr/bin"), link("lib", "usr/lib")}},
		{Name: "linux-image", Version: "6", Files: []deb.File{file("boot/vmlinuz-"+release, "KERNEL"), file("boot/System.map-"+release, "map"),
			file(mod+"modules.builtin", "kernel/lib/crc16.ko\n"), file(mod+"kernel/fs/erofs/erofs.ko.xz", "e"), file(mod+"kernel/lib/crc.ko.xz", "c"), file(mod+"kernel/sound/snd.ko.xz", "s")}},
	}}
	return c
}

func modules(*rootfs.Tree, string) ([]kmod.Module, error) {
	return []kmod.Module{{Path: "kernel/fs/erofs/erofs.ko.xz", Name: "erofs", Depends: []string{"crc", "crc16"}},
		{Path: "kernel/lib/crc.ko.xz", Name: "crc"}, {Path: "kernel/sound/snd.ko.xz", Name: "snd"}}, nil
}

func TestAssemble(t *testing.T) {
	p, err := Assemble(sample(), modules)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := p.Print(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"bundle t serial 1, amd64, Kubernetes v1.37.1, kernel " + release,
		"system -rw-r--r-- 0:0 3 /usr/bin/acl (deb acl_1)",
		"system Lrwxrwxrwx 0:0 0 /bin -> usr/bin (deb base-files_13)",
		"system -rw-r--r-- 0:0 1 /usr/share/doc/acl/copyright (deb acl_1)",
		"system -rwxr-xr-x 0:0 3 /opt/cni/bin/flannel (program flannel)",
		"initramfs -rwxr-xr-x 0:0 3 /init (program slipway-init)",
		"initramfs -rw-r--r-- 0:0 1 /usr/lib/modules/" + release + "/kernel/lib/crc.ko.xz",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the plan lacks %q", want)
		}
	}
	for _, not := range []string{"man1", "acl/README", "System.map", "system -rw-r--r-- 0:0 6 /boot", "initramfs -rw-r--r-- 0:0 1 /usr/lib/modules/" + release + "/kernel/sound"} {
		if strings.Contains(text.String(), not) {
			t.Errorf("the plan has %q", not)
		}
	}
	if dep, err := content(p.Initramfs, kmod.Dir(release)+"/modules.dep"); err != nil || string(dep) != "kernel/fs/erofs/erofs.ko.xz: kernel/lib/crc.ko.xz\nkernel/lib/crc.ko.xz:\n" {
		t.Errorf("modules.dep of the initramfs: %q, %v", dep, err)
	}
}

func TestAssembleRefuses(t *testing.T) {
	for want, change := range map[string]func(*Content){
		`system root: program "kubelet" is missing`: func(c *Content) { delete(c.Programs, "kubelet") },
		"deb zlib_2: /usr/bin/acl is already there from deb acl_1": func(c *Content) {
			c.System.Packages = append(c.System.Packages, Package{Name: "zlib", Version: "2", Files: []deb.File{file("usr/bin/acl", "x")}})
		},
		`the packages bring 0 kernels [], want one`:                        func(c *Content) { c.System.Packages = c.System.Packages[:2] },
		"module kernel/fs/erofs/erofs.ko.xz depends on \"crc16\", which":   func(c *Content) { c.System.Packages[2].Files[2] = file("lib/modules/"+release+"/modules.builtin", "") },
		`kernel 6.12.0-amd64 has modules but no boot/vmlinuz-6.12.0-amd64`: func(c *Content) { c.System.Packages[2].Files = c.System.Packages[2].Files[1:] },
		"initramfs: module kernel/lib/crc.ko.xz is not in the system root": func(c *Content) {
			c.System.Packages[2].Files[4] = file("lib/modules/"+release+"/kernel/other.ko.xz", "c")
		},
	} {
		c := sample()
		change(c)
		if _, err := Assemble(c, modules); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
}

func TestInitramfsIsReproducibleAndReadable(t *testing.T) {
	tree := rootfs.New()
	if err := errors.Join(tree.File("init", 0o755, []byte("program"), "t"), tree.Symlink("bin/sh", "../init", "t"), tree.Dir("proc", 0o555, "t")); err != nil {
		t.Fatal(err)
	}
	var one, two bytes.Buffer
	if err := errors.Join(writeInitramfs(&one, tree, built), writeInitramfs(&two, tree, built)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("two archives differ")
	}
	z, err := zstd.NewReader(&one)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := cpio.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %o %s%s", h.Name, h.Mode, h.Linkname, body))
	}
	want := []string{"bin 40755 ", "bin/sh 120777 ../init", "init 100755 program", "proc 40555 "}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
