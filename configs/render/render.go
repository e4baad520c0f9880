// Package render makes a node's config, NoCloud's files, from cluster.yaml: for
// the seed, which gives it to machines, and for a machine that is the seed itself.
//
// It chooses no machine, name or role, and holds no secret that cluster.yaml does
// not.
package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
)

// Node is what a machine becomes, with all that its config says of it.
type Node struct {
	Name     string
	Role     configs.Role
	Instance string       // instance-id
	Endpoint string       // of the API server; empty for a control plane without a name of its own
	Time     []netip.Addr // the seed, which gives time
	Rule     string       // NodeRule.Name of the rule that made it; empty or unknown: none
	Wipe     []string     // disks that the operator lets lose what they hold
	Lease    Lease        // the seed's own, zero when the address is another server's
}

// Lease is the address that the seed gave a machine by DHCP.
type Lease struct {
	MAC     string
	Address netip.Prefix
	Router  netip.Addr // zero for none
	DNS     []netip.Addr
}

// network keeps an address that goes away with the seed: a node that starts
// from its own disk has nobody to ask for it again.
func (l Lease) network() ([]byte, error) {
	e := map[string]any{"match": map[string]any{"macaddress": l.MAC}, "addresses": []string{l.Address.String()}}
	if l.Router.IsValid() {
		e["routes"] = []any{map[string]any{"to": "default", "via": l.Router.String()}}
	}
	if len(l.DNS) > 0 {
		e["nameservers"] = map[string]any{"addresses": l.DNS}
	}
	return yaml.Marshal(map[string]any{"version": 2, "ethernets": map[string]any{"lan": e}})
}

// Config makes NoCloud's files of a node. An error names the key of
// cluster.yaml.
func Config(c *configs.Cluster, n Node) (handoff.Config, error) {
	data := map[string]any{}
	raw, err := json.Marshal(c.Spec.CloudConfig) // a deep copy
	if err == nil && len(c.Spec.CloudConfig) > 0 {
		err = decodeExact(raw, &data)
	}
	if err != nil {
		return handoff.Config{}, fmt.Errorf("cluster.yaml: spec.cloudConfig: %w", err)
	}
	data["hostname"] = n.Name
	if err := addKeys(data, c.Spec.Access.SSHAuthorizedKeys); err != nil {
		return handoff.Config{}, err
	}
	if err := addTime(data, n.Time, c.Spec.Time.Servers); err != nil {
		return handoff.Config{}, err
	}
	s := map[string]any{"role": n.Role, "kubernetes": c.Spec.Networks}
	if n.Endpoint != "" {
		s["endpoint"] = n.Endpoint
	}
	if i := c.Spec.InstallOf(n.Rule); len(i.Disk) > 0 {
		i.Wipe = slices.Concat(i.Wipe, n.Wipe)
		slices.Sort(i.Wipe)
		i.Wipe = slices.Compact(i.Wipe)
		s["install"] = i
	}
	data["slipway"] = s
	user, err := yaml.Marshal(data)
	if err != nil {
		return handoff.Config{}, fmt.Errorf("cluster.yaml: spec.cloudConfig: %w", err)
	}
	user = append([]byte("#cloud-config\n"), user...)
	if _, err := configs.ParseUserData("user-data", user); err != nil {
		return handoff.Config{}, blame(err)
	}
	meta, err := yaml.Marshal(map[string]any{"instance-id": n.Instance, "local-hostname": n.Name})
	if err != nil {
		return handoff.Config{}, err
	}
	if _, err := configs.ParseMetaData("meta-data", meta); err != nil {
		return handoff.Config{}, fmt.Errorf("meta-data of %q: %w", n.Name, err)
	}
	out := handoff.Config{Name: n.Name, Files: map[string]string{"user-data": string(user), "meta-data": string(meta)}}
	if n.Lease.Address.IsValid() && s["install"] != nil {
		network, err := n.Lease.network()
		if err == nil {
			_, err = configs.ParseNetworkConfig("network-config", network)
		}
		if err != nil {
			return handoff.Config{}, fmt.Errorf("network-config of %q: %w", n.Name, err)
		}
		out.Files["network-config"] = string(network)
	}
	if size := len(user) + len(meta); size > handoff.MaxConfig/2 { // JSON doubles what it has to escape
		return handoff.Config{}, fmt.Errorf("cluster.yaml: spec.cloudConfig: a config of %d bytes, want at most %d", size, handoff.MaxConfig/2)
	}
	return out, nil
}

func decodeExact(raw []byte, out any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return d.Decode(out)
}

// addKeys gives root the site's keys. At the top of user-data they are root's
// only while root is the default user; beside another one they stand in root's
// own entry, and root is not sent to that user.
func addKeys(data map[string]any, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	if user, ok := data["user"]; !ok || userName(user) == "root" {
		list, err := anyList(data, "ssh_authorized_keys")
		if err != nil {
			return err
		}
		data["ssh_authorized_keys"] = unite(list, keys)
		return nil
	}
	if _, ok := data["disable_root"]; !ok {
		data["disable_root"] = false
	}
	users, err := anyList(data, "users")
	if err != nil {
		return err
	}
	for i, u := range users {
		if userName(u) != "root" {
			continue
		}
		m, ok := u.(map[string]any)
		if !ok {
			m = map[string]any{"name": "root"}
		}
		list, err := anyList(m, "ssh_authorized_keys")
		if err != nil {
			return fmt.Errorf("users[%d]: %w", i, err)
		}
		m["ssh_authorized_keys"] = unite(list, keys)
		users[i] = m
		data["users"] = users
		return nil
	}
	data["users"] = append(users, map[string]any{"name": "root", "ssh_authorized_keys": keys})
	return nil
}

// userName is the name in an entry of users: a mapping or the name itself.
func userName(u any) string {
	if m, ok := u.(map[string]any); ok {
		u = m["name"]
	}
	name, _ := u.(string)
	return name
}

// anyList is a list in user-data, where some lists may be written as names
// between commas.
func anyList(data map[string]any, key string) ([]any, error) {
	switch v := data[key].(type) {
	case nil:
		return nil, nil
	case []any:
		return v, nil
	case string:
		var out []any
		for item := range strings.SplitSeq(v, ",") {
			out = append(out, strings.TrimSpace(item))
		}
		return out, nil
	}
	return nil, fmt.Errorf("cluster.yaml: spec.cloudConfig.%s: want a list", key)
}

// unite puts one list behind the other, without what is there already.
func unite[A, B any](first []A, second []B) []any {
	var out []any
	add := func(v any) {
		if s, ok := v.(string); !ok || !slices.Contains(out, any(s)) {
			out = append(out, v)
		}
	}
	for _, v := range first {
		add(v)
	}
	for _, v := range second {
		add(v)
	}
	return out
}

// addTime puts the seed before the site's servers, and both before those of
// cloudConfig.
func addTime(data map[string]any, seed []netip.Addr, site []string) error {
	var servers []string
	for _, a := range seed {
		servers = append(servers, a.String())
	}
	if servers = append(servers, site...); len(servers) == 0 {
		return nil
	}
	ntp, ok := data["ntp"].(map[string]any)
	if !ok && data["ntp"] != nil {
		return errors.New("cluster.yaml: spec.cloudConfig.ntp: want a mapping")
	}
	ntp = maps.Clone(ntp)
	if ntp == nil {
		ntp = map[string]any{}
	}
	list, err := anyList(ntp, "servers")
	if err != nil {
		return err
	}
	ntp["servers"] = unite(servers, list) // chrony takes them in this order
	data["ntp"] = ntp
	return nil
}

// blame says in which key of cluster.yaml a problem of user-data was written.
func blame(err error) error {
	var all configs.Problems
	if !errors.As(err, &all) {
		return fmt.Errorf("cluster.yaml: spec.cloudConfig: %w", err)
	}
	var out []string
	for _, p := range all {
		key := "spec.cloudConfig." + p.Path
		top, _, _ := strings.Cut(p.Path, ".")
		switch {
		case p.Path == "":
			key = "spec.cloudConfig"
		case strings.HasPrefix(p.Path, "slipway.kubernetes"):
			key = "spec.networks" + strings.TrimPrefix(p.Path, "slipway.kubernetes")
		case strings.HasPrefix(p.Path, "slipway.install"):
			key = "spec.install" + strings.TrimPrefix(p.Path, "slipway.install")
		case p.Path == "slipway.endpoint":
			key = "spec.endpoint"
		case p.Path == "slipway.role":
			key = "spec.nodes"
		case top == "hostname":
			key = "spec.nodes: name"
		}
		text := fmt.Sprintf("cluster.yaml: %s: %s", key, p.Message)
		if p.Hint != "" {
			text += "\n  hint: " + p.Hint
		}
		out = append(out, text)
	}
	return errors.New(strings.Join(out, "\n"))
}

// TryAll renders a config for every rule, so that a cluster.yaml that cannot
// work is refused before a machine waits for it.
func TryAll(c *configs.Cluster, seed []netip.Addr) error {
	var bad []error
	for _, r := range c.Spec.Nodes {
		n := Node{Name: strings.ReplaceAll(r.Name, "{n}", "1"), Role: r.Role, Rule: r.Name, Instance: "try", Endpoint: c.Spec.Endpoint, Time: seed}
		if n.Endpoint == "" && r.Role == configs.RoleWorker {
			n.Endpoint = "192.0.2.1"
		}
		if _, err := Config(c, n); err != nil && !slices.ContainsFunc(bad, func(b error) bool { return b.Error() == err.Error() }) {
			bad = append(bad, err)
		}
	}
	return errors.Join(bad...)
}
