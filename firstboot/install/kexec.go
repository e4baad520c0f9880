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
// into it.
func (d *Disk) Prepare(s bootdisk.Slot, m *lock.Manifest, c boot.Cmdline) error {
	c.Disk, c.Slot = d.ID.String(), string(s)
	return Next(m, func(b lock.Blob) string { return d.Blob(s, b) }, c)
}

// Next loads the kernel and the initramfs of a bundle for the machine's next
// restart, without firmware and loader (kexec_file_load(2)); at says where blobs
// are. Both are verified first; under Secure Boot the running kernel checks the
// signature of the next.
func Next(m *lock.Manifest, at func(lock.Blob) string, c boot.Cmdline) error {
	var files [2]*os.File
	for i, r := range []lock.Role{lock.RoleKernel, lock.RoleInitramfs} {
		b, err := m.Find(r)
		if err != nil {
			return report.Fail("SW-MEDIUM-MANIFEST", "build the image again", err)
		}
		f, err := os.Open(at(b))
		if err != nil {
			return failed(at(b), err)
		}
		defer f.Close()
		sum, _, err := lock.Sum(io.NewSectionReader(f, 0, b.Size))
		if err != nil {
			return failed(at(b), err)
		}
		if sum != b.SHA256 {
			return report.Fail("SW-DISK-DIGEST", "the disk does not give back what was written: replace it, and install the node again",
				fmt.Errorf("%s: digest mismatch: got %s, want %s", at(b), sum, b.SHA256))
		}
		files[i] = f
	}
	if err := unix.KexecFileLoad(int(files[0].Fd()), int(files[1].Fd()), c.String(), 0); err != nil {
		return fmt.Errorf("kexec_file_load: %w", err)
	}
	return nil
}
