package audit

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"reflect"
	"strings"
	"testing"

	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/rootfs"
)

// object64 makes a 64-bit ELF file with an interpreter and a dynamic section,
// and nothing to run: ELF header, two program headers, their content, the
// string table, three section headers (null, .dynstr, .dynamic).
func object64(t *testing.T, machine elf.Machine, interp string, dynamic map[elf.DynTag][]string) []byte {
	t.Helper()
	const head, ph, sh = 64, 56, 64
	text := []byte("\x00")
	var dyn bytes.Buffer
	for _, tag := range []elf.DynTag{elf.DT_NEEDED, elf.DT_RPATH, elf.DT_RUNPATH, elf.DT_SONAME} {
		for _, s := range dynamic[tag] {
			must(t, binary.Write(&dyn, binary.LittleEndian, elf.Dyn64{Tag: int64(tag), Val: uint64(len(text))}))
			text = append(append(text, s...), 0)
		}
	}
	must(t, binary.Write(&dyn, binary.LittleEndian, elf.Dyn64{}))
	at := uint64(head + 2*ph)
	interpAt, interpSize := at, uint64(len(interp)+1)
	textAt := interpAt + interpSize
	dynAt := textAt + uint64(len(text))
	sectionsAt := dynAt + uint64(dyn.Len())
	var out bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(machine), Version: 1, Phoff: head, Shoff: sectionsAt, Ehsize: head, Phentsize: ph, Phnum: 2, Shentsize: sh, Shnum: 3}
	copy(h.Ident[:], []byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1})
	kind := elf.PT_INTERP
	if interp == "" {
		kind = elf.PT_NULL
	}
	must(t, binary.Write(&out, binary.LittleEndian, h))
	must(t, binary.Write(&out, binary.LittleEndian, elf.Prog64{Type: uint32(kind), Off: interpAt, Filesz: interpSize}))
	must(t, binary.Write(&out, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_DYNAMIC), Off: dynAt, Filesz: uint64(dyn.Len())}))
	out.WriteString(interp + "\x00")
	out.Write(text)
	out.Write(dyn.Bytes())
	must(t, binary.Write(&out, binary.LittleEndian, elf.Section64{}))
	must(t, binary.Write(&out, binary.LittleEndian, elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: textAt, Size: uint64(len(text))}))
	must(t, binary.Write(&out, binary.LittleEndian, elf.Section64{Type: uint32(elf.SHT_DYNAMIC), Off: dynAt, Size: uint64(dyn.Len()), Link: 1, Entsize: 16}))
	return out.Bytes()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// entry is a file of package p, with content that can be read at any place or not.
func entry(name string, mode fs.FileMode, content []byte) rootfs.Entry {
	return rootfs.Entry{Path: name, Mode: mode, Size: int64(len(content)), Source: "deb p_1:2_3", Open: func() (io.ReadCloser, error) {
		return struct {
			io.ReaderAt
			io.ReadCloser
		}{bytes.NewReader(content), io.NopCloser(bytes.NewReader(content))}, nil
	}}
}

const (
	ld     = "/lib64/ld-linux-x86-64.so.2"
	status = "Package: p\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n\n"
)

var want = Want{Arch: arch.AMD64, Packages: []deb.Package{{Name: "p", Version: "1"}}}

// sound is a root in which there is nothing to find.
func sound(t *testing.T) *rootfs.Tree {
	t.Helper()
	r := rootfs.New()
	lib := func(name string) []byte {
		return object64(t, elf.EM_X86_64, "", map[elf.DynTag][]string{elf.DT_SONAME: {name}})
	}
	for _, e := range []rootfs.Entry{
		{Path: "bin", Mode: fs.ModeSymlink, Link: "usr/bin", Source: "deb p_1"},
		{Path: "lib", Mode: fs.ModeSymlink, Link: "usr/lib", Source: "deb p_1"},
		{Path: "lib64", Mode: fs.ModeSymlink, Link: "usr/lib64", Source: "deb p_1"},
		entry("etc/passwd", 0o644, []byte("root:x:0:0::/root:/bin/sh\nd:x:101:65534::/:/x\n")),
		entry("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n")),
		entry("etc/ld.so.conf", 0o644, []byte("include /etc/ld.so.conf.d/*.conf\n")),
		entry("etc/ld.so.conf.d/p.conf", 0o644, []byte("# ours\n/opt/lib\n")),
		entry("var/lib/dpkg/status", 0o644, []byte(status)),
		entry("usr/lib64/ld-linux-x86-64.so.2", 0o755, lib("ld-linux-x86-64.so.2")),
		entry("usr/lib/x86_64-linux-gnu/libc.so.6", 0o755, lib("libc.so.6")),
		entry("opt/lib/libhidden.so", 0o644, lib("libhidden.so")),
		entry("usr/lib/p/libown.so.1", 0o644, lib("libown.so.1")),
		{Path: "usr/lib/p/libown.so", Mode: fs.ModeSymlink, Link: "libown.so.1", Source: "deb p_1"},
		{Path: "etc/resolv.conf", Mode: fs.ModeSymlink, Link: "/run/p/resolv.conf", Source: "deb p_1"},
		entry("usr/bin/sh", 0o755, object64(t, elf.EM_X86_64, ld, map[elf.DynTag][]string{elf.DT_NEEDED: {"libc.so.6", "libown.so"}, elf.DT_RUNPATH: {"/nowhere:$ORIGIN/../lib/p"}})),
		entry("usr/bin/env", 0o755, object64(t, elf.EM_X86_64, ld, nil)),
		entry("usr/bin/script", 0o755, []byte("#!/bin/sh -e\n")),
		entry("usr/bin/wanders", 0o755, []byte("#!/usr/bin/env -S sh -e\n")),
		entry("usr/share/sourced.pl", 0o644, []byte("#!/usr/bin/perl\n")),
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777, Source: "deb p_1"},
		{Path: "var/lib/d", Mode: fs.ModeDir | 0o700, UID: 101, GID: 65534, Source: "deb p_1"},
		entry("usr/bin/su", fs.ModeSetuid|0o755, []byte("#!/bin/sh\n")),
	} {
		must(t, r.Add(e))
	}
	return r
}

func TestCheck(t *testing.T) {
	needs := func(names ...string) []byte {
		return object64(t, elf.EM_X86_64, ld, map[elf.DynTag][]string{elf.DT_NEEDED: names})
	}
	for _, c := range []struct {
		name string
		add  rootfs.Entry
		want string
	}{
		{"a program without its loader", entry("usr/bin/x", 0o755, object64(t, elf.EM_X86_64, "/lib/ld-musl-x86_64.so.1", nil)),
			`/usr/bin/x (p): its loader "/lib/ld-musl-x86_64.so.1" is not there`},
		{"a program without a library", entry("usr/bin/x", 0o755, needs("libc.so.6", "libz.so.1")), `/usr/bin/x (p): needs libz.so.1, which is not there`},
		{"a library without a library", entry("usr/lib/x.so", 0o644, object64(t, elf.EM_X86_64, "", map[elf.DynTag][]string{elf.DT_NEEDED: {"libz.so.1"}})),
			`/usr/lib/x.so (p): needs libz.so.1, which is not there`},
		{"a library that only a cache would find", entry("usr/bin/x", 0o755, needs("libhidden.so")),
			`/usr/bin/x (p): needs libhidden.so, which is only at /opt/lib/libhidden.so, where the loader looks with an ld.so.cache alone`},
		{"a library somewhere else", entry("usr/bin/x", 0o755, needs("libown.so.1")), `/usr/bin/x (p): needs libown.so.1, which is not there`},
		{"another processor", entry("usr/bin/x", 0o755, object64(t, elf.EM_AARCH64, ld, nil)), `/usr/bin/x (p): is for another processor: EM_AARCH64, want EM_X86_64`},
		{"half a program", entry("usr/bin/x", 0o755, needs("libc.so.6")[:70]), `/usr/bin/x (p): is no valid ELF file: EOF`},
		{"a script without its interpreter", entry("usr/bin/x", 0o755, []byte("#!/usr/bin/perl -w\n")), `/usr/bin/x (p): script of interpreter "/usr/bin/perl", which is not there`},
		{"the same through env", entry("usr/bin/x", 0o755, []byte("#! /usr/bin/env python3\n")), `/usr/bin/x (p): script of interpreter "python3", which is not there`},
		{"a relative interpreter", entry("usr/bin/x", 0o755, []byte("#!sh\n")), `/usr/bin/x (p): script of interpreter "sh", which is no absolute path`},
		{"no interpreter", entry("usr/bin/x", 0o755, []byte("#!\nsh")), `/usr/bin/x (p): script whose first line names no interpreter`},
		{"a dangling link", rootfs.Entry{Path: "usr/bin/x", Mode: fs.ModeSymlink, Link: "../sbin/y", Source: "overlay"}, `/usr/bin/x (overlay): symlink to "../sbin/y", which is not there`},
		{"a link to itself", rootfs.Entry{Path: "usr/bin/x", Mode: fs.ModeSymlink, Link: "x", Source: "overlay"}, `/usr/bin/x (overlay): symlink to "x", which is not there`},
		{"a writable file", entry("etc/x", 0o666, nil), `/etc/x (p): everybody may write it (mode 0666)`},
		{"a writable directory", rootfs.Entry{Path: "var/x", Mode: fs.ModeDir | 0o777, Source: "overlay"}, `/var/x (overlay): everybody may write it (mode 0777)`},
		{"setuid", entry("usr/bin/x", fs.ModeSetuid|0o755, nil), `/usr/bin/x (p): is setuid or setgid (urwxr-xr-x, owner 0:0) and not on the list of those that may be`},
		{"nobody's file", rootfs.Entry{Path: "var/x", Mode: fs.ModeDir | 0o755, UID: 999, Source: "deb p_1"}, `/var/x (p): belongs to user 999, who is not in /etc/passwd`},
		{"no group's file", rootfs.Entry{Path: "var/x", Mode: fs.ModeDir | 0o755, GID: 999, Source: "deb p_1"}, `/var/x (p): belongs to group 999, which is not in /etc/group`},
		{"a device", rootfs.Entry{Path: "x", Mode: fs.ModeDevice | 0o600, Source: "deb p_1"}, `/x (p): is a D---------: devtmpfs makes device nodes`},
		{"a foreign package", entry("var/lib/dpkg/status", 0o644, []byte(status+strings.ReplaceAll(status, ": p\n", ": q\n"))), `/var/lib/dpkg/status (p): names package "q", which is not in the lock`},
		{"a package twice", entry("var/lib/dpkg/status", 0o644, []byte(status+status)), `/var/lib/dpkg/status (p): names package "p" twice`},
		{"another version", entry("var/lib/dpkg/status", 0o644, []byte(strings.ReplaceAll(status, ": 1", ": 2"))), `/var/lib/dpkg/status (p): names package "p" 2, the lock has 1`},
		{"half installed", entry("var/lib/dpkg/status", 0o644, []byte(strings.ReplaceAll(status, " ok installed", " ok half-installed"))), `/var/lib/dpkg/status (p): package "p" is not "install ok installed"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := sound(t)
			must(t, r.Set(c.add))
			found, err := Check(r, want)
			must(t, err)
			if len(found) != 1 || found[0].String() != c.want {
				t.Errorf("got  %v\nwant %v", found, c.want)
			}
		})
	}
}

func TestSoundRootHasNothingToFind(t *testing.T) {
	found, err := Check(sound(t), want)
	must(t, err)
	if len(found) > 0 {
		t.Error(found)
	}
}

func TestFindingsAreSortedAndAllOfThem(t *testing.T) {
	r := rootfs.New()
	must(t, r.Add(entry("z", 0o666, nil)))
	must(t, r.Add(entry("a", fs.ModeSetgid|0o757, nil)))
	found, err := Check(r, want)
	must(t, err)
	var paths []string
	for _, f := range found {
		paths = append(paths, f.Path)
	}
	if want := []string{"a", "a", "var/lib/dpkg/status", "z"}; !reflect.DeepEqual(paths, want) {
		t.Errorf("got %v, want %v", found, want)
	}
	must(t, r.Add(entry("var/lib/dpkg/status", 0o644, []byte("Package: \n\nPackage: p\nVersion: 1\nArchitecture: all\nX"))))
	if found, err = Check(r, want); err != nil || !strings.Contains(fmt.Sprint(found), `lacks package "p" of the lock`) {
		t.Errorf("got %v, %v", found, err)
	}
}

func TestUnreadableFileIsAnError(t *testing.T) {
	r := rootfs.New()
	e := entry("x", 0o755, make([]byte, 9))
	e.Open = func() (io.ReadCloser, error) { return nil, errors.New("disk gone") }
	must(t, r.Add(e))
	if _, err := Check(r, want); err == nil || err.Error() != "auditing /x: disk gone" {
		t.Errorf("got %v", err)
	}
}

func TestReview(t *testing.T) {
	found := []Finding{{"usr/bin/a", "p", "needs x.so, which is not there"}, {"usr/bin/b", "p", "needs y.so, which is not there"}, {"usr/bin/c", "q", "needs x.so, which is not there"}}
	known := []Exception{{Package: "p", Path: "usr/bin/*", Problem: "needs x*, which is not there"}, {Package: "p", Path: "usr/*", Problem: "*"}}
	rest, unused := Review(found, known)
	if !reflect.DeepEqual(rest, found[1:]) || !reflect.DeepEqual(unused, known[1:]) {
		t.Errorf("rest %v, unused %v", rest, unused)
	}
	for _, k := range Known() {
		if k.Reason == "" || k.Package == "" || k.Problem == "*" {
			t.Errorf("exception %+v covers too much or says no reason", k)
		}
	}
}
