package serve

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"slipway.dev/slipway/configs"
)

func TestNetworkOfTheFullServer(t *testing.T) {
	addr := netip.MustParseAddr
	for _, c := range []struct {
		name, self string
		spec       configs.SeedDHCP
		want, err  string // "first-last router"
	}{
		{"a /24", "192.168.50.1/24", configs.SeedDHCP{Subnet: netip.MustParsePrefix("192.168.50.0/24")}, "192.168.50.128-192.168.50.254 192.168.50.1", ""},
		{"a /29", "10.0.0.1/29", configs.SeedDHCP{Subnet: netip.MustParsePrefix("10.0.0.0/29")}, "10.0.0.4-10.0.0.6 10.0.0.1", ""},
		{"a /12 keeps to its end", "10.16.0.1/12", configs.SeedDHCP{Subnet: netip.MustParsePrefix("10.16.0.0/12")}, "10.31.0.0-10.31.255.254 10.16.0.1", ""},
		{"its own range and router", "10.0.0.1/24", configs.SeedDHCP{Subnet: netip.MustParsePrefix("10.0.0.0/24"), First: addr("10.0.0.10"), Last: addr("10.0.0.20"), Router: addr("10.0.0.254")},
			"10.0.0.10-10.0.0.20 10.0.0.254", ""},
		{"another subnet", "10.0.1.1/24", configs.SeedDHCP{Subnet: netip.MustParsePrefix("10.0.0.0/24")}, "", "spec.seed.dhcp.subnet 10.0.0.0/24: the seed's address on lan0 is 10.0.1.1/24"},
		{"its address is in the upper half", "10.0.0.200/24", configs.SeedDHCP{Subnet: netip.MustParsePrefix("10.0.0.0/24")}, "10.0.0.128-10.0.0.199 10.0.0.200", ""},
		{"the site's router is the last", "10.0.0.1/24", configs.SeedDHCP{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Router: addr("10.0.0.254"), DNS: []netip.Addr{addr("10.0.0.130"), addr("192.0.2.1")}},
			"10.0.0.131-10.0.0.253 10.0.0.254", ""},
		{"inside its own range", "10.0.0.200/24", configs.SeedDHCP{Subnet: netip.MustParsePrefix("10.0.0.0/24"), First: addr("10.0.0.128"), Last: addr("10.0.0.254")}, "", "the seed's address 10.0.0.200 is inside the range 10.0.0.128 to 10.0.0.254"},
		{"no room", "10.0.0.2/30", configs.SeedDHCP{Subnet: netip.MustParsePrefix("10.0.0.0/30")}, "", "the seed's address 10.0.0.2 is inside the range 10.0.0.2 to 10.0.0.2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := network(Wire{Name: "lan0", Addr: netip.MustParsePrefix(c.self)}, c.spec)
			if c.err != "" {
				var h *HintedError
				if err == nil || !strings.Contains(err.Error(), c.err) || !errors.As(err, &h) || h.Hint() == "" {
					t.Errorf("got %v, want %q with a next step", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := n.First.String() + "-" + n.Last.String() + " " + n.Router.String(); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestNothingIsGuessedAmongInterfaces(t *testing.T) {
	_, err := FindWire("nowhere0")
	var h *HintedError
	if err == nil || !strings.Contains(err.Error(), `interface "nowhere0"`) || !errors.As(err, &h) || !strings.Contains(h.Hint(), "interfaces here: ") {
		t.Errorf("got %v", err)
	}
	if _, err := FindWire("lo"); err == nil || !strings.Contains(err.Error(), "is not Ethernet") {
		t.Errorf("loopback: %v", err)
	}
}
