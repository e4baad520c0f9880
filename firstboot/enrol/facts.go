package enrol

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/disks"
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
		if s := disks.Line(at("/sys/class/dmi/id/" + name)); s != "" || tree == "" {
			return s
		}
		return disks.Line(at("/sys/firmware/devicetree/base/" + tree)) // boards without SMBIOS
	}
	return handoff.Facts{
		Vendor: dmi("sys_vendor", ""), Product: dmi("product_name", "model"), Serial: dmi("product_serial", "serial-number"),
		UUID: strings.ToLower(dmi("product_uuid", "")), MACs: macs(at("/sys/class/net")),
		Memory: memory(at("/proc/meminfo")), CPUs: processors(at("/proc/cpuinfo")),
		Disks: diskFacts(root), Firmware: firmware(root),
	}
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
		m, err := net.ParseMAC(disks.Line(filepath.Join(card, "address")))
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

// mostHolds is how many holdings of one disk are told, and in how many bytes of
// JSON those of all.
const (
	mostHolds  = 8
	holdsBytes = 16 << 10
)

// diskFacts are the disks, with what they hold as far as it fits.
func diskFacts(root string) []handoff.Disk {
	all, _ := disks.List(filepath.Join(root, "/sys"), filepath.Join(root, "/dev"))
	var out []handoff.Disk
	left := holdsBytes
	for _, d := range all[:min(len(all), mostDisks)] {
		f := handoff.Disk{Name: d.Name, Also: strings.Join(d.Also, ", "), Size: d.Size, Model: d.Model, Serial: d.Serial, WWN: d.WWN, Type: d.Type, Holds: d.HoldsText(mostHolds)}
		if d.Serial == "" && d.WWN == "" {
			f.Path = d.OwnName()
		}
		raw, err := json.Marshal(f.Holds)
		if left -= len(raw); len(f.Holds) > 0 && (err != nil || left < 0) {
			f.Holds = []string{fmt.Sprintf("%d things", len(d.Holds))}
		}
		out = append(out, f)
	}
	return out
}
