package boot

import (
	"fmt"
	"net/netip"
	"strings"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/boot"
)

// scriptable refuses kernel arguments that a loader's script could take for
// anything but one word: GRUB's and iPXE's rules differ, and neither can quote
// everything. A semicolon is fine in both: GRUB gets its words in quotes.
func scriptable(arg string) error {
	for _, c := range []byte(arg) {
		if c <= ' ' || c > '~' || strings.IndexByte("'\"\\$`", c) >= 0 {
			return fmt.Errorf("kernel argument %q: no loader script can hold the character %q", arg, c)
		}
	}
	if arg == "" || arg == "&&" || arg == "||" || arg[0] == '#' {
		return fmt.Errorf("kernel argument %q: means something else in a loader script", arg)
	}
	return nil
}

// addScripts writes the loaders' configuration.
func (b *Boot) addScripts(http netip.AddrPort, lines map[arch.Arch]boot.Cmdline) {
	for _, a := range b.archs {
		b.put(script(a), Config, a, []byte(b.ipxe(a, lines[a])), text)
	}
	b.put("boot.ipxe", Config, "", []byte(b.ipxeChoice()), text)
	b.put("grub/grub.cfg", Config, "", []byte(b.grub(http, lines)), text)
}

const text = "text/plain; charset=us-ascii"

// ipxe is iPXE's script (ipxe.org/scripting). initrd= is for the kernel's EFI
// stub, which asks iPXE for a file of that name; a BIOS boot ignores it. A seed
// that was restarted meanwhile is asked again.
func (b *Boot) ipxe(a arch.Arch, c boot.Cmdline) string {
	return fmt.Sprintf(`#!ipxe
:again
imgfree
echo slipway: loading the kernel from %[1]s
kernel --name vmlinuz %[1]s/%[2]s/%[3]s initrd=initrd.img %[5]s || goto failed
initrd --name initrd.img %[1]s/%[2]s/%[4]s || goto failed
boot || goto failed
:failed
echo slipway: no kernel from %[1]s, next try in 5 s
sleep 5
goto again
`, b.base, a, boot.Kernel, boot.Initramfs, c)
}

// ipxeChoice is for servers of a site that give every machine one URL.
func (b *Boot) ipxeChoice() string {
	s := "#!ipxe\n"
	for _, a := range b.archs {
		is := map[arch.Arch]string{arch.AMD64: "iseq ${buildarch} x86_64 || iseq ${buildarch} i386", arch.ARM64: "iseq ${buildarch} arm64"}[a]
		s += fmt.Sprintf("%s && chain --replace %s/%s ||\n", is, b.base, script(a))
	}
	return s + "echo slipway: nothing for ${buildarch} is served\nsleep 10\nexit 1\n"
}

// grub is read by Debian's signed network GRUB (prefix /grub). HTTP first, for
// its windows; TFTP when that fails. All its modules are built in. The serial
// line is the firmware's to copy the screen to: with GRUB's own every line came twice.
func (b *Boot) grub(http netip.AddrPort, lines map[arch.Arch]boot.Cmdline) string {
	server := strings.TrimPrefix(origin(http), "http://")
	s := fmt.Sprintf(`set web="(http,%s)"
set tftp="(tftp,%s)"
`, server, http.Addr())
	for _, a := range b.archs {
		cpu := map[arch.Arch]string{arch.AMD64: "x86_64", arch.ARM64: "arm64"}[a]
		s += fmt.Sprintf(`if [ "$grub_cpu" = "%[1]s" ]; then
  for from in "$web" "$tftp"; do
    echo "slipway: loading the kernel from $from"
    if linux $from/%[2]s/%[3]s %[5]s; then
      if initrd $from/%[2]s/%[4]s; then
        boot
      fi
    fi
  done
fi
`, cpu, a, boot.Kernel, boot.Initramfs, quoted(strings.Fields(lines[a].String())))
	}
	return s + `echo "slipway: no kernel for $grub_cpu; the machine restarts in 10 s"
sleep 10
reboot
`
}

// quoted puts each word in single quotes, in which GRUB's script takes every
// character as it is.
func quoted(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = "'" + w + "'"
	}
	return strings.Join(out, " ")
}
