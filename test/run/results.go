package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"slipway.dev/slipway/test/qemu"
)

// results adds up what `go test -json` said.
type results struct {
	passed, failed int
	skips          []string // "package.Test: reason"
	fails          []string // "package.Test" and the lines where it said something
	stale          []string // failed tests without subtests' names, whose machine met the emulator's fault
	sound          []string // other failed ones
	again          []string // tests that were done once more, and why
}

// event is one line of `go test -json` (go doc test2json).
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64
}

// read consumes a stream of events. Output of a failed test is printed whole,
// that of others is dropped unless live is set.
func (r *results) read(in io.Reader, out io.Writer, live bool) error {
	text := map[string][]string{}
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var e event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			fmt.Fprintln(out, sc.Text()) // the go tool's own words
			continue
		}
		id := e.Package + "." + e.Test
		switch e.Action {
		case "output":
			text[id] = append(text[id], e.Output)
			if live && shown(e.Output) {
				fmt.Fprint(out, e.Output)
			}
		case "build-output":
			fmt.Fprint(out, e.Output)
		case "pass", "fail", "skip":
			r.count(e, text[id], out, live)
			delete(text, id)
		}
	}
	return sc.Err()
}

func (r *results) count(e event, text []string, out io.Writer, live bool) {
	name := e.Package[strings.Index(e.Package, "/")+1:]
	switch {
	case e.Test == "" && e.Action == "fail":
		// A package fails with its tests, or before any of them ran.
		if len(text) > 0 {
			fmt.Fprintf(out, "FAIL %s\n%s", name, strings.Join(text, ""))
		}
		r.failed++
	case e.Test == "":
		if e.Action == "pass" && e.Elapsed >= 1 {
			fmt.Fprintf(out, "ok   %s (%.1f s)\n", name, e.Elapsed)
		}
	case e.Action == "pass":
		r.passed++
		if live {
			fmt.Fprintf(out, "ok   %s.%s (%.0f s)\n", name, e.Test, e.Elapsed)
		}
	case e.Action == "fail":
		r.failed++
		r.blame(e.Test, text)
		r.fails = append(r.fails, name+"."+e.Test+"\n"+strings.Join(said(text), ""))
		fmt.Fprintf(out, "FAIL %s.%s\n", name, e.Test)
		if !live {
			fmt.Fprint(out, strings.Join(text, ""))
		}
	case e.Action == "skip":
		r.skips = append(r.skips, name+"."+e.Test+": "+reason(text))
	}
}

// reason is what t.Skip said: the last line that is not the framework's.
func reason(text []string) string {
	for _, l := range slices.Backward(text) {
		l = strings.TrimSpace(l)
		if l != "" && !strings.HasPrefix(l, "---") && !strings.HasPrefix(l, "===") {
			return l
		}
	}
	return "no reason given"
}

// blame sorts failed tests by whether the emulator may have been the cause.
func (r *results) blame(test string, text []string) {
	top, _, _ := strings.Cut(test, "/")
	at := slices.IndexFunc(text, func(l string) bool { return strings.Contains(l, qemu.StaleTranslation) })
	switch {
	case at >= 0 && !slices.Contains(r.stale, top):
		r.stale = append(r.stale, top)
		r.again = append(r.again, top+": "+strings.TrimSpace(text[at]))
	case at < 0 && !slices.Contains(r.sound, top):
		r.sound = append(r.sound, top)
	}
}

// forgive takes back failures of which the emulator is the cause, if all are, and
// names the tests to do again. A second time nothing is forgiven.
func (r *results) forgive(failed, fails int) []string {
	again := r.stale
	for _, t := range r.sound { // a subtest fails without a machine of its own
		if !slices.Contains(again, t) {
			return nil
		}
	}
	if len(again) > 0 {
		r.failed, r.fails, r.stale, r.sound = failed, r.fails[:fails], nil, nil
	}
	return again
}

// said are the last lines that name their place in the test, each without what
// follows it: the reason is among them, and a log of hours is not.
func said(text []string) []string {
	const most = 12
	lines := slices.DeleteFunc(slices.Clone(text), func(l string) bool { return !place.MatchString(l) })
	return lines[max(0, len(lines)-most):]
}

var place = regexp.MustCompile(`^\s+\w+_test\.go:\d+: `)

// shown leaves the framework's own lines out of live output.
func shown(l string) bool {
	for _, p := range []string{"=== ", "--- PASS", "PASS", "ok "} {
		if strings.HasPrefix(strings.TrimSpace(l), p) {
			return false
		}
	}
	return true
}

func (r *results) print(w io.Writer, d time.Duration) {
	for _, s := range r.skips {
		fmt.Fprintf(w, "skipped %s\n", s)
	}
	for _, a := range r.again {
		fmt.Fprintf(w, "done again %s\n", a)
	}
	for _, f := range r.fails { // again: thousands of lines may be between
		fmt.Fprintf(w, "failed %s", f)
	}
	fmt.Fprintf(w, "took %.0f s\n", d.Seconds())
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, len(r.skips))
}
