package seed

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"slipway.dev/slipway/configs/handoff"
)

const (
	siteKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFwZwZ2sMPMVbsxNPNc2Y5Cw7SN1iHeRMRUuI5QkYBdZ site"
	otherKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFwZwZ2sMPMVbsxNPNc2Y5Cw7SN1iHeRMRUuI5QkYBdZ other"
)

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
	if conf, ok := other.given(t); !ok || !strings.Contains(conf.Files["user-data"], canary) {
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
