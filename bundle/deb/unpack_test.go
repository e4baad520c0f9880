package deb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const controlText = "Package: t\nVersion: 1\nArchitecture: all\nDescription: test\n more\n"

func tarOf(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		body := h.Uname // the tests put a file's content here
		h.Uname = ""
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(body))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			io.WriteString(w, body)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func reg(name, body string, mode int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Uname: body, Mode: mode}
}

func member(name string, body []byte) string {
	pad := ""
	if len(body)%2 == 1 {
		pad = "\n"
	}
	return fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d`\n%s%s", name, 0, 0, 0, "100644", len(body), body, pad)
}

func packed(t *testing.T, ext string, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch ext {
	case "":
		return raw
	case ".gz":
		w = gzip.NewWriter(&b)
	case ".xz":
		w, err = xz.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.Write(raw)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func debOf(t *testing.T, ext string, data []byte) []byte {
	t.Helper()
	control := tarOf(t, reg("./control", controlText, 0o644), reg("./postinst", "#!/bin/sh\n", 0o755), reg("./md5sums", "x", 0o644))
	return []byte("!<arch>\n" + member("debian-binary", []byte("2.0\n")) +
		member("control.tar"+ext, packed(t, ext, control)) + member("_gpgextra", []byte("odd")) +
		member("data.tar"+ext, packed(t, ext, data)))
}

func unpackBytes(u *Unpacker, raw []byte) (*Archive, error) {
	return u.Unpack("t.deb", sumHex(raw), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil })
}

func TestUnpack(t *testing.T) {
	long := strings.Repeat("d/", 60) + strings.Repeat("n", 120) // needs a PAX header
	data := tarOf(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755},
		tar.Header{Typeflag: tar.TypeDir, Name: "./usr/", Mode: 0o755},
		reg("./usr/su", "setuid", 0o4755),
		tar.Header{Typeflag: tar.TypeReg, Name: "./usr/cap", Uname: "capable", Mode: 0o2755, Uid: 7, Gid: 42, Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x02"}},
		tar.Header{Typeflag: tar.TypeLink, Name: "./usr/hard", Linkname: "./usr/cap", Mode: 0o600},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "./usr/link", Linkname: "../etc/x", Mode: 0o777},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "./usr/abs", Linkname: "/etc/x", Mode: 0o777},
		reg("./"+long, "deep", 0o644),
		reg("./empty", "", 0o644),
	)
	for _, ext := range []string{"", ".gz", ".xz", ".zst"} {
		t.Run("data.tar"+ext, func(t *testing.T) {
			u := &Unpacker{Cache: t.TempDir()}
			raw := debOf(t, ext, data)
			a, err := unpackBytes(u, raw)
			if err != nil {
				t.Fatal(err)
			}
			checkArchive(t, a, long)
			again, err := u.Unpack("t.deb", sumHex(raw), func() (io.ReadCloser, error) { return nil, errors.New("opened again") })
			if err != nil {
				t.Fatal(err)
			}
			checkArchive(t, again, long)
		})
	}
}

func checkArchive(t *testing.T, a *Archive, long string) {
	t.Helper()
	if a.Control != strings.TrimRight(controlText, "\n") || strings.Join(a.Scripts, " ") != "postinst" {
		t.Errorf("control %q, scripts %q", a.Control, a.Scripts)
	}
	want := map[string]string{
		".": "drwxr-xr-x 0:0", "usr": "drwxr-xr-x 0:0", "usr/su": "urwxr-xr-x 0:0 setuid", "usr/cap": "grwxr-xr-x 7:42 capable \x01\x00\x02",
		"usr/hard": "grwxr-xr-x 7:42 capable \x01\x00\x02 of usr/cap", "usr/link": "Lrwxrwxrwx 0:0 -> ../etc/x", "usr/abs": "Lrwxrwxrwx 0:0 -> /etc/x",
		long: "-rw-r--r-- 0:0 deep", "empty": "-rw-r--r-- 0:0 ",
	}
	if len(a.Files) != len(want) {
		t.Errorf("got %d files, want %d", len(a.Files), len(want))
	}
	for _, f := range a.Files {
		got := fmt.Sprintf("%v %d:%d", f.Mode, f.UID, f.GID)
		if f.Mode.Type() == fs.ModeSymlink {
			got += " -> " + f.Link
		}
		if f.Open != nil {
			r, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil || int64(len(b)) != f.Size {
				t.Errorf("%s: read %d bytes of %d: %v", f.Path, len(b), f.Size, err)
			}
			got += " " + string(b)
		}
		if x := f.Xattrs["security.capability"]; x != "" {
			got += " " + x
		}
		if f.Hardlink != "" {
			got += " of " + f.Hardlink
		}
		if got != want[f.Path] {
			t.Errorf("%s: got %q, want %q", f.Path, got, want[f.Path])
		}
	}
}

func TestUnpackRefusesEntries(t *testing.T) {
	x := reg("./x", "x", 0o644)
	liar := tarOf(t, x)
	copy(liar[124:], "00000007777\x00") // the size field (ustar, offset 124)
	copy(liar[148:], "        ")        // and the checksum over it
	sum := 0
	for _, c := range liar[:512] {
		sum += int(c)
	}
	copy(liar[148:], fmt.Sprintf("%06o\x00 ", sum))
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"climbing", tarOf(t, reg("./a/../../etc/shadow", "", 0o644)), `entry "./a/../../etc/shadow": path "./a/../../etc/shadow" climbs out with ".."`},
		{"absolute", tarOf(t, reg("/etc/shadow", "", 0o644)), `entry "/etc/shadow": path "/etc/shadow" is absolute`},
		{"char device", tarOf(t, tar.Header{Typeflag: tar.TypeChar, Name: "./dev/mem"}), `entry "./dev/mem": device nodes are refused`},
		{"block device", tarOf(t, tar.Header{Typeflag: tar.TypeBlock, Name: "./dev/sda"}), `entry "./dev/sda": device nodes are refused`},
		{"pipe", tarOf(t, tar.Header{Typeflag: tar.TypeFifo, Name: "./p"}), `entry "./p": named pipes are refused`},
		{"through a symlink", tarOf(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "./lib", Linkname: "/etc"}, reg("./lib/shadow", "", 0o644)),
			`entry "lib/shadow": its parent "lib" is a symlink to "/etc"`},
		{"through a later symlink", tarOf(t, reg("./lib/shadow", "", 0o644), tar.Header{Typeflag: tar.TypeSymlink, Name: "./lib", Linkname: "/etc"}),
			`entry "lib/shadow": its parent "lib" is a symlink to "/etc"`},
		{"below a file", tarOf(t, x, reg("./x/y", "", 0o644)), `entry "x/y": its parent "x" is not a directory`},
		{"climbing symlink", tarOf(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "./a/l", Linkname: "../../etc"}), `entry "./a/l": symlink to "../../etc" climbs above the root`},
		{"hard link out", tarOf(t, tar.Header{Typeflag: tar.TypeLink, Name: "./l", Linkname: "../etc/shadow"}), `entry "./l": hard link: path "../etc/shadow" climbs out with ".."`},
		{"hard link to nothing", tarOf(t, tar.Header{Typeflag: tar.TypeLink, Name: "./l", Linkname: "./x"}), `entry "./l": hard link to "./x", which is not an earlier file of the archive`},
		{"twice", tarOf(t, x, x), `entry "./x": is in the archive twice`},
		{"size lies", liar, `entry "./x": size 4095, but 1536 bytes are left in the archive`},
		{"cut", tarOf(t, reg("./x", strings.Repeat("x", 4096), 0o644))[:2048], `entry "./x": size 4096, but 1536 bytes are left in the archive`},
		{"not a tar", bytes.Repeat([]byte("x"), 1024), `entry 1: archive/tar: invalid tar header`},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := &Unpacker{Cache: t.TempDir()}
			_, err := unpackBytes(u, debOf(t, ".gz", c.data))
			if want := `deb "t.deb": data.tar.gz: ` + c.want; err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			wantEmpty(t, u.Cache)
		})
	}
}

// wantEmpty: what was refused leaves nothing behind, not even a temporary file.
func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left in the cache: %v %v", left, err)
	}
}

func TestUnpackRefusesArchives(t *testing.T) {
	data := tarOf(t, reg("./x", strings.Repeat("x", 100000), 0o644))
	good := debOf(t, ".gz", data)
	small := debOf(t, ".gz", tarOf(t, reg("./x", "x", 0o644)))
	start := "!<arch>\n" + member("debian-binary", []byte("2.0\n"))
	control := member("control.tar", tarOf(t, reg("control", controlText, 0o644)))
	for _, c := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"bomb", good, `data.tar.gz: more than 65536 bytes when decoded`},
		{"no ar", []byte("PK"), `not an ar archive`},
		{"empty", []byte("!<arch>\n"), `no data.tar`},
		{"other first member", []byte("!<arch>\n" + member("control.tar", nil)), `first member "control.tar" with "", want "debian-binary" with "2.0\n"`},
		{"version 3", []byte("!<arch>\n" + member("debian-binary", []byte("3.0\n"))), `first member "debian-binary" with "3.0\n", want "debian-binary" with "2.0\n"`},
		{"data before control", []byte(start + member("data.tar", nil)), `member "data.tar" is not expected here`},
		{"control twice", []byte(start + control + control), `member "control.tar" is not expected here`},
		{"no data", []byte(start + control), `no data.tar`},
		{"no control file", []byte(start + member("control.tar", tarOf(t))), `control.tar: no control file`},
		{"control without a name", []byte(start + member("control.tar", tarOf(t, reg("control", "Version: 1\n", 0o644)))),
			`control.tar: package "" version "1" architecture "": one of the three is missing`},
		{"unknown compression", []byte(start + control + member("data.tar.lzma", nil)), `data.tar.lzma: compression ".lzma" is not known (known: .xz, .zst, .gz, none)`},
		{"member longer than the file", []byte(start + control + strings.Replace(member("data.tar", data[:1024]), "1024", "9999", 1)),
			`data.tar: 8975 bytes of the member are missing: unexpected EOF`},
		{"cut in the stream", small[:len(small)-20], `data.tar.gz: unexpected EOF`},
		{"cut in a header", []byte(start + control)[:80], `ar header is cut short`},
		{"negative size", []byte(start + strings.Replace(member("control.tar", nil), "0         `", "-5        `", 1)), `ar member "control.tar": size "-5        "`},
		{"ar garbage", []byte(start + strings.Repeat("x", 60)), `ar header without its end mark`},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := &Unpacker{Cache: t.TempDir(), Limit: 65536}
			_, err := unpackBytes(u, c.raw)
			if want := `deb "t.deb": ` + c.want; err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			wantEmpty(t, u.Cache)
		})
	}
}

func TestUnpackVerifiesDigest(t *testing.T) {
	raw := debOf(t, ".xz", tarOf(t, reg("./x", "x", 0o644)))
	want := sumHex(raw)
	for name, bad := range map[string][]byte{
		"altered":  append(append([]byte(nil), raw[:len(raw)/2]...), append([]byte{raw[len(raw)/2] ^ 1}, raw[len(raw)/2+1:]...)...),
		"trailing": append(append([]byte(nil), raw...), 0),
		"cut":      raw[:len(raw)-1],
	} {
		u := &Unpacker{Cache: t.TempDir()}
		_, err := u.Unpack("t.deb", want, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(bad)), nil })
		if msg := fmt.Sprintf(`deb "t.deb": digest mismatch: got %s, want %s`, sumHex(bad), want); err == nil || err.Error() != msg {
			t.Errorf("%s: got %v, want %s", name, err, msg)
		}
		wantEmpty(t, u.Cache)
	}
	if _, err := (&Unpacker{}).Unpack("t.deb", "../x", nil); err == nil || err.Error() != `deb "t.deb": digest "../x": want 64 lower-case hex characters` {
		t.Errorf("got %v", err)
	}
}

// A damaged cache entry is made again from the .deb.
func TestUnpackRepairsCache(t *testing.T) {
	raw := debOf(t, "", tarOf(t, reg("./x", "content", 0o644)))
	damage := map[string]func(tarName, sideName string) error{
		"flipped bit": func(n, _ string) error {
			b, err := os.ReadFile(n)
			b[512] ^= 1 // content of x
			return errors.Join(err, os.WriteFile(n, b, 0o644))
		},
		"cut":        func(n, _ string) error { return os.Truncate(n, 700) },
		"tar gone":   func(n, _ string) error { return os.Remove(n) },
		"side gone":  func(_, s string) error { return os.Remove(s) },
		"side empty": func(_, s string) error { return os.Truncate(s, 0) },
	}
	for name, spoil := range damage {
		t.Run(name, func(t *testing.T) {
			u := &Unpacker{Cache: t.TempDir()}
			if _, err := unpackBytes(u, raw); err != nil {
				t.Fatal(err)
			}
			stem := filepath.Join(u.Cache, sumHex(raw))
			if err := spoil(stem+".tar", stem+".json"); err != nil {
				t.Fatal(err)
			}
			a, err := unpackBytes(u, raw)
			if err != nil {
				t.Fatal(err)
			}
			r, err := a.Files[0].Open()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if b, err := io.ReadAll(r); err != nil || string(b) != "content" {
				t.Errorf("got %q %v", b, err)
			}
		})
	}
}
