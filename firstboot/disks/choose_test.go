package disks

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"slipway.dev/slipway/configs"
)

func rules(t *testing.T, text string) (r configs.DiskRules) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func machine() []Disk {
	return []Disk{
		{Name: "nvme0n1", Path: "/dev/nvme0n1", Size: 960197124096, Model: "SAMSUNG MZQL2960HCJR", Serial: "S64FNE0R1", WWN: "eui.36344630", Type: "nvme",
			ByPath: []string{"/dev/disk/by-path/pci-0000:01:00.0-nvme-1"}},
		{Name: "sda", Path: "/dev/sda", Size: 480103981056, Model: "INTEL SSDSC2KB48", Serial: "PHYF1", WWN: "naa.55cd2e41", Type: "ssd"},
		{Name: "sdb", Path: "/dev/sdb", Size: 480103981056, Model: "INTEL SSDSC2KB48", Serial: "PHYF2", WWN: "naa.55cd2e42", Type: "ssd"},
		{Name: "sdc", Path: "/dev/sdc", Size: 8001563222016, Model: "ST8000NM", Serial: "ZA1", Type: "hdd", Mounted: true},
		{Name: "sdd", Path: "/dev/sdd", Size: 16008609792, Model: "Ultra Fit", Type: "usb", ReadOnly: true},
		{Name: "sde", Path: "/dev/sde", Size: 16008609792, Model: "Ultra Fit", Serial: "4C53", Type: "usb"},
	}
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		rule, want string
		avoid      string
	}{
		{`{"type":"nvme"}`, "nvme0n1", ""},
		{`"/dev/sdb"`, "sdb", ""},
		{`"/dev/disk/by-id/wwn-0x55cd2e42"`, "sdb", ""},
		{`"/dev/disk/by-id/ata-INTEL_SSDSC2KB480G8_PHYF1"`, "sda", ""},
		{`"/dev/disk/by-path/pci-0000:01:00.0-nvme-1"`, "nvme0n1", ""},
		{`{"path":"/dev/disk/by-path/pci-0000:01:*"}`, "nvme0n1", ""},
		{`{"model":"samsung*"}`, "nvme0n1", ""},
		{`{"wwn":"0x55CD2E41"}`, "sda", ""}, {`{"wwn":"wwn-0x55cd2e4?","serial":"*2"}`, "sdb", ""}, {`{"wwn":"naa.55cd2e41"}`, "sda", ""},
		{`{"size":[">= 400GB","< 900GB"],"serial":"*F2"}`, "sdb", ""},
		{`[{"type":"virtio"},{"size":"== 960GB"}]`, "nvme0n1", ""},
		{`[{"type":"usb","serial":"4C*"},{"type":"nvme"}]`, "sde", ""},
		{`[{"type":"usb","serial":"4C*"},{"type":"nvme"}]`, "nvme0n1", "sde"}, // the boot medium is no disk to choose
		{`{"type":"ssd"}`, "2 disks fit {type ssd} equally", ""},
		{`[{"type":"ssd"},{"type":"nvme"}]`, "2 disks fit", ""},
		{`[{"type":"hdd"},{"type":"nvme"}]`, "cannot be used", ""},
		{`{"serial":"ZA1"}`, "sdc (8 TB hdd, ST8000NM, serial ZA1): fits, and is in use", ""},
		{`{"type":"usb"}`, "the disk that fits {type usb} cannot be used", "sde"},
		{`{"type":"usb"}`, "sdd (16 GB usb, Ultra Fit): fits, and is read-only", "sde"},
		{`{"type":"nvme","size":">= 1TB"}`, "nvme0n1 (960.2 GB nvme, SAMSUNG MZQL2960HCJR, serial S64FNE0R1, wwn eui.36344630): size 960.2 GB, want >= 1TB", ""},
		{`{"type":"nvme"}`, "nvme0n1 (960.2 GB nvme, SAMSUNG MZQL2960HCJR, serial S64FNE0R1, wwn eui.36344630): it is the boot medium", "nvme0n1"},
		{`[{"serial":"X"},{"wwn":"Y"}]`, "sdd (16 GB usb, Ultra Fit): rule 1: no serial, want X; rule 2: no wwn, want Y", ""},
		{`{"path":"/dev/vda"}`, "no disk fits {path /dev/vda}\n", ""},
	} {
		d, err := Choose(rules(t, c.rule), machine(), c.avoid)
		var e *ChoiceError
		switch {
		case err == nil && d.Name != c.want:
			t.Errorf("%s: %s, want %s", c.rule, d.Name, c.want)
		case err == nil:
		case !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || e.Hint() == "":
			t.Errorf("%s: %v\nwant %s", c.rule, err, c.want)
		case strings.Count(err.Error(), "\n  ") != len(machine()):
			t.Errorf("%s: not every disk is told:\n%v", c.rule, err)
		}
	}
	if _, err := Choose(rules(t, `{"type":"ssd"}`), nil); err == nil || err.Error() != "no disk fits {type ssd}: the machine has none" {
		t.Errorf("no disks: %v", err)
	}
}

func TestPartOf(t *testing.T) {
	for _, c := range []struct {
		name, disk string
		want       bool
	}{
		{"sda1", "sda", true}, {"sda12", "sda", true}, {"nvme0n1p2", "nvme0n1", true}, {"mmcblk0p1", "mmcblk0", true},
		{"sda", "sda", false}, {"sdaa", "sda", false}, {"sdab1", "sda", false}, {"nvme0n12", "nvme0n1", false}, {"nvme0n12p1", "nvme0n1", false},
		{"nvme0n1p", "nvme0n1", false}, {"mmcblk0boot0", "mmcblk0", false}, {"vda1", "vd", false}, {"", "sda", false},
	} {
		if got := PartOf(c.name, c.disk); got != c.want {
			t.Errorf("%q of %q: %t", c.name, c.disk, got)
		}
	}
}

func TestConsent(t *testing.T) {
	holds := []Holding{{Where: whole, What: "a partition table (gpt)"}, {Where: "sda1", What: `ext4 "root"`}}
	with := func(serial, wwn string, paths ...string) Disk {
		return Disk{Name: "sda", Path: "/dev/sda", Size: 480e9, Type: "ssd", Serial: serial, WWN: wwn, ByPath: paths, Holds: holds}
	}
	for _, c := range []struct {
		name string
		disk Disk
		wipe []string
		want string // "" is consent
	}{
		{"empty", Disk{Serial: "S1"}, nil, ""},
		{"serial", with("S1", "naa.5"), []string{"S0", "S1"}, ""},
		{"WWN", with("S1", "naa.5AB"), []string{"0x5ab"}, ""},
		{"WWN as udev has it", with("", "naa.5ab"), []string{"wwn-0x5ab"}, ""},
		{"by path without a name", with("", "", "/dev/disk/by-path/p"), []string{"/dev/disk/by-path/p"}, ""},
		{"nothing", with("S1", ""), nil, `sda (480 GB ssd, serial S1) holds a partition table (gpt); sda1: ext4 "root": nobody agreed to lose that; the line that does is wipe: ["S1"]`},
		{"another", with("S1", ""), []string{"S", "S11", "s1", "*", "true"}, `wipe: ["S1"]`},
		{"by path with a name", with("S1", "", "/dev/disk/by-path/p"), []string{"/dev/disk/by-path/p"}, `wipe: ["S1"]`},
		{"WWN only", with("", "naa.5"), []string{"", "naa."}, `wipe: ["naa.5"]`},
		{"path only", with("", "", "/dev/disk/by-path/p"), nil, `wipe: ["/dev/disk/by-path/p"]`},
		{"nothing to name it by", with("", ""), []string{"", "sda", "/dev/sda"}, "empty it by hand"},
	} {
		err := Consent(c.disk, c.wipe)
		var e *DataError
		if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || e.Hint() == "") {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
