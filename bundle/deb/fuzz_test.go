package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pault.ag/go/debian/version"
)

// The targets run their seeds in every `go test`; `go test -fuzz NAME` goes on
// from there. Each states what holds for every input.

func FuzzAr(f *testing.F) {
	f.Add([]byte("!<arch>\n" + member("debian-binary", []byte("2.0\n")) + member("odd", []byte("x"))))
	f.Add([]byte("!<arch>\n" + member("x", nil)[:30]))
	f.Add([]byte("!<arch>\n" + strings.Replace(member("x", nil), " 0 ", "99 ", 1)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := newArReader(bytes.NewReader(raw))
		if err != nil {
			return
		}
		total := int64(8)
		for {
			_, body, err := a.next()
			if err != nil {
				if !errors.Is(err, io.EOF) && err.Error() == "" {
					t.Error("an error without words")
				}
				return
			}
			n, err := io.Copy(io.Discard, body)
			if err != nil {
				t.Fatal(err)
			}
			if total += 60 + n; total > int64(len(raw)) {
				t.Fatalf("members of %d bytes out of %d", total, len(raw))
			}
		}
	})
}

func FuzzControl(f *testing.F) {
	f.Add(controlText)
	f.Add("Package: a\n b\n\tc\nVersion: 1:2~3-4\nArchitecture: any\nInstalled-Size: 9223372036854775807\n")
	f.Add(packageList + "\n\n#x\n" + packageList)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParseStanza(text)
		if err == nil && (strings.ContainsAny(p.Name, "/\x00\n") || p.Name == "" || p.Version == "") {
			t.Errorf("package %q version %q", p.Name, p.Version)
		}
		pkgs, err := ParsePackages(text)
		if err != nil {
			return
		}
		for _, p := range pkgs {
			if path.IsAbs(p.Filename) || !filepath.IsLocal(path.Clean(p.Filename)) || len(p.SHA256) != 64 {
				t.Errorf("package %q: Filename %q, SHA256 %q", p.Name, p.Filename, p.SHA256)
			}
		}
		if _, err := ParsePackages(string(Status(pkgs))); err == nil && len(pkgs) > 0 {
			t.Error("a status without the fields of a download is a package list")
		}
	})
}

func FuzzRelations(f *testing.F) {
	f.Add("a (>= 1:2) | b:any [amd64 !arm64], c (<< 3~) <!nocheck>")
	f.Add("a (,|")
	f.Fuzz(func(t *testing.T, text string) {
		groups, err := ParseRelations(text)
		if err != nil {
			return
		}
		for _, g := range groups {
			for _, r := range g {
				if r.Name == "" || strings.ContainsAny(r.Name, " ,|()") {
					t.Errorf("%q: relation %+v", text, r)
				}
			}
		}
	})
}

func FuzzVersion(f *testing.F) {
	for _, s := range [][2]string{{"1:2.3-4", "1:2.3~rc1-4"}, {"0", "00"}, {"1.0+b1", "1.0"}, {"2:0", "1"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		v, err := parseVersion(a)
		if err != nil {
			return
		}
		w, err := parseVersion(b)
		if err != nil {
			return
		}
		if version.Compare(v, v) != 0 || sign(version.Compare(v, w)) != -sign(version.Compare(w, v)) {
			t.Errorf("%q and %q: no order", a, b)
		}
	})
}

func FuzzRelease(f *testing.F) {
	f.Add([]byte("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nSuite: x\n-----BEGIN PGP SIGNATURE-----\n\niQ==\n=AAAA\n-----END PGP SIGNATURE-----\n"))
	f.Add([]byte("Suite: stable\nDate: Sat, 12 Sep 2026 07:55:41 UTC\nSHA256:\n " + strings.Repeat("0", 64) + " 1 x\n"))
	f.Add([]byte("Suite: x\n-----BEGIN PGP SIGNED MESSAGE-----\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if r, err := ParseRelease(raw, nil, time.Time{}); err == nil {
			t.Errorf("accepted without a key: %+v", r)
		}
		r, err := parseRelease(string(raw))
		if err != nil {
			return
		}
		for name, s := range r.Files {
			if len(s.SHA256) != 64 || s.Size < 0 {
				t.Errorf("%q: %+v", name, s)
			}
		}
	})
}

// FuzzTar: whatever a data.tar holds, no listed path leaves the root, nothing
// lies below something that is no directory, and no content is past the end.
func FuzzTar(f *testing.F) {
	for _, entries := range [][]tar.Header{
		{reg("./a", "content", 0o4755), {Typeflag: tar.TypeLink, Name: "./b", Linkname: "./a"}},
		{{Typeflag: tar.TypeDir, Name: "./d/", Mode: 0o755}, {Typeflag: tar.TypeSymlink, Name: "./d/l", Linkname: "../../etc"}},
		{{Typeflag: tar.TypeSymlink, Name: "./l", Linkname: "/etc"}, reg("./l/shadow", "", 0o644)},
		{{Typeflag: tar.TypeChar, Name: "./null"}, {Typeflag: tar.TypeFifo, Name: "./p"}},
		{{Typeflag: tar.TypeReg, Name: "./" + strings.Repeat("n", 200), Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"}}},
		{{Typeflag: tar.TypeReg, Name: "./" + strings.Repeat("n", 200), Format: tar.FormatGNU}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			body := h.Uname
			h.Uname, h.Size = "", int64(len(h.Uname))
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
			io.WriteString(w, body)
		}
		w.Close()
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		name := filepath.Join(t.TempDir(), "t")
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		in, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		files, err := list(in, name)
		if err != nil {
			return
		}
		dirs := map[string]bool{}
		for _, e := range files {
			dirs[e.Path] = e.Mode.IsDir()
		}
		for _, e := range files {
			if !filepath.IsLocal(e.Path) || path.Clean(e.Path) != e.Path || strings.ContainsRune(e.Path, 0) {
				t.Errorf("path %q", e.Path)
			}
			if isDir, ok := dirs[path.Dir(e.Path)]; ok && !isDir {
				t.Errorf("%q lies below a file or symlink", e.Path)
			}
			if e.Open == nil {
				continue
			}
			r, err := e.Open()
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, r); err != nil || n != e.Size {
				t.Errorf("%q: read %d bytes of %d: %v", e.Path, n, e.Size, err)
			}
			r.Close()
		}
	})
}
