package seed

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
)

const (
	siteKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFwZwZ2sMPMVbsxNPNc2Y5Cw7SN1iHeRMRUuI5QkYBdZ site"
	otherKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFwZwZ2sMPMVbsxNPNc2Y5Cw7SN1iHeRMRUuI5QkYBdZ other"
)

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
			c := site(t, twoRules+tc.spec)
			n := node{Name: "worker-1", Role: configs.RoleWorker, Instance: "i-1", Endpoint: "10.0.0.2", Time: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
			conf, err := render(c, n)
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
			if again, _ := render(c, n); again.Files["user-data"] != conf.Files["user-data"] {
				t.Error("a second time it differs")
			}
		})
	}
}

// TestWrongCloudConfig: what no node could use is refused before one waits for it.
func TestWrongCloudConfig(t *testing.T) {
	for _, tc := range []struct{ spec, want string }{
		{"{packages: [vim]}", "cluster.yaml: spec.cloudConfig.packages: asks the internet"},
		{"{ssh_authorized_keys: [x]}", "cluster.yaml: spec.cloudConfig.ssh_authorized_keys[0]: not an SSH public key"},
		{"{runcmd: {}}", "cluster.yaml: spec.cloudConfig.runcmd: "},
		{"{ntp: []}", "cluster.yaml: spec.cloudConfig.ntp: want a mapping"},
		{"{timezon: x}", "did you mean"},
		{"{users: 7}", "cluster.yaml: spec.cloudConfig.users"},
	} {
		_, err := Open(t.TempDir(), site(t, twoRules+"  access: {sshAuthorizedKeys: ["+siteKey+"]}\n  time: {servers: [192.0.2.1]}\n  cloudConfig: "+tc.spec+"\n"), Options{})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.spec, err, tc.want)
		}
	}
}

// TestCanary: a secret of cluster.yaml is nowhere but in the config of a node
// that was approved.
func TestCanary(t *testing.T) {
	const canary = "CANARY-7c1f"
	var log bytes.Buffer
	secret := "  cloudConfig: {write_files: [{path: /etc/secret, content: " + canary + "}], chpasswd: {users: [{name: root, password: \"$6$" + canary + "$x\", type: hash}]}}\n"
	s := openSeed(t, t.TempDir(), site(t, approve("ask")+secret), Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	base := serve(t, s)
	c, other := newClient(t, base, "", facts(1)), newClient(t, base, "", facts(2))
	var heard bytes.Buffer
	ask := func(c *client) {
		for _, path := range []string{handoff.PathHello, handoff.PathReveal, handoff.PathConfig, handoff.PathTaken, handoff.PathEvents, handoff.PathCluster, handoff.PathJoin, handoff.PathJoined, "/", "/v1/"} {
			for _, method := range []string{"GET", "POST"} {
				if path == handoff.PathConfig && method == "GET" {
					continue
				}
				var body any
				_, r, err := c.do(t.Context(), method, path, []byte("{}"), &body)
				fmt.Fprintln(&heard, body, r, err)
			}
		}
	}
	ask(c)
	c.enrol(t)
	other.enrol(t)
	if _, ok := c.brief(t); ok {
		t.Fatal("a config without approval")
	}
	ask(c)
	if _, err := s.Approve(other.code(), ""); err != nil {
		t.Fatal(err)
	}
	if conf, ok := other.brief(t); !ok || !strings.Contains(conf.Files["user-data"], canary) {
		t.Fatal("the approved machine has no secret: the test looks for nothing")
	}
	if _, ok := c.brief(t); ok {
		t.Fatal("another machine's approval gave a config")
	}
	ask(other)
	other.must(t, 204, "POST", handoff.PathTaken, nil, nil)
	ask(other)
	rec := httptest.NewRecorder()
	s.Node().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, handoff.PathConfig, nil)) // no TLS at all
	fmt.Fprintln(&heard, rec.Body, s.Machines(), s.Status())
	all, _ := s.Steps(0)
	fmt.Fprintln(&heard, all)
	if strings.Contains(heard.String(), canary) {
		t.Error("an answer holds the secret")
	}
	if strings.Contains(log.String(), canary) {
		t.Error("the log holds the secret")
	}
	if rec.Code != 400 {
		t.Errorf("without TLS: %d", rec.Code)
	}
}
