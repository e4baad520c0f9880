package enrol

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"slipway.dev/slipway/configs/handoff"
)

// What of a machine with very many fits handoff.MaxHello: the disks of two full
// enclosures, the cards without most virtual functions.
const (
	mostDisks = 200
	mostCards = 60
)

// secureBoot is the UEFI variable (UEFI 2.10, section 3.3) in efivarfs, whose
// files begin with four bytes of attributes.
const secureBoot = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

// Gather reads what the kernel knows of the machine below root ("/" on one).
// What cannot be read stays empty. Arch, Boot, Medium and Bundle are the caller's.
func Gather(root string) handoff.Facts {
	at := func(name string) string { return filepath.Join(root, name) }
	dmi := func(name, tree string) string {
		if s := line(at("/sys/class/dmi/id/" + name)); s != "" || tree == "" {
			return s
		}
		return line(at("/sys/firmware/devicetree/base/" + tree)) // boards without SMBIOS
	}
	return handoff.Facts{
		Vendor: dmi("sys_vendor", ""), Product: dmi("product_name", "model"), Serial: dmi("product_serial", "serial-number"),
		UUID: strings.ToLower(dmi("product_uuid", "")), MACs: macs(at("/sys/class/net")),
		Memory: memory(at("/proc/meminfo")), CPUs: processors(at("/proc/cpuinfo")),
		Disks: disks(root), Firmware: firmware(root),
	}
}

// line is the first line of a small file as people may see it.
func line(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 128)
	n, _ := f.Read(b) // sysfs gives a whole attribute at once
	s, _, _ := strings.Cut(string(bytes.TrimRight(b[:n], "\x00")), "\n")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return strings.TrimSpace(s)
}

// macs are of the Ethernet cards with a device behind them; bridges, bonds and
// the like have none.
func macs(dir string) []string {
	list, _ := os.ReadDir(dir)
	out := []string{}
	for _, e := range list {
		card := filepath.Join(dir, e.Name())
		if _, err := os.Stat(filepath.Join(card, "device")); err != nil {
			continue
		}
		m, err := net.ParseMAC(line(filepath.Join(card, "address")))
		if err != nil || len(m) != 6 || m[0]&1 == 1 || bytes.Equal(m, make([]byte, 6)) || slices.Contains(out, m.String()) {
			continue
		}
		out = append(out, m.String())
	}
	slices.Sort(out)
	return out[:min(len(out), mostCards)]
}

// memory is MemTotal of proc_meminfo(5) in bytes.
func memory(name string) int64 {
	raw, _ := os.ReadFile(name)
	for _, l := range strings.Split(string(raw), "\n") {
		var kib int64
		if n, _ := fmt.Sscanf(l, "MemTotal: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}

// processors counts the paragraphs of proc_cpuinfo(5): those online.
func processors(name string) int {
	f, err := os.Open(name)
	if err != nil {
		return 0
	}
	defer f.Close()
	n := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, _, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == "processor" {
			n++
		}
	}
	return n
}

func firmware(root string) string {
	if _, err := os.Stat(filepath.Join(root, "/sys/firmware/efi")); err != nil {
		return "bios"
	}
	if b, err := os.ReadFile(filepath.Join(root, secureBoot)); err == nil && len(b) == 5 && b[4] == 1 {
		return "uefi-secure"
	}
	// struct boot_params, secure_boot: the EFI stub's word (Documentation/arch/x86/zero-page.rst)
	if b, err := os.ReadFile(filepath.Join(root, "/sys/kernel/boot_params/data")); err == nil && len(b) > 0x1ec && b[0x1ec] == 3 {
		return "uefi-secure"
	}
	return "uefi"
}

// disks are the whole disks with a device behind them, without optical and
// floppy drives and without what has no medium.
func disks(root string) []handoff.Disk {
	dir := filepath.Join(root, "/sys/block")
	list, _ := os.ReadDir(dir)
	var out []handoff.Disk
	for _, e := range list {
		name, d := e.Name(), filepath.Join(dir, e.Name())
		if _, err := os.Stat(filepath.Join(d, "device")); err != nil || strings.HasPrefix(name, "sr") || strings.HasPrefix(name, "fd") {
			continue
		}
		sectors, _ := strconv.ParseInt(line(filepath.Join(d, "size")), 10, 64)
		if sectors == 0 {
			continue
		}
		first := func(names ...string) string {
			for _, n := range names {
				if s := line(filepath.Join(d, n)); s != "" {
					return s
				}
			}
			return ""
		}
		out = append(out, handoff.Disk{
			Name: name, Size: sectors * 512, // whatever the block size: Documentation/ABI/stable/sysfs-block
			Model: first("device/model"), Serial: diskSerial(d, first("serial", "device/serial")), WWN: first("wwid", "device/wwid"), Type: diskType(d, name),
		})
	}
	return out[:min(len(out), mostDisks)]
}

// diskSerial is the unit serial number of a SCSI disk when there is no plain
// one: vital product data page 0x80 (SPC-4, 7.8.16), four bytes of header.
func diskSerial(dir, plain string) string {
	if plain != "" {
		return plain
	}
	b, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg80"))
	if err != nil || len(b) <= 4 {
		return ""
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(b[4:])))
}

func diskType(dir, name string) string {
	device, _ := filepath.EvalSymlinks(filepath.Join(dir, "device"))
	switch {
	case strings.HasPrefix(name, "nvme"):
		return "nvme"
	case strings.HasPrefix(name, "vd"):
		return "virtio"
	case strings.Contains(device, "/usb"):
		return "usb"
	case line(filepath.Join(dir, "queue/rotational")) == "1":
		return "hdd"
	}
	return "ssd"
}
