package apply

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"slipway.dev/slipway/configs"
)

// ChronyConf is the file that ntp of user-data becomes.
const ChronyConf = "/etc/chrony/chrony.conf"

const caBundle = "etc/ssl/certs/ca-certificates.crt"

// User applies user-data to the system below root: write_files, users, keys,
// the deferred write_files, certificates, time zone and time servers, in
// cloud-init's order. Keys at the top are root's: there is no other default user.
func User(root string, u *configs.UserData) error {
	if err := files(root, u.WriteFiles, false); err != nil {
		return err
	}
	top := append([]string(nil), u.SSHAuthorizedKeys...)
	for i, one := range u.Users {
		if one.Default {
			top = append(top, one.SSHAuthorizedKeys...)
			continue
		}
		if err := addUser(root, one); err != nil {
			return fmt.Errorf("users[%d]: %w", i, err)
		}
	}
	if err := keys(root, account{home: "/root"}, top); err != nil {
		return err
	}
	if err := files(root, u.WriteFiles, true); err != nil {
		return err
	}
	if err := certificates(root, u.CACerts); err != nil {
		return fmt.Errorf("ca_certs: %w", err)
	}
	if err := zone(root, u.Timezone); err != nil {
		return err
	}
	if len(u.NTP.Servers)+len(u.NTP.Pools) == 0 {
		return nil
	}
	return write(root, ChronyConf, chrony(u.NTP), 0o644)
}

func files(root string, all []configs.WriteFile, deferred bool) error {
	for i, f := range all {
		if f.Defer != deferred {
			continue
		}
		if err := file(root, f); err != nil {
			return fmt.Errorf("write_files[%d] %q: %w", i, f.Path, err)
		}
	}
	return nil
}

func file(root string, f configs.WriteFile) error {
	content, err := f.Bytes()
	if err != nil {
		return err
	}
	user, grp := f.UserGroup()
	a, err := find(root, user)
	if err != nil {
		return err
	}
	if grp != "" {
		if a.gid, err = group(root, grp); err != nil {
			return err
		}
	}
	p := filepath.Join(root, f.Path)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	flags := os.O_CREATE | os.O_WRONLY | os.O_TRUNC
	if f.Append {
		flags = os.O_CREATE | os.O_WRONLY | os.O_APPEND
	}
	// Nobody may read a secret between creation and chmod.
	out, err := os.OpenFile(p, flags, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := out.Write(content); err != nil {
		return err
	}
	if err := out.Chown(a.uid, a.gid); err != nil {
		return err
	}
	return out.Chmod(f.Mode())
}

// certificates adds to the bundle that OpenSSL and Go read.
func certificates(root string, c configs.CACerts) error {
	if len(c.Trusted) == 0 && !c.RemoveDefaults {
		return nil
	}
	var all []string
	if !c.RemoveDefaults {
		old, err := os.ReadFile(filepath.Join(root, caBundle))
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		all = append(all, strings.TrimRight(string(old), "\n"))
	}
	for _, t := range c.Trusted {
		all = append(all, strings.TrimSpace(t))
	}
	return write(root, caBundle, strings.TrimLeft(strings.Join(all, "\n"), "\n")+"\n", 0o644)
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
	_ = os.Remove(link)
	if err := os.Symlink(target, link); err != nil {
		return err
	}
	return write(root, "etc/timezone", name+"\n", 0o644)
}

// chrony renders chrony.conf(5): a clock that is far off steps in the first
// updates, before certificates suffer from it.
func chrony(n configs.NTP) string {
	var b strings.Builder
	for _, s := range n.Servers {
		fmt.Fprintf(&b, "server %s iburst\n", s)
	}
	for _, p := range n.Pools {
		fmt.Fprintf(&b, "pool %s iburst\n", p)
	}
	b.WriteString("driftfile /var/lib/chrony/drift\nmakestep 1 3\nrtcsync\ncmdport 0\n")
	return b.String()
}
