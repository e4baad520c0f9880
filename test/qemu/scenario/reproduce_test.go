package scenario

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"slipway.dev/slipway/configs/arch"
)

// sums are the digests of everything that a build left for an architecture, by
// path in the output directory.
func sums(t *testing.T, dir string, a arch.Arch) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, ".built-"+string(a)+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var b struct {
		Files []struct{ Path, SHA256 string }
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range b.Files {
		out[f.Path] = f.SHA256
	}
	if len(out) < 10 {
		t.Fatalf("%s: %d files", dir, len(out))
	}
	return out
}

func equal(t *testing.T, one, two map[string]string) {
	t.Helper()
	if len(one) != len(two) {
		t.Errorf("%d files and %d", len(one), len(two))
	}
	for name, sum := range one {
		if two[name] != sum {
			t.Errorf("%s: %s and %s", name, sum, two[name])
		}
	}
	t.Logf("%d files compared", len(one))
}

// TestReproducibleBoth builds both architectures once more, from the same lock
// but with unpacked packages, image layers and results made anew, in another
// time zone, umask and number of processors: every file is the same.
func TestReproducibleBoth(t *testing.T) {
	if !*all {
		t.Skip("skipped: TestAddingARM64ChangesNothing compares two builds of amd64; make test-all builds both again")
	}
	dir := both(t)
	user, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache, again := t.TempDir(), t.TempDir()
	for _, name := range []string{"blobs", "programs"} { // downloads and what the compiler made
		if err := os.Symlink(filepath.Join(user, "slipway", name), filepath.Join(cache, name)); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(t.TempDir(), "slipway")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "slipway.dev/slipway/cmd/slipway").CombinedOutput(); err != nil {
		t.Fatalf("building slipway: %v\n%s", err, out)
	}
	for _, a := range arch.All() {
		if _, err := os.Stat(filepath.Join(dir, ".built-"+string(a)+".json")); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "bash", "-c", `umask 077; exec "$@"`, "bash", program, "build", "--offline", "--arch", string(a), "--cache", cache, "--source", "../../..",
			"-f", filepath.Join(dir, "config", "bundle.yaml"), "--lock", filepath.Join(filepath.Dir(dir), "both.lock"), "--out", again)
		cmd.Env = append(os.Environ(), "TZ=Pacific/Kiritimati", "GOMAXPROCS=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Run(string(a), func(t *testing.T) { equal(t, sums(t, dir, a), sums(t, again, a)) })
		for _, name := range []string{".iso", "-netboot"} { // gigabytes that nothing reads any more
			if err := os.RemoveAll(filepath.Join(again, "example-"+string(a)+name)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestAddingARM64ChangesNothing: the bundle with and without arm64 has the same
// amd64 artefacts, to the last bit.
func TestAddingARM64ChangesNothing(t *testing.T) {
	dir := both(t)
	resolved := func(name string) string {
		raw, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if err != nil {
			t.Fatal(err)
		}
		var l struct{ Resolved string }
		if err := json.Unmarshal(raw, &l); err != nil {
			t.Fatal(err)
		}
		return l.Resolved
	}
	if one, two := resolved("slipway.lock"), resolved("both.lock"); one != two {
		t.Skipf("skipped: Debian's index changed between the two locks, %s and %s", one, two)
	}
	equal(t, sums(t, filepath.Join(*out, "plain"), arch.AMD64), sums(t, dir, arch.AMD64))
}
