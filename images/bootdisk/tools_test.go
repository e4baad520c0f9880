package bootdisk

import (
	"os/exec"
	"testing"
)

// tool is a program of the host, or a printed reason to go without it.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path
		}
	}
	t.Skipf("%s is not installed (Debian package %q); only this comparison needs it", name, pkg)
	return ""
}

// fsck checks the EFI system partition of an image.
func (m *image) fsck(fsck string) {
	m.t.Helper()
	m.write(m.disk.Activate()[0])
	out, err := exec.Command(fsck, "-n", "-v", m.esp.Name()).CombinedOutput()
	if err != nil {
		m.t.Errorf("%v\n%s", err, out)
	}
}

func TestFsckIsClean(t *testing.T) {
	fsck := tool(t, "fsck.fat", "dosfstools")
	for _, k := range kinds {
		t.Run(k.String(), func(t *testing.T) {
			m := newImage(t, k.plan(t))
			m.format()
			m.fsck(fsck)
			m.fill(A, noise(7, 100_000), noise(8, 3_000_000), "quiet")
			m.fsck(fsck)
			m.fill(B, noise(9, 9_000_001), noise(10, 1), "quiet")
			m.fsck(fsck)
			m.write(m.disk.Default(B)...)
			m.fsck(fsck)
		})
	}
}
