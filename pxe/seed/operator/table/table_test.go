package table

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/operator/operatortest"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

func TestRender(t *testing.T) {
	for _, tt := range []struct {
		machines, width, height int
	}{
		{0, 100, 0}, {1, 100, 0}, {12, 160, 0}, {12, 110, 0}, {12, 80, 24}, {12, 60, 0}, {12, 40, 50}, {40, 120, 30}, {200, 132, 50}, {12, 80, 8},
	} {
		name := fmt.Sprintf("%d-%dx%d", tt.machines, tt.width, tt.height)
		d := operatortest.New(tt.machines)
		got := Render(d.Status(), d.Machines(), tt.width, tt.height, operatortest.Now())
		golden(t, name, got)
		fits(t, name, got, tt.width, tt.height)
	}
}

func fits(t *testing.T, name, got string, width, height int) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if height > 0 && len(lines) > height {
		t.Errorf("%s: %d lines", name, len(lines))
	}
	for _, l := range lines {
		if columns(l) > width {
			t.Errorf("%s: %d cells in %q", name, columns(l), l)
		}
	}
	if strings.ContainsAny(got, "\x1b\u202e\t\r") || !utf8.ValidString(got) {
		t.Errorf("%s: what a machine sent reached the terminal", name)
	}
}

func TestRenderFitsEverywhere(t *testing.T) {
	for _, n := range []int{0, 1, 12, 60} {
		d := operatortest.New(n)
		for width := 20; width < 180; width += 3 {
			for _, height := range []int{0, 4, 5, 9, 24} {
				fits(t, fmt.Sprint(n, width, height), Render(d.Status(), d.Machines(), width, height, operatortest.Now()), width, height)
			}
		}
	}
}

func TestASCII(t *testing.T) {
	d := operatortest.New(12)
	d.Change("cp-1", func(m *seed.Machine) { m.Name = "zürich-1" })
	got := Screen{Width: 120, ASCII: true, Rate: func(string) float64 { return 93_400_000 }}.Render(d.Status(), d.Machines(), operatortest.Now())
	golden(t, "ascii", got)
	for _, r := range got {
		if r > 0x7e {
			t.Errorf("%q", r)
		}
	}
}

func TestColourAddsNothingButColour(t *testing.T) {
	d := operatortest.New(12)
	sc := Screen{Width: 120, Colour: true}
	got := sc.Render(d.Status(), d.Machines(), operatortest.Now())
	if !strings.Contains(got, "\x1b[1;30;43m7K3-M9Q\x1b[0m") {
		t.Error("the code is not marked")
	}
	for strings.Contains(got, "\x1b[") {
		head, tail, _ := strings.Cut(got, "\x1b[")
		_, tail, _ = strings.Cut(tail, "m")
		got = head + tail
	}
	if want := Render(d.Status(), d.Machines(), 120, 0, operatortest.Now()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestTexts(t *testing.T) {
	for in, want := range map[string]string{"a\x1b[31mb\u202ec\nd\x00\u009b": "a·[31mb·c d··", "a\xffb": "a·b", "żółw 日本": "żółw 日本"} {
		if got := Clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"日本語": "日…", "abcd": "abcd", "abcde": "abc…", "a\u0301bcd": "a\u0301bcd", "ab de": "ab…"} {
		if got := cut(in, 4); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.00 kB", 999_500: "1.00 MB", 12_345_678: "12.3 MB", 1_412_000_000: "1.41 GB", 99_960_000: "100 MB"} {
		if got := amount(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	if got := strings.Join(wrap("a bb ccccccc d", 3), "|"); got != "a|bb|ccc|ccc|c d" {
		t.Errorf("%q", got)
	}
}

// screen is a terminal as far as Live uses one.
type screen struct {
	lines []string
	row   int
	sync  bool
	dark  bool // the cursor is hidden
}

func (s *screen) Write(p []byte) (int, error) {
	for in := string(p); in != ""; {
		switch {
		case strings.HasPrefix(in, "\x1b["):
			end := strings.IndexAny(in[2:], "ABCDHJKhlm") + 2
			arg, op := in[2:end], in[end]
			in = in[end+1:]
			n := 0
			_, _ = fmt.Sscanf(arg, "%d", &n)
			switch {
			case op == 'A':
				s.row -= n
			case op == 'K': // the line was written from its beginning
			case op == 'J' && n == 2:
				s.lines = nil
			case op == 'J':
				s.lines = s.lines[:min(s.row, len(s.lines))]
			case op == 'H':
				s.row = 0
			case arg == "?25":
				s.dark = op == 'l'
			case arg == "?2026":
				s.sync = op == 'h'
			default:
				return 0, fmt.Errorf("sequence %q", arg+string(op))
			}
		case in[0] == '\r':
			in = in[1:]
		case in[0] == '\n':
			s.row++
			in = in[1:]
		default:
			end := strings.IndexAny(in, "\x1b\r\n")
			if end < 0 {
				return 0, fmt.Errorf("%q has no end", in)
			}
			for len(s.lines) <= s.row {
				s.lines = append(s.lines, "")
			}
			s.lines[s.row] = in[:end]
			in = in[end:]
		}
		if s.row < 0 {
			return 0, errors.New("above the screen")
		}
	}
	return len(p), nil
}

func TestLiveRedrawsInPlace(t *testing.T) {
	d := operatortest.New(12)
	now := operatortest.Now()
	size := [2]int{150, 41}
	s := &screen{}
	l := NewLive(s, Options{Size: func() (int, int) { return size[0], size[1] }, Clock: func() time.Time { return now }})
	check := func(above ...string) {
		t.Helper()
		snap, err := Of(d)(t.Context(), 0)
		if err == nil {
			err = l.Show(snap)
		}
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Join(above, "\n")
		if want != "" {
			want += "\n"
		}
		want += Screen{Width: size[0] - 1, Height: size[1] - 1, Rate: l.rate}.Render(d.Status(), d.Machines(), now)
		if got := strings.Join(s.lines, "\n") + "\n"; got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
		if s.sync || !s.dark {
			t.Errorf("sync %v, cursor hidden %v", s.sync, s.dark)
		}
	}
	check()
	now = now.Add(2 * time.Second)
	d.Change("worker-1", func(m *seed.Machine) { m.Done += 200_000_000 })
	check()
	if !strings.Contains(strings.Join(s.lines, "\n"), "811 MB of 1.41 GB  100 MB/s") {
		t.Error("no rate")
	}
	if _, err := l.Write([]byte("level=INFO msg=one\nhalf ")); err != nil {
		t.Fatal(err)
	}
	check("level=INFO msg=one")
	if _, err := l.Write([]byte("a line\n")); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"cp-2", "52:54:00:12:00:09"} { // fewer lines below
		if _, err := d.Approve(ref, ""); err != nil {
			t.Fatal(err)
		}
	}
	check("level=INFO msg=one", "half a line")
	size = [2]int{81, 30}
	check()
	if err := l.Close(); err != nil || s.dark {
		t.Errorf("%v, cursor hidden %v", err, s.dark)
	}
}

func TestLinesWithoutATerminal(t *testing.T) {
	d := operatortest.New(6)
	d.Record(seed.Step{Time: operatortest.Now(), Stage: seed.StageSeed, Text: "armed\x1b[2J for 30 minutes"})
	var b bytes.Buffer
	l := NewLive(&b, Options{Every: time.Millisecond})
	n := 0
	err := l.Run(t.Context(), Of(d), func(s Snapshot) (bool, error) {
		if n++; n == 2 {
			d.Record(seed.Step{Time: operatortest.Now(), Machine: "52:54:00:12:00:03", Stage: seed.StageSystem, State: "done", Text: "services"})
		}
		return n == 3, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "lines", b.String())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx, Of(d), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestBundlesAndOrders(t *testing.T) {
	s, all, _ := operatortest.Site(2)
	all[1].Bundle = "example 11"
	all[1].Order = &seed.Ordered{Verb: handoff.Upgrade, Bundle: "example 12"}
	for width, want := range map[int]string{160: "example 11  ordered: upgrade to example 12; Node is Ready", 80: "ordered: upgrade"} {
		if out := Render(s, all, width, 0, operatortest.Now()); !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
