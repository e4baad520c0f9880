package images

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	"slipway.dev/slipway/images/kmod"
	"slipway.dev/slipway/images/rootfs"
)

// early are the directories of kernel modules that a machine may need before
// its system root is mounted: buses and controllers of storage, wired network
// cards, input for the console, and the file systems of media.
var early = []string{
	"kernel/drivers/ata/", "kernel/drivers/block/", "kernel/drivers/cdrom/", "kernel/drivers/nvme/host/",
	"kernel/drivers/scsi/", "kernel/drivers/message/fusion/", "kernel/drivers/usb/host/",
	"kernel/drivers/usb/storage/", "kernel/drivers/usb/core/", "kernel/drivers/usb/common/",
	"kernel/drivers/virtio/", "kernel/drivers/net/virtio_net.ko.xz", "kernel/drivers/net/net_failover.ko.xz",
	"kernel/drivers/net/ethernet/", "kernel/drivers/net/vmxnet3/", "kernel/drivers/net/hyperv/",
	"kernel/drivers/net/mdio/", "kernel/drivers/net/phy/", "kernel/drivers/net/bonding/",
	"kernel/drivers/hv/", "kernel/drivers/pci/controller/", "kernel/drivers/hid/hid-generic.ko.xz",
	"kernel/drivers/hid/usbhid/", "kernel/drivers/hid/hid.ko.xz", "kernel/drivers/input/serio/",
	"kernel/drivers/input/keyboard/", "kernel/drivers/watchdog/", "kernel/drivers/char/virtio_console.ko.xz",
	"kernel/fs/isofs/", "kernel/fs/erofs/", "kernel/fs/overlayfs/", "kernel/fs/fat/", "kernel/fs/nls/nls_ascii.ko.xz",
	"kernel/fs/nls/nls_cp437.ko.xz", "kernel/fs/nls/nls_utf8.ko.xz", "kernel/fs/nls/nls_iso8859-1.ko.xz",
	"kernel/fs/ext4/", "kernel/drivers/net/loopback",
	"kernel/net/packet/", "kernel/drivers/net/vxlan/", "kernel/net/8021q/", "kernel/net/bridge/bridge.ko.xz",
}

// late are left out although an early directory holds them: storage of
// clusters and fabrics that cannot be a boot medium, and network cards for
// which a node's system root is early enough.
var late = []string{
	"kernel/drivers/block/drbd/", "kernel/drivers/block/rbd", "kernel/drivers/block/zram/", "kernel/drivers/block/nbd",
	"kernel/drivers/block/aoe/", "kernel/drivers/block/floppy", "kernel/drivers/scsi/fcoe/", "kernel/drivers/scsi/bnx2fc/",
	"kernel/drivers/scsi/qla2xxx/", "kernel/drivers/scsi/lpfc/", "kernel/drivers/scsi/bfa/", "kernel/drivers/scsi/csiostor/",
	"kernel/drivers/scsi/cxgbi/", "kernel/drivers/scsi/qedf/", "kernel/drivers/scsi/qedi/", "kernel/drivers/scsi/be2iscsi/",
	"kernel/drivers/scsi/qla4xxx/", "kernel/drivers/scsi/fnic/", "kernel/drivers/scsi/snic/", "kernel/drivers/scsi/pcmcia/",
	"kernel/drivers/net/ethernet/mellanox/mlxsw/", "kernel/drivers/net/ethernet/netronome/",
	"kernel/drivers/net/ethernet/chelsio/", "kernel/drivers/net/ethernet/sfc/", "kernel/drivers/net/ethernet/qlogic/qed/",
	"kernel/drivers/usb/storage/uas-debug",
}

func wantedEarly(extra []string) func(kmod.Module) bool {
	names := map[string]bool{}
	for _, e := range extra {
		names[kmod.Name(e)] = true
	}
	return func(m kmod.Module) bool {
		if names[m.Name] {
			return true
		}
		for _, p := range late {
			if strings.HasPrefix(m.Path, p) {
				return false
			}
		}
		for _, p := range early {
			if strings.HasPrefix(m.Path, p) {
				return true
			}
		}
		return false
	}
}

// initramfs lays out the initial RAM file system: slipway-init as /init, the
// early modules with their indexes, the key to trust and the clock's floor.
func initramfs(system *rootfs.Tree, release string, mods []kmod.Module, builtin []byte, in *Content) (*rootfs.Tree, error) {
	t := rootfs.New()
	closure, err := kmod.Closure(mods, kmod.Builtin(builtin), wantedEarly(in.Boot.Modules))
	if err != nil {
		return nil, err
	}
	base := kmod.Dir(release)
	for _, m := range closure {
		e, ok := system.Get(base + "/" + m.Path)
		if !ok {
			return nil, fmt.Errorf("module %s is not in the system root", m.Path)
		}
		if err := t.Add(e); err != nil {
			return nil, err
		}
		if err := addFirmware(t, system, m); err != nil {
			return nil, err
		}
	}
	init, ok := in.Programs["slipway-init"]
	if !ok {
		return nil, fmt.Errorf("program %q is missing", "slipway-init")
	}
	e := init.entry("init")
	if err := t.Add(e); err != nil {
		return nil, err
	}
	if err := addIndexes(t, release, closure, builtin); err != nil {
		return nil, err
	}
	if err := addTools(t, system); err != nil {
		return nil, err
	}
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "sysroot"} {
		if err := t.Dir(d, 0o755, "initramfs"); err != nil {
			return nil, err
		}
	}
	if err := t.File("etc/slipway/bundle.pub", 0o444, fmt.Appendf(nil, "%x\n", in.PublicKey), "signing key"); err != nil {
		return nil, err
	}
	return t, t.File("etc/slipway/built", 0o444, []byte(in.Built.UTC().Format(time.RFC3339)+"\n"), "build time")
}

// firmwareDir is where the kernel looks for firmware (drivers/base/firmware_loader).
const firmwareDir = "usr/lib/firmware/"

// addFirmware carries what a module asks for as far as packages of the bundle
// bring it: plain, or as the kernel reads it compressed (.xz, .zst), with the
// files that links among them point to. Drivers name more than a machine has.
func addFirmware(t, system *rootfs.Tree, m kmod.Module) error {
	for _, name := range m.Firmware {
		for _, suffix := range []string{"", ".xz", ".zst"} {
			p := firmwareDir + name + suffix
			for hops := 0; hops < 8; hops++ {
				e, ok := system.Get(p)
				if !ok {
					break
				}
				if err := t.Set(e); err != nil {
					return fmt.Errorf("firmware of module %s: %w", m.Path, err)
				}
				if e.Mode.Type() != fs.ModeSymlink {
					break
				}
				p = path.Join(path.Dir(e.Path), e.Link)
			}
		}
	}
	return nil
}

func addIndexes(t *rootfs.Tree, release string, mods []kmod.Module, builtin []byte) error {
	dep, alias, soft := kmod.Index(mods)
	for name, text := range map[string][]byte{"modules.dep": dep, "modules.alias": alias, "modules.softdep": soft, "modules.builtin": builtin} {
		if err := t.File(path.Join(kmod.Dir(release), name), 0o644, text, "module index"); err != nil {
			return err
		}
	}
	return nil
}

// writeInitramfs writes a newc cpio archive (kernel
// Documentation/driver-api/early-userspace/buffer-format.rst) compressed with
// zstd, which Debian's kernel unpacks (CONFIG_RD_ZSTD).
func writeInitramfs(w io.Writer, t *rootfs.Tree, built time.Time) error {
	// One encoder goroutine: the bytes must not depend on the machine's cores.
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return err
	}
	c := cpio.NewWriter(z)
	inode := int64(1)
	err = t.Walk(func(e rootfs.Entry) error {
		if e.Path == "." {
			return nil
		}
		inode++
		if err := cpioEntry(c, e, inode, built); err != nil {
			return fmt.Errorf("adding /%s (%s): %w", e.Path, e.Source, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	return z.Close()
}

func cpioEntry(c *cpio.Writer, e rootfs.Entry, inode int64, built time.Time) error {
	h := &cpio.Header{Name: e.Path, Mode: cpio.FileMode(e.Mode.Perm()), Uid: e.UID, Guid: e.GID, ModTime: built, Inode: inode, Links: 1}
	switch e.Mode.Type() {
	case 0:
		h.Mode |= cpio.TypeReg
		h.Size = e.Size
	case fs.ModeDir:
		h.Mode |= cpio.TypeDir
	case fs.ModeSymlink:
		h.Mode |= cpio.TypeSymlink
		h.Linkname, h.Size = e.Link, int64(len(e.Link))
	default:
		return fmt.Errorf("type %v has no place in an initramfs", e.Mode.Type())
	}
	if err := c.WriteHeader(h); err != nil {
		return err
	}
	switch e.Mode.Type() {
	case fs.ModeSymlink:
		_, err := io.WriteString(c, e.Link)
		return err
	case 0:
		f, err := e.Open()
		if err != nil {
			return err
		}
		defer f.Close()
		n, err := io.Copy(c, f)
		if err == nil && n != e.Size {
			err = fmt.Errorf("content has %d bytes, want %d", n, e.Size)
		}
		return err
	}
	return nil
}
