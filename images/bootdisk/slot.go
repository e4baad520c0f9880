package bootdisk

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"slipway.dev/slipway/configs/arch"
)

// loader is a file of EFI/BOOT.
type loader struct {
	name    string
	content []byte
}

// Names of the loaders that Format wants, as lock.RoleDiskLoader blobs have them
// after "disk/".
const (
	mbrName      = "isohdpfx.bin"
	isolinuxName = "isolinux.bin"
	libraryName  = "ldlinux.c32"
)

// maxLoaders is the room for EFI loaders; Debian's are 5 MB.
const maxLoaders = slotA - fatZero - loaderCluster*cluster

// Format is the structures of both kinds of firmware, with loaders, default a
// and no slots: all but what Activate writes. loaders are keyed by file name:
// shim<efi>.efi, grub<efi>.efi, mm<efi>.efi, and where the disk starts on BIOS
// isohdpfx.bin, isolinux.bin, ldlinux.c32.
func (d *Disk) Format(loaders map[string][]byte) ([]Write, error) {
	efi := d.arch.EFI()
	if d.arch != arch.AMD64 && d.arch != arch.ARM64 {
		return nil, errors.New("a disk that was read: only one that was planned is formatted")
	}
	want := []string{"shim" + efi + ".efi", "grub" + efi + ".efi", "mm" + efi + ".efi"}
	if d.bios {
		want = append(want, mbrName, isolinuxName, libraryName)
	}
	var errs []error
	total := 0
	for i, n := range want {
		if len(loaders[n]) == 0 {
			errs = append(errs, fmt.Errorf("no loader %q", n))
		}
		if i < 3 {
			total += (len(loaders[n]) + cluster - 1) / cluster * cluster
		}
	}
	if total > maxLoaders {
		errs = append(errs, fmt.Errorf("loaders for UEFI of %d bytes, want at most %d", total, maxLoaders))
	}
	if d.bios && len(loaders[mbrName]) < mbrCode {
		errs = append(errs, fmt.Errorf("%s has %d bytes, want at least %d", mbrName, len(loaders[mbrName]), mbrCode))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	out := d.formatFAT([]loader{
		{"BOOT" + strings.ToUpper(efi) + ".EFI", loaders[want[0]]},
		{strings.ToUpper(want[1]), loaders[want[1]]},
		{strings.ToUpper(want[2]), loaders[want[2]]},
	})
	if !d.bios {
		return out, nil
	}
	iso, err := d.formatISO(loaders[isolinuxName], loaders[libraryName])
	d.code = slices.Clone(loaders[mbrName][:mbrCode])
	return append(out, iso...), err
}

// Clear takes a slot away, before its data is written over: a loader that falls
// back must not find half of it. One sector each for UEFI and BIOS.
func (d *Disk) Clear(s Slot) []Write {
	out := []Write{d.whole(slotAt(s), slotDirectory(s, 0, 0, 0))}
	if d.bios {
		out = append(out, d.whole(isoSlot(s)*isoSector, d.isoSlotDirectory(s, 0, 0, 0)))
	}
	return out
}

// Fill is a slot's metadata, to be written when the kernel and the initramfs of
// these sizes are on the disk where Area says. cmdline is the kernel command
// line: printable ASCII without quotes and backslashes.
func (d *Disk) Fill(s Slot, kernel, initramfs int64, cmdline string) ([]Write, error) {
	if s != A && s != B {
		return nil, fmt.Errorf("slot %q, want %q or %q", s, A, B)
	}
	k, i := d.Area(s)
	if kernel < 1 || kernel > k.Size {
		return nil, fmt.Errorf("kernel of %d bytes, want 1 to %d", kernel, k.Size)
	}
	if initramfs < 1 || initramfs > i.Size {
		return nil, fmt.Errorf("initramfs of %d bytes, want 1 to %d", initramfs, i.Size)
	}
	if err := checkCmdline(cmdline); err != nil {
		return nil, err
	}
	grub, iso := grubSlot(s, cmdline), isolinuxSlot(s, cmdline)
	if len(grub) > cluster || len(iso) > isoSector {
		return nil, fmt.Errorf("command line of %d bytes is too long when it is quoted", len(cmdline))
	}
	fat, at := slotFAT(s, int64(len(grub)), kernel, initramfs)
	out := []Write{{at[1], fat}, {at[0], fat}, block(clusterOf(slotAt(s))+1, []byte(grub))}
	if d.bios {
		out = append(out, isoBlock(isoSlot(s)+1, []byte(iso)), d.whole(isoSlot(s)*isoSector, d.isoSlotDirectory(s, int64(len(iso)), kernel, initramfs)))
	}
	return append(out, d.whole(slotAt(s), slotDirectory(s, int64(len(grub)), kernel, initramfs))), nil
}

// Default makes loaders take a slot first: one sector each for UEFI and BIOS.
func (d *Disk) Default(s Slot) []Write {
	out := []Write{d.whole(clusterAt(defaultCluster), grubDefault(s))}
	if d.bios {
		out = append(out, d.whole(isoDefault*isoSector, isolinuxDefault(s)))
	}
	return out
}

// Activate is the last writes of an installation, which make the disk one that
// starts. It wants Format before: the MBR's code is a loader.
func (d *Disk) Activate() []Write {
	out := []Write{d.whole(espAt, d.bootSector())}
	if d.bios && d.code != nil {
		out = append(out, d.whole(0, d.mbr(d.code)))
	}
	return out
}
