package disks

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// scsi has one disk, as it is seen at a host.
func scsi(files map[string]string, name string, host int, bus, wwid, serial string) {
	at := fmt.Sprintf("%s%s/host%d/target%d:0:0/%d:0:0:0", pci, bus, host, host, host)
	files["sys/block/"+name] = fmt.Sprintf("->../%s/block/%s", strings.TrimPrefix(at, "sys/"), name)
	files[at+"/block/"+name+"/device"] = fmt.Sprintf("->../../../%d:0:0:0", host)
	files[at+"/block/"+name+"/size"] = "8\n"
	files[at+"/model"] = "ACME\n"
	files[at+"/wwid"] = wwid + "\n"
	files[at+"/vpd_pg80"] = "\x00\x80\x00" + string(rune(len(serial))) + serial
	files["dev/"+name] = strings.Repeat("\x00", 4096)
}

// A disk with two paths is listed, chosen and named as one.
func TestTwoPaths(t *testing.T) {
	files := map[string]string{}
	scsi(files, "sda", 1, "01.0", "naa.5000c500a1", "ZA1")
	scsi(files, "sdb", 2, "02.0", "naa.5000c500b2", "ZA2")
	scsi(files, "sdc", 3, "03.0", "naa.5000c500a1", "ZA1")
	files[pci+"03.0/host3/target3:0:0/3:0:0:0/block/sdc/holders/dm-0"] = ""
	scsi(files, "sdd", 4, "04.0", "", "OLD")
	scsi(files, "sde", 5, "05.0", "", "OLD")
	// Not one, though they say so.
	scsi(files, "sdf", 6, "06.0", "naa.5000000000000001", "A")
	scsi(files, "sdg", 7, "07.0", "naa.5000000000000001", "B")
	scsi(files, "sdh", 8, "14.0/usb1/1-1/1-1:1.0", "", "0123456789")
	scsi(files, "sdi", 9, "14.0/usb1/1-2/1-2:1.0", "", "0123456789")
	scsi(files, "sdj", 10, "08.0", "", "")
	scsi(files, "sdk", 11, "09.0", "", "")
	root := tree(t, files)
	all, err := List(filepath.Join(root, "sys"), filepath.Join(root, "dev"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range all {
		got = append(got, strings.Join(append([]string{d.Name}, d.Also...), " "))
	}
	if want := []string{"sda sdc", "sdb", "sdd sde", "sdf", "sdg", "sdh", "sdi", "sdj", "sdk"}; !slices.Equal(got, want) {
		t.Fatalf("listed %q, want %q", got, want)
	}
	d := all[0]
	if !d.Mounted || !strings.HasSuffix(d.String(), ", also sdc)") {
		t.Errorf("in use by its second path: %t; it is %s", d.Mounted, d)
	}
	if want := []string{"/dev/disk/by-path/pci-0000:00:01.0-scsi-0:0:0:0", "/dev/disk/by-path/pci-0000:00:03.0-scsi-0:0:0:0"}; !reflect.DeepEqual(d.ByPath, want) {
		t.Errorf("by path %q", d.ByPath)
	}
	for name, want := range map[string]bool{"sda": true, "sda1": true, "sdc": true, "sdc2": true, "sdb": false, "sdaa": false, "sdcc1": false} {
		if d.Has(name) != want {
			t.Errorf("it has %s: %t", name, !want)
		}
	}
	all[0].Mounted = false
	for _, rule := range []string{`{"wwn":"naa.5000c500a1"}`, `{"serial":"ZA1"}`, `"/dev/sda"`, `"/dev/sdc"`, `"/dev/disk/by-path/pci-0000:00:03.0-scsi-0:0:0:0"`} {
		if d, err := Choose(rules(t, rule), all); err != nil || d.Name != "sda" {
			t.Errorf("%s: %s, %v", rule, d.Name, err)
		}
	}
}
