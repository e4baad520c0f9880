package bootdisk

import (
	"fmt"
	"strings"
)

// maxCmdline leaves room in the kernel's 2048 bytes (COMMAND_LINE_SIZE on x86)
// for what loaders add: BOOT_IMAGE=, initrd=, and isolinux's name of a slot that
// it could not load.
const maxCmdline = 1900

// FellBack begins the kernel argument that says which slot the loader could not
// load before this one: "slot.a" or "slot.b". The kernel itself passes over
// arguments with a dot that no module has.
const FellBack = "slot."

// defaultSize is the size of the two files that name the slot: one sector of any disk.
const defaultSize = 512

// grubConfig is read by Debian's signed GRUB from /EFI/debian of the file system
// it came from. A slot's own file boots it, and returns when that cannot be
// done; the next line then tries the other. GRUB's own "fallback" would start a
// kernel whose initramfs could not be read. For two seconds Escape shows the menu.
const grubConfig = `serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout_style=hidden
set timeout=2
set default=0
set first=a
set second=b
source /efi/debian/default.cfg
menuentry "slipway" {
  source /$first/grub.cfg
  set failed=slot.$first
  source /$second/grub.cfg
}
menuentry "slot a" {
  source /a/grub.cfg
}
menuentry "slot b" {
  source /b/grub.cfg
}
`

// isolinuxConfig is what isolinux reads first. ONERROR takes the other slot's
// label when the default's kernel or initramfs cannot be read, and appends the
// default's label to its command line (com32/elflink/ldlinux/ldlinux.c); GRUB's
// slots do the same. Whoever holds Shift gets a prompt.
const isolinuxConfig = `SERIAL 0 115200
PROMPT 0
IMPLICIT 0
TIMEOUT 50
DEFAULT slot.a
ONERROR slot.b
ONTIMEOUT slot.b
INCLUDE /isolinux/default.cfg
INCLUDE /a/slot.cfg
INCLUDE /b/slot.cfg
`

func padded(text string) []byte {
	return []byte(text + strings.Repeat("#", defaultSize-1-len(text)) + "\n")
}

func grubDefault(s Slot) []byte {
	return padded(fmt.Sprintf("set first=%s\nset second=%s\n", s, s.Other()))
}

func isolinuxDefault(s Slot) []byte {
	return padded(fmt.Sprintf("DEFAULT slot.%[1]s\nONERROR slot.%[2]s\nONTIMEOUT slot.%[2]s\n", s, s.Other()))
}

// grubMark begins the line that keeps a slot's command line as it was given.
const grubMark = "# "

// grubSlot boots a slot, or returns.
func grubSlot(s Slot, cmdline string) string {
	return fmt.Sprintf(`%s%s
if linux /%s/vmlinuz %s $failed; then
  if initrd /%s/initrd.img; then
    boot
  fi
fi
`, grubMark, cmdline, s, quoted(cmdline), s)
}

func isolinuxSlot(s Slot, cmdline string) string {
	return fmt.Sprintf("LABEL slot.%[1]s\n LINUX /%[1]s/vmlinuz\n INITRD /%[1]s/initrd.img\n APPEND %[2]s\n", s, cmdline)
}

// quoted quotes the words that GRUB would not leave alone, such as ds=nocloud;s=.
func quoted(cmdline string) string {
	words := strings.Fields(cmdline)
	for i, w := range words {
		if strings.Trim(w, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,:/=_-+%@") != "" {
			words[i] = "'" + w + "'"
		}
	}
	return strings.Join(words, " ")
}

// checkCmdline refuses what the loaders would not pass on as it is.
func checkCmdline(cmdline string) error {
	if len(cmdline) > maxCmdline {
		return fmt.Errorf("command line of %d bytes, want at most %d", len(cmdline), maxCmdline)
	}
	if i := strings.IndexFunc(cmdline, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"'\`, r) }); i >= 0 {
		return fmt.Errorf("command line: %q at byte %d is nothing that every loader passes on", cmdline[i], i)
	}
	return nil
}
