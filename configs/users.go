package configs

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// User is an account to create, or, when Default is set, the entry "default"
// that stands for the default user.
type User struct {
	Default bool `json:"-"`
	Account
	Home
	Login
}

// Account is a user's entry in the account files.
type Account struct {
	Name         string `json:"name"`
	Gecos        string `json:"gecos,omitempty"`
	UID          *ID    `json:"uid,omitempty"` // nil: the next free one
	PrimaryGroup string `json:"primary_group,omitempty"`
	Groups       List   `json:"groups,omitempty"`
	CreateGroups *bool  `json:"create_groups,omitempty"` // nil is true
	NoUserGroup  bool   `json:"no_user_group,omitempty"` // the primary group is users
	System       bool   `json:"system,omitempty"`
}

// Home is where a user starts.
type Home struct {
	Homedir      string `json:"homedir,omitempty"` // default /home/<name>
	Shell        string `json:"shell,omitempty"`   // default /bin/bash
	NoCreateHome bool   `json:"no_create_home,omitempty"`
	NoLogInit    bool   `json:"no_log_init,omitempty"` // nothing to do: the node keeps no lastlog
}

// Login is how a user gets in and what they may do.
type Login struct {
	SSHAuthorizedKeys []string `json:"ssh_authorized_keys,omitempty"`
	LockPasswd        *bool    `json:"lock_passwd,omitempty"`   // nil is true
	Passwd            string   `json:"passwd,omitempty"`        // crypt(5) hash, for a new account
	HashedPasswd      string   `json:"hashed_passwd,omitempty"` // the same, for one that exists too
	PlainTextPasswd   string   `json:"plain_text_passwd,omitempty"`
	ExpireDate        Date     `json:"expiredate,omitempty"`
	Inactive          *ID      `json:"inactive,omitempty"` // days after a password expired
	Sudo              Sudo     `json:"sudo,omitempty"`
	Doas              []string `json:"doas,omitempty"` // lines of doas.conf(5)
}

// DefaultUser is the top-level key user: a name, or all that a user has.
type DefaultUser User

// ID is a number that YAML may also write as a string.
type ID int

// Date is a day as "2030-12-31".
type Date string

// List is a list of names, in YAML also one string with commas between them.
type List []string

// UserList is users; in YAML also one string with names between commas.
type UserList []User

// Sudo holds sudoers rules without the user name: "ALL=(ALL) NOPASSWD:ALL". In
// YAML it is a string, a list of strings, or false.
type Sudo []string

// userFields is a User as a mapping.
type userFields struct {
	Account
	Home
	Login
}

func (User) forms() []any { return []any{userFields{}, ""} }

func (DefaultUser) forms() []any { return []any{userFields{}, ""} }

func (UserList) forms() []any { return []any{[]User(nil), ""} }

func (userFields) notes() map[string]note {
	return join(
		each(note{text: "asks the internet, which a node never does", hint: "write the keys under ssh_authorized_keys"}, "ssh_import_id", "snapuser"),
		each(note{warning: true, text: "has no effect: the node runs no SELinux"}, "selinux_user"),
		each(note{text: "is not done: nobody is sent from one account to another", hint: "give the user ssh_authorized_keys, or leave the user out"}, "ssh_redirect_user"),
	)
}

// UnmarshalJSON reads a mapping, "default", or "name" for an account with
// nothing but defaults.
func (u *User) UnmarshalJSON(b []byte) error {
	*u = User{}
	if b[0] == '"' {
		if err := json.Unmarshal(b, &u.Name); err != nil {
			return err
		}
		if u.Name == "default" {
			*u = User{Default: true}
		}
		return nil
	}
	var f userFields
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	u.Account, u.Home, u.Login = f.Account, f.Home, f.Login
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (u User) MarshalJSON() ([]byte, error) {
	if u.Default {
		return json.Marshal("default")
	}
	return json.Marshal(userFields{u.Account, u.Home, u.Login})
}

// UnmarshalJSON reads a mapping or a name.
func (u *DefaultUser) UnmarshalJSON(b []byte) error { return (*User)(u).UnmarshalJSON(b) }

// MarshalJSON writes what UnmarshalJSON reads.
func (u DefaultUser) MarshalJSON() ([]byte, error) { return User(u).MarshalJSON() }

// UnmarshalJSON reads a list, or one string split at commas.
func (l *UserList) UnmarshalJSON(b []byte) error {
	if b[0] != '"' {
		return json.Unmarshal(b, (*[]User)(l))
	}
	var names List
	if err := names.UnmarshalJSON(b); err != nil {
		return err
	}
	*l = nil
	for _, n := range names {
		u := User{Default: n == "default"}
		if !u.Default {
			u.Name = n
		}
		*l = append(*l, u)
	}
	return nil
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

func (ID) forms() []any { return []any{0, ""} }

// UnmarshalJSON reads a number or a string of digits.
func (n *ID) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	i, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return fmt.Errorf("want a whole number up to %d, got %q", 1<<31-1, s)
	}
	*n = ID(i)
	return nil
}

// Days counts from 1970-01-01, as shadow(5) does; "" is none.
func (d Date) Days() (days int, ok bool) {
	t, err := time.Parse(time.DateOnly, string(d))
	if err != nil {
		return 0, false
	}
	return int(t.Unix() / 86400), true
}

// DefaultName is the name of the default user: root unless user names another.
func (acc *Access) DefaultName() string {
	if acc.User != nil && acc.User.Name != "" {
		return acc.User.Name
	}
	return "root"
}

func (acc *Access) checkUsers(a at) {
	if acc.User != nil {
		u := User(*acc.User)
		u.check(a.key("user"))
	}
	names := map[string]int{}
	for i, u := range acc.Users {
		here := a.key("users").item(i)
		if u.Default {
			continue
		}
		if !here.set() { // users: "a,b"
			here = a.key("users")
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
	if a.text() == u.Name && u.Name != "" && !a.key("name").set() {
		a.must(u.Name, accountName)
		if accountName(u.Name) == nil && suggest(u.Name, []string{"default"}) != "" {
			a.errorf("%q: did you mean %q?", u.Name, "default").Hint = "write {name: " + u.Name + "} if that is the name"
		}
	} else {
		a.key("name").must(u.Name, accountName)
	}
	a.key("primary_group").may(u.PrimaryGroup, accountName)
	for i, g := range u.Groups {
		place := a.key("groups")
		if place.item(i).set() {
			place = place.item(i)
		}
		place.must(g, accountName)
	}
	if u.UID != nil && *u.UID < 0 {
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
	if u.PrimaryGroup != "" && u.NoUserGroup {
		a.key("no_user_group").warnf("has no effect beside primary_group")
	}
	u.Login.check(a, u.Name)
}

func (l *Login) check(a at, name string) {
	for key, hash := range map[string]string{"passwd": l.Passwd, "hashed_passwd": l.HashedPasswd} {
		if hash != "" && !matches(`[!*]|!?\$[0-9a-z]+\$[^\s:]+`, hash) {
			a.key(key).errorf("not a password hash").Hint = "make one with openssl passwd -6"
		}
	}
	if l.PlainTextPasswd != "" {
		a.key("plain_text_passwd").clearText(l.PlainTextPasswd)
		if l.HashedPasswd != "" {
			a.key("plain_text_passwd").errorf("there is a hashed_passwd too: write one of the two")
		}
	}
	if _, ok := l.ExpireDate.Days(); l.ExpireDate != "" && !ok {
		a.key("expiredate").errorf("want a day such as %q, got %q", "2030-12-31", string(l.ExpireDate))
	}
	if l.Inactive != nil && *l.Inactive < 0 {
		a.key("inactive").errorf("want 0 or more days, got %d", *l.Inactive)
	}
	for _, rule := range l.Sudo {
		if strings.TrimSpace(rule) == "" || strings.Contains(rule, "\n") {
			a.key("sudo").errorf("want rules of one line each, such as %q", "ALL=(ALL) NOPASSWD:ALL")
		}
	}
	for i, rule := range l.Doas {
		here := a.key("doas").item(i)
		words := strings.Fields(rule)
		switch {
		case strings.Contains(rule, "\n"), len(words) < 2, words[0] != "permit" && words[0] != "deny":
			here.errorf("want a rule of one line, such as %q", "permit nopass "+name)
		// cloud-init refuses rules for somebody else in the same way.
		case !strings.Contains(" "+rule+" ", " "+name+" "):
			here.errorf("%q is not about %s", rule, name)
		}
	}
	checkKeys(a.key("ssh_authorized_keys"), l.SSHAuthorizedKeys)
}

// accountName checks a user or group name as Debian's adduser takes it.
func accountName(s string) error {
	if matches(`[a-z_][a-z0-9_-]{0,30}\$?`, s) {
		return nil
	}
	return fmt.Errorf("%q is not an account name: want a lower-case letter, then letters, digits, - and _, 32 at most", s)
}
