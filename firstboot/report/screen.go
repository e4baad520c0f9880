package report

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"slipway.dev/slipway/configs/handoff"
)

// Every text console has at least these (VGA text mode, and the kernel's frame
// buffer console at 640x480).
const (
	columns = 80
	rows    = 25
)

// dashboard is what a screen shows: who the node is, where each phase stands,
// what happened last, and what failed with the next step. A serial line gets
// the same events as plain lines.
type dashboard struct {
	title  []string // node, address, bundle
	order  []string
	phases map[string]handoff.Event // the last event of each phase, its steps included
	last   []string
	failed *handoff.Event
	notice []string // stays at the bottom: how to go on when all is done
	code   *handoff.Event
}

// add takes an event in.
func (d *dashboard) add(e handoff.Event) {
	if d.phases == nil {
		d.phases = map[string]handoff.Event{}
	}
	if _, ok := d.phases[e.Phase]; !ok {
		d.order = append(d.order, e.Phase)
	}
	// What goes on behind a phase that is done does not open it again.
	if old, ok := d.phases[e.Phase]; !ok || e.Step == "" || old.Step != "" || old.State == handoff.Started {
		d.phases[e.Phase] = e
	}
	for _, key := range []string{"node", "address", "bundle"} {
		if v, ok := e.Data[key].(string); ok && e.State == handoff.Done && e.Step == "" && !slices.Contains(d.title, v) {
			d.title = append(d.title, v)
		}
	}
	if e.Step == "code" {
		d.code = nil
		if code(e) != "" {
			d.code = &e
		}
	}
	if e.Text != "" {
		d.last = append(d.last, fmt.Sprintf("%8.1f  %s: %s", e.Uptime, name(e), texts(e.Text)[0]))
		d.last = d.last[max(0, len(d.last)-rows):]
	}
	switch {
	case e.State == handoff.Failed:
		d.failed = &e
	case d.failed != nil && d.failed.Phase == e.Phase && (e.Step == "" || e.Step == d.failed.Step) && e.State == handoff.Done:
		d.failed = nil
	}
}

func name(e handoff.Event) string {
	if e.Step == "" {
		return e.Phase
	}
	return e.Phase + "/" + e.Step
}

// render draws the whole screen from its first line (ECMA-48: CUP, EL, ED).
func (d *dashboard) render() string {
	lines := []string{"\x1b[7m" + pad(" slipway   "+strings.Join(d.title, "   ")) + "\x1b[0m"}
	for _, p := range d.order {
		lines = append(lines, phaseLine(p, d.phases[p]))
	}
	lines = append(lines, strings.Repeat("-", columns-1))
	if d.code != nil {
		lines = append(lines, "", clip("  "+texts(d.code.Text)[0]), "")
		for _, l := range letters(code(*d.code)) {
			lines = append(lines, clip("      "+l))
		}
		lines = append(lines, "")
	}
	lines = lines[:min(len(lines), rows-1)]
	var bottom []string
	if f := d.failed; f != nil {
		bottom = append(bottom, "\x1b[7m"+pad(" "+f.Code+" in "+name(*f))+"\x1b[0m")
		for _, t := range texts(f.Text) {
			bottom = append(bottom, wrap("  ", t)...)
		}
		if tail, ok := f.Data["lines"].([]string); ok {
			for _, t := range tail[max(0, len(tail)-4):] {
				bottom = append(bottom, clip("  | "+printable(t)))
			}
		}
		bottom = append(bottom, wrap("  next: ", f.Hint)...)
	} else {
		for _, n := range d.notice {
			bottom = append(bottom, clip(n))
		}
	}
	bottom = bottom[:max(0, min(len(bottom), rows-len(lines)-3))]
	for _, l := range d.last[max(0, len(d.last)-max(0, rows-1-len(lines)-len(bottom))):] {
		lines = append(lines, clip(l))
	}
	for len(lines)+len(bottom) < rows-1 {
		lines = append(lines, "")
	}
	return "\x1b[H" + strings.Join(append(lines, bottom...), "\x1b[K\r\n") + "\x1b[K\x1b[J"
}

func phaseLine(p string, e handoff.Event) string {
	mark := map[handoff.State]string{handoff.Done: "ok", handoff.Failed: "FAIL", handoff.Skipped: "skip"}[e.State]
	if e.Step != "" && e.State != handoff.Failed { // a step of a phase that goes on
		mark = ""
	}
	if mark == "" {
		mark = ".."
	}
	text := ""
	if e.Text != "" {
		text = texts(e.Text)[0]
	}
	if e.Step != "" {
		text = e.Step + " " + text
	}
	return clip(fmt.Sprintf(" %-4s  %-11s %s", mark, p, text))
}

// clip keeps a line on one row; the last column is left free, because some
// consoles wrap when it is written.
func clip(s string) string {
	if utf8.RuneCountInString(s) < columns {
		return s
	}
	return string([]rune(s)[:columns-3]) + ".." // the kernel's font has no ellipsis
}

func pad(s string) string { return fmt.Sprintf("%-*s", columns-1, clip(s)) }

// wrap breaks a text between words; later lines begin below the first.
func wrap(begin, s string) []string {
	var out []string
	line := begin
	for _, w := range strings.Fields(s) {
		if line != begin && utf8.RuneCountInString(line+" "+w) >= columns {
			out = append(out, line)
			line = strings.Repeat(" ", len(begin)-1)
		}
		if line != begin {
			line += " "
		}
		line += w
	}
	return append(out, clip(line))
}
