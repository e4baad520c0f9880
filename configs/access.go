package configs

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Access is who may log in.
type Access struct {
	// SSHAuthorizedKeys are for the default user.
	SSHAuthorizedKeys []string `json:"ssh_authorized_keys,omitempty"`
	// User replaces the default user, which is root.
	User     *DefaultUser `json:"user,omitempty"`
	Users    UserList     `json:"users,omitempty"`
	Groups   GroupList    `json:"groups,omitempty"`
	Password string       `json:"password,omitempty"` // of the default user: clear text or a crypt(5) hash
	ChPasswd ChPasswd     `json:"chpasswd,omitzero"`
	SSHServer
}

// SSHServer is how sshd is set up.
type SSHServer struct {
	SSHKeys        HostKeys `json:"ssh_keys,omitzero"`
	SSHDeleteKeys  *bool    `json:"ssh_deletekeys,omitempty"` // nil is true: host keys that came with an image are removed
	SSHGenKeyTypes []string `json:"ssh_genkeytypes,omitempty"`
	SSHPwAuth      PwAuth   `json:"ssh_pwauth,omitempty"`
	// DisableRoot lets root's keys say who to log in as instead, unless root
	// is the default user. nil is true.
	DisableRoot     *bool  `json:"disable_root,omitempty"`
	DisableRootOpts string `json:"disable_root_opts,omitempty"` // in place of the built-in options of authorized_keys
}

// HostKeys are host keys made elsewhere, in OpenSSH's text forms.
type HostKeys struct {
	RSAPrivate         string `json:"rsa_private,omitempty"`
	RSAPublic          string `json:"rsa_public,omitempty"`
	RSACertificate     string `json:"rsa_certificate,omitempty"`
	ECDSAPrivate       string `json:"ecdsa_private,omitempty"`
	ECDSAPublic        string `json:"ecdsa_public,omitempty"`
	ECDSACertificate   string `json:"ecdsa_certificate,omitempty"`
	ED25519Private     string `json:"ed25519_private,omitempty"`
	ED25519Public      string `json:"ed25519_public,omitempty"`
	ED25519Certificate string `json:"ed25519_certificate,omitempty"`
}

// HostKey is one of them. Public and Certificate may be empty.
type HostKey struct {
	Type                         string // "rsa", "ecdsa" or "ed25519"
	Private, Public, Certificate string
}

// List returns the given keys; a type without a private key is left out.
func (k HostKeys) List() []HostKey {
	return slices.DeleteFunc([]HostKey{
		{"rsa", k.RSAPrivate, k.RSAPublic, k.RSACertificate},
		{"ecdsa", k.ECDSAPrivate, k.ECDSAPublic, k.ECDSACertificate},
		{"ed25519", k.ED25519Private, k.ED25519Public, k.ED25519Certificate},
	}, func(h HostKey) bool { return h.Private == "" })
}

func (HostKeys) notes() map[string]note {
	return each(note{text: "OpenSSH reads DSA keys no more", hint: "give an ed25519 key"}, "dsa_private", "dsa_public", "dsa_certificate")
}

func (k HostKeys) check(a at) {
	for key, text := range map[string]string{"rsa": k.RSAPrivate, "ecdsa": k.ECDSAPrivate, "ed25519": k.ED25519Private} {
		here := a.key(key + "_private")
		if b, _ := pem.Decode([]byte(text)); text != "" && (b == nil || !strings.HasSuffix(b.Type, "PRIVATE KEY")) {
			here.errorf("not a private key (-----BEGIN OPENSSH PRIVATE KEY-----)")
		}
		for _, part := range []string{"_public", "_certificate"} {
			if text == "" && a.key(key+part).set() {
				a.key(key+part).errorf("there is no %s_private to it", key)
			}
		}
	}
	for key, text := range map[string]string{"rsa": k.RSAPublic, "ecdsa": k.ECDSAPublic, "ed25519": k.ED25519Public} {
		a.key(key+"_public").may(strings.TrimSpace(text), sshKey)
	}
}

// PwAuth is ssh_pwauth: "true", "false" or "unchanged"; empty is "unchanged".
type PwAuth string

func (PwAuth) forms() []any { return []any{false, ""} }

func (PwAuth) words() []string { return []string{"unchanged", "yes", "no"} }

// UnmarshalJSON reads true, false, "yes", "no" or "unchanged".
func (p *PwAuth) UnmarshalJSON(b []byte) error {
	switch s := strings.Trim(strings.ToLower(string(b)), `"`); s {
	case "true", "yes", "on", "1":
		*p = "true"
	case "false", "no", "off", "0":
		*p = "false"
	case "unchanged":
		*p = "unchanged"
	default:
		return fmt.Errorf("want true, false or unchanged, got %q", s)
	}
	return nil
}

// Group is a group to make; its members may exist already or be in users.
type Group struct {
	Name    string   `json:"name"`
	Members []string `json:"members,omitempty"`
}

// GroupList is groups: in YAML "a,b", a list of names and of mappings from name
// to members, or one such mapping.
type GroupList []Group

type groupItem []Group

func (GroupList) forms() []any { return []any{"", []groupItem(nil), map[string]List(nil)} }

func (groupItem) forms() []any { return []any{"", map[string]List(nil)} }

// UnmarshalJSON reads all forms; mappings are taken in the order of their keys.
func (g *GroupList) UnmarshalJSON(b []byte) error {
	*g = nil
	if b[0] != '[' {
		return (*groupItem)(g).UnmarshalJSON(b)
	}
	var items []groupItem
	if err := json.Unmarshal(b, &items); err != nil {
		return err
	}
	for _, i := range items {
		*g = append(*g, i...)
	}
	return nil
}

func (g *groupItem) UnmarshalJSON(b []byte) error {
	*g = nil
	if b[0] == '"' {
		var names List
		if err := names.UnmarshalJSON(b); err != nil {
			return err
		}
		for _, n := range names {
			*g = append(*g, Group{Name: n})
		}
		return nil
	}
	var m map[string]List
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	for _, n := range slices.Sorted(maps.Keys(m)) {
		*g = append(*g, Group{n, m[n]})
	}
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (g GroupList) MarshalJSON() ([]byte, error) {
	items := []any{}
	for _, one := range g {
		if len(one.Members) == 0 {
			items = append(items, one.Name)
		} else {
			items = append(items, map[string][]string{one.Name: one.Members})
		}
	}
	return json.Marshal(items)
}

// ChPasswd sets passwords of accounts that exist by then.
type ChPasswd struct {
	Expire *bool           `json:"expire,omitempty"` // nil is true: to be changed at the first login
	Users  []PasswordEntry `json:"users,omitempty"`
	List   PasswordLines   `json:"list,omitempty"` // the old form, "name:password"
}

// PasswordEntry is one password.
type PasswordEntry struct {
	Name     string       `json:"name"`
	Password string       `json:"password,omitempty"`
	Type     PasswordType `json:"type,omitempty"` // empty is "hash"
}

// PasswordType says how a password is written: "hash" as in crypt(5), "text" in clear.
type PasswordType string

func (PasswordType) words() []string { return []string{"hash", "text"} }

// PasswordLines are "name:password" each; in YAML a list, or text with lines.
type PasswordLines []string

func (PasswordLines) forms() []any { return []any{[]string(nil), ""} }

// UnmarshalJSON reads a list of strings or one string of lines.
func (p *PasswordLines) UnmarshalJSON(b []byte) error {
	var s string
	if b[0] != '"' {
		return json.Unmarshal(b, (*[]string)(p))
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*p = nil
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); l != "" {
			*p = append(*p, l)
		}
	}
	return nil
}

// Entries joins both forms: passwords of the old one are hashes when they look
// like one that cloud-init takes for it.
func (c ChPasswd) Entries() []PasswordEntry {
	all := slices.Clone(c.Users)
	for _, l := range c.List {
		name, password, _ := strings.Cut(l, ":")
		e := PasswordEntry{name, password, "text"}
		if isHash(password) {
			e.Type = "hash"
		}
		all = append(all, e)
	}
	return all
}

// isHash reports whether a password is in a form of crypt(5): $id$...
func isHash(s string) bool { return matches(`\$(1|2[aby]|5|6|7|y|gy)\$[^\s:]+\$[^\s:]+`, s) }

const random = "a random password would have to be shown on the console, where anyone can read it"

func (c ChPasswd) check(a at) {
	for i, e := range c.Users {
		here := a.key("users").item(i)
		here.key("name").must(e.Name, accountName)
		if e.Type == "RANDOM" {
			here.key("type").errorf("%s", random).Hint = "write a hash made with openssl passwd -6"
			continue
		}
		here.key("type").oneOf(string(e.Type), "hash", "text")
		pass := here.key("password")
		switch {
		case e.Password == "":
			pass.missing()
		case e.Type == "text":
			pass.clearText(e.Password)
		case !isHash(e.Password):
			pass.errorf("not a password hash").Hint = "make one with openssl passwd -6, or write type: text"
		}
	}
	for i, l := range c.List {
		here := a.key("list")
		if here.item(i).set() {
			here = here.item(i)
		}
		name, password, ok := strings.Cut(l, ":")
		switch {
		case !ok || password == "":
			here.errorf("want name:password on each line") // the line may be a password: not repeated
		case password == "R" || password == "RANDOM":
			here.errorf("%s: %s", name, random).Hint = "write a hash made with openssl passwd -6"
		default:
			here.must(name, accountName)
			if !isHash(password) {
				here.clearText(password)
			}
		}
	}
}

// clearText checks a password that is not a hash, and never repeats it.
func (a at) clearText(s string) {
	if strings.ContainsAny(s, "\n\x00") {
		a.errorf("a password of more than one line")
		return
	}
	a.warnf("a password in clear text, readable by everyone who sees this file").Hint = "write a hash made with openssl passwd -6"
}

func (acc *Access) check(a at) {
	checkKeys(a.key("ssh_authorized_keys"), acc.SSHAuthorizedKeys)
	acc.checkUsers(a)
	seen := map[string]bool{}
	for _, g := range acc.Groups {
		here := a.key("groups")
		here.must(g.Name, accountName)
		if seen[g.Name] {
			here.errorf("%q is there twice", g.Name)
		}
		seen[g.Name] = true
		for _, m := range g.Members {
			here.may(m, accountName)
		}
	}
	if acc.Password != "" && !isHash(acc.Password) {
		a.key("password").clearText(acc.Password)
	}
	acc.ChPasswd.check(a.key("chpasswd"))
	acc.SSHKeys.check(a.key("ssh_keys"))
	for i, t := range acc.SSHGenKeyTypes {
		a.key("ssh_genkeytypes").item(i).oneOf(t, "ed25519", "ecdsa", "rsa")
	}
	if strings.ContainsAny(acc.DisableRootOpts, "\r\n") {
		a.key("disable_root_opts").errorf("more than one line")
	}
}

func checkKeys(a at, keys []string) {
	for i, k := range keys {
		a.item(i).must(strings.TrimSpace(k), sshKey)
	}
}

// sshKey checks one line of authorized_keys (sshd(8)): options, a key type, the
// key, which repeats its type (RFC 4253 section 6.6), a comment. The error
// does not repeat the line, which may be a private key.
func sshKey(s string) error {
	switch {
	case strings.Contains(s, "PRIVATE KEY"):
		return fmt.Errorf("this is a private key: write the public one, from the file that ends in .pub")
	case strings.ContainsAny(s, "\r\n"):
		return fmt.Errorf("more than one line: want one key per list item")
	}
	types := []string{"ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
		"sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"}
	fields := strings.Fields(s)
	for i, f := range fields {
		if !slices.Contains(types, f) {
			continue
		}
		if i+1 == len(fields) {
			return fmt.Errorf("no key after %q", f)
		}
		blob, err := base64.StdEncoding.DecodeString(fields[i+1])
		parts := wireStrings(blob)
		if err != nil || len(parts) < 2 || string(parts[0]) != f {
			return fmt.Errorf("damaged %s key: copied in part?", f)
		}
		return nil
	}
	return fmt.Errorf("not an SSH public key: want a line such as %q", "ssh-ed25519 AAAA... name")
}

// wireStrings splits a key into its strings, each after its length in four
// bytes (RFC 4251 section 5); nil when the lengths do not add up.
func wireStrings(b []byte) (parts [][]byte) {
	for len(b) > 0 {
		if len(b) < 4 || uint64(len(b)-4) < uint64(binary.BigEndian.Uint32(b)) {
			return nil
		}
		n := binary.BigEndian.Uint32(b)
		parts, b = append(parts, b[4:4+n]), b[4+n:]
	}
	return parts
}
