package bootmedia

import (
	"fmt"

	"slipway.dev/slipway/configs/arch"
)

// disk names the loaders of an installed node's disk and the files of Debian
// packages that they are. GRUB is the build that reads /EFI/debian/grub.cfg of
// the file system it came from; the one for CDs searches all devices for
// /.disk/info and could find the wrong one.
var disk = map[arch.Arch][][2]string{
	arch.AMD64: {
		{"isohdpfx.bin", "usr/lib/ISOLINUX/isohdpfx.bin"},
		{"isolinux.bin", "usr/lib/ISOLINUX/isolinux.bin"},
		{"ldlinux.c32", "usr/lib/syslinux/modules/bios/ldlinux.c32"},
		{"shimx64.efi", "usr/lib/shim/shimx64.efi.signed"},
		{"mmx64.efi", "usr/lib/shim/mmx64.efi.signed"},
		{"grubx64.efi", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"},
	},
	arch.ARM64: {
		{"shimaa64.efi", "usr/lib/shim/shimaa64.efi.signed"},
		{"mmaa64.efi", "usr/lib/shim/mmaa64.efi.signed"},
		{"grubaa64.efi", "usr/lib/grub/arm64-efi-signed/grubaa64.efi.signed"},
	},
}

// Disk returns the loaders that images/bootdisk puts on a disk, under the names
// that it knows them by.
func Disk(a arch.Arch, src Source) ([]Loader, error) {
	var out []Loader
	for _, f := range disk[a] {
		raw, err := src(f[1])
		if err != nil {
			return nil, err
		}
		out = append(out, Loader{f[0], raw})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no disk loader for %s", a)
	}
	return out, nil
}
