package configs

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// NTP says where time comes from.
type NTP struct {
	Enabled *bool     `json:"enabled,omitempty"` // nil is true
	Client  NTPClient `json:"ntp_client,omitempty"`
	Servers []string  `json:"servers,omitempty"` // names or addresses
	Pools   []string  `json:"pools,omitempty"`
	Peers   []string  `json:"peers,omitempty"`
	Allow   []string  `json:"allow,omitempty"` // subnets or addresses that may ask this node for the time
	Config  NTPConfig `json:"config,omitzero"`
}

// NTPClient is "auto" or "chrony", which is the same here.
type NTPClient string

func (NTPClient) words() []string { return []string{"auto", "chrony"} }

// NTPConfig is where chrony's configuration is written.
type NTPConfig struct {
	ConfPath string `json:"confpath,omitempty"` // default /etc/chrony/chrony.conf
}

func (NTPConfig) notes() map[string]note {
	return join(
		each(note{warning: true, text: "has no effect: chronyd is in the image and PID 1 starts it"}, "check_exe", "packages", "service_name"),
		each(note{text: "is a template, and slipway renders none", hint: "write servers, pools and peers, or the whole file under write_files"}, "template"),
	)
}

func (n *NTP) check(a at) {
	if n.Client != "" && n.Client != "auto" && n.Client != "chrony" {
		a.key("ntp_client").errorf("%q: the node runs chrony", string(n.Client)).Hint = "remove it"
	}
	for key, hosts := range map[string][]string{"servers": n.Servers, "pools": n.Pools, "peers": n.Peers} {
		for i, h := range hosts {
			here := a.key(key).item(i)
			here.must(h, host)
			if h == "pool.ntp.org" || strings.HasSuffix(h, ".pool.ntp.org") {
				here.warnf("%q is on the internet: a node without it gets no time from there", h)
			}
		}
	}
	for i, s := range n.Allow {
		_, err := netip.ParsePrefix(s)
		if _, addrErr := netip.ParseAddr(s); err != nil && addrErr != nil {
			a.key("allow").item(i).errorf("want a subnet such as %q, got %q", "192.0.2.0/24", s)
		}
	}
	a.key("config").key("confpath").may(n.Config.ConfPath, nodePath)
}

// Sources reports whether there is anything to take the time from.
func (n NTP) Sources() bool {
	return (n.Enabled == nil || *n.Enabled) && len(n.Servers)+len(n.Pools)+len(n.Peers) > 0
}

// CACerts adds certificates to those the node trusts.
type CACerts struct {
	RemoveDefaults bool     `json:"remove_defaults,omitempty"`
	Trusted        []string `json:"trusted,omitempty"` // each one or more PEM certificates
}

// oldCACerts is ca-certs, the old spelling of ca_certs.
type oldCACerts struct {
	CACerts
	OldRemoveDefaults bool `json:"remove-defaults,omitempty"`
}

func (CACerts) notes() map[string]note {
	return each(note{text: "an old spelling", hint: "write remove_defaults"}, "remove-defaults")
}

// takeOld moves ca-certs to where everything else looks for it.
func (u *UserData) takeOld(a at) {
	if u.OldCACerts == nil {
		return
	}
	old := a.key("ca-certs")
	if a.key("ca_certs").set() {
		old.onKey().errorf("the old spelling of ca_certs, which is there too").Hint = "write ca_certs alone"
		return
	}
	old.onKey().warnf("the old spelling of ca_certs").Hint = "write ca_certs and remove_defaults"
	u.OldCACerts.CACerts.check(old)
	u.CACerts = u.OldCACerts.CACerts
	u.CACerts.RemoveDefaults = u.CACerts.RemoveDefaults || u.OldCACerts.OldRemoveDefaults
	u.OldCACerts = nil
}

func (c CACerts) check(a at) {
	for i, text := range c.Trusted {
		a.key("trusted").item(i).must(strings.TrimSpace(text), certificates)
	}
}

// certificates checks PEM text as far as its frame.
func certificates(s string) error {
	n := 0
	for rest := []byte(s); ; n++ {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			if n == 0 || strings.Contains(string(rest), "-----") {
				return fmt.Errorf("not a PEM certificate (-----BEGIN CERTIFICATE-----)")
			}
			return nil
		}
		if b.Type != "CERTIFICATE" {
			return fmt.Errorf("want a CERTIFICATE in PEM, got a %s", b.Type)
		}
	}
}

// PowerState turns the machine off or restarts it once it is configured.
type PowerState struct {
	Mode    string `json:"mode,omitempty"` // "poweroff", "halt" or "reboot"; empty: nothing happens
	Delay   Delay  `json:"delay,omitempty"`
	Message string `json:"message,omitempty"` // shown on every console
	// Timeout is how many seconds to wait for the end of the configuration; 0 is 30.
	Timeout   int       `json:"timeout,omitempty"`
	Condition Condition `json:"condition,omitzero"`
}

// Delay is in minutes; "now" is 0.
type Delay int

// Condition decides whether a power state is entered: unless Never is set, and
// if Command is set only when it exits with 0.
type Condition struct {
	Never   bool
	Command *Command
}

func (p *PowerState) check(a at) {
	if !a.set() {
		return
	}
	if p.Mode == "" {
		a.key("mode").missing()
	}
	a.key("mode").oneOf(p.Mode, "poweroff", "halt", "reboot")
	if p.Timeout < 0 {
		a.key("timeout").errorf("want 0 or more seconds, got %d", p.Timeout)
	}
}

func (Delay) forms() []any { return []any{"", 0} }

// UnmarshalJSON reads "now", "+5", "5" or 5: minutes, as shutdown(8) does.
func (d *Delay) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "+"), 10, 31)
	if s != "now" && err != nil {
		return fmt.Errorf("want now or minutes such as +5, got %q", s)
	}
	*d = Delay(n)
	return nil
}

func (Condition) forms() []any { return []any{false, "", []string(nil)} }

// UnmarshalJSON reads true, false or a command.
func (c *Condition) UnmarshalJSON(b []byte) error {
	*c = Condition{}
	switch string(b) {
	case "true", "null":
	case "false":
		c.Never = true
	default:
		c.Command = new(Command)
		return c.Command.UnmarshalJSON(b)
	}
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (c Condition) MarshalJSON() ([]byte, error) {
	if c.Command == nil {
		return json.Marshal(!c.Never)
	}
	return json.Marshal(c.Command)
}
