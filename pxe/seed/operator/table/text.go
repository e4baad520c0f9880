package table

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Clean makes a text that a machine sent harmless on a terminal: control and
// format characters (escape sequences, direction marks) become a middle dot,
// line ends and tabs a space.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.In(r, unicode.C) || r == unicode.ReplacementChar:
			return '·'
		}
		return r
	}, s)
}

// columns is how many cells a clean text takes: the wide blocks of Unicode's
// EastAsianWidth.txt take two, marks none.
func columns(s string) (n int) {
	for _, r := range s {
		n += cells(r)
	}
	return n
}

func cells(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case r >= 0x1100 && r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf, r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff,
		r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6, r >= 0x1f300 && r <= 0x1faff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

// cut shortens a text to a number of cells, with an ellipsis when it lost something.
func cut(s string, width int) string {
	if columns(s) <= width {
		return s
	}
	n := 0
	for i, r := range s {
		if n += cells(r); n > width-1 {
			return strings.TrimRight(s[:i], " ") + strings.Repeat("…", min(1, width))
		}
	}
	return s
}

// fill makes a text exactly so many cells wide.
func fill(s string, width int) string {
	s = cut(s, width)
	return s + strings.Repeat(" ", max(0, width-columns(s)))
}

// wrap breaks a text at spaces; a word that is too long is cut through.
func wrap(s string, width int) (lines []string) {
	line, n := "", 0
	for _, word := range strings.Fields(s) {
		for w := columns(word); ; w = columns(word) {
			switch {
			case n == 0 && w <= width:
				line, n = word, w
			case n > 0 && n+1+w <= width:
				line, n = line+" "+word, n+1+w
			case n > 0:
				lines = append(lines, line)
				line, n = "", 0
				continue
			default:
				head, tail := breakAt(word, width)
				lines = append(lines, head)
				word = tail
				continue
			}
			break
		}
	}
	if n > 0 {
		lines = append(lines, line)
	}
	return lines
}

func breakAt(word string, width int) (head, tail string) {
	n := 0
	for i, r := range word {
		if n += cells(r); n > width && i > 0 {
			return word[:i], word[i:]
		}
	}
	return word, ""
}

// amount renders bytes for people in three digits: "84.1 MB" (powers of ten).
func amount(n int64) string {
	f := float64(n)
	for _, u := range []string{"B", "kB", "MB", "GB", "TB"} {
		switch {
		case f >= 999.5 && u != "TB":
			f /= 1000
		case u == "B" || f >= 99.95:
			return fmt.Sprintf("%.0f %s", f, u)
		case f >= 9.995:
			return fmt.Sprintf("%.1f %s", f, u)
		default:
			return fmt.Sprintf("%.2f %s", f, u)
		}
	}
	return ""
}

// clock renders a time that is left: "12:34", "1:02:03".
func clock(d time.Duration) string {
	s := int(max(0, d.Round(time.Second)).Seconds())
	if s >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}
