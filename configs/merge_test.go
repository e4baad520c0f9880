package configs

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func tree(t *testing.T, text string) (v any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

// Each setting of each merger, as cloud-init documents them.
func TestMerge(t *testing.T) {
	for name, c := range map[string]struct{ rules, base, add, want string }{
		"default, base wins":          {"", "{a: 1, b: [x], s: u}", "{a: 2, b: [y], s: v, c: 3}", "{a: 1, b: [x], s: u, c: 3}"},
		"default, mappings by key":    {"", "{ntp: {enabled: true}}", "{ntp: {enabled: false, pools: [p]}}", "{ntp: {enabled: true, pools: [p]}}"},
		"dict replace":                {"dict(replace)", "{a: 1, m: {x: 1}}", "{a: 2, m: {y: 2}}", "{a: 2, m: {y: 2}}"},
		"dict allow_delete":           {"dict(allow_delete)", "{a: 1, b: 1}", "{a: null}", "{b: 1}"},
		"null without allow_delete":   {"dict()", "{a: 1}", "{a: null}", "{a: 1}"},
		"list append in dict":         {"list(append)+dict(recurse_list)", "{r: [a, b]}", "{r: [c]}", "{r: [a, b, c]}"},
		"alias recurse_array":         {"list(append)+dict(recurse_array)", "{r: [a]}", "{r: [c]}", "{r: [a, c]}"},
		"list prepend":                {"list(prepend)+dict(recurse_list)", "{r: [a]}", "{r: [c]}", "{r: [c, a]}"},
		"list replace by place":       {"list()+dict(recurse_list)", "{r: [a, b]}", "{r: [c]}", "{r: [c, b]}"},
		"list no_replace":             {"list(no_replace)+dict(recurse_list)", "{r: [a]}", "{r: [c, d]}", "{r: [a]}"},
		"list replace by another":     {"list()", "[a]", "x", "x"},
		"list append of another":      {"list(append)", "[a]", "x", "[a]"},
		"list items that are dicts":   {"list(recurse_dict)+dict()", "[{a: 1}]", "[{a: 2, b: 3}]", "[{a: 1, b: 3}]"},
		"string append":               {"str(append)+dict(recurse_str)", "{s: x}", "{s: z}", "{s: xz}"},
		"string replace":              {"str()+dict(recurse_str)", "{s: x}", "{s: z}", "{s: z}"},
		"string against a number":     {"str(append)+dict(recurse_str)", "{s: x}", "{s: 1}", "{s: x}"},
		"list without rules for it":   {"dict(recurse_list)", "{r: [a]}", "{r: [b]}", "{r: [a]}"},
		"recursion two mappings deep": {"list(append)+dict(recurse_list)", "{ntp: {pools: [a]}}", "{ntp: {pools: [b]}}", "{ntp: {pools: [a, b]}}"},
	} {
		t.Run(name, func(t *testing.T) {
			var rules MergeRules
			if c.rules != "" {
				if err := json.Unmarshal([]byte(`"`+c.rules+`"`), &rules); err != nil {
					t.Fatal(err)
				}
			}
			base, add := tree(t, c.base), tree(t, c.add)
			if got := Merge(base, add, rules); !reflect.DeepEqual(got, tree(t, c.want)) {
				t.Errorf("got %v, want %s", got, c.want)
			}
			if !reflect.DeepEqual(base, tree(t, c.base)) || !reflect.DeepEqual(add, tree(t, c.add)) {
				t.Error("an input was changed")
			}
		})
	}
}

func TestParseMerged(t *testing.T) {
	vendor := "#cloud-config\nhostname: from-vendor\ntimezone: Europe/Oslo\nruncmd: [v]\nwrite_files:\n  - {path: /a, permissions: 0600}\n"
	for name, c := range map[string]struct{ user, vendor, host, zone, run string }{
		"user-data wins":     {"#cloud-config\nhostname: mine\nruncmd: [u]\n", vendor, "mine", "Europe/Oslo", "u"},
		"no vendor-data":     {"#cloud-config\nhostname: mine\n", "", "mine", "", ""},
		"switched off":       {"#cloud-config\nvendor_data: {enabled: false}\n", vendor, "", "", ""},
		"user's rules":       {"#cloud-config\nmerge_how: list(append)+dict(recurse_list)+str()\nruncmd: [u]\n", vendor, "from-vendor", "Europe/Oslo", "u v"},
		"vendor's own rules": {"#cloud-config\nruncmd: [u]\n", vendor + "merge_type: [{name: list, settings: [prepend]}, {name: dict, settings: [recurse_list]}]\n", "from-vendor", "Europe/Oslo", "v u"},
		"empty user-data":    {"#cloud-config\n", vendor, "from-vendor", "Europe/Oslo", "v"},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := ParseMerged(File{"user-data", []byte(c.user)}, File{"vendor-data", []byte(c.vendor)})
			if err != nil {
				t.Fatal(err)
			}
			var run []string
			for _, r := range u.RunCmd {
				run = append(run, r.Shell)
			}
			if got := strings.Join(run, " "); u.Hostname != c.host || u.Timezone != c.zone || got != c.run {
				t.Errorf("got %q %q %q, want %q %q %q", u.Hostname, u.Timezone, got, c.host, c.zone, c.run)
			}
			if len(u.WriteFiles) == 1 && u.WriteFiles[0].Mode() != 0o600 {
				t.Errorf("mode %v", u.WriteFiles[0].Mode())
			}
		})
	}
	for want, f := range map[string][2]string{
		`vendor-data:2:1: hostnam: unknown key: did you mean "hostname"?`:                                                       {"#cloud-config\n", "#cloud-config\nhostnam: a\n"},
		`user-data merged with vendor-data:0:0: fqdn: "b.example" does not begin with the hostname "a"`:                         {"#cloud-config\nhostname: a\n", "#cloud-config\nfqdn: b.example\n"},
		`vendor-data:1:1: the first line must be "#cloud-config"; this is a script` + "\n  hint: put its commands under runcmd": {"#cloud-config\n", "#!/bin/sh\n"},
	} {
		_, err := ParseMerged(File{"user-data", []byte(f[0])}, File{"vendor-data", []byte(f[1])})
		if want = strings.Replace(want, ":0:0", "", 1); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// Every top-level key that cloud-init 26's schema knows is acted on, refused or
// named in a warning.
func TestEveryKeyIsKnown(t *testing.T) {
	keys := `allow_public_ssh_keys ansible apk_repos apt apt_pipelining apt_reboot_if_required apt_update apt_upgrade
	authkey_hash autoinstall bootcmd byobu_by_default ca-certs ca_certs chef chpasswd cloud_config_modules
	cloud_final_modules cloud_init_modules create_hostname_file device_aliases disable_ec2_metadata disable_root
	disable_root_opts disk_setup drivers fan final_message fqdn fs_setup groups growpart grub-dpkg grub_dpkg hostname
	keyboard landscape launch-index locale locale_configfile lxd manage_etc_hosts manage_resolv_conf mcollective
	merge_how merge_type mount_default_fields mounts no_ssh_fingerprints ntp output package_reboot_if_required
	package_update package_upgrade packages password phone_home power_state prefer_fqdn_over_hostname
	preserve_hostname puppet random_seed reporting resize_rootfs resolv_conf rh_subscription rpi rsyslog runcmd
	salt_minion snap spacewalk ssh ssh_authorized_keys ssh_deletekeys ssh_fp_console_blacklist ssh_genkeytypes
	ssh_import_id ssh_key_console_blacklist ssh_keys ssh_publish_hostkeys ssh_pwauth ssh_quiet_keygen swap system_info
	timezone ubuntu_advantage ubuntu_pro updates user users vendor_data wireguard write_files yum_repo_dir yum_repos zypper`
	names, types := fields(reflect.TypeFor[UserData]())
	notes := UserData{}.notes()
	for _, key := range strings.Fields(keys) {
		if _, noted := notes[key]; !noted && types[key] == nil {
			t.Errorf("%s is unknown", key)
		}
	}
	for _, n := range names {
		if _, twice := notes[n]; twice {
			t.Errorf("%s has a field and a note", n)
		}
	}
}
