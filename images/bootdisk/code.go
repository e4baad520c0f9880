package bootdisk

import (
	"fmt"
	"slices"
)

// Code gives a disk that was read the MBR's code, the content of isohdpfx.bin,
// which Activate writes; one that Format was called on has it.
func (d *Disk) Code(isohdpfx []byte) error {
	if !d.bios {
		return nil
	}
	if len(isohdpfx) < mbrCode {
		return fmt.Errorf("%s has %d bytes, want at least %d", mbrName, len(isohdpfx), mbrCode)
	}
	d.code = slices.Clone(isohdpfx[:mbrCode])
	return nil
}
