package firstboot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/disks"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/firstboot/volume"
	"slipway.dev/slipway/images/layout"
)

// settle is how long after the last new device a config volume may still
// appear before the medium's own config is taken: a USB stick takes 1 s
// (usb-storage's delay_use) and its bus two or three. system.erofs is being
// read meanwhile, so this costs no time.
const settle = 4 * time.Second

// maxConfig bounds a file of a config volume, in bytes.
const maxConfig = 4 << 20

// raw is a config as found.
type raw struct {
	source string            // "volume CIDATA on /dev/sdb"
	files  map[string][]byte // user-data, vendor-data, meta-data, network-config, cluster.yaml
}

// nocloudFiles are NoCloud's names; user-data comes first: without it there is no config.
var nocloudFiles = []string{"user-data", "vendor-data", "meta-data", "network-config", layout.Cluster}

func isURL(s string) bool { return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") }

// configLimit is how long one search for a config may take before it is said.
const configLimit = time.Minute

func configPhase(ctx context.Context, n *Node) error {
	if n.disk == nil && n.Cmdline.Seed != "" {
		if err := n.knownDisk(ctx); err != nil {
			return err
		}
		if n.disk == nil {
			return n.enrolled(ctx)
		}
	}
	if n.disk != nil {
		return n.ownConfig()
	}
	n.Report.Also(nil) // there is nobody to send events to
	ctx, cancel := context.WithTimeout(ctx, configLimit)
	defer cancel()
	if !slices.Contains([]string{"", "none", "medium", "cidata"}, n.Cmdline.Config) && !isURL(n.Cmdline.Config) {
		return report.Fail("SW-CMDLINE", "write none, medium, cidata or a URL that ends in /", fmt.Errorf("slipway.config=%q is not known", n.Cmdline.Config))
	}
	r, err := n.findConfig(ctx)
	if err != nil {
		return err
	}
	if n.disk != nil {
		return n.ownConfig()
	}
	if r, err = n.becomeSeed(r); err == nil {
		err = n.parse(r)
	}
	if err != nil {
		return report.Fail("SW-CONFIG-INVALID", "correct the lines named above; the node reads the config again by itself",
			fmt.Errorf("%s: %w", r.source, err))
	}
	if err := r.store(); err != nil {
		return err
	}
	n.done("from "+r.source, map[string]any{"source": r.source})
	return nil
}

// store keeps the files for people who look later.
func (r raw) store() error {
	for name, b := range r.files {
		if err := os.WriteFile(filepath.Join(configDir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// findConfig searches until it finds one or ctx ends.
func (n *Node) findConfig(ctx context.Context) (raw, error) {
	if n.Cmdline.Config == "none" {
		return raw{source: "nowhere (slipway.config=none): defaults", files: map[string][]byte{"user-data": []byte("#cloud-config\n{}\n")}}, nil
	}
	if isURL(n.Cmdline.Config) {
		return n.fetchConfig(ctx, n.Cmdline.Config)
	}
	began, told := time.Now(), 0*time.Second
	var looked time.Time // at disks, after this change of devices
	for {
		last, changed := n.drivers.block()
		devs, _ := volume.List("/sys", "/dev")
		r, err := n.look(ctx, devs, time.Since(last) >= settle)
		if err != nil || r.files != nil {
			return r, err
		}
		if time.Since(last) >= settle && looked != last {
			looked = last
			if n.disk, err = n.installedDisk(ctx); err != nil || n.disk != nil {
				return raw{}, err
			}
		}
		select {
		case <-ctx.Done():
			return raw{}, report.Fail("SW-CONFIG-MISSING",
				"plug in a volume labelled CIDATA with a file user-data, or build an image with one; the node goes on looking",
				fmt.Errorf("no config: no volume %q (devices: %s), no %s on the medium", layout.CIDATA, names(devs), layout.Seed))
		case <-changed:
		case <-time.After(250 * time.Millisecond):
		}
		if w := time.Since(began); w-told >= 10*time.Second {
			told = w
			n.step("wait", fmt.Sprintf("looking for a config for %.0f s; devices: %s", w.Seconds(), names(devs)), nil)
		}
	}
}

// look looks once at all sources.
func (n *Node) look(ctx context.Context, devs []volume.Device, settled bool) (raw, error) {
	if n.Cmdline.Config != "medium" {
		found := whole(find(devs, "", layout.CIDATA))
		if len(found) > 1 {
			return raw{}, report.Fail("SW-CONFIG-AMBIGUOUS", "unplug all but one; the node looks again by itself",
				fmt.Errorf("%d volumes are labelled %q: %s, %s", len(found), layout.CIDATA, found[0].Path, found[1].Path))
		}
		if len(found) == 1 {
			n.volumes = append(n.volumes, found[0].Name)
			return readVolume(found[0])
		}
		if !settled || n.Cmdline.Config == "cidata" {
			return raw{}, nil
		}
	}
	if n.seed != nil {
		r, err := n.fetchConfig(ctx, n.seed.Base+"/"+layout.Seed+"/")
		if blobs.IsNotFound(err) {
			return raw{}, nil // go on looking
		}
		return r, err
	}
	dir := filepath.Join(mediumDir, layout.Seed)
	if _, err := os.Stat(dir); err != nil {
		return raw{}, nil //nolint:nilerr // not there: go on looking
	}
	return readDir("the boot medium", dir)
}

// whole leaves out partitions of disks that are in the list themselves: a
// hybrid image shows its label on both.
func whole(devs []volume.Device) []volume.Device {
	return slices.DeleteFunc(slices.Clone(devs), func(p volume.Device) bool {
		return !p.Disk && slices.ContainsFunc(devs, func(d volume.Device) bool { return d.Disk && disks.PartOf(p.Name, d.Name) })
	})
}

func readVolume(d volume.Device) (raw, error) {
	info, err := volume.ProbeFile(d.Path)
	if err != nil {
		return raw{}, err
	}
	dir := runDir + "/cidata"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return raw{}, err
	}
	if err := unix.Mount(d.Path, dir, info.FSType, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return raw{}, report.Fail("SW-CONFIG-VOLUME", "write the volume again", fmt.Errorf("mounting %s (%s): %w", d.Path, info.FSType, err))
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	return readDir(fmt.Sprintf("volume %s on %s", info.Label, d.Path), dir)
}

// readDir reads the files of NoCloud; user-data must be among them.
func readDir(source, dir string) (raw, error) {
	r := raw{source: source, files: map[string][]byte{}}
	for _, name := range nocloudFiles {
		st, err := os.Stat(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil && st.Size() > maxConfig {
			err = fmt.Errorf("%s: %d bytes, at most %d are read", name, st.Size(), maxConfig)
		}
		if err == nil {
			r.files[name], err = os.ReadFile(filepath.Join(dir, name))
		}
		if err != nil {
			return raw{}, report.Fail("SW-CONFIG-VOLUME", "write the volume again", fmt.Errorf("%s: %w", source, err))
		}
	}
	if r.files["user-data"] == nil && r.files[layout.Cluster] == nil {
		return raw{}, report.Fail("SW-CONFIG-VOLUME", "put a file user-data (or cluster.yaml, for the seed) into its top directory", fmt.Errorf("%s: has no file user-data", source))
	}
	return r, nil
}

// parse understands all files or none.
func (n *Node) parse(r raw) error {
	vendor := configs.File{Name: "vendor-data", Data: r.files["vendor-data"]}
	if len(strings.TrimSpace(string(vendor.Data))) == 0 { // tools that write NoCloud volumes leave it empty
		vendor.Data = nil
	}
	u, err := configs.ParseMerged(configs.File{Name: "user-data", Data: r.files["user-data"]}, vendor)
	if err != nil {
		return err
	}
	meta := &configs.MetaData{}
	if b, ok := r.files["meta-data"]; ok && len(strings.TrimSpace(string(b))) > 0 {
		if meta, err = configs.ParseMetaData("meta-data", b); err != nil {
			return err
		}
	}
	var net *configs.Network
	if b, ok := r.files["network-config"]; ok && len(strings.TrimSpace(string(b))) > 0 {
		if net, err = configs.ParseNetworkConfig("network-config", b); err != nil {
			return err
		}
		for _, w := range net.Warnings {
			n.step("warning", w.Error(), nil)
		}
	}
	for _, w := range append(slices.Clone(u.Warnings), meta.Warnings...) {
		n.step("warning", w.Error(), nil)
	}
	n.User, n.Meta, n.Network, n.source, n.files = u, meta, net, r.source, r.files
	return nil
}
