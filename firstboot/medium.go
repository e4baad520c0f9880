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
			m, err := openMedium(d.Path, key)
			if err == nil {
				return n.useMedium(d, m)
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
func openMedium(dev string, key ed25519.PublicKey) (*lock.Manifest, error) {
	if err := os.MkdirAll(mediumDir, 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount(dev, mediumDir, "iso9660", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return nil, fmt.Errorf("mounting %s: %w", dev, err)
	}
	m, err := readManifest(mediumDir, key)
	if err != nil {
		_ = unix.Unmount(mediumDir, unix.MNT_DETACH)
	}
	return m, err
}

// readManifest reads the manifest of this machine's architecture: its own part
// of a combined medium, or the only one.
func readManifest(dir string, key ed25519.PublicKey) (*lock.Manifest, error) {
	at := func(name string) string { return filepath.Join(dir, layout.For(runtime.GOARCH, name)) }
	raw, err := os.ReadFile(at(layout.Manifest))
	if errors.Is(err, fs.ErrNotExist) {
		at = func(name string) string { return filepath.Join(dir, name) }
		raw, err = os.ReadFile(at(layout.Manifest))
	}
	if err != nil {
		return nil, err
	}
	sig, err := os.ReadFile(at(layout.Signature))
	if err != nil {
		return nil, err
	}
	m, err := lock.Open(key, raw, sig)
	if err == nil && string(m.Arch) != runtime.GOARCH {
		err = fmt.Errorf("the bundle is for %s and this machine is %s", m.Arch, runtime.GOARCH)
	}
	return m, err
}

// useMedium begins to read system.erofs while config and network are found.
func (n *Node) useMedium(d volume.Device, m *lock.Manifest) error {
	if err := n.useStore(m, blobs.Dir(mediumDir)); err != nil {
		return err
	}
	n.done(fmt.Sprintf("bundle %q serial %d, Kubernetes %s, on %s", m.Name, m.Serial, m.Kubernetes, d.Path),
		map[string]any{"device": d.Name, "bundle": m.Name, "serial": m.Serial, "blobs": len(m.Blobs)})
	return nil
}

// useStore begins to bring system.erofs from a source.
func (n *Node) useStore(m *lock.Manifest, from blobs.Source) error {
	raiseClock(m.Built)
	sys, err := m.Find(lock.RoleSystem)
	if err != nil {
		return report.Fail("SW-MEDIUM-MANIFEST", "build the image again", err)
	}
	s := &blobs.Store{Source: from, Memory: memoryDir}
	if need := s.Needs(used(m)); need > 0 {
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
	n.Manifest, n.Store = m, s
	n.system = make(chan error, 1)
	n.own("system", "verify", func(ctx context.Context) { n.system <- n.bringSystem(ctx, sys) })
	return nil
}

// used are the blobs that a running node reads.
func used(m *lock.Manifest) []lock.Blob {
	return slices.DeleteFunc(slices.Clone(m.Blobs), func(b lock.Blob) bool {
		return b.Role == lock.RoleKernel || b.Role == lock.RoleInitramfs || b.Role == lock.RoleLoader
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
