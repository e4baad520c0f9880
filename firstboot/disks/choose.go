package disks

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"slipway.dev/slipway/configs"
)

// ChoiceError says why no disk was chosen, with every disk that there is.
type ChoiceError struct {
	Rules configs.DiskRules
	Found []Candidate
	Fit   int // how many disks the rule that decides fits: 0, or 2 and more; 1 is a disk that cannot be used
}

// Candidate is a disk that was looked at.
type Candidate struct {
	Disk Disk
	Fits bool
	Why  string // "" only of those that fit equally
}

// Error has one line for what is wrong and one for each disk.
func (e *ChoiceError) Error() string {
	var b strings.Builder
	switch {
	case len(e.Found) == 0:
		return fmt.Sprintf("no disk fits %s: the machine has none", rulesText(e.Rules))
	case e.Fit == 0:
		fmt.Fprintf(&b, "no disk fits %s", rulesText(e.Rules))
	case e.Fit == 1:
		fmt.Fprintf(&b, "the disk that fits %s cannot be used", rulesText(e.Rules))
	default:
		fmt.Fprintf(&b, "%d disks fit %s equally", e.Fit, rulesText(e.Rules))
	}
	for _, c := range e.Found {
		why := c.Why
		if c.Fits && why == "" {
			why = "fits"
		}
		fmt.Fprintf(&b, "\n  %s: %s", c.Disk, why)
	}
	return b.String()
}

// Hint is what to do about it.
func (e *ChoiceError) Hint() string {
	if e.Fit > 1 {
		return "name one of them in install.disk by its serial, wwn or path"
	}
	return "change install.disk so that it fits one of these disks, or put the disk in"
}

// String is a disk with what tells it from others: "vda (21.5 GB virtio, serial S1)".
func (d Disk) String() string {
	text := []string{SizeText(d.Size) + " " + d.Type}
	for _, p := range [][2]string{{"", d.Model}, {"serial ", d.Serial}, {"wwn ", d.WWN}} {
		if p[1] != "" {
			text = append(text, p[0]+p[1])
		}
	}
	if len(d.Also) > 0 {
		text = append(text, "also "+strings.Join(d.Also, ", "))
	}
	return fmt.Sprintf("%s (%s)", d.Name, strings.Join(text, ", "))
}

// SizeText is a size as labels of disks have it, in units of 1000.
func SizeText(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	f, i := float64(n), 0
	for f >= 999.95 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0") + " " + units[i]
}

func rulesText(rules configs.DiskRules) string {
	var out []string
	for _, r := range rules {
		var props []string
		add := func(key string, values ...string) {
			if v := strings.Join(values, " and "); v != "" {
				props = append(props, key+" "+v)
			}
		}
		add("type", string(r.Type))
		var sizes []string
		for _, l := range r.Size {
			sizes = append(sizes, string(l))
		}
		add("size", sizes...)
		add("serial", string(r.Serial))
		add("model", string(r.Model))
		add("wwn", string(r.WWN))
		add("path", string(r.Path))
		out = append(out, "{"+strings.Join(props, ", ")+"}")
	}
	return strings.Join(out, " or ")
}

// Choose gives the disk that the rules mean. The first rule that fits any disk
// decides, and has to fit exactly one; one that fits a disk which is in use or
// read-only decides, too, so that no later rule takes another disk in its place.
// Disks named in avoid, those of the boot medium, fit no rule. An error is a
// *ChoiceError.
func Choose(rules configs.DiskRules, all []Disk, avoid ...string) (Disk, error) {
	e := &ChoiceError{Rules: rules}
	for _, d := range all {
		e.Found = append(e.Found, Candidate{Disk: d})
	}
	for n, r := range rules {
		e.Fit = 0
		chosen := -1
		for i := range e.Found {
			c := &e.Found[i]
			why := misfits(r, c.Disk)
			if slices.Contains(avoid, c.Disk.Name) {
				c.Why = "it is the boot medium"
				continue
			}
			if c.Fits = why == ""; c.Fits {
				c.Why = ""
				e.Fit, chosen = e.Fit+1, i
				continue
			}
			if len(rules) > 1 {
				why = fmt.Sprintf("rule %d: %s", n+1, why)
			}
			c.Why = strings.TrimPrefix(c.Why+"; "+why, "; ")
		}
		if e.Fit == 0 {
			continue
		}
		for i := range e.Found {
			if c := &e.Found[i]; c.Fits {
				c.Why = unusable(c.Disk)
			}
		}
		if e.Fit == 1 && e.Found[chosen].Why == "" {
			return e.Found[chosen].Disk, nil
		}
		return Disk{}, e
	}
	return Disk{}, e
}

// unusable says why a disk cannot be written to.
func unusable(d Disk) string {
	switch {
	case d.Mounted:
		return "fits, and is in use"
	case d.ReadOnly:
		return "fits, and is read-only"
	}
	return ""
}

// misfits says what of a disk is not as a rule wants it, "" when it fits.
func misfits(r configs.DiskRule, d Disk) string {
	var why []string
	if r.Type != "" && string(r.Type) != d.Type {
		why = append(why, fmt.Sprintf("type %s, want %s", d.Type, r.Type))
	}
	for _, l := range r.Size {
		if !l.Fits(d.Size) {
			why = append(why, fmt.Sprintf("size %s, want %s", SizeText(d.Size), l))
		}
	}
	text := func(key string, g configs.Glob, values ...string) {
		if g == "" || slices.ContainsFunc(values, func(v string) bool { return v != "" && g.Match(v) }) {
			return
		}
		if values[0] == "" {
			why = append(why, fmt.Sprintf("no %s, want %s", key, g))
			return
		}
		why = append(why, fmt.Sprintf("%s %s, want %s", key, values[0], g))
	}
	text("serial", r.Serial, d.Serial)
	text("model", r.Model, d.Model)
	if plain := configs.Glob(configs.PlainWWN(string(r.WWN))); d.WWN == "" || !plain.Match(configs.PlainWWN(d.WWN)) {
		text("wwn", r.WWN, d.WWN)
	}
	if r.Path != "" && !named(string(r.Path), r.Path, d) {
		why = append(why, fmt.Sprintf("path %s, want %s", strings.Join(append([]string{d.Path}, d.ByPath...), " or "), r.Path))
	}
	return strings.Join(why, "; ")
}

// named reports whether a path means a disk.
func named(path string, g configs.Glob, d Disk) bool {
	devices := d.devices()
	for _, n := range slices.Concat(devices, d.ByID, d.ByPath) {
		if g.Match(n) {
			return true
		}
	}
	name, byID := strings.CutPrefix(path, "/dev/disk/by-id/")
	if byID && g.Exact() && (Identifies(name, d.Serial) || Identifies(name, d.WWN)) {
		return true
	}
	to, err := filepath.EvalSymlinks(path) // any other link
	return err == nil && slices.Contains(devices, to)
}
