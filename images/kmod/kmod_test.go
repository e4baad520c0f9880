package kmod

import (
	"strings"
	"testing"
)

var small = []Module{
	parse("kernel/fs/ext4/ext4.ko.xz", []byte("alias=fs-ext4\x00depends=mbcache,jbd2,crc16\x00softdep=pre: crc32c post: late\x00")),
	parse("kernel/fs/jbd2/jbd2.ko.xz", []byte("depends=\x00")),
	parse("kernel/fs/mbcache.ko.xz", []byte("depends=jbd2\x00")),
	parse("kernel/crypto/crc32c_generic.ko", []byte("depends=\x00alias=crypto-crc32c\x00alias=crc32c")),
	parse("kernel/net/x-y.ko.xz", []byte("alias=pci:v00001AF4d*\x00depends=gone")),
}

func TestIndexLoadsDependenciesLastFirst(t *testing.T) {
	dep, alias, soft := Index(small[:4])
	want := "kernel/fs/ext4/ext4.ko.xz: kernel/fs/mbcache.ko.xz kernel/fs/jbd2/jbd2.ko.xz\n" +
		"kernel/fs/jbd2/jbd2.ko.xz:\nkernel/fs/mbcache.ko.xz: kernel/fs/jbd2/jbd2.ko.xz\nkernel/crypto/crc32c_generic.ko:\n"
	if string(dep) != want {
		t.Errorf("modules.dep:\n%swant:\n%s", dep, want)
	}
	if string(alias) != "alias fs-ext4 ext4\nalias crypto-crc32c crc32c_generic\nalias crc32c crc32c_generic\n" || string(soft) != "softdep ext4 pre: crc32c\n" {
		t.Errorf("modules.alias %q, modules.softdep %q", alias, soft)
	}
}

func TestClosure(t *testing.T) {
	got, err := Closure(small, Builtin([]byte("kernel/lib/crc16.ko\n")), func(m Module) bool { return m.Name == "ext4" })
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range got {
		names = append(names, m.Name)
	}
	if s := strings.Join(names, " "); s != "crc32c_generic ext4 jbd2 mbcache" {
		t.Errorf("closure: %s", s)
	}
	_, err = Closure(small, nil, func(m Module) bool { return m.Name == "x_y" })
	if err == nil || err.Error() != `module kernel/net/x-y.ko.xz depends on "gone", which this kernel does not have` {
		t.Errorf("missing dependency: %v", err)
	}
}

func TestPruneTakesUsersAlong(t *testing.T) {
	mods := []Module{{Name: "a", Depends: []string{"b"}}, {Name: "b", Depends: []string{"c"}}, {Name: "d", Depends: []string{"e"}}, {Name: "e"}}
	kept, dropped := Prune(mods, map[string]bool{"c": true})
	if len(kept) != 2 || kept[0].Name != "d" || len(dropped) != 2 {
		t.Errorf("kept %v, dropped %v", kept, dropped)
	}
}
