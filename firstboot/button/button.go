// Package button reads the machine's power button from the kernel's input
// devices, as an operator, a BMC or a hypervisor presses it.
//
// It does not decide what a press means and handles no other key.
package button

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	evKey    = 1   // EV_KEY (linux/input-event-codes.h)
	keyPower = 116 // KEY_POWER
	// eventSize is a struct input_event on 64-bit kernels: a time of 16 bytes, type, code, value.
	eventSize = 24
	keyBytes  = 96 // bits of all keys, KEY_CNT = 0x300
)

// Watch calls pressed at each press of a power key of an input device
// ("/dev/input/event0") until ctx ends or the device goes. It returns at once,
// with no error, for a device without one.
func Watch(ctx context.Context, device string, pressed func()) error {
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	defer f.Close()
	has, err := hasPower(f)
	if err != nil || !has {
		return err
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	err = events(f, pressed)
	if ctx.Err() != nil || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// hasPower asks which keys the device has: EVIOCGBIT(EV_KEY, keyBytes).
func hasPower(f *os.File) (bool, error) {
	var keys [keyBytes]byte
	const get = 2<<30 | keyBytes<<16 | 'E'<<8 | (0x20 + evKey) // _IOC(_IOC_READ, 'E', 0x20+EV_KEY, keyBytes)
	// Not f.Fd(): that would make reads block, and Close not end them.
	c, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	var no unix.Errno
	err = c.Control(func(fd uintptr) {
		_, _, no = unix.Syscall(unix.SYS_IOCTL, fd, get, uintptr(unsafe.Pointer(&keys)))
	})
	if err == nil && no != 0 {
		err = os.NewSyscallError("EVIOCGBIT", no)
	}
	if err != nil {
		return false, err
	}
	return keys[keyPower/8]&(1<<(keyPower%8)) != 0, nil
}

// events reads input events and calls pressed for each press, not for the release.
func events(r io.Reader, pressed func()) error {
	buf := make([]byte, eventSize)
	for {
		if _, err := io.ReadFull(r, buf); err != nil {
			return err
		}
		kind, code := binary.NativeEndian.Uint16(buf[16:]), binary.NativeEndian.Uint16(buf[18:])
		if value := binary.NativeEndian.Uint32(buf[20:]); kind == evKey && code == keyPower && value == 1 {
			pressed()
		}
	}
}
