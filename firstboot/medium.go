package firstboot

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/install"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/volume"
	"slipway.dev/slipway/images/layout"
)

func mediumPhase(ctx context.Context, n *Node) error {
	key, err := publicKey("/" + layout.PublicKey)
	if err != nil {
		return report.Fail("SW-MEDIUM-KEY", "build the image again", err)
	}
	n.key = key
	if n.Cmdline.Disk != "" {
		return n.startedFrom(ctx)
	}
	if n.Cmdline.Store != "" {
		return n.findSeed(ctx, key)
	}
	refused := map[string]error{}
	began, told := time.Now(), 0*time.Second
	for {
		_, changed := n.drivers.block()
		devs, _ := volume.List("/sys", "/dev")
		for _, d := range find(devs, "iso9660", layout.Volume) {
			if _, ok := refused[d.Path]; ok {
				continue
			}
			b, err := openMedium(d.Path, mediumDir, key)
			if err == nil {
				return n.useMedium(d, b)
			}
			refused[d.Path] = err
			n.step("refused", fmt.Sprintf("%s: %v", d.Path, err), nil)
		}
		select {
		case <-ctx.Done():
			return noMedium(devs, refused)
		case <-changed:
		case <-time.After(500 * time.Millisecond):
		}
		if w := time.Since(began); w-told >= 5*time.Second {
			told = w
			n.step("wait", fmt.Sprintf("looking for volume %q for %.0f s; devices: %s", layout.Volume, w.Seconds(), names(devs)), nil)
		}
	}
}

// find returns the devices with a file system and label (in any case).
func find(devs []volume.Device, fstype, label string) []volume.Device {
	var out []volume.Device
	for _, d := range devs {
		if info, err := volume.ProbeFile(d.Path); err == nil && (fstype == "" || info.FSType == fstype) && strings.EqualFold(info.Label, label) {
			out = append(out, d)
		}
	}
	return out
}

func names(devs []volume.Device) string {
	var s []string
	for _, d := range devs {
		if d.Disk {
			s = append(s, fmt.Sprintf("%s (%d MB)", d.Name, d.Size/1e6))
		}
	}
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}

func noMedium(devs []volume.Device, refused map[string]error) error {
	var errs []error
	for d, err := range refused {
		errs = append(errs, fmt.Errorf("%s: %w", d, err))
	}
	if len(errs) > 0 {
		return report.Fail("SW-MEDIUM-REFUSED", "boot from a medium that belongs to this initramfs: both come from one build", errors.Join(errs...))
	}
	return report.Fail("SW-MEDIUM-MISSING", "plug the medium into another port or bus; the node goes on looking",
		fmt.Errorf("no volume %q on any device; devices: %s", layout.Volume, names(devs)))
}

func publicKey(name string) (ed25519.PublicKey, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%s: want %d hex characters", name, 2*ed25519.PublicKeySize)
	}
	return key, nil
}

// openMedium mounts a medium and verifies its manifest; when that does not fit
// the medium is left unmounted.
func openMedium(dev, at string, key ed25519.PublicKey) (install.Bundle, error) {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return install.Bundle{}, err
	}
	if err := unix.Mount(dev, at, "iso9660", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return install.Bundle{}, fmt.Errorf("mounting %s: %w", dev, err)
	}
	b, err := readBundle(at, key)
	if err != nil {
		_ = unix.Unmount(at, unix.MNT_DETACH)
	}
	return b, err
}

// readBundle reads and verifies the manifest of this machine's architecture: its
// own part of a combined medium, or the only one.
func readBundle(dir string, key ed25519.PublicKey) (b install.Bundle, err error) {
	at := func(name string) string { return filepath.Join(dir, layout.For(runtime.GOARCH, name)) }
	b.From = blobs.Part{Dir: dir, Arch: runtime.GOARCH}
	if b.Raw, err = os.ReadFile(at(layout.Manifest)); errors.Is(err, fs.ErrNotExist) {
		at = func(name string) string { return filepath.Join(dir, name) }
		b.From = blobs.Dir(dir)
		b.Raw, err = os.ReadFile(at(layout.Manifest))
	}
	if err != nil {
		return b, err
	}
	if b.Signature, err = os.ReadFile(at(layout.Signature)); err != nil {
		return b, err
	}
	b.Manifest, err = lock.Open(key, b.Raw, b.Signature)
	if err == nil && string(b.Manifest.Arch) != runtime.GOARCH {
		err = fmt.Errorf("the bundle is for %s and this machine is %s", b.Manifest.Arch, runtime.GOARCH)
	}
	return b, err
}

// useMedium begins to read system.erofs while config and network are found.
func (n *Node) useMedium(d volume.Device, b install.Bundle) error {
	m := b.Manifest
	n.volumes = append(n.volumes, d.Name)
	if err := n.useBundle(b); err != nil {
		return err
	}
	n.done(fmt.Sprintf("bundle %q serial %d, Kubernetes %s, on %s", m.Name, m.Serial, m.Kubernetes, d.Path),
		map[string]any{"device": d.Name, "bundle": m.Name, "serial": m.Serial, "blobs": len(m.Blobs)})
	return nil
}

// useBundle takes content from where a bundle was found. What is read in place
// is begun with at once; what would fill memory waits until the config says
// whether there is a disk for it.
func (n *Node) useBundle(b install.Bundle) error {
	raiseClock(b.Manifest.Built)
	if _, err := b.Manifest.Find(lock.RoleSystem); err != nil {
		return report.Fail("SW-MEDIUM-MANIFEST", "build the image again", err)
	}
	n.bundle, n.Manifest = b, b.Manifest
	n.Store = &blobs.Store{Source: b.From, Memory: memoryDir}
	if n.Store.Needs(used(n.Manifest)) == 0 {
		return n.bring()
	}
	return nil
}

// bring begins to bring system.erofs, unless it has begun.
func (n *Node) bring() error {
	if n.system != nil {
		return nil
	}
	sys, err := n.Manifest.Find(lock.RoleSystem)
	if err != nil {
		return report.Fail("SW-MEDIUM-MANIFEST", "build the image again", err)
	}
	if need := n.Store.Needs(used(n.Manifest)); need > 0 {
		if err := roomFor(need); err != nil {
			return err
		}
		if err := os.MkdirAll(memoryDir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("slipway-blobs", memoryDir, "ramfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755"); err != nil {
			return fmt.Errorf("mounting memory on %s: %w", memoryDir, err)
		}
	}
	w := &bringing{verdict: verdict{done: make(chan struct{})}}
	var life context.Context
	life, w.stop = context.WithCancel(n.life)
	n.system = w
	store := n.Store
	n.own("system", "verify", func(context.Context) {
		defer close(w.done)
		w.err = n.bringSystem(life, store, sys)
	})
	return nil
}

// stopSystem calls off what bring began: the content goes to a disk first.
func (n *Node) stopSystem() {
	if n.system != nil {
		n.system.stop()
		<-n.system.done
		n.system = nil
	}
}

// used are the blobs that a running node reads.
func used(m *lock.Manifest) []lock.Blob {
	return slices.DeleteFunc(slices.Clone(m.Blobs), func(b lock.Blob) bool {
		return !slices.Contains([]lock.Role{lock.RoleSystem, lock.RoleLayer, lock.RoleImages}, b.Role)
	})
}

// ownMemory is what kubelet, the control plane and slipway take besides blobs:
// 1.3 GB measured on an idle node.
const ownMemory = 1400 << 20

// roomFor refuses blobs that would leave too little memory for the node itself.
func roomFor(blobs int64) error {
	have, err := available("/proc/meminfo")
	if err != nil {
		return err
	}
	if need := blobs + ownMemory; have < need {
		return report.Fail("SW-MEMORY", "give the machine more memory, or boot it from an uncompressed ISO, whose content stays on the medium",
			fmt.Errorf("%d MiB of memory are free, want %d MiB: %d for the bundle's content and %d to run", have>>20, need>>20, blobs>>20, int64(ownMemory)>>20))
	}
	return nil
}

// available is MemAvailable of proc_meminfo(5) in bytes.
func available(name string) (int64, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	for _, l := range strings.Split(string(raw), "\n") {
		var kib int64
		if n, _ := fmt.Sscanf(l, "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("%s: no MemAvailable", name)
}
