package apply

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// lines reads an account file as fields; a missing one is empty.
func lines(root, name string) ([][]string, error) {
	raw, err := os.ReadFile(filepath.Join(root, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var out [][]string
	for _, l := range strings.Split(string(raw), "\n") {
		if strings.TrimSpace(l) != "" {
			out = append(out, strings.Split(l, ":"))
		}
	}
	return out, nil
}

func save(root, name string, l [][]string, mode os.FileMode) error {
	var b strings.Builder
	for _, f := range l {
		b.WriteString(strings.Join(f, ":") + "\n")
	}
	return write(root, name, b.String(), mode)
}

// find looks a user up by name or number.
func find(root, who string) (account, error) {
	l, err := lines(root, "etc/passwd")
	if err != nil {
		return account{}, err
	}
	for _, f := range l {
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

func group(root, which string) (int, error) {
	l, err := lines(root, "etc/group")
	if err != nil {
		return 0, err
	}
	for _, f := range l {
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

// addUser makes an account unless it exists, and in both cases its groups,
// keys and sudo rules.
func addUser(root string, u configs.User) error {
	a, err := find(root, u.Name)
	if err != nil {
		if a, err = create(root, u); err != nil {
			return err
		}
	}
	for _, g := range u.Groups {
		if err := join(root, u.Name, g); err != nil {
			return err
		}
	}
	if err := keys(root, a, u.SSHAuthorizedKeys); err != nil {
		return err
	}
	if len(u.Sudo) == 0 {
		return nil
	}
	var b strings.Builder
	for _, rule := range u.Sudo {
		fmt.Fprintf(&b, "%s %s\n", u.Name, rule)
	}
	return write(root, "etc/sudoers.d/90-"+strings.ReplaceAll(u.Name, ".", "_"), b.String(), 0o440)
}

func create(root string, u configs.User) (account, error) {
	passwd, err := lines(root, "etc/passwd")
	if err != nil {
		return account{}, err
	}
	groups, err := lines(root, "etc/group")
	if err != nil {
		return account{}, err
	}
	shadow, err := lines(root, "etc/shadow")
	if err != nil {
		return account{}, err
	}
	low := 1000 // adduser.conf(5)
	if u.System {
		low = 500
	}
	a := account{name: u.Name, uid: free(passwd, low), home: or(u.Homedir, "/home/"+u.Name)}
	if u.UID != nil {
		a.uid = int(*u.UID)
	}
	if u.PrimaryGroup != "" {
		if a.gid, err = group(root, u.PrimaryGroup); err != nil {
			return a, err
		}
	} else {
		a.gid = free(groups, a.uid)
		groups = append(groups, []string{u.Name, "x", strconv.Itoa(a.gid), ""})
	}
	hash := "*" // no password fits, keys do; "!" would lock keys out too (sshd(8))
	if u.Passwd != "" && u.LockPasswd != nil && !*u.LockPasswd {
		hash = u.Passwd
	}
	passwd = append(passwd, []string{u.Name, "x", strconv.Itoa(a.uid), strconv.Itoa(a.gid), u.Gecos, a.home, or(u.Shell, "/bin/bash")})
	shadow = append(shadow, []string{u.Name, hash, "20000", "0", "99999", "7", "", "", ""})
	if err := errors.Join(save(root, "etc/group", groups, 0o644), save(root, "etc/passwd", passwd, 0o644), save(root, "etc/shadow", shadow, 0o640)); err != nil {
		return a, err
	}
	if u.NoCreateHome {
		return a, nil
	}
	return a, own(filepath.Join(root, a.home), a, 0o750)
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func own(dir string, a account, mode os.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	return os.Chown(dir, a.uid, a.gid)
}

// join adds a user to a group, which is made if it is not there.
func join(root, user, name string) error {
	groups, err := lines(root, "etc/group")
	if err != nil {
		return err
	}
	i := slices.IndexFunc(groups, func(f []string) bool { return f[0] == name && len(f) == 4 })
	if i < 0 {
		groups = append(groups, []string{name, "x", strconv.Itoa(free(groups, 1000)), user})
		return save(root, "etc/group", groups, 0o644)
	}
	members := strings.FieldsFunc(groups[i][3], func(r rune) bool { return r == ',' })
	if slices.Contains(members, user) {
		return nil
	}
	groups[i][3] = strings.Join(append(members, user), ",")
	return save(root, "etc/group", groups, 0o644)
}

// keys writes authorized_keys in a user's home.
func keys(root string, a account, list []string) error {
	if len(list) == 0 {
		return nil
	}
	dir := filepath.Join(root, a.home, ".ssh")
	if err := own(dir, a, 0o700); err != nil {
		return err
	}
	name := filepath.Join(dir, "authorized_keys")
	if err := os.WriteFile(name, []byte(strings.Join(list, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	return os.Chown(name, a.uid, a.gid)
}
