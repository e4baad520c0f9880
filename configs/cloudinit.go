package configs

import (
	"fmt"
	"maps"
)

// MetaData is NoCloud's meta-data.
type MetaData struct {
	InstanceID    string `json:"instance-id,omitempty"` // a new one makes the node configure itself anew; default "nocloud"
	LocalHostname string `json:"local-hostname,omitempty"`
	// Warnings names keys that are read but have no effect.
	Warnings []Problem `json:"-"`
}

// ParseMetaData reads meta-data strictly and checks it. An empty file is
// allowed, as with cloud-init. An error is a Problems with everything found.
func ParseMetaData(name string, data []byte) (*MetaData, error) {
	d := newDocument(name, data)
	if !d.read() {
		return nil, d.err()
	}
	m := MetaData{InstanceID: "nocloud"}
	if !d.decode(&m) {
		return nil, d.err()
	}
	d.root().key("instance-id").must(m.InstanceID, instanceID)
	d.root().key("local-hostname").may(m.LocalHostname, func(s string) error { return dnsName(s, 253) })
	if err := d.err(); err != nil {
		return nil, err
	}
	m.Warnings = flat(d.warnings)
	return &m, nil
}

func (MetaData) notes() map[string]note {
	return each(later(), "dsmode", "hostname", "public-keys", "network-interfaces", "availability-zone",
		"cloud-name", "instance-type", "launch-index", "placement", "region", "tags")
}

func instanceID(s string) error {
	if matches(`[A-Za-z0-9][A-Za-z0-9._:-]{0,127}`, s) {
		return nil
	}
	return fmt.Errorf("%q: want letters, digits and . _ : -, 128 at most", s)
}

// notes lists the keys of cloud-init's module reference that UserData has no
// field for.
func (UserData) notes() map[string]note {
	offline := "asks the internet, which a node never does"
	packages := note{text: offline, hint: "add packages to spec.debian.packages of bundle.yaml and build the image again"}
	return join(
		each(packages, "packages", "package_update", "package_upgrade", "package_reboot_if_required", "apt", "apt_pipelining",
			"snap", "yum_repos", "yum_repo_dir", "zypper", "apk_repos", "updates"),
		each(note{text: offline, hint: "write the keys under ssh_authorized_keys"}, "ssh_import_id"),
		each(note{text: offline}, "ansible", "chef", "landscape", "mcollective", "puppet", "rh_subscription",
			"salt_minion", "spacewalk", "ubuntu_advantage", "ubuntu_pro"),
		each(later(), "byobu_by_default", "chpasswd", "cloud_config_modules", "cloud_final_modules", "cloud_init_modules",
			"create_hostname_file", "device_aliases", "disable_ec2_metadata", "disable_root", "disable_root_opts",
			"disk_setup", "drivers", "fan", "fs_setup", "groups", "growpart", "grub_dpkg", "keyboard", "locale",
			"locale_configfile", "lxd", "manage_resolv_conf", "merge_how", "merge_type", "mount_default_fields", "mounts",
			"no_ssh_fingerprints", "output", "password", "phone_home", "prefer_fqdn_over_hostname", "preserve_hostname",
			"random_seed", "reporting", "resize_rootfs", "resolv_conf", "rsyslog", "ssh", "ssh_deletekeys",
			"ssh_fp_console_blacklist", "ssh_genkeytypes", "ssh_key_console_blacklist", "ssh_keys",
			"ssh_publish_hostkeys", "ssh_pwauth", "ssh_quiet_keygen", "swap", "system_info", "user", "vendor_data",
			"wireguard"),
	)
}

// later is for keys that cloud-init documents and slipway does not act on.
func later() note { return note{warning: true, text: "has no effect yet"} }

// unsupported is for keys whose absence would change what the writer gets.
func unsupported() note { return note{text: "not supported yet"} }

// each makes the same note for several keys.
func each(n note, keys ...string) map[string]note {
	all := map[string]note{}
	for _, k := range keys {
		all[k] = n
	}
	return all
}

func join(parts ...map[string]note) map[string]note {
	all := map[string]note{}
	for _, p := range parts {
		maps.Copy(all, p)
	}
	return all
}
