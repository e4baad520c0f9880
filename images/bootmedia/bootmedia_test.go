package bootmedia

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat16"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/boot"
)

func source(name string) ([]byte, error) {
	if strings.Contains(name, "gone") {
		return nil, fmt.Errorf("no package brings /%s", name)
	}
	return bytes.Repeat([]byte(name+"\n"), 20000), nil
}

var cmdline = boot.Cmdline{Consoles: []string{"tty0", "ttyS0"}, Extra: []string{"quiet"}}

func entry(a arch.Arch, dir string) Entry {
	return Entry{a, dir + boot.Kernel, dir + boot.Initramfs, cmdline, source}
}

// One medium for both: firmware of each finds its loader, each loader one entry.
func TestCombine(t *testing.T) {
	l, err := Combine("example", []Entry{entry(arch.AMD64, "amd64/"), entry(arch.ARM64, "arm64/")})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	texts := map[string]string{}
	for _, f := range l.Files {
		names = append(names, f.Path)
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		texts[f.Path] = string(raw)
	}
	if got, want := strings.Join(names, " "), ".disk/info boot/grub/grub.cfg EFI/BOOT/BOOTAA64.EFI EFI/BOOT/BOOTX64.EFI EFI/BOOT/grubaa64.efi EFI/BOOT/grubx64.efi EFI/BOOT/mmaa64.efi EFI/BOOT/mmx64.efi isolinux/ldlinux.c32 isolinux/isolinux.cfg"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if l.Boot.BIOS == nil || len(l.Boot.EFI) == 0 {
		t.Error("a way in is missing")
	}
	for _, want := range []string{"if [ \"$grub_cpu\" = \"x86_64\" ]; then\nmenuentry \"example\" {\n  linux /amd64/boot/vmlinuz ", "if [ \"$grub_cpu\" = \"arm64\" ]; then\nmenuentry \"example\" {\n  linux /arm64/boot/vmlinuz ", "  initrd /arm64/boot/initrd.img\n}\nfi\n"} {
		if !strings.Contains(texts["boot/grub/grub.cfg"], want) {
			t.Errorf("grub.cfg lacks %q:\n%s", want, texts["boot/grub/grub.cfg"])
		}
	}
	if !strings.Contains(texts["isolinux/isolinux.cfg"], "KERNEL /amd64/boot/vmlinuz\n  INITRD /amd64/boot/initrd.img\n") {
		t.Errorf("isolinux.cfg:\n%s", texts["isolinux/isolinux.cfg"])
	}
}

func TestMakeNamesForEachArchitecture(t *testing.T) {
	for a, want := range map[arch.Arch]string{
		arch.AMD64: ".disk/info boot/grub/grub.cfg EFI/BOOT/BOOTX64.EFI EFI/BOOT/grubx64.efi EFI/BOOT/mmx64.efi isolinux/ldlinux.c32 isolinux/isolinux.cfg",
		arch.ARM64: ".disk/info boot/grub/grub.cfg EFI/BOOT/BOOTAA64.EFI EFI/BOOT/grubaa64.efi EFI/BOOT/mmaa64.efi",
	} {
		l, err := Make(a, "example", cmdline, source)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range l.Files {
			names = append(names, f.Path)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", a, got, want)
		}
		if (l.Boot.BIOS != nil) != (a == arch.AMD64) {
			t.Errorf("%s: BIOS %v", a, l.Boot.BIOS)
		}
	}
}

func TestEFIImageIsReproducibleAndReadable(t *testing.T) {
	files, err := efiFiles(arch.AMD64, source)
	if err != nil {
		t.Fatal(err)
	}
	one, err := efiImage(files)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2100 * time.Millisecond) // a FAT date counts two seconds
	two, err := efiImage(files)
	if err != nil || !bytes.Equal(one, two) {
		t.Fatalf("two images differ (%v)", err)
	}
	name := filepath.Join(t.TempDir(), "esp")
	if err := os.WriteFile(name, one, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := file.OpenFromPath(name, true)
	if err != nil {
		t.Fatal(err)
	}
	fsys, err := fat16.Read(b, espSize, 0, 512)
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range files {
		f, err := fsys.OpenFile(n, os.O_RDONLY)
		if err != nil {
			t.Fatalf("%s: %v", n, err)
		}
		if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d (%v)", n, len(got), len(want), err)
		}
	}
}

func TestConfigs(t *testing.T) {
	if got, want := isolinuxConfig(entry(arch.AMD64, "")), "  APPEND console=tty0 console=ttyS0 quiet\n"; !strings.Contains(got, want) {
		t.Errorf("isolinux.cfg:\n%s", got)
	}
	if got := grubConfig("a \"b\" $c\n", []Entry{entry(arch.AMD64, "")}); !strings.Contains(got, `menuentry "a b c" {`) || !strings.Contains(got, "linux /boot/vmlinuz console=tty0 console=ttyS0 quiet\n") {
		t.Errorf("grub.cfg:\n%s", got)
	}
}
