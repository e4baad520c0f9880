package disks

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// lvm is LVM2's label, in one of the first four sectors (lib/format_text/layout.h
// of LVM2: label_header, pv_header, mda_header); the metadata begins with the
// volume group's name.
func lvm(d *device) ([]Found, error) {
	le := binary.LittleEndian
	for off := int64(0); off < 4*512; off += 512 {
		b, err := d.at(off, 512)
		if b == nil || string(b[:8]) != "LABELONE" {
			if err != nil {
				return nil, err
			}
			continue
		}
		out := []Found{{Kind: "LVM physical volume"}}
		areas, pv := 0, le.Uint32(b[20:])
		if pv > 512-40 {
			return out, nil
		}
		for l := b[pv+40:]; len(l) >= 16; l = l[16:] { // data areas, zeros, metadata areas, zeros
			if zero(l[:16]) {
				if areas++; areas == 2 {
					break
				}
				continue
			}
			if areas == 1 {
				start := int64(le.Uint64(l))
				if h, err := d.at(start, 48); err == nil && h != nil && le.Uint64(h[40:]) < 1<<40 {
					name, _, ok := strings.Cut(d.text(start+int64(le.Uint64(h[40:])), 128), " {")
					if ok {
						out[0].Label = name
					}
				}
				break
			}
		}
		return out, nil
	}
	return nil, nil
}

// raid finds members of arrays: md's superblocks of 0.90 at the end, of 1.0
// there, of 1.1 at the start, of 1.2 at 4 KiB (include/uapi/linux/raid/md_p.h),
// and those that firmware writes: Intel's and SNIA's DDF (mdadm's super-intel.c,
// super-ddf.c).
func raid(d *device) ([]Found, error) {
	const magic = "\xfc\x4e\x2b\xa9"
	sectors := d.size / 512
	for _, off := range []int64{0, 4096, (sectors - 16) &^ 7 * 512} {
		b, err := d.at(off, 64)
		if err != nil {
			return nil, err
		}
		if b != nil && string(b[:4]) == magic && binary.LittleEndian.Uint32(b[4:]) == 1 {
			return []Found{{"RAID member", d.text(off+32, 32)}}, nil
		}
	}
	for _, m := range []mark{
		{"RAID member", d.size&^0xffff - 0x10000, magic, [2]int{}},
		{"RAID member", d.size&^0xffff - 0x10000, "\xa9\x2b\x4e\xfc", [2]int{}}, // written by a big-endian machine
		{"Intel RAID member", d.size - 1024, "Intel Raid ISM Cfg Sig. ", [2]int{}},
		{"Intel RAID member", d.size - 8192, "Intel Raid ISM Cfg Sig. ", [2]int{}},
		{"DDF RAID member", d.size - 512, "\xde\x11\xde\x11", [2]int{}},
		{"DDF RAID member", d.size - 4096, "\xde\x11\xde\x11", [2]int{}},
	} {
		ok, err := d.has(m.off, m.magic)
		if err != nil || ok {
			return []Found{{Kind: m.kind}}, err
		}
	}
	return nil, nil
}

// zfs finds one of a pool's four labels of 256 KiB, two at either end (ZFS
// On-Disk Specification, chapter 1): an array of uberblocks from its middle on,
// each with a magic number in the byte order of its writer.
func zfs(d *device) ([]Found, error) {
	const label = 256 << 10
	end := d.size / label * label
	for _, off := range []int64{0, label, end - 2*label, end - label} {
		b, err := d.at(off, label)
		if err != nil {
			return nil, err
		}
		if b == nil {
			continue
		}
		for u := label / 2; u < label; u += 1024 {
			if m := string(b[u : u+8]); m == "\x0c\xb1\xba\x00\x00\x00\x00\x00" || m == "\x00\x00\x00\x00\x00\xba\xb1\x0c" {
				return []Found{{"ZFS member", poolName(b[16<<10 : 128<<10])}}, nil
			}
		}
	}
	return nil, nil
}

// poolName is the string "name" in the list of a label, encoded as XDR: the
// length and text of the name, type 9, one element, its length and text.
func poolName(list []byte) string {
	_, rest, ok := bytes.Cut(list, []byte("\x00\x00\x00\x04name\x00\x00\x00\x09\x00\x00\x00\x01"))
	if !ok || len(rest) < 4 {
		return ""
	}
	n := binary.BigEndian.Uint32(rest)
	if rest = rest[4:]; n > 255 || int(n) > len(rest) {
		return ""
	}
	return clean(string(rest[:n]))
}
