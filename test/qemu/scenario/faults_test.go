package scenario

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/bootdisk"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
	"slipway.dev/slipway/test/qemu/nbd"
	"slipway.dev/slipway/test/qemu/qemutest"
)

// TestInstallFaults gives machines disks that an installation must not begin or
// cannot complete on: for each its code, the disk's name and a next step, and
// never a disk that starts by itself.
func TestInstallFaults(t *testing.T) {
	const kernelArea = 36 << 20 // bootdisk's slot a
	const store = 513<<20 + 256<<20
	formatted := func(t *testing.T, name string) {
		if out, err := exec.Command("mkfs.ext4", "-q", "-L", "precious", name).CombinedOutput(); err != nil {
			t.Fatalf("mkfs.ext4: %v\n%s", err, out)
		}
	}
	for _, c := range []struct {
		name  string
		size  int64
		disks int
		setup func(*testing.T, string)
		fault []qemu.Fault
		lie   func(nbd.Request) nbd.Answer
		code  string
		want  string // in the event's text
		slow  bool   // it writes all of the bundle first
	}{
		{name: "two that fit", size: nodeDisk, disks: 2, code: "SW-DISK-CHOICE", want: "2 disks fit"},
		{name: "foreign data", size: nodeDisk, setup: formatted, code: "SW-DISK-DATA", want: `ext4 "precious"`},
		{name: "too small", size: 4 << 30, code: "SW-INSTALL-SMALL", want: "the disk has 4096 MiB, want at least"},
		{name: "refuses to write the kernel", size: nodeDisk, fault: []qemu.Fault{{On: qemu.OnWrite, At: kernelArea}}, code: "SW-INSTALL-WRITE", want: "input/output error"},
		{name: "refuses to read the kernel", slow: true, size: nodeDisk, fault: []qemu.Fault{{On: qemu.OnRead, At: kernelArea}}, code: "SW-INSTALL-WRITE", want: "input/output error"},
		{name: "drops a write of the kernel", slow: true, size: nodeDisk, code: "SW-INSTALL-VERIFY", want: "read back", lie: func(r nbd.Request) nbd.Answer {
			return nbd.Answer{Drop: r.Kind == nbd.Write && r.Off <= kernelArea+1<<20 && r.Off+r.Len > kernelArea+1<<20}
		}},
		{name: "flips a bit of the content", slow: true, size: nodeDisk, code: "SW-INSTALL-VERIFY", want: ", want ", lie: func(r nbd.Request) nbd.Answer {
			// Behind the metadata of the first 2 GiB of the store, before the next: there lie files.
			return nbd.Answer{Flip: r.Kind == nbd.Write && r.Off > store && r.Off < store+768<<20 && r.Len >= 256<<10}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.slow && !*all {
				t.Skip("skipped: one disk that fails late is enough here; make test-all has this one")
			}
			t.Parallel()
			_, port := network(t)
			m := machineFromDisk(t, boot.Cmdline{Consoles: []string{"tty0", "ttyS0"}, Extra: []string{"quiet", steady}})
			l := newLogin(t)
			m.Memory, m.NICs, m.CIDATA, m.Tolerate = 2048, []*lan.Port{port}, l.cidata("node-1"), failed(c.code)
			m.CIDATA["user-data"] = append(m.CIDATA["user-data"], "  install:\n    disk: {serial: NODE*}\n"...)
			var names []string
			for i := range max(c.disks, 1) {
				d := qemu.Drive{Path: filepath.Join(t.TempDir(), "node.img"), Size: c.size, Serial: "NODE" + string(rune('0'+i)), Faults: c.fault}
				if err := os.WriteFile(d.Path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(d.Path, c.size); err != nil {
					t.Fatal(err)
				}
				names = append(names, d.Path)
				if c.setup != nil {
					c.setup(t, d.Path)
				}
				if c.lie != nil {
					d.Path, d.Format = lying(t, d.Path, c.size, c.lie), qemu.NBD
				}
				m.Disks = append(m.Disks, d)
			}
			vm := qemutest.Start(t, m)
			e, err := vm.Wait(limit(t, 30*time.Minute), failed(c.code))
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: %s\n  next: %s", e.Code, e.Text, e.Hint)
			if !strings.Contains(e.Text, c.want) || e.Hint == "" {
				t.Errorf("got %q with hint %q, want %q", e.Text, e.Hint, c.want)
			}
			vm.Close()
			for _, n := range names {
				startsNot(t, n, c.size)
			}
		})
	}
}

// lying serves a file as a disk that answers as it is told to.
func lying(t *testing.T, file string, size int64, answer func(nbd.Request) nbd.Answer) string {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(filepath.Dir(file), "nbd")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- (&nbd.Disk{Storage: f, Size: size, Answer: answer}).Serve(t.Context(), ln) }()
	t.Cleanup(func() {
		ln.Close()
		<-done
		f.Close()
	})
	return socket
}

// startsNot wants a disk that firmware passes over.
func startsNot(t *testing.T, name string, size int64) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found, err := bootdisk.Read(f, bootdisk.Geometry{Size: size, Sector: 512})
	if err == nil && found.Active {
		t.Errorf("%s starts by itself", name)
	}
}
