package audit

import (
	"debug/elf"
	"io/fs"
	"strings"
	"testing"

	"slipway.dev/slipway/images/rootfs"
)

const (
	libDir = "usr/lib/x86_64-linux-gnu/"
	loader = "/lib64/ld-linux-x86-64.so.2"
)

// base is a root with a loader, a C library and a shell, in which nothing is wrong.
func base(t *testing.T) *rootfs.Tree {
	t.Helper()
	tr := rootfs.New()
	for name, to := range map[string]string{"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"} {
		if err := tr.Symlink(name, to, "deb base-files"); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"usr/bin", "usr/lib", "usr/lib64"} {
		if err := tr.Dir(d, 0o755, "deb base-files"); err != nil {
			t.Fatal(err)
		}
	}
	put(t, tr, libDir+"ld-linux-x86-64.so.2", 0o755, object{}.bytes())
	link(t, tr, "usr/lib64/ld-linux-x86-64.so.2", "../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
	put(t, tr, libDir+"libc.so.6", 0o644, object{needed: []string{"ld-linux-x86-64.so.2"}}.bytes())
	put(t, tr, "usr/bin/dash", 0o755, program("libc.so.6"))
	link(t, tr, "usr/bin/sh", "dash")
	put(t, tr, "usr/bin/env", 0o755, program("libc.so.6"))
	return tr
}

func program(needed ...string) []byte { return object{interp: loader, needed: needed}.bytes() }

func put(t *testing.T, tr *rootfs.Tree, name string, mode fs.FileMode, content []byte) {
	t.Helper()
	if err := tr.File(name, mode, content, "deb x"); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, tr *rootfs.Tree, name, to string) {
	t.Helper()
	if err := tr.Symlink(name, to, "deb x"); err != nil {
		t.Fatal(err)
	}
}

func set(t *testing.T, tr *rootfs.Tree, e rootfs.Entry) {
	t.Helper()
	e.Source = "deb x"
	if err := tr.Set(e); err != nil {
		t.Fatal(err)
	}
}

// cases change the base root; want is what Check says of it, a line each.
var cases = []struct {
	name   string
	change func(*testing.T, *rootfs.Tree)
	want   string
}{
	{"nothing", func(*testing.T, *rootfs.Tree) {}, ""},
	{"no loader", func(_ *testing.T, tr *rootfs.Tree) { tr.Remove("usr/lib64/ld-linux-x86-64.so.2") },
		"/usr/bin/dash (deb x): needs the loader /lib64/ld-linux-x86-64.so.2, which is not in the root\n" +
			"/usr/bin/env (deb x): needs the loader /lib64/ld-linux-x86-64.so.2, which is not in the root"},
	{"loader without its mode", func(t *testing.T, tr *rootfs.Tree) {
		put(t, tr, libDir+"ld.so", 0o644, object{}.bytes())
		put(t, tr, "usr/bin/x", 0o755, object{interp: "/" + libDir + "ld.so"}.bytes())
	}, "/usr/bin/x (deb x): needs the loader /usr/lib/x86_64-linux-gnu/ld.so, which is not executable"},
	{"library of a library", func(t *testing.T, tr *rootfs.Tree) {
		put(t, tr, libDir+"liba.so.1", 0o644, object{needed: []string{"libb.so.1"}}.bytes())
		put(t, tr, "usr/bin/x", 0o755, program("liba.so.1"))
	}, "/" + libDir + "liba.so.1 (deb x): needs libb.so.1, which is not in the root"},
	{"library is a link to nowhere", func(t *testing.T, tr *rootfs.Tree) {
		link(t, tr, libDir+"liba.so.1", "liba.so.1.2")
		put(t, tr, "usr/bin/x", 0o755, program("liba.so.1"))
	}, "/usr/bin/x (deb x): needs liba.so.1, which is not in the root\n" +
		"/" + libDir + "liba.so.1 (deb x): points to /" + libDir + "liba.so.1.2, which is not in the root"},
	{"runpath with origin", func(t *testing.T, tr *rootfs.Tree) {
		put(t, tr, "opt/x/lib/liba.so.1", 0o644, object{}.bytes())
		put(t, tr, "opt/x/bin/x", 0o755, object{interp: loader, needed: []string{"liba.so.1"}, runpath: "$ORIGIN/../lib"}.bytes())
		put(t, tr, "opt/x/bin/y", 0o755, object{interp: loader, needed: []string{"liba.so.1"}, rpath: "/nowhere:${ORIGIN}/../lib"}.bytes())
		put(t, tr, "opt/x/bin/z", 0o755, program("liba.so.1"))
	}, "/opt/x/bin/z (deb x): needs liba.so.1, which is not in the root"},
	{"runpath hides rpath", func(t *testing.T, tr *rootfs.Tree) {
		put(t, tr, "opt/x/liba.so.1", 0o644, object{}.bytes())
		put(t, tr, "opt/x/x", 0o755, object{interp: loader, needed: []string{"liba.so.1"}, rpath: "$ORIGIN", runpath: "/nowhere"}.bytes())
	}, "/opt/x/x (deb x): needs liba.so.1, which is not in the root"},
	{"ld.so.conf without its cache", func(t *testing.T, tr *rootfs.Tree) {
		configured(t, tr)
	}, "/usr/bin/x (deb x): needs liba.so.1, which is in /opt/lib of ld.so.conf, and there is no /etc/ld.so.cache"},
	{"ld.so.conf", func(t *testing.T, tr *rootfs.Tree) {
		configured(t, tr)
		put(t, tr, "etc/ld.so.cache", 0o644, nil)
	}, ""},
	{"other machine", func(t *testing.T, tr *rootfs.Tree) {
		put(t, tr, "usr/bin/x", 0o755, object{machine: elf.EM_AARCH64, needed: []string{"libnone.so"}}.bytes())
	}, "/usr/bin/x (deb x): is for EM_AARCH64, want EM_X86_64"},
	{"library of another machine", func(t *testing.T, tr *rootfs.Tree) {
		put(t, tr, libDir+"liba.so.1", 0o644, object{machine: elf.EM_386}.bytes())
		put(t, tr, "usr/bin/x", 0o755, program("liba.so.1"))
	}, "/usr/bin/x (deb x): needs liba.so.1, which is not in the root\n" +
		"/" + libDir + "liba.so.1 (deb x): is for EM_386, want EM_X86_64"},
	{"cut off", func(t *testing.T, tr *rootfs.Tree) { put(t, tr, "usr/bin/x", 0o755, program("libc.so.6")[:100]) },
		"/usr/bin/x (deb x): is no complete ELF file: EOF"},
	{"no section headers", func(t *testing.T, tr *rootfs.Tree) {
		put(t, tr, "usr/bin/x", 0o755, object{needed: []string{"libnone.so"}, bare: true}.bytes())
	}, "/usr/bin/x (deb x): has no section headers, so what it needs is not known"},
	{"symbol versions", func(t *testing.T, tr *rootfs.Tree) {
		put(t, tr, libDir+"liba.so.1", 0o644, object{defines: []string{"A_1", "A_2"}}.bytes())
		put(t, tr, libDir+"libplain.so.1", 0o644, object{}.bytes())
		put(t, tr, "usr/bin/good", 0o755, object{needed: []string{"liba.so.1", "libplain.so.1"},
			wants: []string{"liba.so.1 A_1", "liba.so.1 A_9 weak", "libplain.so.1 P_1", "liba.so.1 A_2"}}.bytes())
		put(t, tr, "usr/bin/new", 0o755, object{needed: []string{"liba.so.1"}, wants: []string{"liba.so.1 A_2", "liba.so.1 A_3"}}.bytes())
		put(t, tr, "usr/bin/none", 0o755, object{needed: []string{"libb.so.1"}, wants: []string{"libb.so.1 B_1"}}.bytes())
	}, "/usr/bin/new (deb x): needs version A_3 of liba.so.1, which the one in the root does not have\n" +
		"/usr/bin/none (deb x): needs libb.so.1, which is not in the root"},
	{"scripts", func(t *testing.T, tr *rootfs.Tree) {
		put(t, tr, "usr/bin/good", 0o755, []byte("#! /bin/sh -e\n"))
		put(t, tr, "usr/bin/good-env", 0o755, []byte("#!/usr/bin/env -S A=b dash -e\n"))
		put(t, tr, "usr/bin/perl-script", 0o755, []byte("#!/usr/bin/perl -w\n"))
		put(t, tr, "usr/bin/env-script", 0o755, []byte("#!/usr/bin/env python3"))
		put(t, tr, "usr/bin/empty", 0o755, []byte("#!\n"))
		put(t, tr, "usr/bin/relative", 0o755, []byte("#!sh\n"))
		put(t, tr, "usr/share/example", 0o644, []byte("#!/usr/bin/perl\n"))
	}, "/usr/bin/empty (deb x): its #! line names no interpreter\n" +
		"/usr/bin/env-script (deb x): its interpreter python3 is not in the root\n" +
		"/usr/bin/perl-script (deb x): its interpreter /usr/bin/perl is not in the root\n" +
		"/usr/bin/relative (deb x): its interpreter sh is not an absolute path"},
	{"links", func(t *testing.T, tr *rootfs.Tree) {
		link(t, tr, "etc/mtab", "../proc/self/mounts")
		link(t, tr, "etc/resolv.conf", "/run/x/resolv.conf")
		link(t, tr, "var/run", "/run")
		link(t, tr, "etc/deep", "../var/run/x")
		link(t, tr, "etc/slash", "/")
		link(t, tr, "etc/nowhere", "there")
		link(t, tr, "etc/a", "b")
		link(t, tr, "etc/b", "a")
	}, "/etc/a (deb x): points in a circle\n/etc/b (deb x): points in a circle\n" +
		"/etc/nowhere (deb x): points to /etc/there, which is not in the root"},
	{"modes", func(t *testing.T, tr *rootfs.Tree) {
		set(t, tr, rootfs.Entry{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777})
		set(t, tr, rootfs.Entry{Path: "var/open", Mode: fs.ModeDir | 0o777})
		put(t, tr, "etc/open", 0o666, nil)
		set(t, tr, rootfs.Entry{Path: "usr/bin/su", Mode: fs.ModeSetuid | 0o755})
		set(t, tr, rootfs.Entry{Path: "usr/bin/mount", Mode: fs.ModeSetuid | 0o755, UID: 7})
		set(t, tr, rootfs.Entry{Path: "usr/bin/new", Mode: fs.ModeSetgid | 0o755, GID: 42})
	}, "/etc/open (deb x): everybody may write it: -rw-rw-rw-\n" +
		"/usr/bin/mount (deb x): runs with other rights than reviewed: urwxr-xr-x 7:0\n" +
		"/usr/bin/new (deb x): runs with the rights of 0:42: grwxr-xr-x\n" +
		"/var/open (deb x): everybody may write it: drwxrwxrwx"},
}

func configured(t *testing.T, tr *rootfs.Tree) {
	put(t, tr, "etc/ld.so.conf", 0o644, []byte("include /etc/ld.so.conf.d/*.conf\n"))
	put(t, tr, "etc/ld.so.conf.d/x.conf", 0o644, []byte("# comment\n/opt/lib # here\n"))
	put(t, tr, "opt/lib/liba.so.1", 0o644, object{}.bytes())
	put(t, tr, "usr/bin/x", 0o755, program("liba.so.1"))
}

func TestCheck(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tr := base(t)
			c.change(t, tr)
			var got []string
			for _, f := range Check(tr, elf.EM_X86_64) {
				got = append(got, f.String())
			}
			if g := strings.Join(got, "\n"); g != c.want {
				t.Errorf("got\n%s\nwant\n%s", g, c.want)
			}
		})
	}
}

func TestOtherMachine(t *testing.T) {
	tr := rootfs.New()
	put(t, tr, "usr/lib/aarch64-linux-gnu/libc.so.6", 0o644, object{machine: elf.EM_AARCH64}.bytes())
	put(t, tr, "usr/bin/x", 0o755, object{machine: elf.EM_AARCH64, needed: []string{"libc.so.6"}}.bytes())
	if got := Check(tr, elf.EM_AARCH64); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

func TestUnexpected(t *testing.T) {
	found := []Finding{{"usr/bin/a", "deb a", "needs perl"}, {"usr/bin/a", "deb a", "everybody may write it"}, {"etc/x/y", "deb x", "old"}}
	accepted := []Accepted{{"usr/bin/*", "perl", ""}, {"etc/x/...", "old", ""}, {"usr/bin/b", "", ""}}
	rest, unused := Unexpected(found, accepted)
	if len(rest) != 1 || rest[0] != found[1] {
		t.Errorf("rest %v", rest)
	}
	if len(unused) != 1 || unused[0] != accepted[2] {
		t.Errorf("unused %v", unused)
	}
}

func TestEveryExceptionHasAReason(t *testing.T) {
	for _, a := range Reviewed() {
		if a.Path == "" || a.Problem == "" || len(a.Reason) < 10 {
			t.Errorf("%+v", a)
		}
	}
	for name, p := range privileged {
		if p.bits&special == 0 || len(p.reason) < 10 {
			t.Errorf("%s: %+v", name, p)
		}
	}
	for name, reason := range runtime {
		if reason == "" {
			t.Errorf("%s has no reason", name)
		}
	}
}
