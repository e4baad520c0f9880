package rootfs

import (
	"strings"
	"testing"
)

func paths(t *Tree) string {
	var out []string
	_ = t.Walk(func(e Entry) error { out = append(out, e.Path); return nil })
	return strings.Join(out, " ")
}

func TestWalkIsSortedParentsFirst(t *testing.T) {
	tr := New()
	for _, n := range []string{"usr/bin/b", "usr-x", "usr/bin/a", "usr/bin.d/z"} {
		if err := tr.File(n, 0o644, nil, "test"); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := paths(tr), ". usr usr/bin usr/bin/a usr/bin/b usr/bin.d usr/bin.d/z usr-x"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestUsrMergeMeets(t *testing.T) {
	tr := New()
	if err := tr.Symlink("lib", "usr/lib", "base-files"); err != nil {
		t.Fatal(err)
	}
	if err := tr.File("/lib/x/y", 0o644, []byte("1"), "a"); err != nil {
		t.Fatal(err)
	}
	if _, ok := tr.Get("usr/lib/x/y"); !ok {
		t.Fatalf("not found below usr/lib: %s", paths(tr))
	}
	err := tr.Add(Entry{Path: "usr/lib/x/y", Source: "deb b_2"})
	if err == nil || err.Error() != "deb b_2: /usr/lib/x/y is already there from a" {
		t.Errorf("conflict: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	tr := New()
	_ = tr.Symlink("a", "b", "s")
	_ = tr.Symlink("b", "a", "s")
	_ = tr.File("f", 0o644, nil, "s")
	for p, want := range map[string]string{
		"../etc/passwd": `climbs out with ".."`,
		"x/../../y":     `climbs out with ".."`,
		"a/x":           "too many symlinks",
		"f/x":           "parent /f of /f/x is not a directory (from s)",
	} {
		if err := tr.Add(Entry{Path: p, Source: "evil"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", p, err, want)
		}
	}
}
