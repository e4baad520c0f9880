// Package table shows a seed on a terminal: a table that is drawn again in
// place, or plain lines where there is no terminal.
//
// It asks nobody and decides nothing, reads no keys, and knows no terminal but
// through what it writes: ECMA-48 sequences that every emulator has.
package table

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/operator"
)

// Screen is where a table is drawn, in character cells.
type Screen struct {
	Width  int  // of a line; 0: 80
	Height int  // of the whole; 0: as much as it takes
	Colour bool // ECMA-48 SGR
	ASCII  bool // for terminals without Unicode
	// Rate is what a machine takes, in bytes a second; nil or 0: not known.
	Rate func(id string) float64
}

// Render draws without colour.
func Render(s seed.Status, all []seed.Machine, width, height int, now time.Time) string {
	return Screen{Width: width, Height: height}.Render(s, all, now)
}

// Render returns lines of at most Width cells, at most Height of them, each with
// its line end. Texts from machines are Clean.
func (sc Screen) Render(s seed.Status, all []seed.Machine, now time.Time) string {
	sc.Width = max(20, cmp.Or(sc.Width, 80))
	all = operator.Sorted(all)
	lines := sc.header(s, now)
	below := sc.verdicts(s, all)
	if len(all) == 0 {
		lines = append(lines, "", sc.paint(dim, cut(Clean(fmt.Sprintf(" No machine has asked yet: power one on, network boot first, on the wire of %s.", cmp.Or(address(s), "the seed"))), sc.Width)))
	} else {
		c := sc.layout(all)
		lines = append(lines, "", sc.paint(dim, c.head()))
		show := sc.room(len(lines), len(all), len(below))
		for _, m := range all[:show] {
			lines = append(lines, c.row(m))
		}
		if rest := all[show:]; len(rest) > 0 {
			lines = append(lines, sc.paint(dim, cut(" "+summary(rest), sc.Width)))
		}
	}
	if len(below) > 0 {
		lines = append(append(lines, ""), below...)
	}
	if sc.Height > 0 && len(lines) > sc.Height {
		lines = append(lines[:sc.Height-1], sc.paint(dim, cut(" … a taller window shows more", sc.Width)))
	}
	out := strings.Join(lines, "\n") + "\n"
	if sc.ASCII {
		out = strings.Map(plainRune, out)
	}
	return out
}

// room is how many rows are shown: what the verdicts leave, but no less than
// half of what there is for both.
func (sc Screen) room(above, rows, below int) int {
	if sc.Height == 0 || above+rows+min(below, 1)+below <= sc.Height {
		return rows
	}
	left := sc.Height - above - min(below, 1)
	show := max(left-below, left/2, 2)
	if show < rows {
		show-- // the line that counts the rest
	}
	return max(0, min(rows, show))
}

func summary(rest []seed.Machine) string {
	n := map[operator.Group]int{}
	for _, m := range rest {
		n[operator.GroupOf(m)]++
	}
	var parts []string
	for _, g := range []struct {
		group operator.Group
		text  string
	}{{operator.NeedsYou, "need you"}, {operator.OnTheWay, "on the way"}, {operator.IsReady, "ready"}, {operator.Refused, "turned away"}} {
		if n[g.group] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[g.group], g.text))
		}
	}
	return fmt.Sprintf("… and %d more: %s", len(rest), strings.Join(parts, ", "))
}

// Colours by what they say.
const (
	dim    = "2"
	bold   = "1"
	good   = "32"
	going  = "36"
	ask    = "1;33"
	wrong  = "31"
	invert = "1;30;43" // a code to compare
)

func (sc Screen) paint(sgr, s string) string {
	if !sc.Colour || s == "" {
		return s
	}
	return "\x1b[" + sgr + "m" + s + "\x1b[0m"
}

func (sc Screen) header(s seed.Status, now time.Time) []string {
	name := " " + cmp.Or(Clean(s.Cluster), "no cluster yet")
	ready := ""
	if s.ReadyOf[1] > 0 {
		ready = fmt.Sprintf("   %d of %d ready", s.ReadyOf[0], s.ReadyOf[1])
	}
	armed := ""
	if left := s.Armed.Sub(now); left > 0 {
		armed = "   armed " + clock(left)
	}
	for _, drop := range []*string{&armed, &ready} {
		if columns(name+ready+armed) > sc.Width && columns(ready+armed) > sc.Width/2 {
			*drop = ""
		}
	}
	name = cut(name, sc.Width-columns(ready+armed))
	tone := bold
	if s.ReadyOf[1] > 0 && s.ReadyOf[0] == s.ReadyOf[1] {
		tone = good
	}
	lines := append([]string{sc.paint(bold, name) + sc.paint(tone, ready) + sc.paint(ask, armed)}, sc.facts(s)...)
	if sc.Height > 0 {
		lines = lines[:min(len(lines), max(2, sc.Height/6))]
	}
	return lines
}

// facts are what changes seldom, as many on a line as fit.
func (sc Screen) facts(s seed.Status) (lines []string) {
	dhcp := s.DHCP
	if len(s.Foreign) > 0 {
		dhcp += map[string]string{"proxy": " beside ", "yielded": " to "}[s.DHCP] + strings.Join(s.Foreign, ", ")
		if s.DHCP == "full" {
			dhcp = s.DHCP + ", but there is also " + strings.Join(s.Foreign, ", ")
		}
	}
	var archs []string
	for _, a := range s.Arch {
		archs = append(archs, string(a))
	}
	var facts []string
	for _, f := range [][2]string{{"", strings.TrimSpace(s.Bundle + " " + strings.Join(archs, " "))}, {"", address(s)}, {"DHCP ", dhcp}, {"approve ", s.Approve}, {"trust ", s.Trust}, {"API ", s.API}} {
		if f[1] != "" {
			facts = append(facts, f[0]+Clean(f[1]))
		}
	}
	line := ""
	for _, f := range facts {
		if line != "" && columns(line)+3+columns(f) > sc.Width {
			lines = append(lines, sc.paint(dim, line))
			line = ""
		}
		if line == "" {
			line = cut(" "+f, sc.Width)
		} else {
			line += "   " + f
		}
	}
	if line != "" {
		lines = append(lines, sc.paint(dim, line))
	}
	return lines
}

func address(s seed.Status) string {
	if !s.Address.IsValid() {
		return ""
	}
	return s.Address.String()
}

// verdicts are what stands below the rows: the seed's own, then each machine
// that needs the operator, with the next step.
func (sc Screen) verdicts(s seed.Status, all []seed.Machine) (lines []string) {
	add := func(sgr, mark, text, hint string) {
		for i, l := range wrap(Clean(text), sc.Width-3) {
			lead := "   "
			if i == 0 {
				lead = " " + mark + " "
			}
			lines = append(lines, sc.paint(sgr, lead+l))
		}
		for i, l := range wrap(Clean(hint), sc.Width-5) {
			lead := "     "
			if i == 0 {
				lead = "   → "
			}
			lines = append(lines, lead+l)
		}
	}
	if v := s.Verdict; v != nil {
		add(wrong, "✗", v.Code+": "+v.Text, v.Hint)
	}
	for _, m := range all {
		if operator.GroupOf(m) != operator.NeedsYou {
			continue
		}
		name := operator.Name(m)
		switch v := m.Verdict; {
		case operator.Waits(m) && m.Code != "":
			add(ask, "?", name+" waits. Does its screen show "+m.Code+"? Then: "+operator.Command(m), "")
		case v != nil:
			add(wrong, "✗", name+" "+v.Code+": "+v.Text, v.Hint)
		case m.State == seed.Held:
			add(wrong, "✗", strings.TrimSpace(name+" "+m.Step.Code)+": "+m.Step.Text, m.Step.Hint)
		default:
			add(ask, "?", name+" waits for approval: slipway approve "+name, "")
		}
	}
	return lines
}

// plainRune replaces the signs of this package for terminals without Unicode.
func plainRune(r rune) rune {
	if i := strings.IndexRune("●◐○✗┄→…·", r); i >= 0 {
		for j, from := range []rune("●◐○✗┄→…·") {
			if from == r {
				return []rune("#>.x->~.")[j]
			}
		}
	}
	if r > 0x7e {
		return '?'
	}
	return r
}

func role(r configs.Role, long bool) string {
	switch {
	case r == configs.RoleControlPlane && long:
		return "control plane"
	case r == configs.RoleControlPlane:
		return "cp"
	}
	return string(r)
}
