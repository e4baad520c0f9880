package bundle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMachineMirrorReadsBothFormats(t *testing.T) {
	for name, c := range map[string]struct {
		file, text string
		want       Mirror
	}{
		"one line": {"sources.list", "# deb http://no.example/debian x main\ndeb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian trixie main\ndeb http://mirror.example/debian-security/ trixie-security main\n",
			Mirror{"http://mirror.example/debian", "http://mirror.example/debian-security"}},
		"deb822": {"sources.list.d/a.sources", "Types: deb deb-src\n# note\nURIs: http://mirror.example/debian/\nSuites: trixie\n\nTypes: deb\nEnabled: no\nURIs: http://off.example/debian-security\n",
			Mirror{"http://mirror.example/debian", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := filepath.Join(dir, c.file)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			got, err := MachineMirror(dir)
			if err != nil || got != c.want {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
	if _, err := MachineMirror(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no Debian mirror") {
		t.Errorf("empty configuration: %v", err)
	}
}
