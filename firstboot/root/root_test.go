package root

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPlan(t *testing.T) {
	plan := func(w Writable) []string {
		var got []string
		for _, m := range Layers("/sysroot", w) {
			got = append(got, m.String())
		}
		return got
	}
	got := plan(Writable{Scratch: "/run/slipway/etc"})
	want := []string{
		"slipway-var on /sysroot/var type tmpfs (mode=0755,size=80%) seeded",
		"slipway-etc on /sysroot/etc type overlay (lowerdir=/sysroot/etc,upperdir=/run/slipway/etc/overlay/etc/upper,workdir=/run/slipway/etc/overlay/etc/work)",
		"slipway-usr-local on /sysroot/usr/local type overlay (lowerdir=/sysroot/usr/local,upperdir=/run/slipway/etc/overlay/usr/local/upper,workdir=/run/slipway/etc/overlay/usr/local/work)",
		"slipway-tmp on /sysroot/tmp type tmpfs (mode=1777)",
		"slipway-root on /sysroot/root type tmpfs (mode=0700) seeded",
		"slipway-home on /sysroot/home type tmpfs (mode=0755) seeded",
		"slipway-srv on /sysroot/srv type tmpfs (mode=0755) seeded",
		"slipway-mnt on /sysroot/mnt type tmpfs (mode=0755,size=1m)",
		"slipway-media on /sysroot/media type tmpfs (mode=0755,size=1m)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	got = plan(Writable{Scratch: "/run/slipway/etc", State: "/run/slipway/state"})
	want[0] = "/run/slipway/state/var on /sysroot/var type bind seeded"
	want[1] = "slipway-etc on /sysroot/etc type overlay (lowerdir=/sysroot/etc,upperdir=/run/slipway/state/overlay/etc/upper,workdir=/run/slipway/state/overlay/etc/work)"
	want[2] = strings.ReplaceAll(want[2], "/run/slipway/etc", "/run/slipway/state")
	want[4], want[5] = "/run/slipway/state/root on /sysroot/root type bind seeded", "/run/slipway/state/home on /sysroot/home type bind seeded"
	if !slices.Equal(got, want) {
		t.Errorf("with a state volume: got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	seen := map[string]bool{}
	for _, m := range Kernel() { // a mount point comes before what is below it
		for p := filepath.Dir(m.Target); p != "/"; p = filepath.Dir(p) {
			if slices.ContainsFunc(Kernel(), func(o Mount) bool { return o.Target == p }) && !seen[p] {
				t.Errorf("%s comes before %s", m.Target, p)
			}
		}
		seen[m.Target] = true
	}
}

func TestCopyKeepsModesAndLinks(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(src+"/lib/x", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"lib/x/a": 0o640, "b": 0o4755 & 0o777} {
		if err := os.WriteFile(filepath.Join(src, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(src+"/lib/x", 0o1777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("lib/x/a", src+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := Copy(src, dst); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(dst + "/lib/x")
	if err != nil || st.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("directory: %v, %v", st.Mode(), err)
	}
	st, err = os.Stat(dst + "/lib/x/a")
	if err != nil || st.Mode() != 0o640 {
		t.Errorf("file: %v, %v", st.Mode(), err)
	}
	if l, err := os.Readlink(dst + "/link"); l != "lib/x/a" || err != nil {
		t.Errorf("link %q, %v", l, err)
	}
}
