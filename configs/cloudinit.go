package configs

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// MetaData is NoCloud's meta-data.
type MetaData struct {
	InstanceID    string     `json:"instance-id,omitempty"` // a new one makes the node configure itself anew; default "nocloud"
	LocalHostname string     `json:"local-hostname,omitempty"`
	PublicKeys    PublicKeys `json:"public-keys,omitempty"` // for the default user
	// Warnings names keys that are read but have no effect.
	Warnings []Problem `json:"-"`
}

// PublicKeys are lines of authorized_keys. In YAML they are a list, text of
// lines, or a mapping from a name to one of both.
type PublicKeys []string

func (PublicKeys) forms() []any { return []any{PasswordLines(nil), map[string]PasswordLines(nil)} }

// UnmarshalJSON reads all forms; a mapping is taken in the order of its keys.
func (p *PublicKeys) UnmarshalJSON(b []byte) error {
	*p = nil
	if b[0] != '{' {
		return (*PasswordLines)(p).UnmarshalJSON(b)
	}
	var m map[string]PasswordLines
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		*p = append(*p, m[name]...)
	}
	return nil
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
	for i, k := range m.PublicKeys {
		here := d.root().key("public-keys")
		if here.item(i).set() {
			here = here.item(i)
		}
		here.must(strings.TrimSpace(k), sshKey)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	m.Warnings = flat(d.warnings)
	return &m, nil
}

func (MetaData) notes() map[string]note {
	return each(ignored("only a cloud's own service means it"), "dsmode", "hostname", "network-interfaces", "availability-zone",
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
			"apt_update", "apt_upgrade", "apt_reboot_if_required", "snap", "yum_repos", "yum_repo_dir", "zypper", "apk_repos"),
		each(note{text: offline, hint: "write the keys under ssh_authorized_keys"}, "ssh_import_id"),
		each(note{text: offline, hint: "report from runcmd or slipway.hooks.done, to an address of the site"}, "phone_home"),
		each(note{text: offline}, "ansible", "chef", "landscape", "mcollective", "puppet", "rh_subscription",
			"salt_minion", "spacewalk", "ubuntu_advantage", "ubuntu_pro"),
		each(ignored("the root of the node is in memory and as large as it gets"), "growpart", "resize_rootfs"),
		each(ignored("the node's programs speak C.UTF-8"), "locale", "locale_configfile"),
		each(note{warning: true, text: "has no effect", hint: "give name servers in network-config"}, "manage_resolv_conf", "resolv_conf"),
		each(ignored("the order of a node's configuration is fixed"), "cloud_config_modules", "cloud_final_modules", "cloud_init_modules"),
		each(ignored("the config comes from a volume, the boot medium or the seed"), "datasource", "datasource_list", "disable_ec2_metadata",
			"launch-index", "reporting", "updates"),
		each(ignored("the node has no such program or device"), "autoinstall", "byobu_by_default", "drivers", "fan", "grub_dpkg", "grub-dpkg",
			"keyboard", "lxd", "rpi", "rsyslog", "wireguard"),
		each(ignored("the console shows the boot's phases and no keys"), "authkey_hash", "no_ssh_fingerprints", "output", "ssh",
			"ssh_fp_console_blacklist", "ssh_key_console_blacklist", "ssh_publish_hostkeys", "ssh_quiet_keygen"),
		each(ignored("keys of meta-data are always taken"), "allow_public_ssh_keys"),
		each(ignored("the kernel has its own sources of randomness"), "random_seed"),
		each(ignored("it sets up a distribution, not a node"), "system_info"),
	)
}

// ignored is for keys that are read and left alone.
func ignored(why string) note { return note{warning: true, text: "has no effect: " + why} }

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
