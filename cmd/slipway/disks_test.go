package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
)

// hall gives the machine that waits, cp-2, disks of every kind.
func hall(m *seed.Machine) {
	facts := *m.Facts
	facts.Disks = []handoff.Disk{
		{Name: "nvme0n1", Size: 1920383410176, Model: "SAMSUNG MZQL21T9HCJR", Serial: "S64GNE0R1", WWN: "eui.36344730", Type: "nvme",
			Holds: []string{"a partition table (gpt)", `nvme0n1p1: vfat "EFI"`, `nvme0n1p2: LVM physical volume "vg0"`}},
		{Name: "sda", Also: "sdc", Size: 480103981056, Model: "INTEL SSDSC2KB48", Serial: "PHYF1", WWN: "naa.55cd2e41", Type: "ssd"},
		{Name: "sdb", Size: 16008609792, Model: "Ultra\x1b[2J Fit", Type: "usb", Path: "/dev/disk/by-path/pci-0000:00:14.0-usb-0:2:1.0-scsi-0:0:0:0", Holds: []string{"xfs \"\u202edata\""}},
	}
	m.Facts = &facts
}

func TestDisks(t *testing.T) {
	d := site(t, 12)
	d.Change("cp-2", hall)
	d.Change("cp-1", func(m *seed.Machine) { m.Facts = nil })
	d.Change("worker-1", func(m *seed.Machine) { m.Facts = &handoff.Facts{} })
	const want = `NAME      SIZE        TYPE  MODEL                 SERIAL                                                       WWN           HOLDS
nvme0n1   1920.38 GB  nvme  SAMSUNG MZQL21T9HCJR  S64GNE0R1                                                    eui.36344730  a partition table (gpt)
                                                                                                                             nvme0n1p1: vfat "EFI"
                                                                                                                             nvme0n1p2: LVM physical volume "vg0"
sda, sdc  480.10 GB   ssd   INTEL SSDSC2KB48      PHYF1                                                        naa.55cd2e41  nothing
sdb       16.01 GB    usb   Ultra·[2J Fit         /dev/disk/by-path/pci-0000:00:14.0-usb-0:2:1.0-scsi-0:0:0:0  -             xfs "·data"
`
	for _, ref := range []string{"cp-2", "7k3m9q", "52-54-00-12-00-00"} {
		if code, out, e := cli(t, "disks", ref); code != 0 || out != want {
			t.Errorf("%s: %d %s\ngot:\n%s\nwant:\n%s", ref, code, e, out, want)
		}
	}
	code, out, e := cli(t, "disks", "cp-2", "-o", "json")
	var all []handoff.Disk
	if err := json.Unmarshal([]byte(out), &all); code != 0 || err != nil || len(all) != 3 || all[0].Serial != "S64GNE0R1" || !slices.Equal(all[0].Holds, []string{"a partition table (gpt)", `nvme0n1p1: vfat "EFI"`, `nvme0n1p2: LVM physical volume "vg0"`}) {
		t.Errorf("%d %s%s %v", code, out, e, err)
	}
	for _, tt := range []struct {
		line string
		code int
		want string
	}{
		{"disks worker-1", 0, "worker-1 sees no disk\n"},
		{"disks worker-1 -o json", 0, "[]"},
		{"disks cp-1", 1, "cp-1 has told nothing of its disks yet"},
		{"disks nobody", 1, `no machine is called "nobody"`},
		{"disks", 2, "takes one REF, got 0"},
		{"disks cp-1 cp-2", 2, "takes one REF, got 2"},
	} {
		code, out, e := cli(t, strings.Fields(tt.line)...)
		if code != tt.code || !strings.Contains(out+e, tt.want) {
			t.Errorf("%s: %d %s%s, want %s", tt.line, code, out, e, tt.want)
		}
	}
}

func TestApproveWipe(t *testing.T) {
	d := site(t, 12)
	d.Change("cp-2", hall)
	for _, tt := range []struct {
		line string
		code int
		want string
	}{
		{"approve 7K3-M9Q Q0W-4ZT --wipe S64GNE0R1", 2, "--wipe belongs to one machine"},
		{"approve 7K3-M9Q --wipe S*", 2, "would name any disk"},
		{"approve 7K3-M9Q --wipe true", 2, `"true" is not a disk`},
		{"approve 7K3-M9Q --wipe=", 2, "--wipe: which disk?"},
		{"approve 7K3-M9Q --wipe S64GNE0R1,,PHYF1", 2, "--wipe: which disk?"},
		{"approve 7K3-M9Q --wipe S64GNE0R2", 1, `has no disk "S64GNE0R2"`},
		{"approve 7K3-M9Q --wipe S64GNE0R1,PHYF1", 0, "cp-2 is approved"},
		{"events cp-2", 0, "approved by the operator, wiping S64GNE0R1, wiping PHYF1"},
	} {
		code, out, e := cli(t, strings.Fields(tt.line)...)
		if code != tt.code || !strings.Contains(out+e, tt.want) {
			t.Errorf("%s: %d %s%s, want %s", tt.line, code, out, e, tt.want)
		}
	}
}
