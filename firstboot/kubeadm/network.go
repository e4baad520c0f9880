package kubeadm

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"text/template"

	_ "embed"
)

//go:embed flannel.yaml
var flannelTemplate string

// FlannelManifest renders the objects of flannel for a cluster.
func FlannelManifest(n Node) ([]byte, error) {
	n, err := n.complete()
	if err != nil {
		return nil, err
	}
	t, err := template.New("flannel.yaml").Parse(flannelTemplate)
	if err != nil {
		return nil, fmt.Errorf("flannel manifest: %w", err)
	}
	key := "Network"
	if n.Networks.Pods.Addr().Is6() {
		key = "IPv6Network"
	}
	conf := map[string]any{key: n.Networks.Pods.String(), "EnableNFTables": true, "Backend": map[string]string{"Type": "vxlan"}}
	if n.Networks.Pods.Addr().Is6() {
		conf["EnableIPv6"], conf["EnableIPv4"] = true, false
	}
	raw, err := json.Marshal(conf)
	if err != nil {
		return nil, fmt.Errorf("flannel manifest: %w", err)
	}
	image, err := json.Marshal(n.FlannelImage) // a JSON string is a YAML string
	if err != nil {
		return nil, fmt.Errorf("flannel manifest: %w", err)
	}
	host, port := n.apiServer()
	var out strings.Builder
	if err := t.Execute(&out, map[string]string{"Image": string(image), "NetConf": string(raw),
		"APIHost": strconv.Quote(host), "APIPort": strconv.Quote(port)}); err != nil {
		return nil, fmt.Errorf("flannel manifest: %w", err)
	}
	return []byte(out.String()), nil
}

// apiServer is where a node reaches an API server without kube-proxy: the
// endpoint of the cluster, or the only node itself.
func (n Node) apiServer() (host, port string) {
	if n.Endpoint == "" {
		return n.Address.String(), strconv.Itoa(apiPort)
	}
	if h, p, err := net.SplitHostPort(n.Endpoint); err == nil {
		return h, p
	}
	return n.Endpoint, strconv.Itoa(apiPort)
}

// guard is an nftables ruleset that keeps Service addresses on the machine.
// kube-proxy rewrites them before these chains; a packet that still has one was
// sent before kube-proxy knew the Service, and would follow the default route
// out to the site's router.
func guard(services netip.Prefix) string {
	family := "ip"
	if services.Addr().Is6() {
		family = "ip6"
	}
	return fmt.Sprintf(`table inet slipway
delete table inet slipway
table inet slipway {
  chain output {
    type filter hook output priority 0;
    %[1]s daddr %[2]s drop
  }
  chain forward {
    type filter hook forward priority 0;
    %[1]s daddr %[2]s drop
  }
}
`, family, services)
}

// CNIConfig is /etc/cni/net.d/10-flannel.conflist. It is on the host before
// kubelet starts; until flanneld has written /run/flannel/subnet.env the
// flannel plugin refuses pods, and kubelet tries again.
func CNIConfig() []byte {
	return []byte(`{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
    {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}
  ]
}
`)
}

// PodResolvConf is the resolv.conf of CoreDNS. Without a name server of the
// site it names the node itself, where nothing listens on port 53: the forward
// plugin needs at least one upstream to start, a query then ends at once with
// SERVFAIL, and none leaves the machine. (127.0.0.1 would be CoreDNS itself and
// trip its loop plugin.)
func PodResolvConf(nameservers []netip.Addr, node netip.Addr) []byte {
	if len(nameservers) == 0 {
		nameservers = []netip.Addr{node}
	}
	var b strings.Builder
	for i, a := range nameservers {
		if i == 3 { // resolv.conf(5): MAXNS
			break
		}
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	return []byte(b.String())
}
