package bundle

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/store"
	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/arch"
)

// repository is a signed apt repository in memory: suite → package list.
type repository struct {
	key    *openpgp.Entity
	suites map[string]string
}

func newRepository(t *testing.T, keyFile string, suites map[string]string) *httptest.Server {
	t.Helper()
	key, err := openpgp.NewEntity("Archive", "", "archive@mirror.example", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA,
		Time: func() time.Time { return time.Now().Add(-2 * time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	var public bytes.Buffer
	if err := key.Serialize(&public); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, public.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	r := &repository{key: key, suites: suites}
	srv := httptest.NewServer(r)
	t.Cleanup(srv.Close)
	return srv
}

func (r *repository) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	for suite, list := range r.suites {
		switch q.URL.Path {
		case "/dists/" + suite + "/InRelease":
			text := fmt.Sprintf("Origin: Test\nSuite: %s\nCodename: %s\nDate: %s\nArchitectures: amd64\nComponents: main\nSHA256:\n %s %d main/binary-amd64/Packages\n",
				suite, suite, time.Now().Add(-time.Hour).UTC().Format(time.RFC1123), lock.SumBytes([]byte(list)), len(list))
			s, err := clearsign.Encode(w, r.key.PrivateKey, nil)
			if err == nil {
				_, _ = s.Write([]byte(text))
				_ = s.Close()
			}
			return
		case "/dists/" + suite + "/main/binary-amd64/Packages":
			_, _ = w.Write([]byte(list))
			return
		}
	}
	http.NotFound(w, q)
}

func stanza(name, version string) string {
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nFilename: pool/%s_%s.deb\nSize: 10\nSHA256: %064d\n\n", name, version, name, version, len(name+version))
}

// A further repository's newer version is taken, with its own URL; one signed
// by a key that its keyring does not have is refused.
func TestSeveralRepositories(t *testing.T) {
	dir := t.TempDir()
	needed := ""
	for _, n := range append([]string{"tool", "base-files"}, append(loaders[arch.AMD64], "netbase")...) {
		needed += stanza(n, "1")
	}
	for _, n := range []string{"iptables", "nftables", "conntrack", "ipset", "kmod", "ethtool", "iproute2", "libc6", "coreutils", "dash", "bash", "mawk", "grep", "sed"} {
		needed += stanza(n, "1")
	}
	main := newRepository(t, filepath.Join(dir, "main.gpg"), map[string]string{"trixie": needed})
	vendor := newRepository(t, filepath.Join(dir, "vendor.gpg"), map[string]string{"stable": stanza("tool", "2")})
	s, err := store.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	report := func(string, int64, int64) {}
	r := &Resolver{Dir: dir, Report: report, Fetch: &Fetcher{Store: s, Parts: t.TempDir(), Client: http.DefaultClient, Log: slog.New(slog.DiscardHandler), Report: report}}
	parse := func(key string) *configs.Bundle {
		b, err := configs.ParseBundle("bundle.yaml", fmt.Appendf(nil, `apiVersion: slipway.dev/v1alpha1
kind: Bundle
metadata: {name: t}
spec:
  architectures: [amd64]
  debian:
    suite: trixie
    mirror: %s
    keyring: main.gpg
    packages: {base: [base-files, tool]}
    repositories:
      - {url: %q, suite: stable, components: [main], keyring: %s}
  kubernetes: {version: v1.37.1}
`, main.URL, vendor.URL, key))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	res, err := r.Packages(t.Context(), parse("vendor.gpg"))
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, d := range res.Debs {
		if d.Name == "tool" {
			found = true
			if d.Version != "2" || !strings.HasPrefix(d.URL, vendor.URL) {
				t.Errorf("got tool %s from %s", d.Version, d.URL)
			}
		}
	}
	if !found {
		t.Error("no package tool")
	}
	if _, err := r.Packages(t.Context(), parse("main.gpg")); err == nil || !strings.Contains(err.Error(), `suite "stable"`) {
		t.Errorf("signed by another key: %v", err)
	}
	if _, err := r.Packages(t.Context(), parse("none.gpg")); err == nil || !strings.Contains(err.Error(), `repository "stable"`) {
		t.Errorf("a keyring that is not there: %v", err)
	}
}
