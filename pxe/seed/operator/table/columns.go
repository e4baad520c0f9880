package table

import (
	"fmt"
	"strings"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/operator"
)

// layout is how wide each column is; 0 leaves it out.
type layout struct {
	Screen
	name, role, state, code, dots, label, bytes, bundle, last int
	long                                                      bool // roles in full
}

// layout chooses columns for the machines there are. What is left out first:
// bundles, the stages' dots, bytes and rates, long role names, the last line.
func (sc Screen) layout(all []seed.Machine) layout {
	c := layout{Screen: sc, name: 7, state: 8, label: 10}
	for _, m := range all {
		c.name = max(c.name, columns(Clean(operator.Name(m))))
		if m.Role != "" {
			c.role = max(c.role, 6)
		}
		if m.Code != "" {
			c.code = 7
		}
		c.bundle = min(24, max(c.bundle, columns(Clean(m.Bundle))))
		if m.Total > 0 && m.Done < m.Total {
			c.bytes = 29 // "1.23 GB of 4.56 GB  789 MB/s "
		}
	}
	c.name = min(c.name, max(10, sc.Width/4))
	c.label = 15 // "kubernetes", "blobs 43%"
	c.dots = len(operator.Stages())
	if c.role > 0 {
		c.role, c.long = 13, true
	}
	for _, drop := range []func(){
		func() {
			if c.long {
				c.role, c.long = 6, false
			}
		},
		func() {
			if c.bytes > 0 {
				c.bytes, c.label = 0, 20 // "blobs 43% 93.4 MB/s"
			}
		},
		func() { c.bundle = 0 },
		func() { c.dots = 0 },
		func() { c.role = 0 },
		func() { c.state = 0 },
	} {
		if c.left() >= 18 {
			break
		}
		drop()
	}
	if c.last = c.left(); c.last < 8 {
		c.last = 0
	}
	return c
}

// left is what remains for the last line.
func (c layout) left() int {
	n := c.Width - 1
	for _, w := range []int{c.name, c.role, c.state, c.code, c.dots, c.label, c.bytes, c.bundle} {
		if w > 0 {
			n -= w + 2
		}
	}
	return n
}

// cell is a text with its width and its colour.
type cell struct {
	text  string
	width int
	sgr   string
}

func (c layout) line(cells []cell) string {
	var b strings.Builder
	b.WriteByte(' ')
	used, gap := 1, 0
	for _, e := range cells {
		w := min(e.width, c.Width-used-gap)
		if e.width == 0 || w <= 0 {
			continue
		}
		b.WriteString(strings.Repeat(" ", gap))
		text := cut(e.text, w)
		used += gap + w
		if e.sgr != "" {
			b.WriteString(c.paint(e.sgr, text))
		} else {
			b.WriteString(text)
		}
		gap = 2
		if pad := w - columns(text); pad > 0 {
			gap, used = gap+pad, used-pad
		}
	}
	return strings.TrimRight(b.String(), " ")
}

func (c layout) head() string {
	stage := "STAGE"
	if c.dots > 0 {
		stage = ""
	}
	return c.line([]cell{{"MACHINE", c.name, ""}, {"ROLE", c.role, ""}, {"STATE", c.state, ""}, {"CODE", c.code, ""},
		{"STAGE", c.dots, ""}, {stage, c.label, ""}, {"BYTES", c.bytes, ""}, {"BUNDLE", c.bundle, ""}, {"LAST", c.last, ""}})
}

func (c layout) row(m seed.Machine) string {
	group := operator.GroupOf(m)
	tone := map[operator.Group]string{operator.NeedsYou: wrong, operator.IsReady: good, operator.Refused: dim, operator.OnTheWay: going}[group]
	code, state := "", string(m.State)
	if m.State == seed.Waiting {
		code = m.Code
		if operator.Waits(m) {
			tone = ask
		}
	}
	marks, at := operator.Marks(m)
	label := string(operator.Stages()[at])
	if m.Total > 0 && operator.Stages()[at] == seed.StageBlobs {
		label += fmt.Sprintf(" %d%%", 100*m.Done/m.Total)
		if r := c.rate(m); c.bytes == 0 && r > 0 {
			label += " " + amount(r) + "/s"
		}
	}
	name := ""
	if group != operator.IsReady && group != operator.Refused {
		name = bold
	}
	last := m.Step.Text
	if m.Reason != "" && group == operator.Refused {
		last = m.Reason
	}
	if o := m.Order; o.Open() {
		last = "ordered: " + o.String() + "; " + last
	}
	return c.line([]cell{{c.called(m), c.name, name}, {Clean(role(m.Role, c.long)), c.role, ""}, {Clean(state), c.state, tone}, {Clean(code), c.code, invert},
		{dots(marks), c.dots, tone}, {label, c.label, ""}, {c.progress(m), c.bytes, ""}, {Clean(m.Bundle), c.bundle, ""}, {Clean(last), c.last, dim}})
}

func dots(marks []operator.Mark) string {
	sign := map[operator.Mark]string{operator.MarkDone: "●", operator.MarkActive: "◐", operator.MarkWaits: "◐", operator.MarkPending: "○",
		operator.MarkFailed: "✗", operator.MarkStuck: "✗", operator.MarkSkipped: "┄"}
	var b strings.Builder
	for _, m := range marks {
		b.WriteString(sign[m])
	}
	return b.String()
}

func (c layout) progress(m seed.Machine) string {
	if m.Total <= 0 || m.Done >= m.Total {
		return ""
	}
	s := amount(m.Done) + " of " + amount(m.Total)
	if r := c.rate(m); r > 0 {
		s += "  " + amount(r) + "/s"
	}
	return s
}

func (c layout) rate(m seed.Machine) int64 {
	if c.Rate == nil || m.Done >= m.Total {
		return 0
	}
	return int64(c.Rate(m.ID))
}

// called is a machine's name; of a MAC that is too long, the end tells machines apart.
func (c layout) called(m seed.Machine) string {
	s := Clean(operator.Name(m))
	if m.Name == "" && len(s) > c.name {
		return "…" + s[len(s)-c.name+1:]
	}
	return s
}

// Line is one step in one line without its line end, for places that are no terminal.
func Line(s seed.Step, name string) string {
	state := s.State
	if state == string(handoff.Running) {
		state = ""
	}
	parts := []string{s.Time.Format("15:04:05"), fill(name, 17), fill(strings.TrimSpace(string(s.Stage)+" "+state), 18), s.Text}
	if s.Code != "" {
		parts = append(parts, "("+s.Code+")")
	}
	out := strings.TrimRight(strings.Join(parts, "  "), " ")
	if s.Hint != "" {
		out += "  hint: " + s.Hint
	}
	return Clean(out)
}
