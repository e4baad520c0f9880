package deb

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/therootcompany/xz"

	"slipway.dev/slipway/configs/arch"
)

// maxIndex bounds a decoded Packages file whose plain size the Release does
// not list; Debian main is 57 MB.
const maxIndex = 1 << 30

// clockSlack is how far this machine's clock may be behind the archive's.
const clockSlack = 10 * time.Minute

// Release is the signed root of a suite: what InRelease says.
type Release struct {
	Suite         string // "stable"
	Codename      string // "trixie"
	Date          time.Time
	ValidUntil    time.Time // zero when the suite does not expire
	Components    []string
	Architectures []string
	ByHash        bool           // Acquire-By-Hash: files are also at <dir>/by-hash/SHA256/<hex>
	Signer        string         // fingerprint of the primary key, upper-case hex
	Files         map[string]Sum // by path below dists/<suite>/
}

// Sum is what a Release promises about a file.
type Sum struct {
	SHA256 string // 64 lower-case hex characters
	Size   int64  // bytes
}

// ParseRelease verifies a clear-signed InRelease (RFC 9580 section 7) against
// a keyring, binary or armored, of which one key's signature is enough, and
// parses exactly the signed text.
//
// With a time, Valid-Until and the expiry of keys and signatures are checked
// against it. With the zero time the Release's own Date is the clock, so that
// a kept index can be read years later.
func ParseRelease(inRelease, keyring []byte, now time.Time) (*Release, error) {
	keys, err := readKeyring(keyring)
	if err != nil {
		return nil, fmt.Errorf("InRelease: keyring: %w", err)
	}
	block, rest := clearsign.Decode(inRelease)
	if block == nil {
		return nil, errors.New("InRelease: not a clear-signed message")
	}
	if !bytes.HasPrefix(bytes.TrimSpace(inRelease), []byte("-----BEGIN PGP SIGNED MESSAGE-----")) || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("InRelease: text outside the signed message, which nobody has signed")
	}
	r, err := parseRelease(string(block.Plaintext))
	if err != nil {
		return nil, fmt.Errorf("InRelease: %w", err)
	}
	// Before the signature, which would be called expired.
	if !now.IsZero() && r.Date.After(now.Add(clockSlack)) {
		return nil, fmt.Errorf("InRelease of %q: not valid before %s, it is %s: this machine's clock or the mirror's is wrong", r.Codename,
			r.Date.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	clock := now
	if clock.IsZero() {
		clock = r.Date.Add(24 * time.Hour) // Debian signs within hours of Date
	}
	r.Signer, err = verify(block, keys, clock)
	if err != nil {
		return nil, fmt.Errorf("InRelease: %w", err)
	}
	if !now.IsZero() && !r.ValidUntil.IsZero() && now.After(r.ValidUntil) {
		return nil, fmt.Errorf("InRelease of %q: valid until %s, it is %s", r.Codename,
			r.ValidUntil.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return r, nil
}

func readKeyring(b []byte) (openpgp.EntityList, error) {
	read := openpgp.ReadKeyRing
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("-----BEGIN PGP")) {
		read = openpgp.ReadArmoredKeyRing
	}
	keys, err := read(bytes.NewReader(b))
	if err == nil && len(keys) == 0 {
		err = errors.New("holds no key")
	}
	return keys, err
}

// verify tries each signature by itself: Debian signs with several keys, of
// which an older keyring knows only some.
func verify(block *clearsign.Block, keys openpgp.EntityList, clock time.Time) (string, error) {
	cfg := &packet.Config{Time: func() time.Time { return clock }}
	packets := packet.NewReader(block.ArmoredSignature.Body)
	var tried []error
	for {
		p, err := packets.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", fmt.Errorf("signature: %w", err)
		}
		sig, ok := p.(*packet.Signature)
		if !ok {
			continue
		}
		var raw bytes.Buffer
		if err := sig.Serialize(&raw); err != nil {
			return "", fmt.Errorf("signature: %w", err)
		}
		if h := sig.Hash; h != crypto.SHA256 && h != crypto.SHA384 && h != crypto.SHA512 {
			tried = append(tried, fmt.Errorf("signature over %s, which is too weak (want SHA-256 or better)", h))
			continue
		}
		who, err := openpgp.CheckDetachedSignature(keys, bytes.NewReader(block.Bytes), &raw, cfg)
		if err == nil {
			return fmt.Sprintf("%X", who.PrimaryKey.Fingerprint), nil
		}
		id := uint64(0)
		if sig.IssuerKeyId != nil {
			id = *sig.IssuerKeyId
		}
		tried = append(tried, fmt.Errorf("signature by key %016X: %w", id, err))
	}
	if len(tried) == 0 {
		return "", errors.New("no signature")
	}
	return "", errors.Join(tried...)
}

func parseRelease(text string) (*Release, error) {
	r := &Release{Files: map[string]Sum{}}
	err := fields(strings.Trim(strings.ReplaceAll(text, "\r\n", "\n"), "\n"), func(key, value string) error {
		var err error
		switch key {
		case "Suite":
			r.Suite = value
		case "Codename":
			r.Codename = value
		case "Components":
			r.Components = strings.Fields(value)
		case "Architectures":
			r.Architectures = strings.Fields(value)
		case "Acquire-By-Hash":
			r.ByHash = value == "yes"
		case "Date":
			r.Date, err = time.Parse(time.RFC1123, value)
		case "Valid-Until":
			r.ValidUntil, err = time.Parse(time.RFC1123, value)
		case "SHA256":
			err = r.sums(value)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if r.Date.IsZero() || len(r.Files) == 0 {
		return nil, errors.New("no Date or no SHA256 list (MD5Sum and SHA1 prove nothing)")
	}
	if r.Codename == "" {
		r.Codename = r.Suite
	}
	return r, nil
}

func (r *Release) sums(value string) error {
	for line := range strings.Lines(value) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return fmt.Errorf("line %q: want digest, size, path", strings.TrimSpace(line))
		}
		size, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil || size < 0 {
			return fmt.Errorf("%s: size %q", f[2], f[1])
		}
		if err := checkDigest(f[0]); err != nil {
			return fmt.Errorf("%s: %w", f[2], err)
		}
		r.Files[f[2]] = Sum{SHA256: f[0], Size: size}
	}
	return nil
}

// PackagesFile names the package list of a component and architecture, by
// path below dists/<suite>/: .xz when there is one, else .gz, else plain.
func (r *Release) PackagesFile(component string, a arch.Arch) (string, Sum, error) {
	dir := component + "/binary-" + a.Debian() + "/Packages"
	for _, ext := range []string{".xz", ".gz", ""} {
		if s, ok := r.Files[dir+ext]; ok {
			return dir + ext, s, nil
		}
	}
	return "", Sum{}, fmt.Errorf("suite %q has no package list for component %q, architecture %q (components: %s; architectures: %s)",
		r.Codename, component, a, strings.Join(r.Components, " "), strings.Join(r.Architectures, " "))
}

// ByHashPath is where the file is under its digest, a name that does not
// change between reading InRelease and fetching; path itself without ByHash.
func (r *Release) ByHashPath(path string) string {
	s, ok := r.Files[path]
	i := strings.LastIndexByte(path, '/')
	if !r.ByHash || !ok || i < 0 {
		return path
	}
	return path[:i] + "/by-hash/SHA256/" + s.SHA256
}

// ReadPackages verifies raw, the file at path as fetched, against the Release
// and parses it.
func (r *Release) ReadPackages(path string, raw []byte) ([]Package, error) {
	pkgs, err := r.readPackages(path, raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", r.Codename, path, err)
	}
	for i := range pkgs {
		pkgs[i].Suite = r.Codename
	}
	return pkgs, nil
}

func (r *Release) readPackages(path string, raw []byte) ([]Package, error) {
	want, ok := r.Files[path]
	if !ok {
		return nil, errors.New("the Release does not list it")
	}
	if int64(len(raw)) != want.Size {
		return nil, fmt.Errorf("size mismatch: got %d bytes, want %d", len(raw), want.Size)
	}
	if got := sumHex(raw); got != want.SHA256 {
		return nil, fmt.Errorf("digest mismatch: got %s, want %s", got, want.SHA256)
	}
	limit := int64(maxIndex)
	base := strings.TrimSuffix(strings.TrimSuffix(path, ".xz"), ".gz")
	if plain, ok := r.Files[base]; ok {
		limit = plain.Size
	}
	var in io.Reader = bytes.NewReader(raw)
	var err error
	switch {
	case strings.HasSuffix(path, ".xz"):
		in, err = xz.NewReader(in, 0)
	case strings.HasSuffix(path, ".gz"):
		in, err = gzip.NewReader(in)
	}
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	text.Grow(int(min(limit, 128<<20)))
	n, err := io.Copy(&text, io.LimitReader(in, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("more than %d bytes when decoded", limit)
	}
	return ParsePackages(text.String())
}

func sumHex(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
