package render

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"slipway.dev/slipway/configs"
)

const (
	siteKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFwZwZ2sMPMVbsxNPNc2Y5Cw7SN1iHeRMRUuI5QkYBdZ site"
	otherKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFwZwZ2sMPMVbsxNPNc2Y5Cw7SN1iHeRMRUuI5QkYBdZ other"
)

// site is a cluster.yaml of two rules and what more is given of its spec.
func site(t *testing.T, spec string) *configs.Cluster {
	t.Helper()
	c, err := configs.ParseCluster("cluster.yaml", []byte("apiVersion: slipway.dev/v1alpha1\nkind: Cluster\nmetadata: {name: test}\nspec:\n"+
		"  nodes: [{role: control-plane, count: 1}, {role: worker, name: \"worker-{n}\"}]\n"+spec))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRenderKeepsTheSeedsLease(t *testing.T) {
	lease := Lease{MAC: "52:54:00:00:00:01", Address: netip.MustParsePrefix("10.0.0.7/24"), Router: netip.MustParseAddr("10.0.0.254"), DNS: []netip.Addr{netip.MustParseAddr("10.0.0.53")}}
	for spec, want := range map[string]string{
		"":                                  "",
		"  install: {disk: {type: nvme}}\n": "ethernets:\n  lan:\n    addresses:\n    - 10.0.0.7/24\n    match:\n      macaddress: \"52:54:00:00:00:01\"\n    nameservers:\n      addresses:\n      - 10.0.0.53\n    routes:\n    - to: default\n      via: 10.0.0.254\nversion: 2\n",
	} {
		n := Node{Name: "worker-1", Role: configs.RoleWorker, Instance: "i-1", Endpoint: "10.0.0.2", Lease: lease}
		conf, err := Config(site(t, spec), n)
		if got := conf.Files["network-config"]; err != nil || got != want {
			t.Errorf("with %q: %v\n%s", spec, err, got)
		}
	}
}

func TestRender(t *testing.T) {
	access := "  access: {sshAuthorizedKeys: [" + siteKey + "]}\n"
	for _, tc := range []struct {
		name, spec string
		check      func(t *testing.T, u *configs.UserData)
	}{
		{"least", "", func(t *testing.T, u *configs.UserData) {
			if u.Hostname != "worker-1" || u.Slipway.Role != configs.RoleWorker || u.Slipway.Endpoint != "10.0.0.2" || fmt.Sprint(u.NTP.Servers) != "[10.0.0.1]" {
				t.Errorf("%+v", u)
			}
		}},
		{"networks", "  networks: {podSubnet: 10.1.0.0/16, serviceSubnet: 10.2.0.0/16, dnsDomain: site.example}\n", func(t *testing.T, u *configs.UserData) {
			if k := u.Slipway.Kubernetes; k.PodSubnet.String() != "10.1.0.0/16" || k.ServiceSubnet.String() != "10.2.0.0/16" || k.DNSDomain != "site.example" {
				t.Errorf("%+v", k)
			}
		}},
		{"install", "  install: {disk: {type: ssd, size: \">= 1GB\"}, wipe: [S2]}\n", func(t *testing.T, u *configs.UserData) {
			if i := u.Slipway.Install; len(i.Disk) != 1 || i.Disk[0].Type != "ssd" || fmt.Sprint(i.Disk[0].Size, i.Wipe) != "[>= 1GB] [S1 S2]" {
				t.Errorf("%+v", i)
			}
		}},
		{"time", "  time: {servers: [192.0.2.1, ntp.site.example]}\n  cloudConfig: {ntp: {servers: [192.0.2.9, 10.0.0.1], pools: [pool.site.example]}}\n", func(t *testing.T, u *configs.UserData) {
			if fmt.Sprint(u.NTP.Servers, u.NTP.Pools) != "[10.0.0.1 192.0.2.1 ntp.site.example 192.0.2.9] [pool.site.example]" {
				t.Errorf("%+v", u.NTP)
			}
		}},
		{"keys for root", access + "  cloudConfig: {ssh_authorized_keys: [" + otherKey + "]}\n", func(t *testing.T, u *configs.UserData) {
			if !slices.Equal(u.SSHAuthorizedKeys, []string{otherKey, siteKey}) || u.DefaultName() != "root" {
				t.Errorf("%+v", u.Access)
			}
		}},
		{"another default user", access + "  cloudConfig: {user: ops, ssh_authorized_keys: [" + otherKey + "]}\n", func(t *testing.T, u *configs.UserData) {
			if !slices.Equal(u.SSHAuthorizedKeys, []string{otherKey}) || u.DefaultName() != "ops" || u.DisableRoot == nil || *u.DisableRoot ||
				len(u.Users) != 1 || u.Users[0].Name != "root" || !slices.Equal(u.Users[0].SSHAuthorizedKeys, []string{siteKey}) {
				t.Errorf("%+v", u.Access)
			}
		}},
		{"root among users", access + "  cloudConfig: {user: {name: ops}, users: [default, {name: root, ssh_authorized_keys: [" + otherKey + "]}]}\n", func(t *testing.T, u *configs.UserData) {
			if len(u.Users) != 2 || !slices.Equal(u.Users[1].SSHAuthorizedKeys, []string{otherKey, siteKey}) {
				t.Errorf("%+v", u.Users)
			}
		}},
		{"users between commas", access + "  cloudConfig: {user: ops, users: \"default,eve,root\"}\n", func(t *testing.T, u *configs.UserData) {
			if len(u.Users) != 3 || u.Users[1].Name != "eve" || !slices.Equal(u.Users[2].SSHAuthorizedKeys, []string{siteKey}) {
				t.Errorf("%+v", u.Users)
			}
		}},
		{"what YAML takes for something else", "  cloudConfig:\n    write_files: [{path: /etc/x, permissions: \"0640\", content: \"yes\\n1e3: ~\\n\\ttab\\n\"}]\n    runcmd: [[echo, \"0x10\", \"12:30:00\", \"=\", \"on\"], \"echo 'a: b' #c\"]\n    users: [{name: eve, uid: 1234567}]\n",
			func(t *testing.T, u *configs.UserData) {
				if u.WriteFiles[0].Content != "yes\n1e3: ~\n\ttab\n" || fmt.Sprint(u.RunCmd[0].Argv) != "[echo 0x10 12:30:00 = on]" || u.RunCmd[1].Shell != "echo 'a: b' #c" || *u.Users[0].UID != 1234567 {
					t.Errorf("%+v", u)
				}
			}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := site(t, tc.spec)
			n := Node{Name: "worker-1", Role: configs.RoleWorker, Instance: "i-1", Endpoint: "10.0.0.2", Time: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Rule: "worker-{n}", Wipe: []string{"S1", "S2"}}
			conf, err := Config(c, n)
			if err != nil {
				t.Fatal(err)
			}
			u, err := configs.ParseUserData("user-data", []byte(conf.Files["user-data"]))
			if err != nil {
				t.Fatalf("%v\n%s", err, conf.Files["user-data"])
			}
			tc.check(t, u)
			m, err := configs.ParseMetaData("meta-data", []byte(conf.Files["meta-data"]))
			if err != nil || m.InstanceID != "i-1" || m.LocalHostname != "worker-1" {
				t.Errorf("%+v %v", m, err)
			}
			if again, _ := Config(c, n); again.Files["user-data"] != conf.Files["user-data"] {
				t.Error("a second time it differs")
			}
		})
	}
}

func TestInstall(t *testing.T) {
	c := site(t, "  install: {disk: /dev/vda, wipe: [A]}\n")
	c.Spec.Nodes[1].Install = configs.Install{Disk: configs.DiskRules{{Serial: "B*"}}}
	odd := []string{"0123", "1e5", "0x12", "1_000", "12:30:00", "null", "~", "- a", "#x", "S 1", "naa.5000c500a1b2c3d4", "/dev/disk/by-path/pci-0000:00:04.0"}
	for _, tc := range []struct {
		rule       string
		wipe       []string
		disk, want string
	}{
		{"control-plane-{n}", nil, "/dev/vda", "[A]"},
		{"", []string{"Z"}, "/dev/vda", "[A Z]"},
		{"gone", []string{"A"}, "/dev/vda", "[A]"},
		{"worker-{n}", nil, "B*", "[]"},
		{"worker-{n}", odd, "B*", fmt.Sprint(slices.Sorted(slices.Values(odd)))},
	} {
		conf, err := Config(c, Node{Name: "n", Role: configs.RoleControlPlane, Instance: "i", Rule: tc.rule, Wipe: tc.wipe})
		if err != nil {
			t.Errorf("%s: %v", tc.rule, err)
			continue
		}
		u, err := configs.ParseUserData("user-data", []byte(conf.Files["user-data"]))
		if err != nil {
			t.Fatal(err)
		}
		r := u.Slipway.Install.Disk[0]
		if got := string(r.Serial + r.Path); got != tc.disk || fmt.Sprint(u.Slipway.Install.Wipe) != tc.want {
			t.Errorf("%s, %q: %s %s", tc.rule, tc.wipe, got, u.Slipway.Install.Wipe)
		}
	}
	if !slices.Equal(c.Spec.Install.Wipe, []string{"A"}) {
		t.Errorf("cluster.yaml was changed: %v", c.Spec.Install.Wipe)
	}
	if conf, err := Config(site(t, ""), Node{Name: "n", Role: configs.RoleControlPlane, Instance: "i", Wipe: []string{"Z"}}); err != nil || strings.Contains(conf.Files["user-data"], "install") {
		t.Errorf("consent alone installs nothing: %v\n%s", err, conf.Files["user-data"])
	}
}
