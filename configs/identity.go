package configs

import (
	"fmt"
	"strings"
)

// Identity is how the node is called.
type Identity struct {
	Hostname string `json:"hostname,omitempty"` // RFC 1123, lower case
	FQDN     string `json:"fqdn,omitempty"`
	// PreserveHostname leaves an /etc/hostname that exists as it is.
	PreserveHostname bool `json:"preserve_hostname,omitempty"`
	// PreferFQDN makes the whole name, not its first part, the host name. The
	// name in the cluster stays the first part.
	PreferFQDN         bool      `json:"prefer_fqdn_over_hostname,omitempty"`
	CreateHostnameFile *bool     `json:"create_hostname_file,omitempty"` // nil is true
	ManageEtcHosts     HostsMode `json:"manage_etc_hosts,omitempty"`
}

// HostsMode is manage_etc_hosts: "true", "false" or "localhost"; empty is "false".
type HostsMode string

func (i *Identity) check(a at) {
	// HOST_NAME_MAX of Linux is 64.
	a.key("hostname").may(i.Hostname, func(s string) error { return dnsName(s, 64) })
	a.key("fqdn").may(i.FQDN, func(s string) error { return dnsName(s, 253) })
	short, _, _ := strings.Cut(i.FQDN, ".")
	if i.Hostname != "" && i.FQDN != "" && i.Hostname != short && i.Hostname != i.FQDN {
		a.key("fqdn").errorf("%q does not begin with the hostname %q", i.FQDN, i.Hostname)
	}
	if i.PreferFQDN && len(i.FQDN) > 64 {
		a.key("fqdn").errorf("%q is %d characters long, and prefer_fqdn_over_hostname makes it the host name: the limit is 64", i.FQDN, len(i.FQDN))
	}
}

func (HostsMode) forms() []any { return []any{false, ""} }

func (HostsMode) words() []string { return []string{"localhost"} }

// UnmarshalJSON reads true, false or "localhost".
func (h *HostsMode) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	if s != "true" && s != "false" && s != "localhost" {
		return fmt.Errorf("want true, false or localhost, got %q", s)
	}
	*h = HostsMode(s)
	return nil
}
