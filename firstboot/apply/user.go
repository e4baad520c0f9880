package apply

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"slipway.dev/slipway/configs"
)

// ChronyConf is the file that ntp of user-data becomes.
const ChronyConf = "/etc/chrony/chrony.conf"

const caBundle = "etc/ssl/certs/ca-certificates.crt"

// User applies what user-data says below root, but for the files that it has
// written before (Files): accounts, keys, sshd, passwords, certificates, time
// zone and time servers, then the deferred files, in cloud-init's order. meta
// are the keys of meta-data. There is no default user but root unless
// user-data names one.
func User(root string, u *configs.UserData, meta []string, done Instance) error {
	for _, step := range []struct {
		name string
		run  func() error
	}{
		{"ca_certs", func() error { return certificates(root, u.CACerts) }},
		{"users", func() error { return accounts(root, u, meta) }},
		{"ssh", func() error { return sshServer(root, u.SSHServer) }},
		{"ntp", func() error { return clock(root, u.NTP) }},
		{"timezone", func() error { return zone(root, u.Timezone) }},
		{"write_files deferred", func() error { return files(root, u.WriteFiles, true) }},
	} {
		if err := done.Once(step.name, step.run); err != nil {
			return err
		}
	}
	return nil
}

// Files writes the files of write_files that are not deferred.
func Files(root string, u *configs.UserData, done Instance) error {
	return done.Once("write_files", func() error { return files(root, u.WriteFiles, false) })
}

func files(root string, all []configs.WriteFile, deferred bool) error {
	d, err := open(root)
	if err != nil {
		return err
	}
	for i, f := range all {
		if f.Defer != deferred {
			continue
		}
		if err := d.file(f); err != nil {
			return fmt.Errorf("write_files[%d] %q: %w", i, f.Path, err)
		}
	}
	return nil
}

func (d *database) file(f configs.WriteFile) error {
	content, err := f.Bytes()
	if err != nil {
		return err
	}
	user, grp := f.UserGroup()
	a, err := d.find(user)
	if err != nil {
		if !f.Defer {
			return fmt.Errorf("%w (defer: true writes the file after users are made)", err)
		}
		return err
	}
	if grp != "" {
		if a.gid, err = d.gid(grp); err != nil {
			return err
		}
	}
	place := put
	if f.Append {
		place = add
	}
	err = place(d.root, f.Path, content, f.Mode(), a.owner())
	if errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: write below /etc, /var, /srv, /root or /home, or put the file into the bundle's overlay", err)
	}
	return err
}

// certificates adds to the bundle that OpenSSL and Go read. What the image has
// is kept beside it, so that a second time starts from there.
func certificates(root string, c configs.CACerts) error {
	if len(c.Trusted) == 0 && !c.RemoveDefaults {
		return nil
	}
	const image = caBundle + ".image"
	old, err := read(root, image)
	if err == nil && old == "" {
		if old, err = read(root, caBundle); err == nil && old != "" {
			err = write(root, image, old, 0o644)
		}
	}
	if err != nil {
		return fmt.Errorf("ca_certs: %w", err)
	}
	var all []string
	if !c.RemoveDefaults {
		all = append(all, strings.TrimRight(old, "\n"))
	}
	for _, t := range c.Trusted {
		all = append(all, strings.TrimSpace(t))
	}
	if err := write(root, caBundle, strings.TrimLeft(strings.Join(all, "\n"), "\n")+"\n", 0o644); err != nil {
		return fmt.Errorf("ca_certs: %w", err)
	}
	return nil
}

func zone(root, name string) error {
	if name == "" {
		return nil
	}
	target := "/usr/share/zoneinfo/" + name
	if _, err := os.Stat(filepath.Join(root, target)); err != nil {
		return fmt.Errorf("timezone %q: the bundle's tzdata has no such zone", name)
	}
	link := filepath.Join(root, "etc/localtime")
	if old, _ := os.Readlink(link); old != target {
		_ = os.Remove(link)
		if err := os.Symlink(target, link); err != nil {
			return fmt.Errorf("timezone: %w", err)
		}
	}
	return write(root, "etc/timezone", name+"\n", 0o644)
}

// ChronyPath is where chronyd finds what clock wrote.
func ChronyPath(n configs.NTP) string { return or(n.Config.ConfPath, ChronyConf) }

func clock(root string, n configs.NTP) error {
	if !n.Sources() {
		return nil
	}
	if err := write(root, ChronyPath(n), Chrony(n), 0o644); err != nil {
		return fmt.Errorf("ntp: %w", err)
	}
	return nil
}

// Chrony renders chrony.conf(5). A clock that is off by more than a second steps,
// at first before certificates suffer from it, and later when it has jumped, as
// after a suspended hypervisor: to slew ten hours takes days.
func Chrony(n configs.NTP) string {
	var b strings.Builder
	for _, l := range []struct {
		format string
		of     []string
	}{{"server %s iburst\n", n.Servers}, {"pool %s iburst\n", n.Pools}, {"peer %s\n", n.Peers}, {"allow %s\n", n.Allow}} {
		for _, s := range l.of {
			fmt.Fprintf(&b, l.format, s)
		}
	}
	b.WriteString("driftfile /var/lib/chrony/drift\nmakestep 1 -1\nrtcsync\ncmdport 0\n")
	return b.String()
}
