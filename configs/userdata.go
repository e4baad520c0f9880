package configs

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strconv"
	"strings"
)

// UserData is the part of #cloud-config that a node understands, plus the
// top-level key slipway. The embedded sections have their keys at the top of
// the file.
type UserData struct {
	Identity
	Access
	Scripts
	NTP          NTP        `json:"ntp,omitzero"`
	CACerts      CACerts    `json:"ca_certs,omitzero"`
	Timezone     string     `json:"timezone,omitempty"` // name below /usr/share/zoneinfo: "Europe/Berlin"
	FinalMessage string     `json:"final_message,omitempty"`
	PowerState   PowerState `json:"power_state,omitzero"`
	Slipway      Slipway    `json:"slipway,omitzero"`
	// Warnings names keys of cloud-init that are read but have no effect.
	Warnings []Problem `json:"-"`
}

// Identity is how the node is called.
type Identity struct {
	Hostname       string    `json:"hostname,omitempty"` // RFC 1123, lower case
	FQDN           string    `json:"fqdn,omitempty"`
	ManageEtcHosts HostsMode `json:"manage_etc_hosts,omitempty"`
}

// HostsMode is manage_etc_hosts: "true", "false" or "localhost"; empty is "false".
type HostsMode string

// Scripts is what is written and run on the node.
type Scripts struct {
	WriteFiles []WriteFile `json:"write_files,omitempty"`
	BootCmd    []Command   `json:"bootcmd,omitempty"` // before the network, at every boot
	RunCmd     []Command   `json:"runcmd,omitempty"`  // once, after everything else
}

// Command is one entry of bootcmd or runcmd: a line for the shell, or argv.
// Exactly one of the two is set.
type Command struct {
	Shell string
	Argv  []string
}

// NTP says where time comes from.
type NTP struct {
	Enabled *bool    `json:"enabled,omitempty"` // nil is true
	Servers []string `json:"servers,omitempty"` // names or addresses
	Pools   []string `json:"pools,omitempty"`
}

// CACerts adds certificates to those the node trusts.
type CACerts struct {
	RemoveDefaults bool     `json:"remove_defaults,omitempty"`
	Trusted        []string `json:"trusted,omitempty"` // each one or more PEM certificates
}

// PowerState turns the machine off or restarts it once it is configured.
type PowerState struct {
	Mode      string    `json:"mode,omitempty"` // "poweroff", "halt" or "reboot"; empty: nothing happens
	Delay     Delay     `json:"delay,omitempty"`
	Message   string    `json:"message,omitempty"`
	Timeout   int       `json:"timeout,omitempty"` // seconds to wait for the end of the configuration
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

// ParseUserData reads user-data strictly, fills in defaults and checks it. An
// error is a Problems with everything found. Keys of cloud-init that slipway
// does not act on yet are in Warnings; keys that need the internet are refused.
func ParseUserData(name string, data []byte) (*UserData, error) {
	d := newDocument(name, data)
	if !d.isCloudConfig() || !d.read() {
		return nil, d.err()
	}
	var u UserData
	if !d.decode(&u) {
		return nil, d.err()
	}
	u.Slipway.setDefaults()
	u.check(d.root())
	if err := d.err(); err != nil {
		return nil, err
	}
	u.Warnings = flat(d.warnings)
	return &u, nil
}

// isCloudConfig checks the first line, which tells cloud-init what the rest is
// (cloud-init: "User-data formats").
func (d *document) isCloudConfig() bool {
	text := strings.TrimLeft(string(d.data), " \t\r\n")
	first, _, _ := strings.Cut(text, "\n")
	first = strings.TrimSpace(first)
	if first == "#cloud-config" {
		return true
	}
	const want = `the first line must be "#cloud-config"`
	var what, hint string
	switch low := strings.ToLower(first); {
	case strings.HasPrefix(text, "\x1f\x8b"):
		what, hint = "gzip-compressed data", "store it uncompressed"
	case strings.HasPrefix(low, "#!"):
		what, hint = "a script", "put its commands under runcmd"
	case strings.HasPrefix(low, "#include"):
		what, hint = "a list of URLs, and a node reads nothing from the network but its seed", "put the included config into this file"
	case strings.HasPrefix(low, "#cloud-boothook"):
		what, hint = "a boot hook", "put its commands under bootcmd"
	case strings.HasPrefix(low, "## template:"):
		what, hint = "a template", "render it first"
	case strings.HasPrefix(low, "content-type:"), strings.HasPrefix(low, "mime-version:"):
		what, hint = "a MIME archive", "join its parts into one #cloud-config"
	case strings.HasPrefix(low, "#cloud-config-"), strings.HasPrefix(low, "#part-handler"), strings.HasPrefix(low, "#upstart-job"):
		what = fmt.Sprintf("a %q part", first)
	case text == "":
		what = "an empty file"
	default:
		what = fmt.Sprintf("%.40q", first)
	}
	d.fail(1, 1, "%s; this is %s", want, what).Hint = hint
	return false
}

func (u *UserData) check(a at) {
	u.Identity.check(a)
	u.Access.check(a)
	u.Scripts.check(a)
	u.NTP.check(a.key("ntp"))
	for i, c := range u.CACerts.Trusted {
		a.key("ca_certs").key("trusted").item(i).must(strings.TrimSpace(c), certificates)
	}
	a.key("timezone").may(u.Timezone, func(s string) error {
		if !matches(`[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*`, s) {
			return fmt.Errorf("%q is not a time zone, such as %q", s, "Europe/Berlin")
		}
		return nil
	})
	u.PowerState.check(a.key("power_state"))
	u.Slipway.check(a.key("slipway"))
}

func (i *Identity) check(a at) {
	// HOST_NAME_MAX of Linux is 64.
	a.key("hostname").may(i.Hostname, func(s string) error { return dnsName(s, 64) })
	a.key("fqdn").may(i.FQDN, func(s string) error { return dnsName(s, 253) })
	short, _, _ := strings.Cut(i.FQDN, ".")
	if i.Hostname != "" && i.FQDN != "" && i.Hostname != short && i.Hostname != i.FQDN {
		a.key("fqdn").errorf("%q does not begin with the hostname %q", i.FQDN, i.Hostname)
	}
}

func (HostsMode) forms() []any { return []any{false, ""} }

// UnmarshalJSON reads true, false or "localhost".
func (h *HostsMode) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	if s != "true" && s != "false" && s != "localhost" {
		return fmt.Errorf("want true, false or localhost, got %q", s)
	}
	*h = HostsMode(s)
	return nil
}

func (s *Scripts) check(a at) {
	at := map[string]int{}
	for i, f := range s.WriteFiles {
		here := a.key("write_files").item(i)
		f.check(here)
		if j, ok := at[f.Path]; ok && f.Path != "" && !f.Append {
			here.key("path").errorf("%q is already written by write_files[%d]", f.Path, j).Hint = "set append: true to add to it"
		} else if !ok {
			at[f.Path] = i
		}
	}
}

func (Command) forms() []any { return []any{"", []string(nil)} }

// UnmarshalJSON reads a string or a list of strings.
func (c *Command) UnmarshalJSON(b []byte) error {
	*c = Command{}
	if string(b) == "null" {
		return nil
	}
	if b[0] == '"' {
		if err := json.Unmarshal(b, &c.Shell); err != nil {
			return err
		}
		if strings.TrimSpace(c.Shell) == "" {
			return fmt.Errorf("an empty command")
		}
		return nil
	}
	if err := json.Unmarshal(b, &c.Argv); err != nil {
		return err
	}
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return fmt.Errorf("an empty command")
	}
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (c Command) MarshalJSON() ([]byte, error) {
	if c.Argv != nil {
		return json.Marshal(c.Argv)
	}
	return json.Marshal(c.Shell)
}

func (NTP) notes() map[string]note {
	return each(later(), "allow", "config", "ntp_client", "peers")
}

func (n *NTP) check(a at) {
	for key, hosts := range map[string][]string{"servers": n.Servers, "pools": n.Pools} {
		for i, h := range hosts {
			here := a.key(key).item(i)
			here.must(h, host)
			if h == "pool.ntp.org" || strings.HasSuffix(h, ".pool.ntp.org") {
				here.warnf("%q is on the internet: a node without it gets no time from there", h)
			}
		}
	}
}

func (CACerts) notes() map[string]note {
	return each(note{text: "an old spelling", hint: "write remove_defaults"}, "remove-defaults")
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
