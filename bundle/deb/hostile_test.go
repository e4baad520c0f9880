package deb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/klauspost/compress/zstd"
)

// zeros is a stream of n bytes that are 0.
type zeros struct{ n int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	n := int(min(z.n, int64(len(p))))
	clear(p[:n])
	z.n -= int64(n)
	return n, nil
}

// bomb is ten billion zeros of a file, compressed: a short stream, many times
// over, because all three formats may be concatenated.
func bomb(t *testing.T, ext string) []byte {
	t.Helper()
	const one, times = 100_000_000, 100
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch ext {
	case ".gz":
		w, err = gzip.NewWriterLevel(&b, gzip.BestSpeed)
	case ".zst":
		w, err = zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	case ".xz":
		cmd := exec.Command("xz", "-c", "-1", "-T1")
		cmd.Stdin, cmd.Stdout = &zeros{one}, &b
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		return bytes.Repeat(b.Bytes(), times)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, &zeros{one}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.Repeat(b.Bytes(), times)
}

// A small member that decodes to ten gigabytes is stopped at what the package
// says it needs, without taking memory or leaving anything on the disk.
func TestUnpackRefusesBombs(t *testing.T) {
	control := strings.Replace(controlText, "Description", "Installed-Size: 512\nDescription", 1)
	for _, ext := range []string{".gz", ".zst", ".xz"} {
		if _, err := exec.LookPath("xz"); ext == ".xz" && err != nil {
			t.Log("not tried: .xz, for lack of an xz to make the fixture with")
			continue
		}
		packed := bomb(t, ext)
		t.Run("data.tar"+ext, func(t *testing.T) {
			raw := []byte("!<arch>\n" + member("debian-binary", []byte("2.0\n")) +
				member("control.tar", tarOf(t, reg("./control", control, 0o644))) + member("data.tar"+ext, packed))
			u := &Unpacker{Cache: t.TempDir()}
			before := allocated()
			_, err := unpackBytes(u, raw)
			if want := `deb "t.deb": data.tar` + ext + `: more than 68157440 bytes when decoded`; err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			if mb := (allocated() - before) >> 20; mb > 160 { // xz wants a 64 MiB dictionary
				t.Errorf("%d MiB allocated to refuse a member of %d bytes", mb, len(raw))
			}
			wantEmpty(t, u.Cache)
		})
		t.Run("control.tar"+ext, func(t *testing.T) {
			raw := []byte("!<arch>\n" + member("debian-binary", []byte("2.0\n")) + member("control.tar"+ext, packed))
			_, err := unpackBytes(&Unpacker{Cache: t.TempDir()}, raw)
			if want := `deb "t.deb": control.tar` + ext + `: no control file`; err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want) // two zero blocks end a tar
			}
		})
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// A file in control.tar that goes on for ever, without an end of the archive.
func TestUnpackRefusesEndlessControl(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./md5sums", Mode: 0o644, Size: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	var z bytes.Buffer
	g := gzip.NewWriter(&z)
	g.Write(b.Bytes())
	io.Copy(g, &zeros{maxControl})
	g.Close()
	raw := []byte("!<arch>\n" + member("debian-binary", []byte("2.0\n")) + member("control.tar.gz", z.Bytes()))
	_, err := unpackBytes(&Unpacker{Cache: t.TempDir()}, raw)
	if want := fmt.Sprintf(`deb "t.deb": control.tar.gz: more than %d bytes when decoded`, maxControl); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestUnpackRefusesMembers(t *testing.T) {
	start := "!<arch>\n" + member("debian-binary", []byte("2.0\n"))
	control := member("control.tar", tarOf(t, reg("control", controlText, 0o644)))
	data := member("data.tar", tarOf(t, reg("./x", "x", 0o644)))
	for _, c := range []struct{ name, raw, want string }{
		{"data twice", start + control + data + data, `member "data.tar" is not expected after the data`},
		{"control after data", start + control + data + control, `member "control.tar" is not expected after the data`},
		{"name with a zero byte", start + strings.Replace(control, "control.tar ", "control.tar\x00", 1) + data, `control.tar` + "\x00" + `: compression "\x00" is not known (known: .xz, .zst, .gz, none)`},
		{"zero byte in front", start + strings.Replace(control, "control.tar ", "\x00control.tar", 1), `member "\x00control.tar" is not expected here`},
		{"huge control file", start + member("control.tar", tarOf(t, reg("control", controlText+"X: "+strings.Repeat("x", maxControlFile)+"\n", 0o644))), `control.tar: control: more than 1048576 bytes`},
		{"two control files", start + member("control.tar", tarOf(t, reg("control", controlText, 0o644), reg("./control", "Package: evil\n", 0o644))), `control.tar: two control files`},
		{"name of another package's directory", start + member("control.tar", tarOf(t, reg("control", strings.Replace(controlText, "Package: t", "Package: ../t", 1), 0o644))), `control.tar: package name "../t" holds '.'`},
		{"cut after the data", start + control + data + "data.tar   ", `ar header is cut short`},
		{"size of 2^63", start + "control.tar     0           0     0     100644  9999999999`\n", `control.tar: no control file`},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := &Unpacker{Cache: t.TempDir()}
			_, err := unpackBytes(u, []byte(c.raw))
			if want := `deb "t.deb": ` + c.want; err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			wantEmpty(t, u.Cache)
		})
	}
}

// What a package may claim for its size: rights on files are kept as they are
// (the audit of the root names those that nobody expects), sizes are bounded.
func TestLimitOf(t *testing.T) {
	u := &Unpacker{}
	for size, want := range map[string]int64{"512": 65 << 20, "0": 4 << 30, "-5": 4 << 30, "9007199254740993": 4 << 30, "3000000": 4 << 30, "2000000": 2*2000000*1024 + 64<<20} {
		control := strings.Replace(controlText, "Description", "Installed-Size: "+size+"\nDescription", 1)
		if got := u.limitOf(control); got != want {
			t.Errorf("Installed-Size %s: got %d, want %d", size, got, want)
		}
	}
}

func TestParsePackagesRefusesHostileIndexes(t *testing.T) {
	zero := strings.Repeat("0", 64)
	stanza := func(name, file, digest string) string {
		return "Package: " + name + "\nVersion: 1\nArchitecture: all\nFilename: " + file + "\nSize: 1\nSHA256: " + digest + "\n\n"
	}
	for _, c := range []struct{ name, text, want string }{
		{"absolute", stanza("a", "/etc/shadow", zero), `stanza 1: package "a": Filename "/etc/shadow" is not a relative path`},
		{"climbing", stanza("a", "pool/../../x", zero), `stanza 1: package "a": Filename "pool/../../x" is not a relative path`},
		{"coded climbing", stanza("a", "pool/%2e%2e/x", zero), `stanza 1: package "a": Filename "pool/%2e%2e/x" is not a relative path`},
		{"coded nothing", stanza("a", "pool/%zz", zero), `stanza 1: package "a": Filename "pool/%zz": invalid URL escape "%zz"`},
		{"query", stanza("a", "pool/x?y", zero), `stanza 1: package "a": Filename "pool/x?y" holds '?'`},
		{"zero byte", stanza("a", "pool/x\x00y", zero), `stanza 1: package "a": Filename "pool/x\x00y" holds '\x00'`},
		{"two lines", stanza("a", "pool/x\n y", zero), `stanza 1: package "a": Filename "pool/x\n y" holds '\n'`},
		{"no digest", strings.Replace(stanza("a", "x", zero), "SHA256", "MD5sum", 1), `stanza 1: package "a": SHA256: digest "": want 64 lower-case hex characters`},
		{"twice", stanza("a", "x", zero) + stanza("b", "x", zero) + stanza("a", "y", strings.Repeat("1", 64)), `stanza 3: package "a" 1 (all) is there twice with different contents`},
		{"name that climbs", stanza("../a", "x", zero), `stanza 1: package name "../a" holds '.'`},
		{"no stanza", "\x00\x01", `stanza 1: package "": line "\x00\x01" is not a field`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := ParsePackages(c.text); err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
	if _, err := ParsePackages(stanza("a", "x", zero) + stanza("a", "x", zero)); err != nil {
		t.Errorf("the same package twice: %v", err)
	}
}

func TestParsePackagesRefusesALineOfAGigabyte(t *testing.T) {
	var b strings.Builder
	b.Grow(1<<30 + 100)
	b.WriteString("Package: a\nDescription: ")
	if _, err := io.Copy(&b, &zeros{1 << 30}); err != nil {
		t.Fatal(err)
	}
	before := allocated()
	_, err := ParsePackages(b.String())
	if want := fmt.Sprintf("stanza 1: %d bytes, want at most 4194304", b.Len()); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if got := allocated() - before; got > 1<<20 {
		t.Errorf("%d bytes allocated to refuse it", got)
	}
}

func TestParseReleaseRefusesHostileIndexes(t *testing.T) {
	text, _ := releaseText(t, len(packageList))
	key := newKey(t, 0)
	good := sign1(t, text, key)
	ring := keyring(t, false, key)
	const outside = "InRelease: text outside the signed message, which nobody has signed"
	for _, c := range []struct {
		name   string
		signed []byte
		now    time.Time
		want   string
	}{
		{"text before", append([]byte("Suite: evil\n"), good...), signedAt, outside},
		{"text after", append(bytes.Clone(good), "\nSuite: evil\n"...), signedAt, outside},
		{"a second message", append(bytes.Clone(good), good...), signedAt, outside},
		{"from the future", good, signedAt.Add(-time.Hour),
			"InRelease of \"trixie\": not valid before 2026-09-12T07:55:41Z, it is 2026-09-12T07:00:00Z: this machine's clock or the mirror's is wrong"},
		{"signed over SHA-1", weak(t, text, key), signedAt, "InRelease: signature over SHA-1, which is too weak (want SHA-256 or better)"},
		{"weak digests alone", sign1(t, strings.Replace(text, "SHA256:", "MD5Sum:", 1), key), signedAt, "InRelease: no Date or no SHA256 list (MD5Sum and SHA1 prove nothing)"},
		{"cut in the signature", good[:len(good)-60], signedAt, "InRelease: not a clear-signed message"},
		{"cut in the text", good[:len(good)/3], signedAt, "InRelease: not a clear-signed message"},
		{"negative size", sign1(t, text+" "+strings.Repeat("0", 64)+" -1 x\n", key), signedAt, `InRelease: SHA256: x: size "-1"`},
		{"half a line", sign1(t, text+" 00\n", key), signedAt, `InRelease: SHA256: line "00": want digest, size, path`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := ParseRelease(c.signed, ring, c.now); err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// weak makes the signature say that it is over SHA-1 (RFC 9580 5.2.3: version,
// type, key algorithm, hash algorithm). No writer makes one any more.
func weak(t *testing.T, text string, key *openpgp.Entity) []byte {
	t.Helper()
	good := sign1(t, text, key)
	block, _ := clearsign.Decode(good)
	raw, err := io.ReadAll(block.ArmoredSignature.Body)
	if err != nil {
		t.Fatal(err)
	}
	p, err := packet.Read(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	sig := p.(*packet.Signature)
	at := bytes.Index(raw, []byte{byte(sig.Version), byte(sig.SigType), byte(sig.PubKeyAlgo)})
	raw[at+3] = 2 // SHA-1, RFC 9580 section 9.5
	head, _, _ := bytes.Cut(good, []byte("-----BEGIN PGP SIGNATURE-----"))
	return append(bytes.Clone(head), armorOf(t, openpgp.SignatureType, raw)...)
}

// TestUnpackTellsWhichDiskIsFull: the cache is on a file system of 1 MiB.
func TestUnpackTellsWhichDiskIsFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	dir := smallDisk(t)
	u := &Unpacker{Cache: dir}
	_, err := unpackBytes(u, debOf(t, "", tarOf(t, reg("./x", strings.Repeat("x", 2<<20), 0o644))))
	if err == nil || !strings.Contains(err.Error(), `deb "t.deb": data.tar: write `+dir) || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("got %v", err)
	}
	wantEmpty(t, dir)
}
