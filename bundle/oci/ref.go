package oci

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
)

// Ref is an image reference with a tag, in the canonical form in which
// containerd stores names: "registry.k8s.io/pause:3.10.2",
// "docker.io/library/busybox:1.37".
type Ref string

// ParseRef canonicalises a reference. A tag is required and a digest is
// refused: the digest of a built image is a result, not an input.
func ParseRef(s string) (Ref, error) {
	n, err := reference.ParseDockerRef(s)
	if err != nil {
		return "", fmt.Errorf("image reference %q: %w", s, err)
	}
	if _, ok := n.(reference.Digested); ok {
		return "", fmt.Errorf("image reference %q: has a digest; write a tag only", s)
	}
	if given, err := reference.ParseNormalizedNamed(s); err != nil || reference.IsNameOnly(given) {
		return "", fmt.Errorf("image reference %q: has no tag", s)
	}
	return Ref(n.String()), nil
}

// Registry is the part before the first slash: "registry.k8s.io".
func (r Ref) Registry() string {
	host, _, _ := strings.Cut(string(r), "/")
	return host
}

// Repository is the path on the registry, without the tag: "coredns/coredns".
func (r Ref) Repository() string {
	_, rest, _ := strings.Cut(string(r), "/")
	name, _, _ := strings.Cut(rest, ":")
	return name
}

// Tag is the part after the repository: "v1.14.6".
func (r Ref) Tag() string {
	_, rest, _ := strings.Cut(string(r), "/")
	_, tag, _ := strings.Cut(rest, ":")
	return tag
}

// Name is the last element of the repository: "coredns".
func (r Ref) Name() string {
	n := r.Repository()
	return n[strings.LastIndexByte(n, '/')+1:]
}

func (r Ref) String() string { return string(r) }
