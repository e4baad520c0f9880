package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"slipway.dev/slipway/configs"
)

// account is a line of passwd(5).
type account struct {
	name     string
	uid, gid int
	home     string
}

func (a account) owner() owner { return owner{a.uid, a.gid} }

// database is passwd(5), group(5) and shadow(5) as fields, read and saved together.
type database struct {
	root                  string
	passwd, group, shadow [][]string
}

func open(root string) (*database, error) {
	d := &database{root: root}
	var errs [3]error
	d.passwd, errs[0] = lines(root, "etc/passwd")
	d.group, errs[1] = lines(root, "etc/group")
	d.shadow, errs[2] = lines(root, "etc/shadow")
	return d, errors.Join(errs[:]...)
}

func (d *database) save() error {
	return errors.Join(save(d.root, "etc/group", d.group, 0o644), save(d.root, "etc/passwd", d.passwd, 0o644),
		save(d.root, "etc/shadow", d.shadow, 0o640))
}

// lines reads an account file as fields; a missing one is empty.
func lines(root, name string) ([][]string, error) {
	raw, err := read(root, name)
	var out [][]string
	for l := range strings.SplitSeq(raw, "\n") {
		if strings.TrimSpace(l) != "" {
			out = append(out, strings.Split(l, ":"))
		}
	}
	return out, err
}

func save(root, name string, l [][]string, mode fs.FileMode) error {
	var b strings.Builder
	for _, f := range l {
		b.WriteString(strings.Join(f, ":") + "\n")
	}
	if old, err := read(root, name); err == nil && old == b.String() {
		return nil
	}
	return write(root, name, b.String(), mode)
}

// find looks a user up by name or number.
func (d *database) find(who string) (account, error) {
	for _, f := range d.passwd {
		if len(f) >= 6 && (f[0] == who || f[2] == who) {
			uid, _ := strconv.Atoi(f[2])
			gid, _ := strconv.Atoi(f[3])
			return account{name: f[0], uid: uid, gid: gid, home: f[5]}, nil
		}
	}
	if n, err := strconv.Atoi(who); err == nil {
		return account{name: who, uid: n, gid: n, home: "/"}, nil
	}
	return account{}, fmt.Errorf("user %q: not known on this node", who)
}

func (d *database) gid(which string) (int, error) {
	for _, f := range d.group {
		if len(f) >= 3 && (f[0] == which || f[2] == which) {
			return strconv.Atoi(f[2])
		}
	}
	if n, err := strconv.Atoi(which); err == nil {
		return n, nil
	}
	return 0, fmt.Errorf("group %q: not known on this node", which)
}

// free is the first number from low on that no line has in its third field.
func free(l [][]string, low int) int {
	used := map[string]bool{}
	for _, f := range l {
		if len(f) > 2 {
			used[f[2]] = true
		}
	}
	for used[strconv.Itoa(low)] {
		low++
	}
	return low
}

// addGroup makes a group unless it exists; low is where free numbers begin.
func (d *database) addGroup(name string, low int) {
	if !slices.ContainsFunc(d.group, func(f []string) bool { return f[0] == name }) {
		d.group = append(d.group, []string{name, "x", strconv.Itoa(free(d.group, low)), ""})
	}
}

// join adds a user to a group.
func (d *database) join(user, name string) error {
	i := slices.IndexFunc(d.group, func(f []string) bool { return f[0] == name && len(f) == 4 })
	if i < 0 {
		return fmt.Errorf("group %q: not known on this node", name)
	}
	members := strings.FieldsFunc(d.group[i][3], func(r rune) bool { return r == ',' })
	if !slices.Contains(members, user) {
		d.group[i][3] = strings.Join(append(members, user), ",")
	}
	return nil
}

// create makes an account. The numbers are those of adduser.conf(5), but that
// system accounts begin at 500, above Debian's own.
func (d *database) create(u configs.User) (account, error) {
	low := 1000
	if u.System {
		low = 500
	}
	a := account{name: u.Name, uid: free(d.passwd, low), home: or(u.Homedir, "/home/"+u.Name)}
	if u.UID != nil {
		a.uid = int(*u.UID)
		if other, err := d.find(strconv.Itoa(a.uid)); err == nil && other.name != strconv.Itoa(a.uid) {
			return a, fmt.Errorf("uid %d belongs to %q", a.uid, other.name)
		}
	}
	primary := u.PrimaryGroup
	switch {
	case primary != "" && creates(u):
		d.addGroup(primary, low)
	case primary == "" && u.NoUserGroup:
		primary = "users"
		d.addGroup(primary, 100) // base-passwd's number
	case primary == "":
		primary = u.Name
		d.addGroup(primary, a.uid)
	}
	var err error
	if a.gid, err = d.gid(primary); err != nil {
		return a, err
	}
	d.passwd = append(d.passwd, []string{u.Name, "x", strconv.Itoa(a.uid), strconv.Itoa(a.gid), u.Gecos, a.home, or(u.Shell, "/bin/bash")})
	expire, inactive := "", ""
	if days, ok := u.ExpireDate.Days(); ok {
		expire = strconv.Itoa(days)
	}
	if u.Inactive != nil {
		inactive = strconv.Itoa(int(*u.Inactive))
	}
	// 20000 days are 2024-10-04: a date that is the same in every boot.
	d.shadow = append(d.shadow, []string{u.Name, locked, "20000", "0", "99999", "7", inactive, expire, ""})
	if !unlocked(u) || u.Passwd == "" {
		return a, nil
	}
	return a, d.password(u.Name, u.Passwd, false)
}

// locked is a password that nothing fits. "!" would keep keys out too, as sshd
// runs without PAM (sshd: platform.c, LOCKED_PASSWD_PREFIX).
const locked = "*"

func unlocked(u configs.User) bool { return u.LockPasswd != nil && !*u.LockPasswd }

func creates(u configs.User) bool { return u.CreateGroups == nil || *u.CreateGroups }

// password sets a hash; an expired one has to be changed at the first login.
func (d *database) password(name, hash string, expire bool) error {
	if _, err := d.find(name); err != nil {
		return err
	}
	i := slices.IndexFunc(d.shadow, func(f []string) bool { return f[0] == name })
	if i < 0 {
		i = len(d.shadow)
		d.shadow = append(d.shadow, []string{name, locked, "20000", "0", "99999", "7", "", "", ""})
	}
	for len(d.shadow[i]) < 9 {
		d.shadow[i] = append(d.shadow[i], "")
	}
	d.shadow[i][1] = hash
	if expire {
		d.shadow[i][2] = "0" // shadow(5): to be changed at the next login
	}
	return nil
}

// clear sets a password in clear text, with a new salt only if it is another one.
func (d *database) clear(name, text string, expire bool) error {
	for _, f := range d.shadow {
		if f[0] == name && len(f) > 1 && fits(text, f[1]) {
			return nil
		}
	}
	return d.password(name, hashPassword(text), expire)
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// Logins are the accounts that a password opens, in the order of passwd(5): a
// hash that crypt(5) knows by its first character, and a shell to run.
func Logins(root string) ([]string, error) {
	d, err := open(root)
	if err != nil {
		return nil, err
	}
	hash := map[string]string{}
	for _, f := range d.shadow {
		if len(f) > 1 {
			hash[f[0]] = f[1]
		}
	}
	var out []string
	for _, f := range d.passwd {
		if len(f) < 7 || !strings.HasPrefix(hash[f[0]], "$") || strings.HasSuffix(f[6], "/nologin") || strings.HasSuffix(f[6], "/false") {
			continue
		}
		out = append(out, f[0])
	}
	return out, nil
}
