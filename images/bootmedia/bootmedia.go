// Package bootmedia lays out what firmware and loaders read on a medium: the
// EFI system partition, isolinux, GRUB's configuration.
//
// It writes no ISO (images/iso9660 does) and builds no loader: all of them are
// files of Debian packages, those for Secure Boot as Debian signed them.
package bootmedia

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"sort"
	"strings"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/iso9660"
	"slipway.dev/slipway/images/layout"
)

// Source finds a file of the loader packages by its path.
type Source func(path string) (content []byte, err error)

// Loaders are the files and boot entries of a medium.
type Loaders struct {
	Files []iso9660.File
	Boot  iso9660.Boot
}

// Entry is one architecture that a medium boots.
type Entry struct {
	Arch              arch.Arch
	Kernel, Initramfs string // paths on the medium
	Cmdline           boot.Cmdline
	Source            Source // of the loaders
}

// Make lays out the loaders of a medium that boots the kernel and initramfs at
// their names in images/boot with the command line. product is for people.
func Make(a arch.Arch, product string, c boot.Cmdline, src Source) (*Loaders, error) {
	return Combine(product, []Entry{{a, boot.Kernel, boot.Initramfs, c, src}})
}

// Combine lays out the loaders of a medium for several architectures. Firmware
// finds its own by the name (UEFI 2.10 section 3.5.1.1), GRUB its entry by the
// processor it was built for.
func Combine(product string, entries []Entry) (*Loaders, error) {
	l := &Loaders{}
	l.add(".disk/info", product+"\n") // Debian's signed CD GRUB searches its medium by this file
	l.add("boot/grub/grub.cfg", grubConfig(product, entries))
	esp := map[string][]byte{}
	for _, e := range entries {
		files, err := efiFiles(e.Arch, e.Source)
		if err != nil {
			return nil, err
		}
		maps.Copy(esp, files)
	}
	var err error
	if l.Boot.EFI, err = efiImage(esp); err != nil {
		return nil, fmt.Errorf("EFI system partition: %w", err)
	}
	for _, name := range sortedNames(esp) { // also as plain files, for people who copy the medium's files to a FAT stick
		l.Files = append(l.Files, memory(name, esp[name]))
	}
	for _, e := range entries {
		if e.Arch != arch.AMD64 {
			continue
		}
		if err := l.isolinux(e); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *Loaders) add(name, text string) { l.Files = append(l.Files, memory(name, []byte(text))) }

func memory(name string, raw []byte) iso9660.File {
	return iso9660.File{Path: name, Mode: 0o444, Size: int64(len(raw)), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }}
}

// isolinux adds the BIOS loader with its one library.
func (l *Loaders) isolinux(e Entry) error {
	src := e.Source
	bios := &iso9660.BIOS{Path: "isolinux/isolinux.bin"}
	var err error
	if bios.Image, err = src("usr/lib/ISOLINUX/isolinux.bin"); err != nil {
		return err
	}
	if bios.MBR, err = src("usr/lib/ISOLINUX/isohdpfx.bin"); err != nil {
		return err
	}
	lib, err := src("usr/lib/syslinux/modules/bios/ldlinux.c32")
	if err != nil {
		return err
	}
	l.Files = append(l.Files, memory("isolinux/ldlinux.c32", lib))
	l.add("isolinux/isolinux.cfg", isolinuxConfig(e))
	l.Boot.BIOS = bios
	return nil
}

// efiFiles are the names of the removable-media boot path (UEFI 2.10 section
// 3.5.1.1) and those that shim looks for beside itself.
func efiFiles(a arch.Arch, src Source) (map[string][]byte, error) {
	efi := a.EFI()
	grub := map[arch.Arch]string{arch.AMD64: "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed", arch.ARM64: "usr/lib/grub/arm64-efi-signed/gcdaa64.efi.signed"}[a]
	out := map[string][]byte{}
	for name, from := range map[string]string{
		"EFI/BOOT/BOOT" + strings.ToUpper(efi) + ".EFI": "usr/lib/shim/shim" + efi + ".efi.signed",
		"EFI/BOOT/grub" + efi + ".efi":                  grub,
		"EFI/BOOT/mm" + efi + ".efi":                    "usr/lib/shim/mm" + efi + ".efi.signed",
	} {
		raw, err := src(from)
		if err != nil {
			return nil, err
		}
		out[name] = raw
	}
	return out, nil
}

// serial is the line that loaders talk on besides the screen: 115200 baud, 8N1.
const serial = "115200"

func isolinuxConfig(e Entry) string {
	return fmt.Sprintf(`SERIAL 0 %s
DEFAULT slipway
PROMPT 0
TIMEOUT 0
LABEL slipway
  KERNEL /%s
  INITRD /%s
  APPEND %s
`, serial, e.Kernel, e.Initramfs, e.Cmdline)
}

// grubConfig is read by Debian's signed GRUB from the medium that has
// /.disk/info. Its built-in modules are fixed: nothing is loaded from the medium.
func grubConfig(product string, entries []Entry) string {
	s := fmt.Sprintf(`serial --unit=0 --speed=%s
terminal_input console serial
terminal_output console serial
set timeout=0
set default=0
search --no-floppy --set=root --label %s
`, serial, layout.Volume)
	for _, e := range entries {
		item := fmt.Sprintf(`menuentry %q {
  linux /%s %s
  initrd /%s
}
`, strings.Map(plain, product), e.Kernel, e.Cmdline, e.Initramfs)
		if len(entries) > 1 { // one entry is left, whichever GRUB reads it
			cpu := map[arch.Arch]string{arch.AMD64: "x86_64", arch.ARM64: "arm64"}[e.Arch]
			item = fmt.Sprintf("if [ \"$grub_cpu\" = %q ]; then\n%sfi\n", cpu, item)
		}
		s += item
	}
	return s
}

// plain keeps what GRUB's quoting leaves alone.
func plain(r rune) rune {
	if r < ' ' || r > '~' || strings.ContainsRune(`"\$'`, r) {
		return -1
	}
	return r
}

func sortedNames(m map[string][]byte) []string {
	out := make([]string, 0, len(m))
	for n := range m {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}

// parents lists the directories of the names, outermost first.
func parents(names []string) []string {
	var out []string
	for _, n := range names {
		for d := path.Dir(n); d != "."; d = path.Dir(d) {
			if !slices.Contains(out, d) {
				out = append(out, d)
			}
		}
	}
	sort.Strings(out)
	return out
}
