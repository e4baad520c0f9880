package bootmedia

import (
	"errors"
	"strings"
	"testing"

	"slipway.dev/slipway/configs/arch"
)

func TestNetwork(t *testing.T) {
	for a, want := range map[arch.Arch]string{
		arch.AMD64: "undionly.kpxe shimx64.efi mmx64.efi grubx64.efi cmdline",
		arch.ARM64: "shimaa64.efi mmaa64.efi grubaa64.efi cmdline",
	} {
		all, err := Network(a, cmdline, func(name string) ([]byte, error) { return []byte(name), nil })
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, l := range all {
			names = append(names, l.Name)
			if strings.HasPrefix(l.Name, "grub") && !strings.Contains(string(l.Content), "grubnet"+a.EFI()) {
				t.Errorf("%s is %s: a GRUB that looks for a CD finds no server", l.Name, l.Content)
			}
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", a, got, want)
		}
		if got := string(all[len(all)-1].Content); got != "console=tty0 console=ttyS0 quiet\n" {
			t.Errorf("%s: command line %q", a, got)
		}
	}
	gone := errors.New("no package brings it")
	if _, err := Network(arch.AMD64, cmdline, func(string) ([]byte, error) { return nil, gone }); !errors.Is(err, gone) {
		t.Errorf("got %v, want %v", err, gone)
	}
	if _, err := Network("riscv64", cmdline, source); err == nil || err.Error() != "no network loader for riscv64" {
		t.Errorf("got %v", err)
	}
}

func TestDisk(t *testing.T) {
	for a, want := range map[arch.Arch]string{
		arch.AMD64: "isohdpfx.bin isolinux.bin ldlinux.c32 shimx64.efi mmx64.efi grubx64.efi",
		arch.ARM64: "shimaa64.efi mmaa64.efi grubaa64.efi",
	} {
		all, err := Disk(a, func(name string) ([]byte, error) { return []byte(name), nil })
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, l := range all {
			names = append(names, l.Name)
			if strings.HasPrefix(l.Name, "grub") && !strings.HasSuffix(string(l.Content), "-efi-signed/grub"+a.EFI()+".efi.signed") {
				t.Errorf("%s is %s: only the build without a suffix reads the disk it came from", l.Name, l.Content)
			}
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", a, got, want)
		}
	}
	if _, err := Disk("riscv64", source); err == nil || err.Error() != "no disk loader for riscv64" {
		t.Errorf("got %v", err)
	}
}
