// Package disks lists the disks of a machine with what they hold, chooses the
// one a rule means, and says whether it may be written to.
//
// It writes to no disk, and takes no disk for empty that it cannot read.
package disks

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Disk is a whole disk.
type Disk struct {
	Name   string // the kernel's: "sda", "nvme0n1"
	Path   string // "/dev/sda"
	Size   int64  // bytes
	Sector int    // bytes of a logical block: 512 or 4096
	Model  string
	Serial string
	WWN    string   // as the kernel writes it: "naa.5000c500a1b2c3d4", "eui.0025385b71b00001"
	Type   string   // configs.DiskType
	Also   []string // the kernel's other names of it: each path to a disk has one
	// ByID and ByPath are its names below /dev/disk, of udev or as udev would make them.
	ByID, ByPath []string
	ReadOnly     bool
	Mounted      bool      // in use: mounted, swap, or part of a volume that runs
	Holds        []Holding // empty: nothing that anybody could miss
}

// Holding is one thing that a disk holds.
type Holding struct {
	Where   string // "whole disk" or the partition: "vda1"
	What    string // `ext4 "root"`, "LVM physical volume", "unknown data"
	Slipway bool   // a node of slipway is installed there
	GUID    string // with Slipway: of the partition table, in upper case
}

func (h Holding) String() string {
	if h.Where == whole {
		return h.What
	}
	return h.Where + ": " + h.What
}

const whole = "whole disk"

// inParallel is how many disks are read at a time: one that spins up takes ten
// seconds, and there may be sixty.
const inParallel = 16

// List lists the disks below sys (/sys) and dev (/dev), by name, each once however
// many paths lead to it. Not among them
// are drives of removable discs, drives without a medium, and what has no
// hardware of its own: loop, ram, zram, dm, md.
func List(sys, dev string) ([]Disk, error) {
	entries, err := os.ReadDir(filepath.Join(sys, "block"))
	if err != nil {
		return nil, fmt.Errorf("disks: %w", err)
	}
	var out []Disk
	for _, e := range entries {
		if d, ok := describe(sys, dev, e.Name()); ok {
			out = append(out, d)
		}
	}
	links := linksOf(dev)
	var all sync.WaitGroup
	free := make(chan struct{}, inParallel)
	for i := range out {
		d := &out[i]
		d.addNames(sys, dev, links)
		all.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			d.read(filepath.Join(dev, d.Name))
		})
	}
	all.Wait()
	return merge(out), nil
}

// notDisks are block devices of the kernel that have a device behind them and
// are no disks: optical and floppy drives, an eMMC's boot and replay areas, raw
// flash, disks of other machines.
const notDisks = `^(sr|fd|loop|ram|zram|dm-|md|mtdblock|rbd|drbd|zd)[0-9]|^mmcblk[0-9]+(boot|rpmb|gp)|^nvme[0-9]+c[0-9]+n`

// describe reads what sysfs knows of a disk; ok is false for what is none.
func describe(sys, dev, name string) (d Disk, ok bool) {
	dir := filepath.Join(sys, "block", name)
	attr := func(names ...string) string {
		for _, n := range names {
			if s := Line(filepath.Join(dir, n)); s != "" {
				return s
			}
		}
		return ""
	}
	if _, err := os.Stat(filepath.Join(dir, "device")); err != nil && !strings.HasPrefix(name, "nbd") {
		return d, false
	}
	sectors, _ := strconv.ParseInt(attr("size"), 10, 64)
	if sectors == 0 || regexp.MustCompile(notDisks).MatchString(name) || attr("hidden") == "1" {
		return d, false
	}
	d = Disk{
		Name: name, Path: filepath.Join(dev, name), Size: sectors * 512, Sector: 512, // sysfs counts in 512 bytes: Documentation/ABI/stable/sysfs-block
		Model: attr("device/model"), Serial: attr("serial", "device/serial"), WWN: attr("wwid", "device/wwid"),
		Type: kind(dir, name), ReadOnly: attr("ro") == "1",
	}
	if n, err := strconv.Atoi(attr("queue/logical_block_size")); err == nil && n > 0 {
		d.Sector = n
	}
	if full := ataModel(dir); full != "" {
		d.Model = full
	}
	if d.Serial == "" {
		d.Serial = scsiSerial(dir)
	}
	for _, holders := range []string{"holders", name + "*/holders"} { // of the disk and of its partitions
		if found, _ := filepath.Glob(filepath.Join(dir, holders, "*")); len(found) > 0 {
			d.Mounted = true
		}
	}
	return d, true
}

// scsiSerial is the unit serial number: vital product data page 0x80 (SPC-4,
// 7.8.16), four bytes of header.
func scsiSerial(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg80"))
	if err != nil || len(b) <= 4 {
		return ""
	}
	return clean(string(b[4:min(len(b), 4+longest)]))
}

// ataModel is the whole model of a SATA disk, of which INQUIRY holds 16
// characters: words 27 to 46 of its IDENTIFY data, which SAT-4 (12.4.2) puts at
// byte 60 of page 0x89, two characters swapped in each word.
func ataModel(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg89"))
	if err != nil || len(b) < 60+2*47 {
		return ""
	}
	b = slices.Clone(b[60+2*27 : 60+2*47])
	for i := 0; i < len(b); i += 2 {
		b[i], b[i+1] = b[i+1], b[i]
	}
	return clean(string(b))
}

func kind(dir, name string) string {
	device, _ := filepath.EvalSymlinks(filepath.Join(dir, "device"))
	switch {
	case strings.HasPrefix(name, "nvme"):
		return "nvme"
	case strings.HasPrefix(name, "vd"):
		return "virtio"
	case strings.Contains(device, "/usb"):
		return "usb"
	case Line(filepath.Join(dir, "queue/rotational")) == "1":
		return "hdd"
	}
	return "ssd"
}

// read finds out whether the disk is in use, and what it holds.
func (d *Disk) read(path string) {
	unreadable := func(err error) {
		if p, ok := errors.AsType[*fs.PathError](err); ok {
			err = p.Err // which disk is said already
		}
		d.Holds = append(d.Holds, Holding{Where: whole, What: "what cannot be read: " + err.Error()})
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) { // the kernel's word that somebody else has it, or a part of it
		d.Mounted = true
		f, err = os.Open(path)
	}
	if err != nil {
		unreadable(err)
		return
	}
	defer f.Close()
	holds, err := Holdings(f, d.Name, d.Size, d.Sector)
	d.Holds = append(d.Holds, holds...)
	if err != nil {
		unreadable(err)
	}
}

// longest is what is read of a text that names something; the seed takes no more.
const longest = 128

// Line is the first line of a small file of sysfs as people may see it, "" when
// there is none.
func Line(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, longest)
	n, _ := f.Read(b) // sysfs gives a whole attribute at once
	s, _, _ := strings.Cut(strings.TrimRight(string(b[:n]), "\x00"), "\n")
	return clean(s)
}
