package install

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/bootdisk"
)

// Prepare loads a slot's kernel so that the machine's next restart goes straight
// into it (kexec_file_load(2)): no firmware, no loader. Both files are verified
// first; under Secure Boot the running kernel checks the signature of the next.
func (d *Disk) Prepare(s bootdisk.Slot, m *lock.Manifest, c boot.Cmdline) error {
	c.Disk, c.Slot = d.ID.String(), string(s)
	var files [2]*os.File
	for i, r := range []lock.Role{lock.RoleKernel, lock.RoleInitramfs} {
		b, err := m.Find(r)
		if err != nil {
			return report.Fail("SW-MEDIUM-MANIFEST", "build the image again", err)
		}
		f, err := os.Open(d.Blob(s, b))
		if err != nil {
			return failed(d.Path, err)
		}
		defer f.Close()
		if sum, _, err := lock.Sum(io.NewSectionReader(f, 0, b.Size)); err != nil || sum != b.SHA256 {
			return report.Fail("SW-DISK-DIGEST", "the disk does not give back what was written: replace it, and install the node again",
				fmt.Errorf("%s: blob %q: got %s, want %s (%w)", d.Path, b.Name, sum, b.SHA256, err))
		}
		files[i] = f
	}
	if err := unix.KexecFileLoad(int(files[0].Fd()), int(files[1].Fd()), c.String(), 0); err != nil {
		return fmt.Errorf("kexec_file_load: %w", err)
	}
	return nil
}
