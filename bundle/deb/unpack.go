package deb

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// maxControl bounds a decoded control.tar, whose largest part is md5sums, and
// maxControlFile the control file in it; Debian's longest has some 30 kB.
const (
	maxControl     = 64 << 20
	maxControlFile = 1 << 20
)

// A decoded data.tar may have inflation times its package's Installed-Size and
// inflationBase bytes. Installed-Size rounds every file up to 1 KiB (policy
// 5.6.20) and tar adds 512 bytes and padding to each, so honest packages of
// Debian 13 stay below 1.7 times, the big ones below 1.03.
const (
	inflation     = 2
	inflationBase = 64 << 20
)

// Unpacker decodes .debs into a cache directory. It may be used from several
// goroutines: decoding xz is what costs, so callers unpack in parallel.
type Unpacker struct {
	// Cache is an existing directory: <sha256 of the deb>.tar is its decoded
	// data.tar, <sha256>.json the rest. It can be deleted at any time between
	// builds.
	Cache string
	// Limit is the largest decoded data.tar in bytes, whatever Installed-Size
	// a package claims; 0 means 4 GiB.
	Limit int64
}

// Archive is an unpacked .deb.
type Archive struct {
	Control string   // the control file's stanza
	Scripts []string // maintainer scripts and triggers it carries and nobody runs, sorted
	Files   []File   // in the archive's order, parents first
}

// Unpack reads the .deb that open gives and verifies its sha256 while reading
// it; name is for messages. When the cache holds it already (its digest is
// checked), open is not called. The returned files read from the cache.
func (u *Unpacker) Unpack(name, digest string, open func() (io.ReadCloser, error)) (*Archive, error) {
	if err := checkDigest(digest); err != nil {
		return nil, fmt.Errorf("deb %q: %w", name, err)
	}
	if a, err := u.cached(digest); err == nil {
		return a, nil
	} // whatever is wrong with a cache entry, it is made anew
	in, err := open()
	if err != nil {
		return nil, fmt.Errorf("deb %q: %w", name, err)
	}
	defer in.Close()
	a, err := u.unpack(digest, in)
	if err != nil {
		return nil, fmt.Errorf("deb %q: %w", name, err)
	}
	return a, nil
}

func (u *Unpacker) unpack(digest string, in io.Reader) (*Archive, error) {
	tmp, err := os.CreateTemp(u.Cache, ".deb-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()

	sum := sha256.New()
	a, plain, err := u.members(io.TeeReader(in, sum), tmp)
	if _, restErr := io.Copy(sum, in); err == nil {
		err = restErr
	}
	// A wrong digest explains every other error, so it is told first.
	if got := hex.EncodeToString(sum.Sum(nil)); got != digest {
		return nil, fmt.Errorf("digest mismatch: got %s, want %s", got, digest)
	}
	if err != nil {
		return nil, err
	}
	tarName := filepath.Join(u.Cache, digest+".tar")
	if a.Files, err = list(tmp, tarName); err != nil {
		return nil, fmt.Errorf("%s: %w", plain.Member, err)
	}
	if err := errors.Join(tmp.Chmod(0o644), tmp.Close()); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp.Name(), tarName); err != nil {
		return nil, err
	}
	plain.Control, plain.Scripts = a.Control, a.Scripts
	return a, u.remember(digest, plain)
}

// members goes through the three parts of a .deb (deb(5)) and writes the
// decoded data.tar into out.
func (u *Unpacker) members(in io.Reader, out io.Writer) (*Archive, *sidecar, error) {
	ar, err := newArReader(in)
	if err != nil {
		return nil, nil, err
	}
	name, body, err := ar.next()
	if err != nil {
		return nil, nil, noEOF(err)
	}
	format, err := io.ReadAll(io.LimitReader(body, 16))
	if err != nil || name != "debian-binary" || !strings.HasPrefix(string(format), "2.") {
		return nil, nil, fmt.Errorf("first member %q with %q, want \"debian-binary\" with \"2.0\\n\"", name, format)
	}
	a := &Archive{}
	for {
		name, body, err := ar.next()
		if err != nil {
			return nil, nil, noEOF(err)
		}
		switch {
		case strings.HasPrefix(name, "_"): // reserved for additions, deb(5)
			continue
		case strings.HasPrefix(name, "control.tar") && a.Control == "":
			if err := control(name, body, a); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", name, err)
			}
		case strings.HasPrefix(name, "data.tar") && a.Control != "":
			plain, err := decodeTo(out, name, body, u.limitOf(a.Control))
			if err == nil && ar.body.N != 0 {
				err = fmt.Errorf("%d bytes of the member are missing: %w", ar.body.N, io.ErrUnexpectedEOF)
			}
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", name, err)
			}
			return a, plain, onlyExtras(ar)
		default:
			return nil, nil, fmt.Errorf("member %q is not expected here", name)
		}
	}
}

// onlyExtras reads what follows data.tar: nothing, or members reserved for
// additions. A second data.tar would be one that some readers see and others not.
func onlyExtras(ar *arReader) error {
	for {
		name, _, err := ar.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if !strings.HasPrefix(name, "_") {
			return fmt.Errorf("member %q is not expected after the data", name)
		}
	}
}

func noEOF(err error) error {
	if err == io.EOF {
		return errors.New("no data.tar")
	}
	return err
}

func (u *Unpacker) limit() int64 {
	if u.Limit > 0 {
		return u.Limit
	}
	return 4 << 30
}

// limitOf is how long the data.tar of a package may get when decoded. A package
// that does not tell its size gets all that is allowed to any.
func (u *Unpacker) limitOf(control string) int64 {
	p, err := ParseStanza(control)
	if err != nil || p.InstalledSize <= 0 || p.InstalledSize > u.limit()/inflation {
		return u.limit()
	}
	return min(u.limit(), p.InstalledSize*inflation+inflationBase)
}

// decodeTo writes the decoded body, counts and hashes it.
func decodeTo(out io.Writer, name string, body io.Reader, limit int64) (*sidecar, error) {
	r, err := decoder(name, body)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	sum := sha256.New()
	buf := make([]byte, 256<<10)
	n, err := io.CopyBuffer(writers{out, sum}, io.LimitReader(r, limit+1), buf)
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("more than %d bytes when decoded", limit)
	}
	return &sidecar{Member: name, Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

type writers struct {
	out io.Writer
	sum hash.Hash
}

func (w writers) Write(b []byte) (int, error) {
	w.sum.Write(b)
	return w.out.Write(b)
}

// decoder takes the compression from the member's name, as dpkg does.
func decoder(name string, r io.Reader) (io.ReadCloser, error) {
	_, ext, _ := strings.Cut(name, ".tar")
	switch ext {
	case "":
		return io.NopCloser(r), nil
	case ".gz":
		return gzip.NewReader(r)
	case ".xz":
		x, err := xz.NewReader(r, 0)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(x), nil
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("compression %q is not known (known: .xz, .zst, .gz, none)", ext)
}

// control reads the control file and the names of the scripts.
func control(name string, body io.Reader, a *Archive) error {
	r, err := decoder(name, body)
	if err != nil {
		return err
	}
	defer r.Close()
	limited := &io.LimitedReader{R: r, N: maxControl}
	t := tar.NewReader(limited)
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			if limited.N == 0 {
				return fmt.Errorf("more than %d bytes when decoded", maxControl)
			}
			return err
		}
		switch base := strings.TrimPrefix(h.Name, "./"); base {
		case "control":
			if a.Control != "" {
				return errors.New("two control files")
			}
			raw, err := io.ReadAll(io.LimitReader(t, maxControlFile+1))
			if err != nil {
				return fmt.Errorf("control: %w", err)
			}
			if len(raw) > maxControlFile {
				return fmt.Errorf("control: more than %d bytes", maxControlFile)
			}
			a.Control = strings.TrimRight(string(raw), "\n")
		case "preinst", "postinst", "prerm", "postrm", "config", "triggers":
			a.Scripts = append(a.Scripts, base)
		}
	}
	sort.Strings(a.Scripts)
	if a.Control == "" {
		return errors.New("no control file")
	}
	_, err = ParseStanza(a.Control)
	return err
}

// sidecar is <sha256 of the deb>.json beside the decoded tar. It is written
// last, so its presence says that the entry is whole.
type sidecar struct {
	Member  string   `json:"member"` // "data.tar.xz"
	Size    int64    `json:"size"`   // of the decoded tar, bytes
	SHA256  string   `json:"sha256"` // of the decoded tar
	Control string   `json:"control"`
	Scripts []string `json:"scripts,omitempty"`
}

func (u *Unpacker) remember(digest string, s *sidecar) error {
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(u.Cache, ".deb-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(raw, '\n'))
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(u.Cache, digest+".json"))
}

// cached opens an entry after comparing the tar with its digest: the cache may
// have lost a power cut, or been touched.
func (u *Unpacker) cached(digest string) (*Archive, error) {
	raw, err := os.ReadFile(filepath.Join(u.Cache, digest+".json"))
	if err != nil {
		return nil, err
	}
	var s sidecar
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, err
	}
	tarName := filepath.Join(u.Cache, digest+".tar")
	f, err := os.Open(tarName)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Size() != s.Size || s.Size > u.limit() {
		return nil, fmt.Errorf("cache entry %s: size is not %d", digest, s.Size)
	}
	sum := sha256.New()
	if _, err := io.CopyBuffer(writers{io.Discard, sum}, f, make([]byte, 256<<10)); err != nil {
		return nil, err
	}
	if hex.EncodeToString(sum.Sum(nil)) != s.SHA256 {
		return nil, fmt.Errorf("cache entry %s: digest mismatch", digest)
	}
	files, err := list(f, tarName)
	if err != nil {
		return nil, err
	}
	return &Archive{Control: s.Control, Scripts: s.Scripts, Files: files}, nil
}
