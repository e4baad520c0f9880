package enrol

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"slipway.dev/slipway/configs/handoff"
)

func TestGather(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string // "->x" makes a symbolic link
		want  handoff.Facts
	}{
		{"nothing", nil, handoff.Facts{MACs: []string{}, Firmware: "bios"}},
		{"server", map[string]string{
			"sys/class/dmi/id/sys_vendor": "ACME \x1b[2J\n", "sys/class/dmi/id/product_name": "R1\n",
			"sys/class/dmi/id/product_serial": " S-1 \n", "sys/class/dmi/id/product_uuid": "4C4C4544-AB\n",
			"sys/class/net/eth1/address": "52:54:00:00:00:02\n", "sys/class/net/eth1/device/vendor": "x",
			"sys/class/net/eth0/address": "52:54:00:00:00:01\n", "sys/class/net/eth0/device/vendor": "x",
			"sys/class/net/bond0/address": "52:54:00:00:00:09\n", "sys/class/net/ib0/address": "00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:01\n",
			"sys/class/net/ib0/device/vendor": "x", "sys/class/net/wwan0/address": "00:00:00:00:00:00\n", "sys/class/net/wwan0/device/vendor": "x",
			"proc/meminfo": "MemTotal:       4028440 kB\nMemFree: 1 kB\n", "proc/cpuinfo": "processor\t: 0\nflags: x\n\nprocessor\t: 1\n",
			"sys/firmware/efi/runtime": "x", "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": "\x06\x00\x00\x00\x01",
			"sys/block/sda/size": "2000\n", "sys/block/sda/queue/rotational": "1\n", "sys/block/sda/device": "->../../devices/pci0/ata1/host0/0:0:0:0",
			"sys/devices/pci0/ata1/host0/0:0:0:0/model": "SPIN 1T  \n", "sys/devices/pci0/ata1/host0/0:0:0:0/wwid": "naa.5000c500a1\n",
			"sys/devices/pci0/ata1/host0/0:0:0:0/vpd_pg80": "\x00\x80\x00\x08  WX-77 \xff",
			"sys/block/sdb/size":                           "4000\n", "sys/block/sdb/queue/rotational": "1\n", "sys/block/sdb/device": "->../../devices/pci0/usb1/1-1/host1",
			"sys/devices/pci0/usb1/1-1/host1/model": "Stick\n", "sys/block/nvme0n1/size": "8\n", "sys/block/nvme0n1/device/model": "N\n",
			"sys/block/nvme0n1/device/serial": "NV1\n", "sys/block/nvme0n1/wwid": "eui.01\n", "sys/block/nvme0n1/queue/rotational": "0\n",
			"sys/block/vda/size": "16\n", "sys/block/vda/device/x": "", "sys/block/vda/serial": "disk-1\n",
			"sys/block/sdc/size": "32\n", "sys/block/sdc/device/x": "", "sys/block/sdc/queue/rotational": "0\n",
			"dev/nvme0n1": "XFSB", "dev/sda": "", "dev/sdc": "", "dev/vda": strings.Repeat("\x00", 510) + "\x55\xaa",
			"sys/block/sdd/size": "0\n", "sys/block/sdd/device/x": "", "sys/block/sr0/size": "99\n", "sys/block/sr0/device/x": "", "sys/block/loop0/size": "9\n",
		}, handoff.Facts{Vendor: "ACME [2J", Product: "R1", Serial: "S-1", UUID: "4c4c4544-ab", MACs: []string{"52:54:00:00:00:01", "52:54:00:00:00:02"},
			Memory: 4028440 << 10, CPUs: 2, Firmware: "uefi-secure", Disks: []handoff.Disk{
				{Name: "nvme0n1", Size: 4096, Model: "N", Serial: "NV1", WWN: "eui.01", Type: "nvme", Holds: []string{"xfs"}},
				{Name: "sda", Size: 2000 * 512, Model: "SPIN 1T", Serial: "WX-77", WWN: "naa.5000c500a1", Type: "hdd"},
				{Name: "sdb", Size: 4000 * 512, Model: "Stick", Type: "usb", Holds: []string{"what cannot be read: no such file or directory"}},
				{Name: "sdc", Size: 32 * 512, Type: "ssd"},
				{Name: "vda", Size: 16 * 512, Serial: "disk-1", Type: "virtio", Holds: []string{"a partition table (mbr)"}}}}},
		{"board without SMBIOS", map[string]string{"sys/firmware/devicetree/base/model": "Pi 5\x00", "sys/firmware/devicetree/base/serial-number": "1000\x00"},
			handoff.Facts{Product: "Pi 5", Serial: "1000", MACs: []string{}, Firmware: "bios"}},
		{"Secure Boot off", map[string]string{"sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": "\x06\x00\x00\x00\x00",
			"sys/kernel/boot_params/data": strings.Repeat("\x00", 0x1ec) + "\x02"}, handoff.Facts{MACs: []string{}, Firmware: "uefi"}},
		{"Secure Boot on, no efivarfs", map[string]string{"sys/firmware/efi/runtime": "x",
			"sys/kernel/boot_params/data": strings.Repeat("\x00", 0x1ec) + "\x03"}, handoff.Facts{MACs: []string{}, Firmware: "uefi-secure"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for name, content := range c.files {
				name = filepath.Join(root, name)
				err := os.MkdirAll(filepath.Dir(name), 0o755)
				if to, ok := strings.CutPrefix(content, "->"); ok && err == nil {
					err = os.Symlink(to, name)
				} else if err == nil {
					err = os.WriteFile(name, []byte(content), 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			for name := range c.files { // the other end of a link
				if _, err := os.Stat(filepath.Join(root, name)); err != nil && !strings.Contains(name, "device") {
					t.Fatal(err)
				}
			}
			if got := Gather(root); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

// A machine with very many disks that all hold something fits a hello.
func TestFactsOfManyDisks(t *testing.T) {
	root := t.TempDir()
	put := func(name, content string) {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 250 {
		d := fmt.Sprintf("sd%03d", i)
		put("sys/block/"+d+"/size", "16384\n")
		put("sys/block/"+d+"/device/model", strings.Repeat("M", 16))
		put("sys/block/"+d+"/device/wwid", fmt.Sprintf("naa.%032d", i))
		put("sys/block/"+d+"/device/vpd_pg80", "\x00\x80\x00\x14"+strings.Repeat("S", 20))
		put("dev/"+d, strings.Repeat("\x00", 0x400)+strings.Repeat("\x00", 0x38)+"\x53\xef"+strings.Repeat("\x00", 0x78-0x3a)+"<\"a\"&data>+-+"+
			strings.Repeat("\x00", 4096-0x485)+"\xfc\x4e\x2b\xa9\x01"+strings.Repeat("\x00", 27)+strings.Repeat("r", 31)+"\x00")
	}
	f := Gather(root)
	raw, err := json.Marshal(handoff.Hello{Facts: f})
	if err != nil || len(f.Disks) != mostDisks || len(raw) > handoff.MaxHello*9/10 {
		t.Errorf("%d disks, %d bytes, %v", len(f.Disks), len(raw), err)
	}
	for _, d := range f.Disks {
		if len(d.Holds) == 0 {
			t.Fatalf("%s holds %q", d.Name, d.Holds)
		}
	}
	if first, last := f.Disks[0].Holds[0], f.Disks[len(f.Disks)-1].Holds[0]; first != `ext2 "<\"a\"&data>+-+"` || last != "2 things" {
		t.Errorf("%q, %q", first, last)
	}
}
