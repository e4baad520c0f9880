// Package arch names a machine architecture once and knows what everybody
// else calls it: Go, Debian, UEFI, QEMU and DHCP option 93.
//
// It does not detect the architecture of the machine it runs on and holds no
// knowledge of boot loaders or kernels beyond their names.
package arch

import (
	"fmt"
	"strings"
)

// Arch is a supported machine architecture, spelt as Go and Debian spell it.
type Arch string

// The supported architectures.
const (
	AMD64 Arch = "amd64"
	ARM64 Arch = "arm64"
)

// All lists the supported architectures in a stable order.
func All() []Arch { return []Arch{AMD64, ARM64} }

// Parse accepts the canonical spelling only; aliases such as x86_64 are
// refused with the name to write instead.
func Parse(s string) (Arch, error) {
	switch s {
	case string(AMD64), string(ARM64):
		return Arch(s), nil
	case "x86_64", "x86-64", "x64":
		return "", fmt.Errorf("architecture %q: write %q", s, AMD64)
	case "aarch64", "arm64v8":
		return "", fmt.Errorf("architecture %q: write %q", s, ARM64)
	}
	names := make([]string, 0, len(All()))
	for _, a := range All() {
		names = append(names, string(a))
	}
	return "", fmt.Errorf("architecture %q is not supported (supported: %s)", s, strings.Join(names, ", "))
}

// Debian is the name in Packages files and .deb names.
func (a Arch) Debian() string { return string(a) }

// Go is the GOARCH value.
func (a Arch) Go() string { return string(a) }

// EFI is the suffix of removable-media loaders in lower case: BOOTX64.EFI is
// "x64" (UEFI 2.10 section 3.5.1.1).
func (a Arch) EFI() string {
	if a == ARM64 {
		return "aa64"
	}
	return "x64"
}

// QEMU is the suffix of the system emulator.
func (a Arch) QEMU() string {
	if a == ARM64 {
		return "aarch64"
	}
	return "x86_64"
}

// Console is the kernel's name of the first serial console.
func (a Arch) Console() string {
	if a == ARM64 {
		return "ttyAMA0"
	}
	return "ttyS0"
}

// Multiarch is Debian's library directory below /usr/lib.
func (a Arch) Multiarch() string {
	if a == ARM64 {
		return "aarch64-linux-gnu"
	}
	return "x86_64-linux-gnu"
}

func (a Arch) String() string { return string(a) }
