package configs

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
)

// Install says which disk the node is installed on.
type Install struct {
	Disk DiskRules `json:"disk,omitempty"`
	// Wipe names the disks that may lose what they hold.
	Wipe DiskNames `json:"wipe,omitempty"`
}

// DiskRules choose one disk: the first rule that fits any disk decides, and has
// to fit exactly one. In YAML one rule, a list of them, or a path.
type DiskRules []DiskRule

// DiskRule says what a disk has to be; all given properties must fit.
type DiskRule struct {
	Type   DiskType   `json:"type,omitempty"`
	Size   SizeLimits `json:"size,omitempty"`
	Serial Glob       `json:"serial,omitempty"`
	Model  Glob       `json:"model,omitempty"`
	WWN    Glob       `json:"wwn,omitempty"`  // "naa.5000c500a1b2c3d4"; 0x, wwn-0x, naa. and eui. in front make no difference
	Path   Glob       `json:"path,omitempty"` // /dev/disk/by-path/..., /dev/disk/by-id/... or the kernel's name
}

// DiskType is how a disk is attached or, behind SATA and SAS, what it is made of.
type DiskType string

func (DiskType) words() []string { return []string{"nvme", "ssd", "hdd", "virtio", "usb"} }

// SizeLimits are limits that must all hold; in YAML one or a list of them.
type SizeLimits []SizeLimit

// SizeLimit is "<", "<=", ">", ">=" or "==" and a size: ">= 200GB".
type SizeLimit string

// Glob is text in which * stands for any characters and ? for one; upper and
// lower case are the same.
type Glob string

// DiskNames name disks exactly, each by serial number or WWN; one that has
// neither by its path below /dev/disk/by-path.
type DiskNames []string

func (DiskRules) forms() []any { return []any{DiskRule{}, []DiskRule(nil), ""} }

// UnmarshalJSON reads a rule, a list of rules or a path.
func (r *DiskRules) UnmarshalJSON(b []byte) error {
	*r = nil
	switch b[0] {
	case '[':
		return json.Unmarshal(b, (*[]DiskRule)(r))
	case '{':
		var one DiskRule
		err := json.Unmarshal(b, &one)
		*r = DiskRules{one}
		return err
	case '"':
		var path Glob
		err := json.Unmarshal(b, &path)
		*r = DiskRules{{Path: path}}
		return err
	}
	return nil
}

func (SizeLimits) forms() []any { return []any{"", []SizeLimit(nil)} }

// UnmarshalJSON reads a limit or a list of limits.
func (l *SizeLimits) UnmarshalJSON(b []byte) error {
	*l = nil
	if b[0] != '"' {
		return json.Unmarshal(b, (*[]SizeLimit)(l))
	}
	*l = SizeLimits{""}
	return json.Unmarshal(b, &(*l)[0])
}

// instead says what to write when a value is not a list.
func (DiskNames) instead() string {
	return "name each disk that may lose what it holds, by serial number or WWN: wipe: [\"S4EVNX0N\"]"
}

// take is the limit taken apart; a size in bytes.
func (l SizeLimit) take() (op string, size int64, err error) {
	m := regexp.MustCompile(`^(<=|>=|==|<|>) *([0-9]+(?:\.[0-9]+)?) *([kKMGTP]i?)?B$`).FindStringSubmatch(string(l))
	if m == nil {
		return "", 0, fmt.Errorf("%q is not a limit: want <, <=, >, >= or == and a size in GB (1000) or GiB (1024), such as %q", string(l), ">= 200GB")
	}
	unit, base := strings.TrimSuffix(strings.ToUpper(m[3]), "I"), int64(1000)
	if strings.HasSuffix(m[3], "i") {
		base = 1024
	}
	n, _ := new(big.Rat).SetString(m[2])
	for range strings.Index("KMGTP", unit) + min(len(unit), 1) {
		n.Mul(n, big.NewRat(base, 1))
	}
	whole := new(big.Int).Quo(n.Num(), n.Denom())
	if !whole.IsInt64() || whole.Int64() > 1<<60 {
		return "", 0, fmt.Errorf("%q: no disk is as large", string(l))
	}
	return m[1], whole.Int64(), nil
}

// Fits reports whether a disk of a size in bytes is within the limit. As no disk
// is exactly as large as its label says, == allows for one percent.
func (l SizeLimit) Fits(size int64) bool {
	op, limit, err := l.take()
	order := cmp.Compare(size, limit)
	switch {
	case err != nil:
		return false
	case op == "==":
		return size >= limit-limit/100 && size <= limit+limit/100
	case op[0] == '<' && order < 0, op[0] == '>' && order > 0:
		return true
	}
	return len(op) == 2 && order == 0
}

// Match reports whether the whole of s is as the glob says.
func (g Glob) Match(s string) bool {
	expr := regexp.QuoteMeta(string(g))
	expr = strings.ReplaceAll(strings.ReplaceAll(expr, `\*`, `.*`), `\?`, `.`)
	return regexp.MustCompile(`(?is)\A` + expr + `\z`).MatchString(s)
}

// Exact reports whether nothing in the glob stands for other characters.
func (g Glob) Exact() bool { return !strings.ContainsAny(string(g), "*?") }

func (i *Install) check(a at) {
	if !a.set() {
		return
	}
	disk := a.key("disk")
	if len(i.Disk) == 0 {
		disk.missing().Hint = `say which disk: {type: ssd, size: ">= 200GB"}, its serial, model, wwn or path`
	}
	for n, r := range i.Disk {
		if here := disk.item(n); here.set() {
			r.check(here)
		} else {
			r.check(disk)
		}
	}
	i.Wipe.check(a.key("wipe"))
}

func (r *DiskRule) check(a at) {
	a.key("type").oneOf(string(r.Type), r.Type.words()...)
	if r.Type == "" && len(r.Size) == 0 && r.Serial+r.Model+r.WWN+r.Path == "" {
		a.errorf("empty: it would fit every disk").Hint = "give type, size, serial, model, wwn or path"
	}
	for n, l := range r.Size {
		here := a.key("size")
		if here.item(n).set() {
			here = here.item(n)
		}
		if _, _, err := l.take(); err != nil {
			here.errorf("%s", err).Hint = l.hint()
		}
	}
	path := a.key("path")
	if !path.set() { // the rule is a path alone
		path = a
	}
	path.may(string(r.Path), devicePath)
}

// hint is the limit that somebody meant who wrote a size only.
func (l SizeLimit) hint() string {
	if better := SizeLimit(">= " + string(l)); !strings.ContainsAny(string(l), "<=>") {
		if _, _, err := better.take(); err == nil {
			return fmt.Sprintf("write %q for at least as much, or %q", string(better), "== "+string(l))
		}
		if _, _, err := (better + "B").take(); err == nil {
			return fmt.Sprintf("write %q", string(better)+"B")
		}
	}
	return ""
}

func (w DiskNames) check(a at) {
	for i, name := range w {
		here := a.item(i)
		here.must(name, CheckDiskName)
		if slices.Index(w, name) < i {
			here.warnf("%q is there already", name)
		}
	}
}

// Called reports whether a name of DiskNames is that of a disk: its serial number
// as it is, its WWN however that is spelt or, if it has neither, one of its paths.
func Called(name, serial, wwn string, paths ...string) bool {
	switch {
	case name == "":
		return false
	case name == serial, wwn != "" && PlainWWN(name) == PlainWWN(wwn):
		return true
	}
	return serial == "" && wwn == "" && slices.Contains(paths, name)
}

// PlainWWN is a WWN in lower case without what kernel, udev and labels put in
// front of it.
func PlainWWN(s string) string {
	s = strings.ToLower(s)
	for _, p := range []string{"wwn-", "naa.", "eui.", "uuid.", "nvme.", "0x"} {
		s = strings.TrimPrefix(s, p)
	}
	return s
}

// CheckDiskName refuses what can name no disk, or more than one.
func CheckDiskName(s string) error {
	switch {
	case strings.ContainsAny(s, "*?"):
		return fmt.Errorf("%q would name any disk: want a serial number or WWN as it is", s)
	case slices.Contains([]string{"true", "all", "any", "consent", "yes"}, strings.ToLower(s)):
		return fmt.Errorf("%q is not a disk: want its serial number or WWN", s)
	case strings.TrimSpace(s) != s || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) || len(s) > 256:
		return fmt.Errorf("%q is not a serial number or WWN", s)
	case strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "/dev/disk/by-path/"):
		return errors.New("a disk is named by serial number or WWN here; one that has neither by its path below /dev/disk/by-path")
	}
	return nil
}
