package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"slipway.dev/slipway/bundle/lock"
)

// sample has every attribute that a writer could lose.
func sample() []Entry {
	big := bytes.Repeat([]byte("0123456789abcdef"), 9000) // 144,000 bytes: neither inline nor a multiple of the block
	su := File("usr/bin/su", 0o755|fs.ModeSetuid, []byte("su"))
	ping := File("usr/bin/ping", 0o755, []byte("ping"))
	ping.Xattrs = map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "user.note": "a"}
	home := Dir("home/nonroot", 0o700)
	home.UID, home.GID = 65532, 65532
	far := File("home/nonroot/far", 0o600, nil)
	far.UID, far.GID = 4_000_000, 4_000_001 // needs the extended inode
	return []Entry{
		su, ping, home, far,
		Dir("tmp", 0o777|fs.ModeSticky),
		Dir("var/mail", 0o775|fs.ModeSetgid),
		File("var/big", 0o640, big),
		File("etc/"+strings.Repeat("long-name-", 20)+".conf", 0o644, []byte("x")), // 205 characters: pax
		File("+plus", 0o644, []byte("sorts before .")),
		{Path: "bin", Mode: fs.ModeSymlink | 0o777, Link: "usr/bin"},
		{Path: "etc/long", Mode: fs.ModeSymlink, Link: strings.Repeat("../usr/", 30)},
	}
}

func build(t *testing.T, entries []Entry) Layer {
	t.Helper()
	l, err := BuildLayer(context.Background(), entries, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLayerKeepsEveryAttribute(t *testing.T) {
	l := build(t, sample())
	f, err := os.Open(l.File)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := ReadErofs(f)
	if err != nil {
		t.Fatal(err)
	}
	byPath := map[string]Entry{}
	for _, e := range got {
		byPath[e.Path] = e
	}
	for _, want := range sample() {
		e, ok := byPath[want.Path]
		if !ok {
			t.Errorf("/%s is missing", want.Path)
			continue
		}
		if e.Mode.Type() != want.Mode.Type() || want.Mode.Type() != fs.ModeSymlink && e.Mode != want.Mode {
			t.Errorf("/%s: mode got %s, want %s", want.Path, e.Mode, want.Mode)
		}
		if e.UID != want.UID || e.GID != want.GID || e.Link != want.Link || e.Size != want.Size {
			t.Errorf("/%s: got %d:%d %q %d, want %d:%d %q %d", want.Path, e.UID, e.GID, e.Link, e.Size, want.UID, want.GID, want.Link, want.Size)
		}
		if len(want.Xattrs) > 0 && !reflect.DeepEqual(e.Xattrs, want.Xattrs) {
			t.Errorf("/%s: xattrs got %q, want %q", want.Path, e.Xattrs, want.Xattrs)
		}
	}
}

func TestLayerIsAFunctionOfItsEntries(t *testing.T) {
	a := build(t, sample())
	turned := sample()
	for i, j := 0, len(turned)-1; i < j; i, j = i+1, j-1 {
		turned[i], turned[j] = turned[j], turned[i]
	}
	b := build(t, turned)
	if a.DiffID != b.DiffID || a.SHA256 != b.SHA256 {
		t.Errorf("another order of the same entries: got %s %s, want %s %s", b.DiffID, b.SHA256, a.DiffID, a.SHA256)
	}
	// Nodes mount blobs by this name: a change of it must be deliberate.
	const diffID = "a6c44dea3fb117f12b06d95df77c29ab3945fc94ca4104b898a15e4e127dddc4"
	if string(a.DiffID) != diffID {
		t.Errorf("diffID of the sample: got %s, want %s", a.DiffID, diffID)
	}
}

func TestTarIsTheDiffID(t *testing.T) {
	l := build(t, sample())
	var buf bytes.Buffer
	if err := WriteTar(context.Background(), &buf, sample()); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(buf.Bytes())
	if hex.EncodeToString(sum[:]) != string(l.DiffID) || int64(buf.Len()) != l.TarSize {
		t.Errorf("tar: got %x (%d bytes), want %s (%d bytes)", sum, buf.Len(), l.DiffID, l.TarSize)
	}
	for tr := tar.NewReader(&buf); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(Epoch()) || h.Uname != "" || h.Gname != "" {
			t.Errorf("%s: time %s, names %q %q", h.Name, h.ModTime, h.Uname, h.Gname)
		}
		if pax := len(h.PAXRecords) > 0; pax != (h.Name == "usr/bin/ping" || strings.Contains(h.Name, "long") || strings.HasSuffix(h.Name, "/far")) {
			t.Errorf("%s: pax records %v", h.Name, h.PAXRecords)
		}
	}
}

func TestLayerRefuses(t *testing.T) {
	short := File("x", 0o644, []byte("abc"))
	short.Size = 4
	long := File("x", 0o644, []byte("abcde"))
	long.Size = 4
	for _, c := range []struct {
		name string
		in   []Entry
		want string
	}{
		{"short content", []Entry{short}, "x"},
		{"long content", []Entry{long}, "content is longer than the 4 bytes announced"},
		{"twice", []Entry{Dir("a", 0o755), Dir("a", 0o700)}, "/a is there twice"},
		{"climbs", []Entry{File("../a", 0o644, nil)}, `path "../a" is not clean and relative`},
		{"absolute", []Entry{File("/a", 0o644, nil)}, `path "/a" is not clean and relative`},
		{"whiteout", []Entry{File("a/.wh.b", 0o644, nil)}, `names beginning with ".wh." mean a deletion`},
		{"below a file", []Entry{File("a", 0o644, nil), File("a/b", 0o644, nil)}, "/a/b: its parent /a is not a directory"},
		{"below a symlink", []Entry{{Path: "a", Mode: fs.ModeSymlink, Link: "/etc"}, File("a/shadow", 0o644, nil)}, "/a/shadow: its parent /a is not a directory"},
		{"climbs inside", []Entry{File("a/../../b", 0o644, nil)}, `path "a/../../b" is not clean and relative`},
		{"opaque directory", []Entry{File("a/.wh..wh..opq", 0o644, nil)}, `names beginning with ".wh." mean a deletion`},
		{"ten gigabytes in four bytes", []Entry{{Path: "x", Mode: 0o644, Size: 4, Open: func() (io.ReadCloser, error) {
			return io.NopCloser(io.LimitReader(zeros{}, 10e9)), nil
		}}}, "content is longer than the 4 bytes announced"},
		{"symlink to nothing", []Entry{{Path: "x", Mode: fs.ModeSymlink}}, "/x: symlink without a target"},
		{"pipe", []Entry{{Path: "p", Mode: fs.ModeNamedPipe | 0o600}}, "cannot be in a layer"},
		{"device", []Entry{{Path: "dev/null", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666}}, "cannot be in a layer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := BuildLayer(context.Background(), c.in, dir)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestVerifyNoticesAnotherTree(t *testing.T) {
	l := build(t, sample())
	f, err := os.Open(l.File)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	other := lock.SumBytes([]byte("another"))
	if err := verifyErofs(context.Background(), f, other); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("want %s", other)) {
		t.Errorf("got %v, want an error that names %s", err, other)
	}
}
