// Package qemu runs virtual machines as test hosts: it renders QEMU's command
// line, keeps the whole serial console, reads the events slipway prints there,
// and waits for them. Machines are wired together by package lan, so neither
// root nor a host network is needed.
//
// It does not know what a machine is supposed to do: scenarios are in the
// tests and in `slipway demo`. It never imports package testing; tests use
// qemutest. Emulation is always TCG unless the caller asked for something else.
package qemu

import (
	"time"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/test/qemu/lan"
)

// Firmware is what a machine starts with.
type Firmware string

// The firmwares. ARM64 machines have UEFI, or none with a Kernel.
const (
	BIOS       Firmware = "bios"       // SeaBIOS
	UEFI       Firmware = "uefi"       // OVMF or AAVMF
	SecureBoot Firmware = "secureboot" // OVMF with Microsoft's keys enrolled, enforcing
)

// Machine describes a virtual machine. The zero value is an amd64 machine with
// SeaBIOS, two CPUs and 2 GiB that boots nothing.
type Machine struct {
	Name     string // "vm" when empty; names files and errors
	Arch     arch.Arch
	Firmware Firmware // BIOS on amd64, UEFI on arm64 when empty
	Memory   int      // MiB, 2048 when 0
	CPUs     int      // 2 when 0
	Boot     Boot
	// Disks are further drives, bootable after Boot.
	Disks []Drive
	// CIDATA are files of a NoCloud volume, by name ("user-data"); nil for none.
	CIDATA map[string][]byte
	// NICs are virtio cards on ports of a segment. Only a machine that boots
	// from Network has their boot ROMs.
	NICs []*lan.Port
	// RTC sets the hardware clock; the zero time is the present.
	RTC time.Time
	// Serial is the SMBIOS serial number.
	Serial string
	// NoReboot ends the emulator where the guest would restart.
	NoReboot bool
	// CPU is QEMU's -cpu; a choice that the product's kernels survive when
	// empty. Accel is QEMU's -accel, "tcg" when empty; ask ProbeKVM before
	// writing "kvm".
	CPU, Accel string
	// Tolerate names failed events that do not end a Wait, such as one the node
	// recovers from by itself; nil tolerates none.
	Tolerate func(handoff.Event) bool
	// Dir keeps console.log and sockets; a temporary directory, removed by
	// Close, when empty. It must be short: socket paths hold 108 bytes.
	Dir string
	// Extra goes to the end of the command line.
	Extra []string
}

// Boot is the medium a machine boots first. Make one with CD, USB, Disk,
// DiskCopy, Kernel or Network; the zero value is none.
type Boot struct {
	kind    bootKind
	path    string
	initrd  string
	cmdline string
}

type bootKind string

const (
	bootNone     bootKind = ""
	bootCD       bootKind = "cd"
	bootUSB      bootKind = "usb"
	bootDisk     bootKind = "disk"
	bootDiskCopy bootKind = "diskcopy"
	bootKernel   bootKind = "kernel"
	bootNetwork  bootKind = "network"
)

// CD is an ISO in an optical drive.
func CD(iso string) Boot { return Boot{kind: bootCD, path: iso} }

// USB is an image, read-only, on a USB stick.
func USB(image string) Boot { return Boot{kind: bootUSB, path: image} }

// Disk is a raw image as a virtio disk; the machine writes to it.
func Disk(image string) Boot { return Boot{kind: bootDisk, path: image} }

// DiskCopy is a raw image as a virtio disk; what the machine writes is
// forgotten when it ends.
func DiskCopy(image string) Boot { return Boot{kind: bootDiskCopy, path: image} }

// Kernel starts a kernel directly, without loader or boot medium.
func Kernel(kernel, initrd, cmdline string) Boot {
	return Boot{kind: bootKernel, path: kernel, initrd: initrd, cmdline: cmdline}
}

// Network boots from the NICs' ROMs, or UEFI's own network stack.
func Network() Boot { return Boot{kind: bootNetwork} }

// withDefaults fills what was left empty.
func (m Machine) withDefaults() Machine {
	if m.Name == "" {
		m.Name = "vm"
	}
	if m.Arch == "" {
		m.Arch = arch.AMD64
	}
	if m.Firmware == "" && m.Arch == arch.AMD64 {
		m.Firmware = BIOS
	}
	if m.Firmware == "" && m.Boot.kind != bootKernel {
		m.Firmware = UEFI
	}
	if m.Memory == 0 {
		m.Memory = 2048
	}
	if m.CPUs == 0 {
		m.CPUs = 2
	}
	if m.Accel == "" {
		m.Accel = "tcg"
	}
	if m.CPU == "" {
		m.CPU = defaultCPU(m.Arch, m.Accel)
	}
	return m
}

// defaultCPU leaves out cx16: with it Debian's 6.12 kernel crashed in one boot
// of ten under QEMU 7.2's TCG, without it in none of sixty.
func defaultCPU(a arch.Arch, accel string) string {
	switch {
	case accel != "tcg" && accel != "tcg,thread=multi" && accel != "tcg,thread=single":
		return "host"
	case a == arch.ARM64:
		return "cortex-a72"
	}
	return "qemu64,-cx16"
}
