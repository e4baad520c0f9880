package configs

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"

	"slipway.dev/slipway/configs/arch"
)

// Package is a Debian package by name, pinned to one version when Version is
// not empty, and wanted on one architecture only when Arch is not empty. In YAML
// it is "name", "name=version", or either followed by " [amd64]"; $arch in the
// name stands for the architecture: "linux-image-$arch".
type Package struct {
	Name    string
	Version string
	Arch    arch.Arch
}

func (p Package) String() string {
	s := p.Name
	if p.Version != "" {
		s += "=" + p.Version
	}
	if p.Arch != "" {
		s += " [" + p.Arch.Debian() + "]"
	}
	return s
}

// For is the package on an architecture; ok is false where it is not wanted.
func (p Package) For(a arch.Arch) (q Package, ok bool) {
	return Package{Name: strings.ReplaceAll(p.Name, archMark, a.Debian()), Version: p.Version}, p.Arch == "" || p.Arch == a
}

// archMark in a package name stands for the architecture.
const archMark = "$arch"

// PackagesFor is For of a list.
func PackagesFor(all []Package, a arch.Arch) []Package {
	var out []Package
	for _, p := range all {
		if q, ok := p.For(a); ok {
			out = append(out, q)
		}
	}
	return out
}

// MarshalText writes what UnmarshalText reads.
func (p Package) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads "name", "name=version" (Debian policy 5.6.1 and 5.6.12)
// and a restriction to an architecture as in policy 7.1.
func (p *Package) UnmarshalText(b []byte) error {
	text, only := string(b), arch.Arch("")
	if rest, list, ok := strings.Cut(text, " ["); ok {
		a, err := arch.Parse(strings.TrimSuffix(list, "]"))
		if err != nil || !strings.HasSuffix(list, "]") {
			return fmt.Errorf("package %q: want one architecture in brackets at the end, such as %q", text, rest+" [amd64]")
		}
		text, only = rest, a
	}
	name, version, pinned := strings.Cut(text, "=")
	if base, arch, ok := strings.Cut(name, ":"); ok {
		return fmt.Errorf("package %q: write %q without %q: the architecture is the bundle's", name, base, ":"+arch)
	}
	if err := packageName(strings.ReplaceAll(name, archMark, "amd64")); err != nil {
		return err
	}
	if pinned && !matches(`([0-9]+:)?[0-9][A-Za-z0-9.+~-]*`, version) {
		return fmt.Errorf("package %q: %q is not a Debian version", name, version)
	}
	*p = Package{Name: name, Version: version, Arch: only}
	return nil
}

// compare orders by name; of one name, a pinned package comes first.
func (p Package) compare(q Package) int {
	return cmp.Or(strings.Compare(p.Name, q.Name), cmp.Compare(p.Arch, q.Arch), -strings.Compare(p.Version, q.Version))
}

// packagePattern is a package name in which * stands for any characters.
func packagePattern(s string) error {
	if strings.Trim(s, "*") == "" || packageName(strings.ReplaceAll(s, "*", "xx")) != nil {
		return packageName(s)
	}
	return nil
}

// packageName checks the charset of Debian policy 5.6.1.
func packageName(s string) error {
	if !matches(`[a-z0-9][a-z0-9+.-]+`, s) {
		return fmt.Errorf("%q is not a Debian package name: want lower-case letters, digits, +, - and . , two characters or more", s)
	}
	return nil
}

// dnsName checks a name of RFC 1123 labels as Kubernetes wants it, in lower
// case; limit is the longest it may be (the kernel's host name: 64, DNS: 253).
func dnsName(s string, limit int) error {
	label := `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`
	switch {
	case len(s) > limit:
		return fmt.Errorf("%q is %d characters long, the limit is %d", s, len(s), limit)
	case matches(label+`(\.`+label+`)*`, s):
		return nil
	case matches(label+`(\.`+label+`)*`, strings.ToLower(s)):
		return fmt.Errorf("%q has upper-case letters: write %q", s, strings.ToLower(s))
	}
	return fmt.Errorf("%q is not a host name: want letters, digits and - in parts of 1 to 63 characters, with . between them", s)
}

// host checks a DNS name or an address.
func host(s string) error {
	if _, err := netip.ParseAddr(s); err == nil {
		return nil
	}
	if matches(`[0-9.]+`, s) {
		return fmt.Errorf("%q is not an address", s)
	}
	return dnsName(s, 253)
}

// hostPort checks "host" or "host:port"; an IPv6 address with a port needs brackets.
func hostPort(s string) error {
	if host(s) == nil {
		return nil
	}
	if strings.Contains(s, "://") {
		return fmt.Errorf("%q is a URL: want host or host:port", s)
	}
	h, port, err := net.SplitHostPort(s)
	if err != nil {
		return host(s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port %q: want 1 to 65535", port)
	}
	return host(h)
}

// moduleVersion checks the form of a Go module version, without build metadata.
func moduleVersion(s string) error {
	if matches(`v(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}(-[0-9A-Za-z.-]+)?`, s) {
		return nil
	}
	if matches(`[0-9]+(\.[0-9]+){2}`, s) {
		return fmt.Errorf("%q: write %q", s, "v"+s)
	}
	return fmt.Errorf("%q is not a version: want vX.Y.Z", s)
}

// imageName checks an image reference with registry and tag, as containerd
// wants it (distribution reference grammar).
func imageName(s string) error {
	part := `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
	domain := `([A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|localhost)(:[0-9]+)?`
	name := domain + `(/` + part + `)+`
	tag := `:\w[\w.-]{0,127}`
	switch {
	case matches(name+tag, s):
		return nil
	case matches(name+`(`+tag+`)?@.*`, s):
		return fmt.Errorf("image %q: the digest is made by the build: write a tag instead", s)
	case matches(name, s):
		return fmt.Errorf("image %q has no tag: write %q", s, s+":1")
	case matches(part+`(/`+part+`)*(`+tag+`)?`, s):
		return fmt.Errorf("image %q has no registry: write %q", s, "slipway.local/"+s)
	}
	return fmt.Errorf("image %q: want registry/name:tag in lower case", s)
}

// localPath checks a path that is read next to the config.
func localPath(s string) error {
	switch {
	case strings.ContainsAny(s, "\\\x00\n"):
		return fmt.Errorf("path %q: want / between names", s)
	case path.IsAbs(s):
		return fmt.Errorf("path %q is absolute: want one relative to this file, so that both can move", s)
	}
	return nil
}

// nodePath checks a path on the node.
func nodePath(s string) error {
	switch {
	case !path.IsAbs(s):
		return fmt.Errorf("path %q is relative: want an absolute one", s)
	case strings.ContainsAny(s, "\x00\n"):
		return fmt.Errorf("path %q holds a control character", s)
	case path.Clean(s) != s || s == "/":
		return fmt.Errorf("path %q: want the plain path of a file, such as %q", s, "/etc/motd")
	}
	return nil
}

// matches reports whether the whole of s matches the expression.
func matches(expr, s string) bool {
	return regexp.MustCompile(`\A(?:` + expr + `)\z`).MatchString(s)
}
