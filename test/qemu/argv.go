package qemu

import (
	"fmt"
	"strconv"
	"strings"

	"slipway.dev/slipway/configs/arch"
)

// Files are the paths a command line needs. Find fills those of the host,
// Start those of the run.
type Files struct {
	Emulator string
	Code     string // firmware, "" for the emulator's own
	Vars     string // this machine's copy of the firmware's variables
	Console  string // unix socket somebody listens at
	QMP      string // unix socket somebody listens at
	CIDATA   string // image, "" for none
}

// Argv is the whole command line of a machine, emulator first. It touches
// nothing: the same arguments give the same command line.
func Argv(m Machine, f Files) []string {
	m = m.withDefaults()
	a := &args{list: []string{f.Emulator}}
	a.add("-name", escape(m.Name))
	a.platform(m, f)
	a.add("-m", strconv.Itoa(m.Memory), "-smp", strconv.Itoa(m.CPUs))
	a.add("-nodefaults", "-no-user-config", "-display", "none")
	if m.Arch == arch.AMD64 {
		a.add("-device", "VGA") // for screendump
	}
	a.add("-device", "virtio-rng-pci")
	a.add("-chardev", "socket,id=console,server=off,path="+escape(f.Console), "-serial", "chardev:console")
	a.add("-chardev", "socket,id=qmp,server=off,path="+escape(f.QMP), "-mon", "chardev=qmp,mode=control")
	a.boot(m)
	for i, d := range m.Disks {
		a.drive(fmt.Sprintf("disk%d", i), d, 1+i)
	}
	if f.CIDATA != "" {
		a.drive("cidata", Drive{Path: f.CIDATA, ReadOnly: true}, -1)
	}
	a.nics(m)
	if !m.RTC.IsZero() {
		a.add("-rtc", "base="+m.RTC.UTC().Format("2006-01-02T15:04:05"))
	}
	if m.Serial != "" {
		a.add("-smbios", "type=1,serial="+escape(m.Serial))
	}
	if m.NoReboot {
		a.add("-no-reboot")
	}
	return append(a.list, m.Extra...)
}

// args collects a command line and remembers which controllers it has.
type args struct {
	list []string
	xhci bool
	scsi bool
	sata int // ports of q35's own controller in use: each is a bus with one unit
}

func (a *args) add(s ...string) { a.list = append(a.list, s...) }

// escape protects a value inside a comma-separated option (QEMU doubles the
// comma).
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// platform renders machine type, CPU and firmware.
func (a *args) platform(m Machine, f Files) {
	machine := "q35"
	if m.Arch == arch.ARM64 {
		machine = "virt"
	}
	if m.Firmware == SecureBoot && m.Arch == arch.AMD64 {
		// Without SMM the guest could write the variables behind OVMF's back,
		// and OVMF's Secure Boot builds refuse to start.
		machine += ",smm=on"
		a.add("-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	a.add("-machine", machine, "-accel", m.Accel, "-cpu", m.CPU)
	if f.Code != "" {
		a.add("-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+escape(f.Code))
		a.add("-drive", "if=pflash,unit=1,format=raw,file="+escape(f.Vars))
	}
}

// boot renders the first medium.
func (a *args) boot(m Machine) {
	b := m.Boot
	switch b.kind {
	case bootCD:
		a.add("-drive", "if=none,id=boot,media=cdrom,readonly=on,format=raw,file="+escape(b.path))
		if m.Arch == arch.ARM64 { // virt has no SATA controller
			a.add("-device", "virtio-scsi-pci,id=scsi0", "-device", "scsi-cd,drive=boot,bootindex=0")
		} else {
			a.add("-device", a.port("ide-cd")+",drive=boot,bootindex=0")
		}
	case bootUSB:
		a.drive("boot", Drive{Path: b.path, Bus: USBBus, ReadOnly: true}, 0)
	case bootDisk:
		a.drive("boot", Drive{Path: b.path}, 0)
	case bootDiskCopy:
		a.add("-drive", "if=none,id=boot,snapshot=on,format=raw,file="+escape(b.path))
		a.add("-device", "virtio-blk-pci,drive=boot,bootindex=0")
	case bootKernel:
		a.add("-kernel", b.path)
		if b.initrd != "" {
			a.add("-initrd", b.initrd)
		}
		if b.cmdline != "" {
			a.add("-append", b.cmdline)
		}
	}
}

// port puts a SATA device on the next free port.
func (a *args) port(device string) string {
	a.sata++
	return fmt.Sprintf("%s,bus=ide.%d", device, a.sata-1)
}

// nics renders the network cards. An empty romfile takes the boot ROM away,
// without which SeaBIOS and OVMF leave the card alone.
func (a *args) nics(m Machine) {
	for i, p := range m.NICs {
		a.add("-netdev", fmt.Sprintf("stream,id=net%d,server=off,addr.type=unix,addr.path=%s", i, escape(p.SocketPath())))
		dev := fmt.Sprintf("virtio-net-pci,id=nic%d,netdev=net%d,mac=%s", i, i, p.MAC)
		if m.Boot.kind == bootNetwork {
			dev += fmt.Sprintf(",bootindex=%d", 100+i)
		} else {
			dev += ",romfile="
		}
		a.add("-device", dev)
	}
}
