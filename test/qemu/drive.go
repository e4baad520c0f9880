package qemu

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// Bus is how a drive is attached.
type Bus string

// The buses a Drive can be on.
const (
	Virtio Bus = "virtio"
	SATA   Bus = "sata" // amd64 only
	NVMe   Bus = "nvme"
	SCSI   Bus = "scsi" // of a virtio controller
	USBBus Bus = "usb"
)

// Drive is a disk besides the boot medium.
type Drive struct {
	Path string
	// Size creates a sparse raw file of so many bytes when Path does not exist.
	Size   int64
	Format string // "raw" when empty
	Bus    Bus    // Virtio when empty
	// Serial is what the guest reads as the disk's serial number.
	Serial string
	// BlockSize is the logical and physical sector size, 512 when 0.
	BlockSize int
	ReadOnly  bool
	// Log records every write and flush of the machine in a file that is made
	// anew, for package crash.
	Log string
	// Faults are what the disk does wrong, the first that fits.
	Faults []Fault
}

// Fault is an error the disk answers with (QEMU's blkdebug). The machine sees
// it; the emulator never stops for it.
type Fault struct {
	On    Request
	At    int64 // a byte of the disk: the sector of 512 bytes it lies in; negative for anywhere
	Errno int   // EIO when 0; syscall.ENOSPC for a thin disk that ran full
	Once  bool
}

// Request is what a Fault answers.
type Request string

// The requests. OnWrite does not meet writes of zeros.
const (
	OnRead       Request = "read"
	OnWrite      Request = "write"
	OnWriteZeros Request = "write-zeroes"
	OnDiscard    Request = "discard"
	OnFlush      Request = "flush"
)

// NBD is the Format of a disk that somebody serves at the unix socket Path, such
// as package nbd.
const NBD = "nbd"

// create makes the disk's file when it does not exist and a size is given, and an
// empty log.
func (d Drive) create() error {
	if d.Log != "" {
		if err := os.WriteFile(d.Log, nil, 0o600); err != nil {
			return fmt.Errorf("write log: %w", err)
		}
	}
	if d.Size == 0 || d.Format == NBD {
		return nil
	}
	f, err := os.OpenFile(d.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(d.Size), f.Close())
}

// drive renders a disk; a negative index is never booted from.
func (a *args) drive(id string, d Drive, index int) {
	a.add("-drive", "if=none,id="+id+d.stack())
	var dev string
	serial := d.Serial
	switch d.Bus {
	case SATA:
		dev = a.port("ide-hd")
	case NVMe:
		dev = "nvme"
		if serial == "" {
			serial = id // the device demands one
		}
	case SCSI:
		if !a.scsi {
			a.scsi = true
			a.add("-device", "virtio-scsi-pci,id=disks")
		}
		dev = "scsi-hd,bus=disks.0"
	case USBBus:
		if !a.xhci {
			a.xhci = true
			a.add("-device", "qemu-xhci,id=xhci")
		}
		dev = "usb-storage,bus=xhci.0,removable=on"
	default:
		dev = "virtio-blk-pci"
		if d.Log != "" {
			// Merged, a request has up to IOV_MAX buffers; blklogwrites adds one
			// of its own to them and the host refuses the write: the guest sees
			// EIO (QEMU 7.2, block/blklogwrites.c).
			dev += ",request-merging=off"
		}
	}
	dev += ",drive=" + id
	if index >= 0 {
		dev += fmt.Sprintf(",bootindex=%d", index)
	}
	if serial != "" {
		dev += ",serial=" + escape(serial)
	}
	if d.BlockSize != 0 {
		dev += fmt.Sprintf(",logical_block_size=%d,physical_block_size=%d", d.BlockSize, d.BlockSize)
	}
	a.add("-device", dev)
}

// stack renders a drive's block nodes, from the one the machine sees to the
// file: ",driver=...,file=...". Recording lies below the faults, so that what
// was refused is not in the log. Nothing is flushed to the host's disk where a
// machine is recorded: what the guest flushed is what counts, and it is in the
// log.
func (d Drive) stack() string {
	format := d.Format
	if format == "" {
		format = "raw"
	}
	var s strings.Builder
	if d.ReadOnly {
		s.WriteString(",readonly=on")
	}
	if d.Log == "" && len(d.Faults) == 0 && d.Format != NBD {
		fmt.Fprintf(&s, ",format=%s,discard=unmap,file=%s", format, escape(d.Path))
		return s.String()
	}
	s.WriteString(",discard=unmap")
	at := "" // where in the tree the next node goes: "image.file."
	if len(d.Faults) > 0 {
		if d.Bus != NVMe { // which has no such property and never stops
			s.WriteString(",werror=report,rerror=report")
		}
		fmt.Fprintf(&s, ",%sdriver=blkdebug", at)
		for i, f := range d.Faults {
			f.render(&s, fmt.Sprintf(",%sinject-error.%d.", at, i))
		}
		at += "image."
		fmt.Fprintf(&s, ",%sdiscard=unmap", at)
	}
	if d.Log != "" {
		size := max(d.BlockSize, 512)
		fmt.Fprintf(&s, ",%[1]sdriver=blklogwrites,%[1]slog-sector-size=%[2]d,%[1]slog.driver=file,%[1]slog.filename=%[3]s,%[1]slog.cache.no-flush=on", at, size, escape(d.Log))
		at += "file."
		fmt.Fprintf(&s, ",%[1]sdiscard=unmap,%[1]scache.no-flush=on", at)
	}
	if d.Format == NBD {
		fmt.Fprintf(&s, ",%[1]sdriver=nbd,%[1]sserver.type=unix,%[1]sserver.path=%[2]s", at, escape(d.Path))
		return s.String()
	}
	fmt.Fprintf(&s, ",%[1]sdriver=%[2]s,%[1]sfile.driver=file,%[1]sfile.filename=%[3]s", at, format, escape(d.Path))
	return s.String()
}

func (f Fault) render(s *strings.Builder, prefix string) {
	errno := f.Errno
	if errno == 0 {
		errno = int(syscall.EIO)
	}
	fmt.Fprintf(s, "%[1]sevent=none%[1]siotype=%[2]s%[1]serrno=%[3]d", prefix, f.On, errno)
	if f.At >= 0 {
		fmt.Fprintf(s, "%ssector=%d", prefix, f.At/512)
	}
	if f.Once {
		fmt.Fprintf(s, "%sonce=on", prefix)
	}
}
