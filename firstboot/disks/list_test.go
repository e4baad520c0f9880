package disks

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// tree makes files below a directory; "->x" is a symbolic link, "=n" is n bytes
// of zeros.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
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
	return root
}

const pci = "sys/devices/pci0000:00/0000:00:"

func server() map[string]string {
	identify := make([]byte, 60+512)
	copy(identify[60+2*27:], "ASSMNU G78 0VE O")
	return map[string]string{
		"sys/block/vda": "->../devices/pci0000:00/0000:00:04.0/virtio1/block/vda", pci + "04.0/virtio1/block/vda/device": "->../../../virtio1",
		pci + "04.0/virtio1/block/vda/size": "2048\n", pci + "04.0/virtio1/block/vda/serial": "disk 1\n", pci + "04.0/virtio1/block/vda/ro": "1\n", "dev/vda": strings.Repeat("\x00", 1<<20),
		"sys/block/nvme0n2": "->../devices/pci0000:00/0000:00:05.0/nvme/nvme0/nvme0n2", pci + "05.0/nvme/nvme0/nvme0n2/device": "->../../nvme0",
		pci + "05.0/nvme/nvme0/nvme0n2/size": "4096\n", pci + "05.0/nvme/nvme0/model": "N 1  \n", pci + "05.0/nvme/nvme0/serial": "NV1\n",
		pci + "05.0/nvme/nvme0/nvme0n2/wwid": "eui.01\n", pci + "05.0/nvme/nvme0/nvme0n2/queue/logical_block_size": "4096\n", "dev/nvme0n2": "x" + strings.Repeat("\x00", 2<<20-1),
		"sys/block/sda": "->../devices/pci0000:00/0000:00:1f.2/ata3/host4/target4:0:0/4:0:0:0/block/sda", pci + "1f.2/ata3/host4/target4:0:0/4:0:0:0/block/sda/device": "->../../../4:0:0:0",
		pci + "1f.2/ata3/host4/target4:0:0/4:0:0:0/block/sda/size": "8\n", pci + "1f.2/ata3/host4/target4:0:0/4:0:0:0/model": "ACME\n", pci + "1f.2/ata3/ata_port/ata3/port_no": "2\n",
		pci + "1f.2/ata3/host4/target4:0:0/4:0:0:0/vpd_pg80": "\x00\x80\x00\x08  WX-77 \xff", pci + "1f.2/ata3/host4/target4:0:0/4:0:0:0/wwid": "naa.5000c500a1\n",
		pci + "1f.2/ata3/host4/target4:0:0/4:0:0:0/vpd_pg89": string(identify), pci + "1f.2/ata3/host4/target4:0:0/4:0:0:0/block/sda/sda1/holders/dm-0": "", "dev/sda": strings.Repeat("\x00", 4096),
		"dev/disk/by-id/ata-X_WX-77": "->../../sda",
		"sys/block/sdb":              "->../devices/pci0000:00/0000:00:06.0/virtio3/host7/target7:0:2/7:0:2:0/block/sdb", pci + "06.0/virtio3/host7/target7:0:2/7:0:2:0/block/sdb/device": "->../../../7:0:2:0",
		pci + "06.0/virtio3/host7/target7:0:2/7:0:2:0/block/sdb/size": "8\n", pci + "06.0/virtio3/host7/target7:0:2/7:0:2:0/block/sdb/queue/rotational": "1\n",
		"sys/block/sdc": "->../devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2.3/1-2.3:1.0/host9/target9:0:0/9:0:0:0/block/sdc", pci + "14.0/usb1/1-2/1-2.3/1-2.3:1.0/host9/target9:0:0/9:0:0:0/block/sdc/device": "->../../../9:0:0:0",
		pci + "14.0/usb1/1-2/1-2.3/1-2.3:1.0/host9/target9:0:0/9:0:0:0/block/sdc/size": "8\n", "dev/sdc": strings.Repeat("\x00", 4096),
		// no disks
		"sys/block/sr0/size": "8\n", "sys/block/sr0/device/x": "", "sys/block/fd0/size": "8\n", "sys/block/fd0/device/x": "", "sys/block/loop0/size": "8\n", "sys/block/zram0/size": "8\n",
		"sys/block/dm-0/size": "8\n", "sys/block/md0/size": "8\n", "sys/block/nbd0/size": "0\n", "sys/block/sdd/size": "0\n", "sys/block/sdd/device/x": "",
		"sys/block/mmcblk0boot0/size": "8\n", "sys/block/mmcblk0boot0/device/x": "", "sys/block/nvme1c1n1/size": "8\n", "sys/block/nvme1c1n1/device/x": "",
		"sys/block/nvme2n1/size": "8\n", "sys/block/nvme2n1/device/x": "", "sys/block/nvme2n1/hidden": "1\n",
	}
}

func TestList(t *testing.T) {
	root := tree(t, server())
	dev := filepath.Join(root, "dev")
	got, err := List(filepath.Join(root, "sys"), dev)
	if err != nil {
		t.Fatal(err)
	}
	names := func(kind string, list ...string) (out []string) {
		for _, n := range list {
			out = append(out, "/dev/disk/"+kind+"/"+n)
		}
		return out
	}
	want := []Disk{
		{Name: "nvme0n2", Size: 2 << 20, Sector: 4096, Model: "N 1", Serial: "NV1", WWN: "eui.01", Type: "nvme", ByID: names("by-id", "nvme-N_1_NV1", "nvme-eui.01"),
			ByPath: names("by-path", "pci-0000:00:05.0-nvme-2"), Holds: []Holding{{Where: whole, What: unknown}}},
		{Name: "sda", Size: 4096, Sector: 512, Model: "SAMSUNG 870 EVO", Serial: "WX-77", WWN: "naa.5000c500a1", Type: "ssd", Mounted: true,
			ByID: names("by-id", "ata-X_WX-77", "wwn-0x5000c500a1", "scsi-35000c500a1"), ByPath: names("by-path", "pci-0000:00:1f.2-ata-2", "pci-0000:00:1f.2-ata-2.0")},
		{Name: "sdb", Size: 4096, Sector: 512, Type: "hdd", ByPath: names("by-path", "pci-0000:00:06.0-scsi-0:0:2:0"),
			Holds: []Holding{{Where: whole, What: "what cannot be read: no such file or directory"}}},
		{Name: "sdc", Size: 4096, Sector: 512, Type: "usb", ByPath: names("by-path", "pci-0000:00:14.0-usb-0:2.3:1.0-scsi-0:0:0:0")},
		{Name: "vda", Size: 1 << 20, Sector: 512, Serial: "disk 1", Type: "virtio", ReadOnly: true, ByID: names("by-id", "virtio-disk_1"), ByPath: names("by-path", "pci-0000:00:04.0", "virtio-pci-0000:00:04.0")},
	}
	for i := range want {
		want[i].Path = filepath.Join(dev, want[i].Name)
	}
	if !slices.EqualFunc(got, want, func(a, b Disk) bool { return reflect.DeepEqual(a, b) }) {
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || !reflect.DeepEqual(got[i], want[i]) {
				t.Errorf("disk %d:\ngot  %+v\nwant %+v", i, got[min(i, len(got)-1)], want[min(i, len(want)-1)])
			}
		}
	}
	if _, err := List(filepath.Join(root, "none"), dev); err == nil {
		t.Error("no sysfs is no error")
	}
}
