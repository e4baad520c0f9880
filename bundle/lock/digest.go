package lock

import (
	"encoding/hex"
	"fmt"
	"io"

	"crypto/sha256"
)

// Digest is a sha256 in lower-case hex, 64 characters, without a prefix. It is
// the only way content is named inside slipway.
type Digest string

// ParseDigest accepts 64 lower-case hex characters, with or without "sha256:".
func ParseDigest(s string) (Digest, error) {
	h := s
	if len(h) > 7 && h[:7] == "sha256:" {
		h = h[7:]
	}
	b, err := hex.DecodeString(h)
	if err != nil || len(b) != sha256.Size || h != hex.EncodeToString(b) {
		return "", fmt.Errorf("digest %q: want 64 lower-case hex characters", s)
	}
	return Digest(h), nil
}

// Sum reads r to its end and returns the digest and number of bytes.
func Sum(r io.Reader) (Digest, int64, error) {
	h := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, r, make([]byte, 1<<20))
	if err != nil {
		return "", n, err
	}
	return Digest(hex.EncodeToString(h.Sum(nil))), n, nil
}

// SumBytes is the digest of b.
func SumBytes(b []byte) Digest {
	s := sha256.Sum256(b)
	return Digest(hex.EncodeToString(s[:]))
}

// OCI is the digest as OCI documents write it: "sha256:<hex>".
func (d Digest) OCI() string { return "sha256:" + string(d) }

// Short is the first twelve characters, for people.
func (d Digest) Short() string {
	if len(d) < 12 {
		return string(d)
	}
	return string(d[:12])
}

func (d Digest) String() string { return string(d) }
