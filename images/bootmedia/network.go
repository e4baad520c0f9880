package bootmedia

import (
	"fmt"
	"path"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/layout"
)

// Loader is a file that firmware, or a loader before the kernel, asks a server for.
type Loader struct {
	Name    string // as it is asked for, without a directory
	Content []byte
}

// network names the loaders and the files of Debian packages that they are. iPXE
// for BIOS is the build that uses the card's own driver (UNDI), which has just
// proven to work, rather than the one with drivers of its own for some of them. UEFI gets shim, as Microsoft signed it for Debian, whether or
// not Secure Boot is on: it takes GRUB and the MOK manager from beside itself
// under these names. GRUB is the build that reads its configuration from the
// server it came from.
var network = map[arch.Arch][][2]string{
	arch.AMD64: {
		{"undionly.kpxe", "usr/lib/ipxe/undionly.kpxe"},
		{"shimx64.efi", "usr/lib/shim/shimx64.efi.signed"},
		{"mmx64.efi", "usr/lib/shim/mmx64.efi.signed"},
		{"grubx64.efi", "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"},
	},
	arch.ARM64: {
		{"shimaa64.efi", "usr/lib/shim/shimaa64.efi.signed"},
		{"mmaa64.efi", "usr/lib/shim/mmaa64.efi.signed"},
		{"grubaa64.efi", "usr/lib/grub/arm64-efi-signed/grubnetaa64.efi.signed"},
	},
}

// Network returns the loaders of an architecture, and the command line, which
// whoever writes their configuration completes with where the content is.
func Network(a arch.Arch, c boot.Cmdline, src Source) ([]Loader, error) {
	var out []Loader
	for _, f := range network[a] {
		raw, err := src(f[1])
		if err != nil {
			return nil, err
		}
		out = append(out, Loader{f[0], raw})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no network loader for %s", a)
	}
	return append(out, Loader{path.Base(layout.Cmdline), []byte(c.String() + "\n")}), nil
}
