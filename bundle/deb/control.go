// Package deb reads Debian: a signed suite index, package stanzas, the
// closure of dependencies, the files of a .deb; and it states, as data, what a
// root file system needs because no maintainer script is ever run.
//
// It does not fetch anything, does not run anything from a package, does not
// write a root file system (images/rootfs does), and is no general solver: it
// never backtracks over a choice that it has made.
package deb

import (
	"encoding/hex"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// Package is one stanza of a Packages file (Debian policy chapter 5). The
// relation fields are kept as written; ParseRelations reads them.
type Package struct {
	Name       string
	Version    string
	Arch       string // "amd64", "all"
	Source     string // source package, without a version; Name when the field is absent
	Priority   string
	MultiArch  string // "", "same", "foreign", "allowed"
	Essential  bool
	PreDepends string
	Depends    string
	Provides   string
	Conflicts  string
	Breaks     string

	Filename      string // relative to Base
	Size          int64  // bytes of the .deb
	SHA256        string // of the .deb: 64 lower-case hex characters
	InstalledSize int64  // bytes; the field counts KiB

	Suite   string // codename of the Release that lists it: "trixie-security"
	Base    string // repository that Filename is below, as Index.Add was told
	Control string // the stanza as it stands, without its final newline
}

// maxStanza bounds a stanza of a Packages file; Debian's longest has 0.1 MB.
const maxStanza = 4 << 20

// ParsePackages reads every stanza of a decoded Packages file. The packages
// share the memory of text. A package that is there twice with different
// contents is an error: which one a reader takes would be chance.
func ParsePackages(text string) ([]Package, error) {
	out := make([]Package, 0, strings.Count(text, "\nFilename:")+1)
	type version struct{ name, version, arch string }
	digests := make(map[version]string, cap(out))
	for n := 1; text != ""; n++ {
		var stanza string
		stanza, text, _ = strings.Cut(text, "\n\n")
		if len(stanza) > maxStanza {
			return nil, fmt.Errorf("stanza %d: %d bytes, want at most %d", n, len(stanza), maxStanza)
		}
		stanza = strings.Trim(stanza, "\n")
		if stanza == "" {
			continue
		}
		p, err := ParseStanza(stanza)
		if err == nil {
			err = p.checkDownload()
		}
		if err != nil {
			return nil, fmt.Errorf("stanza %d: %w", n, err)
		}
		v := version{p.Name, p.Version, p.Arch}
		if old, ok := digests[v]; ok && old != p.SHA256 {
			return nil, fmt.Errorf("stanza %d: package %q %s (%s) is there twice with different contents", n, p.Name, p.Version, p.Arch)
		}
		digests[v] = p.SHA256
		out = append(out, p)
	}
	return out, nil
}

// ParseStanza reads one stanza: of a Packages file, or a .deb's control file
// (which has no Filename, Size and SHA256).
func ParseStanza(stanza string) (Package, error) {
	p := Package{Control: strings.TrimRight(stanza, "\n")}
	err := fields(p.Control, func(key, value string) error { return p.set(key, value) })
	if err != nil {
		return p, fmt.Errorf("package %q: %w", p.Name, err)
	}
	if p.Name == "" || p.Version == "" || p.Arch == "" {
		return p, fmt.Errorf("package %q version %q architecture %q: one of the three is missing", p.Name, p.Version, p.Arch)
	}
	if err := checkName(p.Name); err != nil {
		return p, err
	}
	if _, err := parseVersion(p.Version); err != nil {
		return p, fmt.Errorf("package %q: version %q: %w", p.Name, p.Version, err)
	}
	if p.Source == "" {
		p.Source = p.Name
	}
	return p, nil
}

func (p *Package) set(key, value string) error {
	var err error
	switch key {
	case "Package":
		p.Name = value
	case "Version":
		p.Version = value
	case "Architecture":
		p.Arch = value
	case "Source":
		p.Source, _, _ = strings.Cut(value, " ")
	case "Priority":
		p.Priority = value
	case "Multi-Arch":
		p.MultiArch = value
	case "Essential":
		p.Essential = value == "yes"
	case "Pre-Depends":
		p.PreDepends = value
	case "Depends":
		p.Depends = value
	case "Provides":
		p.Provides = value
	case "Conflicts":
		p.Conflicts = value
	case "Breaks":
		p.Breaks = value
	case "Filename":
		p.Filename = value
	case "SHA256":
		p.SHA256 = value
	case "Size":
		p.Size, err = strconv.ParseInt(value, 10, 64)
	case "Installed-Size":
		p.InstalledSize, err = strconv.ParseInt(value, 10, 64)
		p.InstalledSize *= 1024
	}
	if err != nil {
		return fmt.Errorf("%s %q is not a number", key, value)
	}
	return nil
}

// checkDownload wants what is needed to fetch and verify the .deb. Filename
// becomes part of a URL, so it may neither climb nor hold what a URL reads as
// something else.
func (p *Package) checkDownload() error {
	name, err := url.PathUnescape(p.Filename)
	if err != nil {
		return fmt.Errorf("package %q: Filename %q: %w", p.Name, p.Filename, err)
	}
	if name == "" || strings.HasPrefix(name, "/") || strings.Contains("/"+name+"/", "/../") {
		return fmt.Errorf("package %q: Filename %q is not a relative path", p.Name, p.Filename)
	}
	if i := strings.IndexFunc(p.Filename, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune("\\?#", c) }); i >= 0 {
		return fmt.Errorf("package %q: Filename %q holds %q", p.Name, p.Filename, p.Filename[i])
	}
	if err := checkDigest(p.SHA256); err != nil {
		return fmt.Errorf("package %q: SHA256: %w", p.Name, err)
	}
	if p.Size <= 0 {
		return fmt.Errorf("package %q: Size %d", p.Name, p.Size)
	}
	return nil
}

// fields calls f for each field of a deb822 stanza; continuation lines stay
// in the value, joined by newlines with their leading space.
func fields(stanza string, f func(key, value string) error) error {
	for stanza != "" {
		end := 0
		for { // the field ends at a newline that no space or tab follows
			i := strings.IndexByte(stanza[end:], '\n')
			if i < 0 {
				end = len(stanza)
				break
			}
			end += i
			if end+1 >= len(stanza) || (stanza[end+1] != ' ' && stanza[end+1] != '\t') {
				break
			}
			end++
		}
		line := stanza[:end]
		stanza = strings.TrimPrefix(stanza[end:], "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		i := strings.IndexByte(line, ':')
		if i <= 0 || line[0] == ' ' || line[0] == '\t' {
			return fmt.Errorf("line %q is not a field", firstLine(line))
		}
		if err := f(line[:i], strings.TrimSpace(line[i+1:])); err != nil {
			return err
		}
	}
	return nil
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if len(s) > 80 {
		s = s[:80]
	}
	return s
}

// checkName keeps to Debian policy 5.6.1: names become file names.
func checkName(s string) error {
	for i, c := range s {
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '+' && c != '-' && c != '.') {
			return fmt.Errorf("package name %q holds %q", s, c)
		}
	}
	return nil
}

func checkDigest(s string) error {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 32 || hex.EncodeToString(b) != s {
		return fmt.Errorf("digest %q: want 64 lower-case hex characters", s)
	}
	return nil
}
