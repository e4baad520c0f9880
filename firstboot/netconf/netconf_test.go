package netconf

import (
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"slipway.dev/slipway/configs"
)

var nics = []NIC{
	{Name: "eth0", MAC: "52:54:00:00:00:01", Driver: "virtio_net"},
	{Name: "eth1", MAC: "52:54:00:00:00:02", Driver: "e1000e"},
}

func network(t *testing.T, yaml string) *configs.Network {
	t.Helper()
	if yaml == "" {
		return nil
	}
	n, err := configs.ParseNetworkConfig("network-config", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAssign(t *testing.T) {
	for _, c := range []struct {
		name, yaml   string
		got, missing string // interface names; entries
		err          string
	}{
		{"no config: every card asks", "", "eth0 eth1", "", ""},
		{"by name of the entry", "version: 2\nethernets:\n  eth1: {dhcp4: true}\n", "eth1", "", ""},
		{"by MAC", "version: 2\nethernets:\n  lan: {match: {macaddress: '52:54:00:00:00:02'}, addresses: [192.0.2.9/24]}\n", "eth1", "", ""},
		{"by driver", "version: 2\nethernets:\n  lan: {match: {driver: virtio*}, dhcp4: true}\n", "eth0", "", ""},
		{"none fits", "version: 2\nethernets:\n  a: {match: {macaddress: '52:54:00:00:00:09'}, dhcp4: true}\n  b: {match: {name: wlan*}, dhcp4: true, optional: true}\n", "", "a b", ""},
		{"two entries want one", "version: 2\nethernets:\n  a: {match: {name: eth0}, dhcp4: true}\n  b: {match: {macaddress: '52:54:00:00:00:01'}, dhcp4: true}\n",
			"", "", `interface eth0 (52:54:00:00:00:01): both "a" and "b" of the network config match it`},
		{"one address for two", "version: 2\nethernets:\n  a: {match: {name: eth*}, addresses: [192.0.2.9/24]}\n",
			"", "", `network config "a": several interfaces match it and it has fixed addresses`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, missing, err := Assign(network(t, c.yaml), nics)
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Errorf("got %v, want %s", err, c.err)
				}
				return
			}
			var names []string
			for _, n := range nics {
				if _, ok := got[n.Name]; ok {
					names = append(names, n.Name)
				}
			}
			if err != nil || strings.Join(names, " ") != c.got || strings.Join(missing, " ") != c.missing {
				t.Errorf("got %q, missing %q, %v", names, missing, err)
			}
		})
	}
}

func TestStatic(t *testing.T) {
	n := network(t, `version: 2
ethernets:
  eth0:
    addresses: [192.0.2.10/24, 198.51.100.1/24]
    routes:
      - {to: default, via: 192.0.2.1}
      - {to: 203.0.113.0/24, via: 192.0.2.2}
    nameservers: {addresses: [192.0.2.53], search: [site.example]}
`)
	got := Static("eth0", "m", n.Ethernets["eth0"].Interface)
	if len(got) != 2 || got[0].Gateway != netip.MustParseAddr("192.0.2.1") || len(got[0].Routes) != 1 ||
		got[0].Routes[0].To.String() != "203.0.113.0/24" || got[1].Gateway.IsValid() || got[1].Prefix.String() != "198.51.100.1/24" {
		t.Errorf("got %+v", got)
	}
	if want := "search site.example\nnameserver 192.0.2.53\n"; string(Resolv(got)) != want {
		t.Errorf("got %q, want %q", Resolv(got), want)
	}
	if got := Static("eth0", "m", configs.Interface{Addressing: configs.Addressing{DHCP4: true}}); got != nil {
		t.Error("DHCP alone is static")
	}
}

func TestResolvNamesTheNodeWithoutServers(t *testing.T) {
	got := Resolv([]Address{{Prefix: netip.MustParsePrefix("192.0.2.10/24")}})
	if string(got) != "nameserver 192.0.2.10\n" {
		t.Errorf("got %q", got)
	}
}

func ack(t *testing.T, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	a, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 77)), dhcpv4.WithNetmask(net.CIDRMask(24, 32))}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestFromACK(t *testing.T) {
	no := false
	gw, other := net.IPv4(192, 0, 2, 1), net.IPv4(192, 0, 2, 254)
	_, everything, _ := net.ParseCIDR("0.0.0.0/0")
	_, lan, _ := net.ParseCIDR("198.51.100.0/24")
	router := dhcpv4.WithRouter(gw)
	dns := dhcpv4.WithDNS(net.IPv4(192, 0, 2, 53))
	name := dhcpv4.WithOption(dhcpv4.OptHostName("n7"))
	classless := dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(&dhcpv4.Route{Dest: everything, Router: other}, &dhcpv4.Route{Dest: lan, Router: gw}))
	base := Address{Interface: "eth0", MAC: nics[0].MAC, Prefix: netip.MustParsePrefix("192.0.2.77/24"), DHCP: true}
	server := []netip.Addr{netip.MustParseAddr("192.0.2.53")}
	with := func(f func(*Address)) Address { a := base; f(&a); return a }
	for _, c := range []struct {
		name string
		ack  *dhcpv4.DHCPv4
		e    configs.Interface
		want Address
	}{
		{"address only", ack(t), configs.Interface{}, base},
		{"all", ack(t, router, dns, name, dhcpv4.WithOption(dhcpv4.OptDomainName("site.example"))), configs.Interface{MTU: 9000}, with(func(a *Address) {
			a.Gateway, a.Nameservers, a.Hostname, a.Search, a.MTU = netip.MustParseAddr("192.0.2.1"), server, "n7", []string{"site.example"}, 9000
		})},
		{"option 121 hides option 3", ack(t, router, classless), configs.Interface{}, with(func(a *Address) {
			a.Gateway = netip.MustParseAddr("192.0.2.254")
			a.Routes = []configs.Route{{To: configs.Destination{Prefix: netip.MustParsePrefix("198.51.100.0/24")}, Via: netip.MustParseAddr("192.0.2.1")}}
		})},
		{"neither routes nor DNS wanted", ack(t, router, dns), configs.Interface{Addressing: configs.Addressing{DHCP4Override: configs.DHCPOverrides{UseDNS: &no, UseRoutes: &no}}}, base},
	} {
		got, err := fromACK(nics[0], c.ack, c.e)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
	if _, err := fromACK(nics[0], ack(t, dhcpv4.WithYourIP(net.IPv4zero)), configs.Interface{}); err == nil {
		t.Error("an answer without an address was accepted")
	}
}
