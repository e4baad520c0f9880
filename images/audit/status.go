package audit

import (
	"fmt"
	"io"
	"strings"

	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/images/rootfs"
)

// statusFile is dpkg's record of what is installed (dpkg(1), FILES).
const statusFile = "var/lib/dpkg/status"

// status compares dpkg's database with the lock.
func (c *checker) status() error {
	e, ok := c.tree.Get(statusFile)
	if !ok || !e.Mode.IsRegular() {
		c.add(rootfs.Entry{Path: statusFile, Source: "lock"}, "is not there")
		return nil
	}
	f, err := e.Open()
	if err != nil {
		return fmt.Errorf("auditing /%s: %w", statusFile, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("auditing /%s: %w", statusFile, err)
	}
	want := map[string]string{}
	for _, p := range c.want.Packages {
		want[p.Name] = p.Version
	}
	seen := map[string]bool{}
	for stanza := range strings.SplitSeq(strings.Trim(string(raw), "\n"), "\n\n") {
		p, err := deb.ParseStanza(stanza)
		if err != nil {
			c.add(e, "%v", err)
			continue
		}
		version, ok := want[p.Name]
		switch {
		case seen[p.Name]:
			c.add(e, "names package %q twice", p.Name)
		case !ok:
			c.add(e, "names package %q, which is not in the lock", p.Name)
		case version != p.Version:
			c.add(e, "names package %q %s, the lock has %s", p.Name, p.Version, version)
		case !strings.Contains("\n"+stanza+"\n", "\nStatus: install ok installed\n"):
			c.add(e, "package %q is not \"install ok installed\"", p.Name)
		}
		seen[p.Name] = true
	}
	for name := range want {
		if !seen[name] {
			c.add(e, "lacks package %q of the lock", name)
		}
	}
	return nil
}
