package configs

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Access is who may log in.
type Access struct {
	// SSHAuthorizedKeys are for the default user.
	SSHAuthorizedKeys []string `json:"ssh_authorized_keys,omitempty"`
	Users             []User   `json:"users,omitempty"`
}

// User is an account to create, or, when Default is set, the entry "default"
// that stands for the distribution's own user.
type User struct {
	Default bool `json:"-"`
	Account
	Login
}

// Account is a user's entry in the account files.
type Account struct {
	Name         string `json:"name"`
	Gecos        string `json:"gecos,omitempty"`
	UID          *int   `json:"uid,omitempty"` // nil: the next free one
	PrimaryGroup string `json:"primary_group,omitempty"`
	Groups       List   `json:"groups,omitempty"`
	Homedir      string `json:"homedir,omitempty"`
	Shell        string `json:"shell,omitempty"`
	System       bool   `json:"system,omitempty"`
	NoCreateHome bool   `json:"no_create_home,omitempty"`
}

// Login is how a user gets in and what they may do.
type Login struct {
	SSHAuthorizedKeys []string `json:"ssh_authorized_keys,omitempty"`
	LockPasswd        *bool    `json:"lock_passwd,omitempty"` // nil is true
	Passwd            string   `json:"passwd,omitempty"`      // crypt(5) hash
	Sudo              Sudo     `json:"sudo,omitempty"`
}

// List is a list of names, in YAML also one string with commas between them.
type List []string

// Sudo holds sudoers rules without the user name: "ALL=(ALL) NOPASSWD:ALL". In
// YAML it is a string, a list of strings, or false.
type Sudo []string

// userFields is a User as a mapping.
type userFields struct {
	Account
	Login
}

func (User) forms() []any { return []any{userFields{}, ""} }

func (userFields) notes() map[string]note {
	return join(
		each(note{text: "asks the internet, which a node never does", hint: "write the keys under ssh_authorized_keys"}, "ssh_import_id"),
		each(note{text: "a password in clear text is refused", hint: "make a hash with openssl passwd -6 and write it as passwd"}, "plain_text_passwd"),
		each(later(), "create_groups", "doas", "expiredate", "hashed_passwd", "inactive", "no_log_init", "no_user_group",
			"selinux_user", "snapuser", "ssh_redirect_user"),
	)
}

// UnmarshalJSON reads a mapping or "default".
func (u *User) UnmarshalJSON(b []byte) error {
	*u = User{}
	if b[0] == '"' {
		if string(b) != `"default"` {
			return fmt.Errorf("got %s: the only user written as a string is default", b)
		}
		u.Default = true
		return nil
	}
	var f userFields
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	u.Account, u.Login = f.Account, f.Login
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (u User) MarshalJSON() ([]byte, error) {
	if u.Default {
		return json.Marshal("default")
	}
	return json.Marshal(userFields{u.Account, u.Login})
}

func (List) forms() []any { return []any{[]string(nil), ""} }

// UnmarshalJSON reads a list of strings, or one string split at commas.
func (l *List) UnmarshalJSON(b []byte) error {
	var s string
	if b[0] != '"' {
		return json.Unmarshal(b, (*[]string)(l))
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*l = nil
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item == "" {
			return fmt.Errorf("%q has an empty name", s)
		}
		*l = append(*l, item)
	}
	return nil
}

func (Sudo) forms() []any { return []any{"", []string(nil), false} }

// UnmarshalJSON reads a string, a list of strings, or false.
func (s *Sudo) UnmarshalJSON(b []byte) error {
	*s = nil
	switch {
	case string(b) == "true":
		return fmt.Errorf("want a rule or false, got true")
	case string(b) == "false":
		return nil
	case b[0] == '"':
		*s = Sudo{""}
		return json.Unmarshal(b, &(*s)[0])
	}
	return json.Unmarshal(b, (*[]string)(s))
}

func (acc *Access) check(a at) {
	checkKeys(a.key("ssh_authorized_keys"), acc.SSHAuthorizedKeys)
	names := map[string]int{}
	for i, u := range acc.Users {
		here := a.key("users").item(i)
		if u.Default {
			continue
		}
		u.check(here)
		if u.Name == "" {
			continue
		}
		if j, ok := names[u.Name]; ok {
			here.key("name").errorf("%q is already users[%d]", u.Name, j)
			continue
		}
		names[u.Name] = i
	}
}

func (u *User) check(a at) {
	a.key("name").must(u.Name, accountName)
	a.key("primary_group").may(u.PrimaryGroup, accountName)
	for i, g := range u.Groups {
		place := a.key("groups")
		if place.item(i).set() {
			place = place.item(i)
		}
		place.must(g, accountName)
	}
	if u.UID != nil && (*u.UID < 0 || *u.UID > 1<<31-1) {
		a.key("uid").errorf("want 0 to %d, got %d", 1<<31-1, *u.UID)
	}
	if u.UID != nil && *u.UID == 0 && u.Name != "root" {
		a.key("uid").errorf("0 is root's")
	}
	a.key("homedir").may(u.Homedir, nodePath)
	a.key("shell").may(u.Shell, nodePath)
	// One field of passwd(5) each.
	for key, s := range map[string]string{"gecos": u.Gecos, "shell": u.Shell, "homedir": u.Homedir} {
		if strings.ContainsAny(s, ":\n") {
			a.key(key).errorf("holds a colon or a line break, which /etc/passwd cannot")
		}
	}
	if u.Passwd != "" && !matches(`[!*]|!?\$[0-9a-z]+\$[^\s:]+`, u.Passwd) {
		a.key("passwd").errorf("not a password hash").Hint = "make one with openssl passwd -6"
	}
	for _, rule := range u.Sudo {
		if strings.TrimSpace(rule) == "" || strings.Contains(rule, "\n") {
			a.key("sudo").errorf("want rules of one line each, such as %q", "ALL=(ALL) NOPASSWD:ALL")
		}
	}
	checkKeys(a.key("ssh_authorized_keys"), u.SSHAuthorizedKeys)
}

// accountName checks a user or group name as Debian's adduser takes it.
func accountName(s string) error {
	if matches(`[a-z_][a-z0-9_-]{0,30}\$?`, s) {
		return nil
	}
	return fmt.Errorf("%q is not an account name: want a lower-case letter, then letters, digits, - and _, 32 at most", s)
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
