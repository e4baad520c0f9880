package storage

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway.dev/slipway/configs"
)

func TestFind(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "usr/sbin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, s := range configs.Daemons() {
		_, err := Find(root, s)
		if err == nil || !strings.Contains(err.Error(), "the bundle has no package") {
			t.Errorf("%s without its program: %v", s, err)
		}
		d, _ := Find(root, s)
		if err := os.WriteFile(filepath.Join(root, d.Argv[0]), nil, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := Find(root, s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
		d.Owner = ""
		if err := d.Prepare(root); err != nil {
			t.Errorf("%s: %v", s, err)
		}
		if _, err := os.Stat(filepath.Join(root, d.Dir)); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	if _, err := Find(root, "telnetd"); err == nil || err.Error() != `service "telnetd": not known` {
		t.Errorf("got %v", err)
	}
}
