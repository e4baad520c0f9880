package boot

import (
	"reflect"
	"strings"
	"testing"
)

func TestRenderAndParseAgree(t *testing.T) {
	c := Cmdline{Config: "cidata", Until: "config", Consoles: []string{"tty0", "ttyS0"}, Extra: []string{"quiet", "iommu=pt"}}
	s := c.String()
	if s != "console=tty0 console=ttyS0 slipway.config=cidata slipway.until=config quiet iommu=pt" {
		t.Errorf("rendered %q", s)
	}
	got, err := Parse("BOOT_IMAGE=/boot/vmlinuz " + s + "\n")
	c.Extra = append([]string{"BOOT_IMAGE=/boot/vmlinuz"}, c.Extra...)
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("parsed %+v, %v\nwant   %+v", got, err, c)
	}
}

func TestUnknownArgumentIsNamed(t *testing.T) {
	if _, err := Parse("quiet slipway.confg=x"); err == nil || !strings.Contains(err.Error(), `kernel argument "slipway.confg=x": unknown`) {
		t.Errorf("got %v", err)
	}
}
