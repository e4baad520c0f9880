package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// kvmLimit is many times what the probe takes where virtualization works.
const kvmLimit = 4 * time.Second

// exitPort is where Argv's Extra puts isa-debug-exit for boot sectors.
const exitPort = 0xf4

// exitDevice lets a guest end the emulator with status 2v+1 by writing v.
const exitDevice = "isa-debug-exit,iobase=0xf4,iosize=1"

// probeValue written to exitPort ends the emulator with status 99.
const probeValue = 49

// ProbeKVM tells whether hardware virtualization works here: nil, or the
// reason it does not. It believes only a guest that ran under KVM, left a
// number and ended, within seconds: the device can be present and openable
// while every guest hangs in its firmware.
func ProbeKVM(ctx context.Context) error {
	err := probe(ctx, "kvm", "host")
	if err != nil {
		return fmt.Errorf("KVM is not usable: %w", err)
	}
	return nil
}

func probe(ctx context.Context, accel, cpu string) error {
	f, err := Find(Machine{})
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "slipway-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	image := filepath.Join(dir, "probe.img")
	if err := os.WriteFile(image, bootSector(nil, false), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, kvmLimit, errors.New("the guest hangs"))
	defer cancel()
	var complaint tail
	cmd := exec.CommandContext(ctx, f.Emulator, "-machine", "q35", "-accel", accel, "-cpu", cpu,
		"-m", "64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-device", exitDevice,
		"-drive", "if=none,id=boot,format=raw,readonly=on,file="+escape(image),
		"-device", "virtio-blk-pci,drive=boot,bootindex=0")
	cmd.Stderr = &complaint
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if code := cmd.ProcessState.ExitCode(); code != 2*probeValue+1 {
		return fmt.Errorf("the guest ended with status %d (%w): %s", code, err, complaint.String())
	}
	return nil
}

// bootSector is a disk that BIOS can boot: it prints text at the
// first serial port, optionally waits for one character there, and writes
// probeValue to exitPort. text holds no zero byte and at most 400 bytes.
func bootSector(text []byte, wait bool) []byte {
	code := []byte{
		0x31, 0xc0, // xor ax,ax
		0x8e, 0xd8, // mov ds,ax
		0xbe, 0, 0, // mov si,text (patched below)
		0xfc,       // cld
		0xac,       // next: lodsb
		0x84, 0xc0, // test al,al
		0x74, 0x11, // jz end
		0x88, 0xc4, // mov ah,al
		0xba, 0xfd, 0x03, // mov dx,0x3fd (16550 line status)
		0xec,       // ready: in al,dx
		0xa8, 0x20, // test al,0x20 (transmitter empty)
		0x74, 0xfb, // jz ready
		0xb2, 0xf8, // mov dl,0xf8 (16550 data)
		0x88, 0xe0, // mov al,ah
		0xee,       // out dx,al
		0xeb, 0xea, // jmp next
	}
	// end:
	if wait {
		code = append(code,
			0xba, 0xfd, 0x03, // mov dx,0x3fd
			0xec,       // typed: in al,dx
			0xa8, 0x01, // test al,1 (data ready)
			0x74, 0xfb, // jz typed
		)
	}
	code = append(code,
		0xb0, probeValue, // mov al,probeValue
		0xe6, exitPort, // out exitPort,al
		0xf4,       // hlt
		0xeb, 0xfd, // jmp hlt
	)
	at := 0x7c00 + len(code) // where BIOS loads the sector
	code[5], code[6] = byte(at), byte(at>>8)
	// SeaBIOS cannot read a disk smaller than one cylinder.
	sector := make([]byte, 1<<20)
	copy(sector[:510], append(append(code, text...), 0))
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}
