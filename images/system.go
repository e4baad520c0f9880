package images

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/kmod"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/rootfs"
)

// trimmed are parts of packages that no node reads. Licences stay: they must
// travel with the binaries.
var trimmed = []string{
	"usr/share/man/", "usr/share/info/", "usr/share/locale/", "usr/share/lintian/", "usr/share/doc-base/",
	"usr/share/bug/", "usr/share/gcc/", "usr/share/gdb/", "usr/lib/systemd/", "etc/systemd/", "etc/init.d/", "etc/sv/", "etc/cron", "etc/logrotate.d/",
	"usr/share/initramfs-tools/", "etc/initramfs", "etc/kernel/", "boot/System.map", "boot/config-",
	"usr/lib/udev/hwdb.d/", // sources of hwdb.bin, which nobody compiles here
	// Modules of a Perl that is not there; programs link libperl.so at most, which stays.
	"usr/lib/" + arch.AMD64.Multiarch() + "/perl/", "usr/lib/" + arch.ARM64.Multiarch() + "/perl/",
}

// trimmedDrivers are parts of a kernel package for what no server has or a node
// does not use: sound, radio, cameras, laboratory cards, and graphics beyond
// the cards of server boards (ast, mgag200, virtio and the frame buffer stay).
var trimmedDrivers = []string{
	"sound/", "drivers/media/", "drivers/net/wireless/", "drivers/bluetooth/", "drivers/comedi/", "drivers/iio/", "drivers/staging/",
	"drivers/gpu/drm/amd/", "drivers/gpu/drm/i915/", "drivers/gpu/drm/nouveau/", "drivers/gpu/drm/radeon/", "drivers/gpu/drm/xe/",
	"drivers/input/joystick/", "drivers/input/touchscreen/", "drivers/input/tablet/", "drivers/infiniband/ulp/rtrs/",
	"drivers/accel/", "net/bluetooth/", "net/wireless/", "net/mac80211/", "net/nfc/", "drivers/nfc/",
}

func trimDriver(p string) bool {
	rest, ok := strings.CutPrefix(p, "usr/lib/modules/")
	if !ok {
		return false
	}
	_, rest, _ = strings.Cut(rest, "/kernel/")
	return slices.ContainsFunc(trimmedDrivers, func(t string) bool { return strings.HasPrefix(rest, t) })
}

// trimmedModules are the names of the modules that trimDriver leaves out.
func trimmedModules(c *Content) map[string]bool {
	out := map[string]bool{}
	for _, p := range c.System.Packages {
		for _, f := range p.Files {
			// Packages from before the merge of /usr ship lib/modules.
			if path := "usr/" + strings.TrimPrefix(rootfs.Clean(f.Path), "usr/"); trimDriver(path) {
				out[kmod.Name(path)] = true
			}
		}
	}
	return out
}

func trim(p string) bool {
	if trimDriver(p) {
		return true
	}
	if strings.HasPrefix(p, "usr/share/doc/") {
		return path.Base(p) != "copyright"
	}
	for _, t := range trimmed {
		if strings.HasPrefix(p, t) || p == strings.TrimSuffix(t, "/") {
			return true
		}
	}
	return false
}

// places says where in the root each program belongs; those that are not
// listed live in container images only.
var places = map[string]string{
	"slipway-init":            layout.Init,
	"slipway":                 layout.Tool,
	"kubelet":                 "usr/bin/kubelet",
	"kubeadm":                 "usr/bin/kubeadm",
	"kubectl":                 "usr/bin/kubectl",
	"containerd":              "usr/bin/containerd",
	"containerd-shim-runc-v2": "usr/bin/containerd-shim-runc-v2",
	"ctr":                     "usr/bin/ctr",
}

// plugins are the CNI plugins, which the runtime looks for in one directory.
var plugins = []string{"bandwidth", "bridge", "firewall", "flannel", "host-device", "host-local", "ipvlan", "loopback", "macvlan", "portmap", "ptp", "static", "tuning", "vlan"}

// system lays out the root file system and returns it with the kernel, which
// leaves the root for the medium.
func system(c *Content) (*rootfs.Tree, error) {
	t := rootfs.New()
	pkgs := slices.Clone(c.System.Packages)
	slices.SortFunc(pkgs, func(a, b Package) int {
		// base-files brings the usr-merge symlinks that everything else is placed through.
		if x, y := a.Name == "base-files", b.Name == "base-files"; x != y {
			return map[bool]int{true: -1, false: 1}[x]
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, p := range pkgs {
		if err := addPackage(t, p); err != nil {
			return nil, err
		}
	}
	if err := settle(t, c.System.Stanzas); err != nil {
		return nil, err
	}
	if err := t.File("var/lib/dpkg/status", 0o644, deb.Status(c.System.Stanzas), "lock"); err != nil {
		return nil, err
	}
	for _, name := range sorted(places) {
		p, err := c.program(name)
		if err != nil {
			return nil, err
		}
		if err := t.Set(p.entry(places[name])); err != nil {
			return nil, err
		}
	}
	for _, name := range plugins {
		p, err := c.program(name)
		if err != nil {
			return nil, err
		}
		if err := t.Set(p.entry(layout.CNIBin + "/" + name)); err != nil {
			return nil, err
		}
	}
	if err := t.Symlink("usr/bin/slipway", "/"+layout.Init, "program slipway-init"); err != nil {
		return nil, err
	}
	if err := skeleton(t); err != nil {
		return nil, err
	}
	return t, c.System.Overlay(t)
}

func addPackage(t *rootfs.Tree, p Package) error {
	source := "deb " + p.Name + "_" + p.Version
	for _, f := range p.Files {
		e := rootfs.Entry{Path: f.Path, Mode: f.Mode, UID: f.UID, GID: f.GID, Size: f.Size, Link: f.Link, Xattrs: f.Xattrs, Source: source, Open: f.Open}
		if rootfs.Clean(e.Path) == "" || trim(rootfs.Clean(e.Path)) {
			continue
		}
		if err := t.Add(e); err != nil {
			return err
		}
	}
	return nil
}

// skeleton adds the mount points and directories that no package ships.
func skeleton(t *rootfs.Tree) error {
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "root", "home", "srv", "mnt", "media", "opt", "usr/local/bin", "usr/local/sbin", "usr/local/lib", "usr/local/etc", "var/log", "var/lib/kubelet",
		"var/lib/containerd", "var/lib/etcd", "var/lib/cni", "etc/kubernetes", "etc/cni/net.d", "etc/containerd", "etc/ssh", "etc/slipway",
		// The controller manager's manifest mounts it with DirectoryOrCreate; the root is read-only.
		"usr/libexec/kubernetes/kubelet-plugins/volume/exec"} {
		if _, ok := t.Get(d); ok {
			continue
		}
		if err := t.Dir(d, 0o755, "skeleton"); err != nil {
			return err
		}
	}
	return nil
}

// kernel finds the only kernel of the tree and takes its files out of boot/.
func kernel(t *rootfs.Tree) (release string, image rootfs.Entry, err error) {
	rel := kmod.Releases(t)
	if len(rel) != 1 {
		return "", image, fmt.Errorf("the packages bring %d kernels %q, want one (add linux-image-$arch)", len(rel), rel)
	}
	image, ok := t.Get("boot/vmlinuz-" + rel[0])
	if !ok {
		return "", image, fmt.Errorf("kernel %s has modules but no boot/vmlinuz-%s", rel[0], rel[0])
	}
	t.Remove("boot")
	return rel[0], image, nil
}

// content reads a small file of the tree whole; a missing one is empty.
func content(t *rootfs.Tree, name string) ([]byte, error) {
	e, ok := t.Get(name)
	if !ok {
		return nil, nil
	}
	f, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
