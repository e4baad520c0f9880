package configs

import (
	"encoding/json"
	"fmt"
	"strings"
)

// UserData is the part of #cloud-config that a node understands, plus the
// top-level key slipway. The embedded sections have their keys at the top of
// the file.
type UserData struct {
	Identity
	Access
	Scripts
	Storage
	Services
	Messages
	Merging
	Slipway Slipway `json:"slipway,omitzero"`
	// Warnings names keys of cloud-init that are read but have no effect.
	Warnings []Problem `json:"-"`
}

// Services are what runs beside the cluster, and what it relies on.
type Services struct {
	NTP        NTP         `json:"ntp,omitzero"`
	CACerts    CACerts     `json:"ca_certs,omitzero"`
	OldCACerts *oldCACerts `json:"ca-certs,omitempty"` // nil after parsing: CACerts has it
	Timezone   string      `json:"timezone,omitempty"` // name below /usr/share/zoneinfo: "Europe/Berlin"
}

// Messages is the end of the configuration.
type Messages struct {
	// FinalMessage may hold $version, $timestamp, $uptime and $datasource.
	FinalMessage string     `json:"final_message,omitempty"`
	PowerState   PowerState `json:"power_state,omitzero"`
}

// Merging is how this config and vendor-data become one.
type Merging struct {
	MergeHow   MergeRules `json:"merge_how,omitempty"`
	MergeType  MergeRules `json:"merge_type,omitempty"` // the same; merge_how wins
	VendorData VendorData `json:"vendor_data,omitzero"`
}

// Scripts is what is written and run on the node.
type Scripts struct {
	WriteFiles []WriteFile `json:"write_files,omitempty"`
	BootCmd    []Command   `json:"bootcmd,omitempty"` // before anything else is applied, at every boot
	RunCmd     []Command   `json:"runcmd,omitempty"`  // once, after everything else
}

// Command is one entry of bootcmd or runcmd: a line for the shell, or argv.
// Exactly one of the two is set.
type Command struct {
	Shell string
	Argv  []string
}

// ParseUserData reads user-data strictly, fills in defaults and checks it. An
// error is a Problems with everything found. Keys of cloud-init that slipway
// does not act on yet are in Warnings; keys that need the internet are refused.
func ParseUserData(name string, data []byte) (*UserData, error) {
	d := newDocument(name, data)
	if !d.isCloudConfig() || !d.read() {
		return nil, d.err()
	}
	return d.userData()
}

// userData makes a document that was read a config.
func (d *document) userData() (*UserData, error) {
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
	u.Storage.check(a)
	u.NTP.check(a.key("ntp"))
	u.CACerts.check(a.key("ca_certs"))
	u.takeOld(a)
	a.key("timezone").may(u.Timezone, func(s string) error {
		if !matches(`[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*`, s) {
			return fmt.Errorf("%q is not a time zone, such as %q", s, "Europe/Berlin")
		}
		return nil
	})
	u.PowerState.check(a.key("power_state"))
	u.Slipway.check(a.key("slipway"))
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
