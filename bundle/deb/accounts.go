package deb

import (
	"fmt"
	"strconv"
	"strings"
)

// AccountFile is one of the four account databases, owned by root.
type AccountFile struct {
	Path    string // "etc/shadow"
	Content string
	Mode    uint32 // permissions
	GID     int
}

// Accounts adds the users and groups among the fixups to base-passwd's masters
// and returns etc/passwd, etc/group, etc/shadow and etc/gshadow. Every account,
// root included, has the password "*": no password opens it, a key may
// (shadow(5)). Ids and names that are taken are errors, all at once.
func Accounts(passwd, group string, fixups []Fixup) ([]AccountFile, error) {
	a := accounts{names: map[string]bool{}, ids: map[string]string{}}
	for line := range strings.Lines(group) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) == 4 {
			a.group(f[0], f[2], f[3])
		}
	}
	for line := range strings.Lines(passwd) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) == 7 {
			a.user(f[0], f[2], f[3], f[4], f[5], f[6])
		}
	}
	for _, f := range fixups {
		switch f.Kind {
		case Group:
			a.group(f.Name, strconv.Itoa(f.GID), "")
		case User:
			a.user(f.Name, strconv.Itoa(f.UID), strconv.Itoa(f.GID), "", f.Home, "/usr/sbin/nologin")
		}
	}
	if len(a.problems) > 0 {
		return nil, fmt.Errorf("accounts: %s", strings.Join(a.problems, "; "))
	}
	return []AccountFile{
		{Path: "etc/passwd", Content: a.passwdText.String(), Mode: 0o644},
		{Path: "etc/group", Content: a.groupText.String(), Mode: 0o644},
		{Path: "etc/shadow", Content: a.shadow.String(), Mode: 0o640, GID: gidShadow},
		{Path: "etc/gshadow", Content: a.gshadow.String(), Mode: 0o640, GID: gidShadow},
	}, nil
}

type accounts struct {
	passwdText, groupText, shadow, gshadow strings.Builder
	names                                  map[string]bool   // "user/root", "group/adm"
	ids                                    map[string]string // "user/0" -> root
	problems                               []string
}

func (a *accounts) claim(kind, name, id string) bool {
	if a.names[kind+"/"+name] {
		a.problems = append(a.problems, fmt.Sprintf("%s %q is there twice", kind, name))
		return false
	}
	if by, taken := a.ids[kind+"/"+id]; taken {
		a.problems = append(a.problems, fmt.Sprintf("%s %q: id %s belongs to %q", kind, name, id, by))
		return false
	}
	a.names[kind+"/"+name] = true
	a.ids[kind+"/"+id] = name
	return true
}

func (a *accounts) group(name, gid, members string) {
	if !a.claim("group", name, gid) {
		return
	}
	fmt.Fprintf(&a.groupText, "%s:x:%s:%s\n", name, gid, members)
	fmt.Fprintf(&a.gshadow, "%s:*::%s\n", name, members)
}

func (a *accounts) user(name, uid, gid, comment, home, shell string) {
	if !a.claim("user", name, uid) {
		return
	}
	fmt.Fprintf(&a.passwdText, "%s:x:%s:%s:%s:%s:%s\n", name, uid, gid, comment, home, shell)
	// No date of the last change: it would differ from build to build, and
	// empty switches aging off (shadow(5)).
	fmt.Fprintf(&a.shadow, "%s:*::0:99999:7:::\n", name)
}
