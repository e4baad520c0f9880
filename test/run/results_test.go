package main

import (
	"io"
	"strings"
	"testing"
	"time"
)

// TestFailuresAreSaidAgain: whoever sees only the end of a run sees why it failed.
func TestFailuresAreSaidAgain(t *testing.T) {
	stream := `{"Action":"output","Package":"m/a","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"m/a","Test":"TestA","Output":"    a_test.go:7: a table\n"}
{"Action":"output","Package":"m/a","Test":"TestA","Output":"        its line\n"}
{"Action":"output","Package":"m/a","Test":"TestA","Output":"    a_test.go:9: not what was wanted\n"}
{"Action":"fail","Package":"m/a","Test":"TestA"}
{"Action":"output","Package":"m/a","Test":"TestB","Output":"    a_test.go:12: no room here\n"}
{"Action":"skip","Package":"m/a","Test":"TestB"}
{"Action":"pass","Package":"m/a","Test":"TestC"}
{"Action":"fail","Package":"m/a"}
`
	var r results
	var live, end strings.Builder
	if err := r.read(strings.NewReader(stream), &live, true); err != nil {
		t.Fatal(err)
	}
	r.print(&end, 3*time.Second)
	want := `skipped a.TestB: a_test.go:12: no room here
failed a.TestA
    a_test.go:7: a table
    a_test.go:9: not what was wanted
took 3 s
1 passed, 2 failed, 1 skipped
`
	if end.String() != want {
		t.Errorf("the end of the run:\n%s\nwant:\n%s", end.String(), want)
	}
}

// TestForgiven: what only the emulator's fault explains is done again, once.
func TestForgiven(t *testing.T) {
	const stale = `{"Action":"output","Package":"m/a","Test":"TestA","Output":"    qemutest.go:37: the emulator ran a stale translation: [ 2.6] Oops: int3\n"}
`
	sub := `{"Action":"fail","Package":"m/a","Test":"TestA/part"}
`
	fail := func(test string) string { return `{"Action":"fail","Package":"m/a","Test":"` + test + `"}` + "\n" }
	for name, tt := range map[string]struct {
		stream, again string
		failed        int
	}{
		"the emulator's":           {sub + stale + fail("TestA"), "TestA", 1},
		"one of them is not":       {stale + fail("TestA") + fail("TestB"), "", 4},
		"no machine had the fault": {fail("TestA"), "", 3},
		"nothing failed":           {`{"Action":"pass","Package":"m/a","Test":"TestA"}` + "\n", "", 1},
	} {
		r := results{failed: 1, fails: []string{"an earlier one\n"}}
		stream := tt.stream
		if strings.Contains(stream, `"fail"`) {
			stream += `{"Action":"fail","Package":"m/a"}` + "\n"
		}
		if err := r.read(strings.NewReader(stream), io.Discard, true); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(r.forgive(1, 1), " ")
		if got != tt.again || r.failed != tt.failed || got != "" && len(r.fails) != 1 {
			t.Errorf("%s: again %q, %d failed, %q; want %q, %d", name, got, r.failed, r.fails, tt.again, tt.failed)
		}
		if got != "" && (len(r.again) != 1 || !strings.Contains(r.again[0], "TestA: qemutest.go:37: the emulator")) {
			t.Errorf("%s: said %q", name, r.again)
		}
	}
}
