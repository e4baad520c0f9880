package disks

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// clean takes out what is not to be printed.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return strings.TrimSpace(s)
}

// PartOf reports whether a device is a partition of a disk, by the kernel's names:
// "sda1" of "sda", "nvme0n1p1" of "nvme0n1" (block/partitions/core.c). "sdaa" is
// another disk.
func PartOf(name, disk string) bool {
	number, ok := strings.CutPrefix(name, disk)
	if ok && strings.TrimRight(disk, "0123456789") != disk {
		number, ok = strings.CutPrefix(number, "p")
	}
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}

// linksOf are the links that udev made, by the kernel's name. An installer has
// no udev, so that there are none.
func linksOf(dev string) map[string][]string {
	out := map[string][]string{}
	for _, kind := range []string{"by-id", "by-path"} {
		links, _ := filepath.Glob(filepath.Join(dev, "disk", kind, "*"))
		for _, l := range links {
			if to, err := os.Readlink(l); err == nil {
				out[filepath.Base(to)] = append(out[filepath.Base(to)], filepath.Join("/dev/disk", kind, filepath.Base(l)))
			}
		}
	}
	return out
}

// addNames fills in the names below /dev/disk.
func (d *Disk) addNames(sys, dev string, links map[string][]string) {
	for _, l := range links[d.Name] {
		if strings.HasPrefix(l, "/dev/disk/by-id/") {
			d.ByID = append(d.ByID, l)
		} else {
			d.ByPath = append(d.ByPath, l)
		}
	}
	for _, n := range idNames(d) {
		if n = "/dev/disk/by-id/" + n; !slices.Contains(d.ByID, n) {
			d.ByID = append(d.ByID, n)
		}
	}
	place, err := filepath.EvalSymlinks(filepath.Join(sys, "block", d.Name, "device"))
	if err != nil {
		return
	}
	for _, n := range pathNames(place, d.Name) {
		if n = "/dev/disk/by-path/" + n; !slices.Contains(d.ByPath, n) {
			d.ByPath = append(d.ByPath, n)
		}
	}
}

// word writes _ for what is no good in a file name, as udev does.
func word(s string) string {
	return regexp.MustCompile(`[^0-9A-Za-z#+.:=@_/-]+`).ReplaceAllString(s, "_")
}

// idNames are the names in by-id that follow from what sysfs knows: those of
// udev's 60-persistent-storage.rules.
func idNames(d *Disk) []string {
	var out []string
	format, wwn, _ := strings.Cut(d.WWN, ".")
	switch {
	case d.Type == "virtio" && d.Serial != "":
		out = append(out, "virtio-"+word(d.Serial))
	case d.Type == "nvme" && d.Serial != "":
		out = append(out, "nvme-"+word(d.Model)+"_"+word(d.Serial))
	}
	switch {
	case d.Type == "nvme" && d.WWN != "":
		out = append(out, "nvme-"+word(d.WWN))
	case format == "naa":
		out = append(out, "wwn-0x"+wwn, "scsi-3"+wwn)
	}
	return out
}

// Identifies reports whether a name in by-id is made from a serial number or
// WWN: "virtio-data1" from "data1", "wwn-0x5000c500a" from "naa.5000c500a".
func Identifies(name, id string) bool {
	if _, wwn, ok := strings.Cut(id, "."); ok && (strings.HasPrefix(id, "naa.") || strings.HasPrefix(id, "eui.")) {
		return name == "wwn-0x"+wwn || name == "nvme-"+id
	}
	if id == "" {
		return false
	}
	rest, ok := strings.CutSuffix(name, word(id))
	return ok && (strings.HasSuffix(rest, "-") || strings.HasSuffix(rest, "_"))
}

// pathNames are the names in by-path, from a disk's place in /sys/devices as
// udev's path_id makes them. Behind SAS expanders it makes names that need more
// than the place; there are none of these here.
func pathNames(place, name string) []string {
	parts := strings.Split(place, "/")
	bus, at := "", 0
	for i, p := range parts { // the innermost is the disk's
		if regexp.MustCompile(`^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]$`).MatchString(p) {
			bus, at = "pci-"+p, i
		}
	}
	if bus == "" {
		return nil
	}
	below := parts[at+1:]
	if n, ok := strings.CutPrefix(name, "nvme"); ok {
		_, ns, _ := strings.Cut(n, "n")
		return []string{bus + "-nvme-" + ns}
	}
	unit := ""
	if m := regexp.MustCompile(`^([0-9]+):([0-9]+):([0-9]+):([0-9]+)$`).FindStringSubmatch(parts[len(parts)-1]); m != nil {
		unit = fmt.Sprintf("%d:%s:%s:%s", hostAmong(parts, m[1]), m[2], m[3], m[4])
	}
	for i, p := range below {
		switch {
		case strings.HasPrefix(p, "virtio") && i == len(below)-1:
			return []string{bus, "virtio-" + bus}
		case regexp.MustCompile(`^ata[0-9]+$`).MatchString(p) && unit != "":
			port := Line(filepath.Join(strings.Join(parts[:at+1+i+1], "/"), "ata_port", p, "port_no"))
			if port == "" {
				return nil
			}
			return []string{bus + "-ata-" + port, bus + "-ata-" + port + "." + strings.Split(unit, ":")[2]}
		case regexp.MustCompile(`^[0-9]+-[0-9.]+:[0-9]+\.[0-9]+$`).MatchString(p) && unit != "": // a USB interface
			_, port, _ := strings.Cut(p, "-")
			return []string{bus + "-usb-0:" + port + "-scsi-" + unit}
		case strings.HasPrefix(p, "end_device-"), strings.HasPrefix(p, "rport-"):
			return nil
		}
	}
	if unit == "" {
		return nil
	}
	return []string{bus + "-scsi-" + unit}
}

// hostAmong is the number of a SCSI host among those of its card: the kernel
// counts over all cards, in the order it found them.
func hostAmong(place []string, host string) int {
	own, _ := strconv.Atoi(host)
	i := slices.Index(place, "host"+host)
	if i < 1 {
		return own
	}
	first := own
	hosts, _ := filepath.Glob(filepath.Join("/", filepath.Join(place[:i]...), "host*"))
	for _, h := range hosts {
		if n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(h), "host")); err == nil {
			first = min(first, n)
		}
	}
	return own - first
}
