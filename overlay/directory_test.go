package overlay

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/images/rootfs"
)

func write(t *testing.T, dir, name, content string, mode fs.FileMode) {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func TestDirectoryLaysFilesOverTheRoot(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "etc/motd", "ours\n", 0o600)
	write(t, dir, "usr/local/bin/tool", "#!/bin/sh\n", 0o700)
	write(t, dir, "usr/local/bin/su", "x", 0o700)
	write(t, dir, ModesFile, "# setuid\nusr/local/bin/su 4755 0 7\n", 0o644)
	if err := os.Symlink("motd", filepath.Join(dir, "etc/issue")); err != nil {
		t.Fatal(err)
	}
	d, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	tree := rootfs.New()
	if err := tree.Set(rootfs.Entry{Path: "etc", Mode: fs.ModeDir | 0o711, UID: 3, Source: "deb"}); err != nil {
		t.Fatal(err)
	}
	if err := tree.File("etc/motd", 0o640, []byte("theirs"), "deb"); err != nil {
		t.Fatal(err)
	}
	if err := d.Apply(tree); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]rootfs.Entry{
		"etc":                {Mode: fs.ModeDir | 0o711, UID: 3},
		"etc/motd":           {Mode: 0o644},
		"etc/issue":          {Mode: fs.ModeSymlink | 0o777, Link: "motd"},
		"usr/local/bin/tool": {Mode: 0o755},
		"usr/local/bin/su":   {Mode: 0o755 | fs.ModeSetuid, GID: 7},
	} {
		if got, ok := tree.Get(name); !ok || got.Mode != want.Mode || got.UID != want.UID || got.GID != want.GID || got.Link != want.Link {
			t.Errorf("%s: got %v %d:%d %q, want %v %d:%d %q", name, got.Mode, got.UID, got.GID, got.Link, want.Mode, want.UID, want.GID, want.Link)
		}
	}
	if _, ok := tree.Get(ModesFile); ok {
		t.Errorf("%s is in the root", ModesFile)
	}
}

func TestDirectoryDigestFollowsContent(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "etc/a", "1", 0o644)
	digest := func() string {
		d, err := Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		sum, err := d.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return string(sum)
	}
	first := digest()
	if err := os.Chmod(filepath.Join(dir, "etc/a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if digest() != first {
		t.Error("the digest depends on who may read the file here")
	}
	write(t, dir, "etc/a", "2", 0o644)
	if digest() == first {
		t.Error("the digest does not depend on content")
	}
}

func TestDirectoryRefuses(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, ModesFile, "etc/none 0644 0 0\n", 0o644)
	if _, err := Read(dir); err == nil || !strings.HasSuffix(err.Error(), `.modes:1: no file "etc/none" in the overlay`) {
		t.Errorf("a line without its file: %v", err)
	}
	dir = t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), "pipe is a p") {
		t.Errorf("a named pipe: %v", err)
	}
	if _, err := Read(filepath.Join(dir, "missing")); err == nil {
		t.Error("a directory that is not there was read")
	}
}
