package qemu

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"slipway.dev/slipway/configs/arch"
)

// MissingError says which program or firmware the host lacks and which Debian
// package holds it.
type MissingError struct {
	What    string
	Tried   []string
	Package string
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s not found (tried %s): install the Debian package %q",
		e.What, strings.Join(e.Tried, ", "), e.Package)
}

// firmware is one build of a firmware and the template of its variables.
type firmware struct{ code, vars string }

// candidates are where Debian, Fedora and Homebrew put firmware, Debian 13's
// only size (4M) first.
func candidates(a arch.Arch, f Firmware) ([]firmware, string) {
	switch {
	case a == arch.ARM64 && f == SecureBoot:
		return []firmware{
			{"/usr/share/AAVMF/AAVMF_CODE.secboot.fd", "/usr/share/AAVMF/AAVMF_VARS.ms.fd"},
			{"/usr/share/AAVMF/AAVMF_CODE.ms.fd", "/usr/share/AAVMF/AAVMF_VARS.ms.fd"},
		}, "qemu-efi-aarch64"
	case a == arch.ARM64:
		return []firmware{
			{"/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"},
			{"/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"},
			{"/opt/homebrew/share/qemu/edk2-aarch64-code.fd", "/opt/homebrew/share/qemu/edk2-arm-vars.fd"},
		}, "qemu-efi-aarch64"
	case f == SecureBoot:
		return []firmware{
			{"/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"},
			{"/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"},
			{"/usr/share/OVMF/OVMF_CODE.secboot.fd", "/usr/share/OVMF/OVMF_VARS.ms.fd"},
		}, "ovmf"
	}
	return []firmware{
		{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
		{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
		{"/opt/homebrew/share/qemu/edk2-x86_64-code.fd", "/opt/homebrew/share/qemu/edk2-i386-vars.fd"},
	}, "ovmf"
}

// Find locates the emulator and firmware a machine needs on this host. Vars is
// the template, which Start copies. The error is a *MissingError when
// something has to be installed.
func Find(m Machine) (Files, error) {
	m = m.withDefaults()
	var f Files
	switch m.Firmware {
	case BIOS:
		if m.Arch == arch.ARM64 {
			return f, fmt.Errorf("firmware %q: arm64 has none; use %q", BIOS, UEFI)
		}
	case "", UEFI, SecureBoot:
	default:
		return f, fmt.Errorf("firmware %q: not one of %q, %q, %q", m.Firmware, BIOS, UEFI, SecureBoot)
	}
	name, pkg := "qemu-system-"+m.Arch.QEMU(), "qemu-system-x86"
	if m.Arch == arch.ARM64 {
		pkg = "qemu-system-arm"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return f, &MissingError{What: name, Tried: []string{"$PATH"}, Package: pkg}
	}
	f.Emulator = path
	if m.Boot.kind == bootNetwork {
		roms := []string{"/usr/lib/ipxe/qemu/efi-virtio.rom", "/usr/share/qemu/efi-virtio.rom", "/opt/homebrew/share/qemu/efi-virtio.rom"}
		if first(roms) == "" {
			return f, &MissingError{What: "network boot ROM", Tried: roms, Package: "ipxe-qemu"}
		}
	}
	if m.Firmware == "" || m.Firmware == BIOS {
		return f, nil
	}
	list, pkg := candidates(m.Arch, m.Firmware)
	var tried []string
	for _, c := range list {
		if first([]string{c.code}) != "" && first([]string{c.vars}) != "" {
			f.Code, f.Vars = c.code, c.vars
			return f, nil
		}
		tried = append(tried, c.code)
	}
	return f, &MissingError{What: fmt.Sprintf("%s firmware for %s", m.Firmware, m.Arch), Tried: tried, Package: pkg}
}

// first is the first path that exists, or "".
func first(paths []string) string {
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}
