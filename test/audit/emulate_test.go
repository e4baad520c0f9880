package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs/arch"
)

const formats = "/proc/sys/fs/binfmt_misc" // admin-guide/binfmt-misc

// header is the beginning of an ELF program of an architecture and which bits of
// it count: 64 bits, little-endian, any ABI, executable or shared, and e_machine
// (ELF gABI, chapter 4).
var header = map[arch.Arch][2]string{
	arch.AMD64: {"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00", "\xff\xff\xff\xff\xff\xfe\xfe\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"},
	arch.ARM64: {"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00", "\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"},
}

// emulate makes this machine's kernel run programs of another architecture until
// the test ends, unless it does already. It says why it cannot.
func emulate(t *testing.T, a arch.Arch) error {
	if a.Go() == runtime.GOARCH {
		return nil
	}
	program, err := exec.LookPath("qemu-" + a.QEMU() + "-static")
	if err != nil {
		return fmt.Errorf("%w: install the Debian package qemu-user-static", err)
	}
	if _, err := os.Stat(formats + "/register"); errors.Is(err, fs.ErrNotExist) {
		if err := unix.Mount("binfmt_misc", formats, "binfmt_misc", 0, ""); err != nil {
			return fmt.Errorf("mounting binfmt_misc: %w", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(formats, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	if there(a) {
		return nil
	}
	name := "slipway-test-" + string(a)
	// F: the kernel opens the emulator now, so that it is found in a chroot.
	line := fmt.Sprintf(":%s:M::%s:%s:%s:F", name, escaped(header[a][0]), escaped(header[a][1]), program)
	if err := os.WriteFile(formats+"/register", []byte(line), 0); err != nil {
		return fmt.Errorf("registering %s: %w", program, err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(filepath.Join(formats, name), []byte("-1"), 0); err != nil {
			t.Error(err)
		}
	})
	return nil
}

// there says whether an emulator that works in a chroot is registered.
func there(a arch.Arch) bool {
	all, _ := os.ReadDir(formats)
	for _, e := range all {
		text, err := os.ReadFile(filepath.Join(formats, e.Name()))
		if err != nil || !bytes.HasPrefix(text, []byte("enabled\n")) || !bytes.Contains(text, fmt.Appendf(nil, "magic %x", header[a][0])) {
			continue
		}
		for _, l := range strings.Split(string(text), "\n") {
			if flags, ok := strings.CutPrefix(l, "flags: "); ok && strings.Contains(flags, "F") {
				return true
			}
		}
	}
	return false
}

func escaped(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, `\x%02x`, c)
	}
	return b.String()
}
