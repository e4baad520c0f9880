package firstboot

import (
	"strings"
	"testing"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/firstboot/disks"
)

// The boot medium takes itself out of the choice, and no disk whose name it
// begins with.
func TestTheBootMediumIsNotChosen(t *testing.T) {
	n := New(t.Context())
	n.User, n.Meta = &configs.UserData{}, &configs.MetaData{}
	n.User.Slipway.Install.Disk = configs.DiskRules{{Type: "ssd"}}
	n.hardware.disks = func() ([]disks.Disk, error) {
		return []disks.Disk{{Name: "sda", Type: "ssd"}, {Name: "sdab", Type: "ssd"}, {Name: "sdb", Type: "ssd"}}, nil
	}
	for _, v := range []string{"sdab", "sdab1"} {
		n.volumes = []string{v}
		_, err := n.beginInstall(t.Context())
		if codeOf(err) != "SW-DISK-CHOICE" || !strings.Contains(err.Error(), "2 disks fit {type ssd} equally") || !strings.Contains(err.Error(), "sdab (0 B ssd): it is the boot medium") {
			t.Errorf("started from %s: %v", v, err)
		}
	}
}
