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
	if got, want := isolinuxConfig(cmdline), "  APPEND console=tty0 console=ttyS0 quiet\n"; !strings.Contains(got, want) {
		t.Errorf("isolinux.cfg:\n%s", got)
	}
	if got := grubConfig("a \"b\" $c\n", cmdline); !strings.Contains(got, `menuentry "a b c" {`) || !strings.Contains(got, "linux /boot/vmlinuz console=tty0 console=ttyS0 quiet\n") {
		t.Errorf("grub.cfg:\n%s", got)
	}
}
