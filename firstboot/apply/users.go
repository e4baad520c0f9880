package apply

import (
	"fmt"
	"strings"

	"slipway.dev/slipway/configs"
)

// accounts makes groups, then users, then their members and passwords.
func accounts(root string, u *configs.UserData, meta []string) error {
	d, err := open(root)
	if err != nil {
		return err
	}
	for _, g := range u.Groups {
		d.addGroup(g.Name, 1000)
	}
	all := u.Users
	if u.User != nil {
		all = append(configs.UserList{configs.User(*u.User)}, all...)
	}
	for _, one := range all {
		if one.Default {
			continue
		}
		if err := d.add(one); err != nil {
			return fmt.Errorf("users: %q: %w", one.Name, err)
		}
	}
	for _, g := range u.Groups {
		for _, m := range g.Members {
			if _, err := d.find(m); err != nil {
				return fmt.Errorf("groups: %s: %w", g.Name, err)
			}
			if err := d.join(m, g.Name); err != nil {
				return fmt.Errorf("groups: %w", err)
			}
		}
	}
	if err := d.passwords(u); err != nil {
		return err
	}
	if err := d.save(); err != nil {
		return err
	}
	for _, one := range all {
		if one.Default {
			continue
		}
		if err := d.furnish(one); err != nil {
			return fmt.Errorf("users: %q: %w", one.Name, err)
		}
	}
	return d.defaultKeys(u, meta)
}

// add makes an account unless it exists, and in both cases its groups and the
// passwords that are for both.
func (d *database) add(u configs.User) error {
	if _, err := d.find(u.Name); err != nil {
		if _, err := d.create(u); err != nil {
			return err
		}
	}
	for _, g := range u.Groups {
		if creates(u) {
			d.addGroup(g, 1000)
		}
		if err := d.join(u.Name, g); err != nil {
			return err
		}
	}
	switch {
	case !unlocked(u):
	case u.HashedPasswd != "":
		return d.password(u.Name, u.HashedPasswd, false)
	case u.PlainTextPasswd != "":
		return d.clear(u.Name, u.PlainTextPasswd, false)
	}
	return nil
}

// passwords is chpasswd, or password for the default user.
func (d *database) passwords(u *configs.UserData) error {
	list := u.ChPasswd.Entries()
	expire := u.ChPasswd.Expire == nil || *u.ChPasswd.Expire
	if len(list) == 0 && u.Password != "" {
		list = configs.ChPasswd{List: configs.PasswordLines{u.DefaultName() + ":" + u.Password}}.Entries()
	}
	for _, e := range list {
		set := d.password
		if e.Type == "text" {
			set = d.clear
		}
		if err := set(e.Name, e.Password, expire); err != nil {
			return fmt.Errorf("chpasswd: %w", err)
		}
	}
	return nil
}

// furnish makes a user's home, keys and rules.
func (d *database) furnish(u configs.User) error {
	a, err := d.find(u.Name)
	if err != nil {
		return err
	}
	if !u.NoCreateHome {
		if err := directory(d.root, a.home, 0o750, a.owner()); err != nil {
			return err
		}
	}
	if err := keys(d.root, a, u.SSHAuthorizedKeys); err != nil {
		return err
	}
	file := strings.ReplaceAll(u.Name, ".", "_") // sudo(8) skips names with a dot
	if len(u.Sudo) > 0 {
		var b strings.Builder
		for _, rule := range u.Sudo {
			fmt.Fprintf(&b, "%s %s\n", u.Name, rule)
		}
		if err := write(d.root, "etc/sudoers.d/90-"+file, b.String(), 0o440); err != nil {
			return err
		}
	}
	return d.doas(u.Doas)
}

// doas adds rules to doas.conf(5), which has no directory of parts.
func (d *database) doas(rules []string) error {
	if len(rules) == 0 {
		return nil
	}
	text, err := read(d.root, "etc/doas.conf")
	if err != nil {
		return err
	}
	for _, r := range rules {
		if !strings.Contains("\n"+text, "\n"+r+"\n") {
			text += r + "\n"
		}
	}
	return write(d.root, "etc/doas.conf", text, 0o440)
}

// defaultKeys gives the keys at the top of user-data and those of meta-data to
// the default user, and to root with a command that says who to be instead.
func (d *database) defaultKeys(u *configs.UserData, meta []string) error {
	list := append(append([]string(nil), u.SSHAuthorizedKeys...), meta...)
	name := u.DefaultName()
	a, err := d.find(name)
	if err != nil {
		return fmt.Errorf("ssh_authorized_keys: %w", err)
	}
	disabled := u.DisableRoot != nil && *u.DisableRoot || u.DisableRoot == nil && name != "root"
	if name != "root" {
		own := list
		if u.User != nil {
			own = append(append([]string(nil), u.User.SSHAuthorizedKeys...), list...)
		}
		if err := keys(d.root, a, own); err != nil {
			return err
		}
	}
	for _, one := range u.Users { // users: [{name: root, ...}] wrote its own file
		if one.Name == "root" {
			list = append(append([]string(nil), one.SSHAuthorizedKeys...), list...)
		}
	}
	if disabled {
		list = prefixed(list, u)
	}
	r, err := d.find("root")
	if err != nil {
		r = account{name: "root", home: "/root"}
	}
	return keys(d.root, r, list)
}

// prefixed puts options before root's keys (sshd(8), authorized_keys).
func prefixed(list []string, u *configs.UserData) []string {
	instead := u.DefaultName()
	if instead == "root" {
		instead = "NONE"
		for _, one := range u.Users {
			if !one.Default && one.Name != "root" {
				instead = one.Name
				break
			}
		}
	}
	opts := u.DisableRootOpts
	if opts == "" {
		opts = `no-port-forwarding,no-agent-forwarding,no-X11-forwarding,command="echo 'root does not log in here: log in as $USER';sleep 5;exit 142"`
	}
	opts = strings.NewReplacer("$USER", instead, "$DISABLE_USER", "root").Replace(opts)
	out := make([]string, len(list))
	for i, k := range list {
		out[i] = opts + " " + strings.TrimSpace(k)
	}
	return out
}

// keys writes authorized_keys in a user's home.
func keys(root string, a account, list []string) error {
	if len(list) == 0 {
		return nil
	}
	dir := a.home + "/.ssh"
	if err := directory(root, dir, 0o700, a.owner()); err != nil {
		return err
	}
	return put(root, dir+"/authorized_keys", []byte(strings.Join(list, "\n")+"\n"), 0o600, a.owner())
}
