package netconf

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func itoa(n int) string { return strconv.Itoa(n) }

// kernelHas skips the test when this kernel cannot make an interface of a kind.
func kernelHas(t *testing.T, kind, words string) {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields("link add name try0 "+words)...).CombinedOutput()
	if err != nil {
		t.Skipf("skipped: this kernel has no %s: %s", kind, strings.TrimSpace(string(out)))
	}
	ip(t, "link del try0")
}

// details is a part of what ip -d -j link shows.
func details(t *testing.T, name, part string) map[string]any {
	t.Helper()
	link := ipJSON(t, "-d link show dev "+name)[0]
	info, _ := link["linkinfo"].(map[string]any)
	d, _ := info[part].(map[string]any)
	return d
}

func same(t *testing.T, what string, got map[string]any, want map[string]string) {
	t.Helper()
	for key, value := range want {
		b, _ := json.Marshal(got[key])
		if text := strings.Trim(string(b), `"`); text != value {
			t.Errorf("%s: %s is %s, want %s", what, key, text, value)
		}
	}
}

func TestBridgeInNamespace(t *testing.T) {
	if !isolated(t) {
		return
	}
	kernelHas(t, "bridge", "type bridge")
	h := newHost(t)
	h.cable("eth0", "p0")
	h.cable("eth1", "p1")
	h.ip("link set p0 up")
	n := boot(t, `version: 2
ethernets:
  eth0: {mtu: 1400}
  eth1: {}
bridges:
  br0:
    interfaces: [eth0, eth1]
    macaddress: "02:00:00:00:00:55"
    addresses: [192.0.2.10/24]
    parameters: {stp: true, forward-delay: 4, priority: 4096, hello-time: 1, max-age: 12, path-cost: {eth0: 50}, port-priority: {eth1: 10}}
  br1:
    addresses: [203.0.113.1/24]
    parameters: {stp: false, forward-delay: 0, ageing-time: 30s}
`, time.Minute)
	all := n.up()
	if len(all) != 2 {
		t.Errorf("got %+v", all)
	}
	same(t, "br0", details(t, "br0", "info_data"), map[string]string{"stp_state": "1", "forward_delay": "400", "priority": "4096",
		"hello_time": "100", "max_age": "1200"})
	same(t, "br1", details(t, "br1", "info_data"), map[string]string{"stp_state": "0", "forward_delay": "0", "ageing_time": "3000"})
	same(t, "eth0", details(t, "eth0", "info_slave_data"), map[string]string{"cost": "50"})
	same(t, "eth1", details(t, "eth1", "info_slave_data"), map[string]string{"priority": "10"})
	has(t, "-o link show dev eth0", "master br0 mtu 1400")
	has(t, "-o link show dev br0", "link/ether 02:00:00:00:00:55")
	has(t, "-o addr show dev br0", "inet 192.0.2.10/24")
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Equal(n.loaded, []string{"bridge", "bridge"}) {
		t.Errorf("asked for modules %q", n.loaded)
	}
}

func TestVLANInNamespace(t *testing.T) {
	if !isolated(t) {
		return
	}
	h := newHost(t)
	h.cable("eth0", "p0")
	h.ip("link set p0 up")
	kernelHas(t, "vlan", "link eth0 type vlan id 3")
	n := boot(t, `version: 2
ethernets: {eth0: {}}
vlans:
  eth0.7: {id: 7, link: eth0, addresses: [192.0.2.10/24], mtu: 1400}
  storage: {id: 8, link: eth0}
bridges:
  br0: {interfaces: [storage], addresses: [198.51.100.10/24], parameters: {stp: false, forward-delay: 0}}
`, time.Minute)
	if all := n.up(); len(all) != 2 {
		t.Errorf("got %+v", all)
	}
	same(t, "eth0.7", details(t, "eth0.7", "info_data"), map[string]string{"id": "7", "protocol": "802.1Q"})
	has(t, "-o link show dev eth0.7", "mtu 1400")
	has(t, "-o link show dev storage", "master br0")
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Contains(n.loaded, "8021q") {
		t.Errorf("asked for modules %q", n.loaded)
	}
}

func TestBondInNamespace(t *testing.T) {
	if !isolated(t) {
		return
	}
	kernelHas(t, "bond", "type bond")
	h := newHost(t)
	for _, i := range []string{"0", "1", "2", "3"} {
		h.cable("eth"+i, "p"+i)
		h.ip("link set p" + i + " up")
	}
	h.ip("link add agg type bond mode 802.3ad miimon 100 lacp_rate fast")
	for _, i := range []string{"2", "3"} {
		h.ip("link set p" + i + " down")
		h.ip("link set p" + i + " master agg")
	}
	h.ip("link set agg up")
	h.ip("addr add 198.51.100.1/24 dev agg")
	n := boot(t, `version: 2
ethernets: {eth0: {}, eth1: {}, eth2: {}, eth3: {}}
bonds:
  bond0:
    interfaces: [eth0, eth1]
    addresses: [192.0.2.10/24]
    macaddress: "02:00:00:00:00:55"
    parameters: {mode: active-backup, primary: eth1, mii-monitor-interval: 50, up-delay: 100, fail-over-mac-policy: none, primary-reselect-policy: better, gratuitous-arp: 3}
  bond1:
    interfaces: [eth2, eth3]
    addresses: [198.51.100.10/24]
    parameters: {mode: 802.3ad, lacp-rate: fast, transmit-hash-policy: layer3+4, min-links: 1, ad-select: bandwidth}
`, time.Minute)
	if all := n.up(); len(all) != 2 {
		t.Errorf("got %+v", all)
	}
	same(t, "bond0", details(t, "bond0", "info_data"), map[string]string{"mode": "active-backup", "primary": "eth1", "miimon": "50",
		"updelay": "100", "fail_over_mac": "none", "primary_reselect": "better", "num_peer_notif": "3"})
	same(t, "bond1", details(t, "bond1", "info_data"), map[string]string{"mode": "802.3ad", "miimon": "100", "ad_lacp_rate": "fast",
		"xmit_hash_policy": "layer3+4", "min_links": "1", "ad_select": "bandwidth"})
	has(t, "-o link show dev bond0", "link/ether 02:00:00:00:00:55")
	has(t, "-o link show dev eth0", "master bond0")
	has(t, "-o link show dev eth3", "master bond1")
	eventually(t, "LACP agreed on both links", func() bool {
		ad, _ := details(t, "bond1", "info_data")["ad_info"].(map[string]any)
		return ad["num_ports"] == float64(2)
	})
}
