package seed

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
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

// node is what a machine becomes, with all that its config says of it.
type node struct {
	Name     string
	Role     configs.Role
	Instance string       // instance-id
	Endpoint string       // of the API server; empty for a control plane without a name of its own
	Time     []netip.Addr // the seed, which gives time
}

// render makes NoCloud's files of a node. An error names the key of
// cluster.yaml.
func render(c *configs.Cluster, n node) (handoff.Config, error) {
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

// tryAll renders a config for every rule, so that a cluster.yaml that cannot
// work is refused before a machine waits for it.
func tryAll(c *configs.Cluster, seed []netip.Addr) error {
	var bad []error
	for _, r := range c.Spec.Nodes {
		n := node{Name: strings.ReplaceAll(r.Name, "{n}", "1"), Role: r.Role, Instance: "try", Endpoint: c.Spec.Endpoint, Time: seed}
		if n.Endpoint == "" && r.Role == configs.RoleWorker {
			n.Endpoint = "192.0.2.1"
		}
		if _, err := render(c, n); err != nil && !slices.ContainsFunc(bad, func(b error) bool { return b.Error() == err.Error() }) {
			bad = append(bad, err)
		}
	}
	return errors.Join(bad...)
}

// instance is the same for every fetch of one enrolment and differs for the
// next: cloud-init configures anew what has another one.
func instance(e *enrolment) string {
	s := sha256.Sum256([]byte("slipway instance\x00" + e.Machine + "\x00" + e.Key))
	return "i-" + hex.EncodeToString(s[:10])
}

// endpoint is where nodes find the API server; "" while nobody knows.
func (c *change) endpoint() string {
	if c.s.cluster.Spec.Endpoint != "" {
		return c.s.cluster.Spec.Endpoint
	}
	out := ""
	c.all(func(r *record) {
		if r.Node == selfKey && r.Role == configs.RoleControlPlane && out == "" {
			out = r.Address.String()
		}
		if e := c.peek(r.Node); r.Role == configs.RoleControlPlane && e != nil && (e.Phase == granted || e.Phase == used) && out == "" {
			out = e.Source.String()
		}
	})
	return out
}

// config is a node's config, or a text for it to show while it waits.
func (c *change) config(key string) (conf handoff.Config, wait handoff.Standing, err error) {
	e := c.peek(key)
	if e == nil || e.Phase == introduced {
		return conf, wait, errUnknown()
	}
	c.judge(key)
	switch e = c.peek(key); e.Phase {
	case revealed:
		return conf, handoff.Standing{State: "waiting", Text: "not approved yet: " + e.Reason}, nil
	case granted:
	default:
		return conf, wait, c.s.turnedDown(e)
	}
	if same, like := c.rivals(e); len(same) > 0 || len(like) > 0 && !e.Compared {
		return conf, handoff.Standing{State: "waiting", Text: double(e, append(same, like...))}, nil
	}
	n := node{Name: e.Name, Role: e.Role, Instance: instance(e), Endpoint: c.s.cluster.Spec.Endpoint, Time: c.s.o.times()}
	if n.Role == configs.RoleWorker {
		if n.Endpoint = c.endpoint(); n.Endpoint == "" {
			return conf, handoff.Standing{State: "approved", Text: fmt.Sprintf("approved as %s; waiting for a control plane to be approved", e.Name)}, nil
		}
	}
	conf, err = render(c.s.cluster, n)
	if err != nil { // its text may hold what the config holds
		c.s.log.Error("a node's config cannot be made", "node", e.Name, "machine", e.Machine)
		return conf, wait, refusal(codeConfig, "look at cluster.yaml at the seed", "the seed cannot make the config of %s", e.Name)
	}
	return conf, wait, nil
}
