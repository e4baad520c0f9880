package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// cli runs one command line below dir, where a user stands, with a home of its own.
func cli(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), args, &o, &e)
	return code, o.String(), e.String()
}

func at(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	return dir
}

func TestNewAndCheck(t *testing.T) {
	at(t)
	if code, out, e := cli(t, "new", "bundle", "site"); code != 0 || !strings.Contains(out, "site/bundle.yaml") {
		t.Fatalf("%d\n%s%s", code, out, e)
	}
	if code, out, e := cli(t, "new", "cluster", "site", "-o", "json"); code != 0 || !json.Valid([]byte(out)) {
		t.Fatalf("%d\n%s%s", code, out, e)
	}
	if code, out, e := cli(t, "check", "site/bundle.yaml", "site/cluster.yaml", "site/user-data", "site/meta-data", "site/network-config"); code != 0 || strings.Count(out, ": good ") != 5 {
		t.Errorf("%d\n%s%s", code, out, e)
	}
	if err := os.WriteFile("site/bundle.yaml", []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, e := cli(t, "new", "bundle", "site"); code != 1 || !strings.Contains(e, "site/bundle.yaml exists; nothing was written") {
		t.Errorf("%d\n%s", code, e)
	}
	if raw, _ := os.ReadFile("site/bundle.yaml"); string(raw) != "mine" {
		t.Errorf("the file was overwritten with %.20q", raw)
	}
}

func TestCheckNamesEverything(t *testing.T) {
	at(t)
	text := "apiVersion: slipway.dev/v1alpha1\nkind: Cluster\nmetadata: {name: site}\nspec:\n  nodes: [{role: master}]\n  seeds: {}\n"
	if err := os.WriteFile("cluster.yaml", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	code, _, e := cli(t, "check", "cluster.yaml")
	for _, want := range []string{"cluster.yaml:6:3: spec.seeds: unknown key: did you mean \"seed\"?", "cluster.yaml:5:18: spec.nodes[0].role: want control-plane or worker"} {
		if code != 1 || !strings.Contains(e, want) {
			t.Errorf("%d: no %q in\n%s", code, want, e)
		}
	}
}

func TestUsageErrorsExitWith2(t *testing.T) {
	at(t)
	for _, args := range [][]string{{"build", "x"}, {"check"}, {"new"}, {"new", "nothing"}, {"build", "--nope"}, {"lock", "-o", "xml"}, {"verify", "--pub"}, {"build", "--source", "/nonexistent"}, {"plan", "-o", "json"}} {
		if code, _, e := cli(t, args...); code != 2 || !strings.HasPrefix(e, "slipway: ") {
			t.Errorf("%q: exit %d, %q", args, code, e)
		}
	}
}

func TestKeygen(t *testing.T) {
	at(t)
	code, out, e := cli(t, "keygen", "--out", "release.key")
	if code != 0 || len(strings.TrimSpace(out)) != 64 {
		t.Fatalf("%d\n%s%s", code, out, e)
	}
	pub, err := os.ReadFile("release.key.pub")
	if err != nil || string(pub) != out {
		t.Errorf("public key %q, %v", pub, err)
	}
	if fi, err := os.Stat("release.key"); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the private key has mode %v, %v", fi.Mode(), err)
	}
	if code, _, e := cli(t, "keygen", "--out", "release.key"); code != 1 || !strings.Contains(e, "never overwritten") {
		t.Errorf("%d\n%s", code, e)
	}
	private, err := os.ReadFile("release.key")
	if err != nil || strings.Contains(out+e, strings.TrimSpace(string(private))) {
		t.Errorf("the private key was printed (%v)", err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	at(t)
	if code, _, e := cli(t, "keygen", "--out", "k"); code != 0 {
		t.Fatal(e)
	}
	if err := os.WriteFile("x.iso", make([]byte, 1<<16), 0o644); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"verify --pub k.pub x.iso":    "no ISO 9660 volume",
		"verify --pub k.pub none.iso": "none.iso",
		"verify --pub k x.iso":        "no ISO 9660 volume", // 64 hex characters, too
		"verify x.iso":                "give the key to trust with --pub FILE",
	} {
		if code, _, e := cli(t, strings.Fields(args)...); code == 0 || !strings.Contains(e, want) {
			t.Errorf("%s: %d, no %q in %q", args, code, want, e)
		}
	}
}

func TestManualAndCompletion(t *testing.T) {
	at(t)
	if code, _, e := cli(t, "man", "man1"); code != 0 {
		t.Fatal(e)
	}
	for _, verb := range []string{"new", "check", "schema", "lock", "fetch", "verify", "plan", "build", "keygen", "demo", "nodes", "disks", "status", "events", "approve", "reject", "assign", "arm", "kubeconfig"} {
		raw, err := os.ReadFile("man1/slipway-" + verb + ".1")
		if err != nil || (verb != "schema" && !bytes.Contains(raw, []byte(".SH EXAMPLE"))) {
			t.Errorf("%s: no manual page with an example (%v)", verb, err)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, out, e := cli(t, "completion", shell); code != 0 || !strings.Contains(out, "slipway") {
			t.Errorf("%s: %d %s", shell, code, e)
		}
	}
	if code, out, _ := cli(t, "schema"); code != 0 || !json.Valid([]byte(out)) {
		t.Errorf("schema: %d", code)
	}
}
