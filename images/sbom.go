package images

import (
	"bytes"
	"crypto/sha1" // RFC 9562 section 5.5 says so: names, not trust
	"debug/buildinfo"
	"fmt"
	"net/url"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"slipway.dev/slipway/bundle/lock"
)

// sbom renders a CycloneDX 1.6 document of everything in the plan: Debian
// packages, programs with the Go modules that are linked into them, container
// images. The same plan gives the same bytes: time and serial number come from
// the content.
func sbom(p *Plan) ([]byte, error) {
	c := p.Content
	l := bill{byRef: map[string]cdx.Component{}}
	root := l.root(c)
	for _, d := range c.Debs {
		root.add(l.deb(d))
	}
	for _, name := range sorted(c.Programs) {
		ref, err := l.program(c.Programs[name])
		if err != nil {
			return nil, fmt.Errorf("program %q: %w", name, err)
		}
		root.add(ref)
	}
	for _, i := range c.Images {
		root.add(l.image(i))
	}
	l.edges = append(l.edges, root)

	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Timestamp: c.Built.UTC().Format("2006-01-02T15:04:05Z"), Component: &cdx.Component{
		BOMRef: root.ref, Type: cdx.ComponentTypePlatform, Name: c.Name, Version: fmt.Sprint(c.Serial)}}
	var all []cdx.Component
	for _, ref := range sorted(l.byRef) {
		all = append(all, l.byRef[ref])
	}
	bom.Components = &all
	deps := l.dependencies()
	bom.Dependencies = &deps
	var out bytes.Buffer
	encode := func() error {
		return cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom, cdx.SpecVersion1_6)
	}
	if err := encode(); err != nil {
		return nil, err
	}
	bom.SerialNumber = "urn:uuid:" + uuid5(out.Bytes())
	out.Reset()
	err := encode()
	return out.Bytes(), err
}

// uuid5 is a version 5 UUID over content (RFC 9562 section 5.5), in the null name space.
func uuid5(content []byte) string {
	h := sha1.Sum(append(make([]byte, 16), content...))
	h[6], h[8] = h[6]&0x0f|0x50, h[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// bill collects components, each once, and which is part of which.
type bill struct {
	byRef map[string]cdx.Component
	edges []*edge
}

type edge struct {
	ref  string
	uses []string
}

func (e *edge) add(ref string) { e.uses = append(e.uses, ref) }

func (l *bill) put(c cdx.Component) string {
	l.byRef[c.BOMRef] = c
	return c.BOMRef
}

func (l *bill) root(c *Content) *edge {
	return &edge{ref: fmt.Sprintf("slipway:%s/%s@%d", c.Name, c.Arch, c.Serial)}
}

func (l *bill) dependencies() []cdx.Dependency {
	slices.SortFunc(l.edges, func(a, b *edge) int { return strings.Compare(a.ref, b.ref) })
	var out []cdx.Dependency
	for _, e := range l.edges {
		slices.Sort(e.uses)
		uses := slices.Compact(e.uses)
		out = append(out, cdx.Dependency{Ref: e.ref, Dependencies: &uses})
	}
	return out
}

func digests(d lock.Digest) *[]cdx.Hash {
	return &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: string(d)}}
}

// deb names a package as package-url's "deb" type does.
func (l *bill) deb(d lock.Deb) string {
	purl := fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", d.Name, url.QueryEscape(d.Version), d.Arch.Debian())
	return l.put(cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: d.Name, Version: d.Version, PackageURL: purl, Hashes: digests(d.SHA256),
		Properties: &[]cdx.Property{{Name: "slipway:sets", Value: strings.Join(d.Sets, ", ")}}})
}

// program lists a binary and, from what the linker wrote into it, its modules.
func (l *bill) program(p Program) (string, error) {
	ref := fmt.Sprintf("program:%s@%s", p.Name, p.Version)
	l.put(cdx.Component{BOMRef: ref, Type: cdx.ComponentTypeApplication, Name: p.Name, Version: p.Version, PackageURL: goModule(p.Module, p.Version), Hashes: digests(p.SHA256)})
	info, err := buildinfo.ReadFile(p.Path)
	if err != nil {
		return ref, err
	}
	e := &edge{ref: ref}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Version == "" { // a directory that stands for a module
			continue
		}
		purl := goModule(m.Path, m.Version)
		e.add(l.put(cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: purl}))
	}
	std := goModule("std", strings.TrimPrefix(strings.Fields(info.GoVersion + " ")[0], "go"))
	e.add(l.put(cdx.Component{BOMRef: std, Type: cdx.ComponentTypeLibrary, Name: "std", Version: info.GoVersion, PackageURL: std}))
	l.edges = append(l.edges, e)
	return ref, nil
}

func goModule(module, version string) string {
	if strings.HasPrefix(version, "(") {
		return ""
	}
	return "pkg:golang/" + module + "@" + url.QueryEscape(version)
}

// image names a container image as package-url's "oci" type does.
func (l *bill) image(i lock.Image) string {
	name, tag, _ := strings.Cut(i.Ref[strings.LastIndex(i.Ref, "/")+1:], ":")
	repository := strings.TrimSuffix(i.Ref, ":"+tag)
	purl := fmt.Sprintf("pkg:oci/%s@sha256%%3A%s?arch=%s&repository_url=%s&tag=%s", name, i.Digest, i.Arch.Go(), url.QueryEscape(repository), url.QueryEscape(tag))
	return l.put(cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeContainer, Name: i.Ref, Version: tag, PackageURL: purl, Hashes: digests(i.Digest)})
}
