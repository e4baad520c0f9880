package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// Mirror is where Debian packages come from.
type Mirror struct {
	Main     string // ".../debian", without a final slash
	Security string // ".../debian-security", "" when the machine has none
}

// MachineMirror reads the mirror that this machine's own apt uses, from the
// etc/apt directory given: sources.list and sources.list.d/*.{list,sources}
// (sources.list(5), both formats). A machine behind a company mirror needs no
// other setting.
func MachineMirror(aptDir string) (Mirror, error) {
	names := []string{filepath.Join(aptDir, "sources.list")}
	for _, pat := range []string{"*.list", "*.sources"} {
		more, err := filepath.Glob(filepath.Join(aptDir, "sources.list.d", pat))
		if err != nil {
			return Mirror{}, err
		}
		sort.Strings(more)
		names = append(names, more...)
	}
	var m Mirror
	for _, n := range names {
		raw, err := os.ReadFile(n)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Mirror{}, err
		}
		for _, u := range sourceURIs(n, string(raw)) {
			u = strings.TrimRight(u, "/")
			switch {
			case !strings.HasPrefix(u, "http://") && !strings.HasPrefix(u, "https://"):
			case strings.HasSuffix(u, "/debian-security") && m.Security == "":
				m.Security = u
			case strings.HasSuffix(u, "/debian") && m.Main == "":
				m.Main = u
			}
		}
	}
	if m.Main == "" {
		return m, fmt.Errorf("no Debian mirror in the apt configuration below %s (looked for an http URI that ends in /debian)", aptDir)
	}
	return m, nil
}

// sourceURIs lists the URIs of enabled binary sources of one file.
func sourceURIs(name, text string) []string {
	var out []string
	if strings.HasSuffix(name, ".sources") {
		for _, stanza := range strings.Split(text, "\n\n") {
			f := map[string]string{}
			for _, line := range strings.Split(stanza, "\n") {
				if k, v, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, " ") {
					f[strings.ToLower(k)] = strings.TrimSpace(v)
				}
			}
			if f["enabled"] == "no" || !strings.Contains(" "+f["types"]+" ", " deb ") {
				continue
			}
			out = append(out, strings.Fields(f["uris"])...)
		}
		return out
	}
	for _, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "deb" {
			continue
		}
		f = f[1:]
		if strings.HasPrefix(f[0], "[") { // options may hold spaces
			for len(f) > 1 && !strings.HasSuffix(f[0], "]") {
				f = f[1:]
			}
			f = f[1:]
		}
		if len(f) > 0 {
			out = append(out, f[0])
		}
	}
	return out
}
