package main

import (
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
