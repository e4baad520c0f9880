package overlay

import (
	"strings"
	"testing"
	"testing/fstest"

	"slipway.dev/slipway/images/rootfs"
)

func TestEmbeddedManifestIsComplete(t *testing.T) {
	tree := rootfs.New()
	if err := Apply(tree); err != nil {
		t.Fatal(err)
	}
	e, ok := tree.Get("etc/profile.d/slipway.sh")
	if !ok || e.Mode != 0o644 || e.Size == 0 {
		t.Errorf("entry: %+v", e)
	}
}

func TestManifestRefusals(t *testing.T) {
	for name, c := range map[string]struct{ manifest, want string }{
		"file without a line": {"", "overlay/manifest: no line for overlay/root/etc/x"},
		"line without a file": {"etc/x 0644 0 0\netc/y 0644 0 0", "overlay/manifest:2: open root/etc/y: file does not exist"},
		"short line":          {"etc/x 0644", `overlay/manifest:1: want "path mode uid gid", got "etc/x 0644"`},
		"bad mode":            {"etc/x 0999 0 0", `overlay/manifest:1: strconv.ParseUint: parsing "0999": invalid syntax`},
	} {
		t.Run(name, func(t *testing.T) {
			err := apply(rootfs.New(), fstest.MapFS{"manifest": {Data: []byte(c.manifest)}, "root/etc/x": {Data: []byte("x")}})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
