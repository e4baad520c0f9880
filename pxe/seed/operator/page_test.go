package operator

import (
	"encoding/json"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/operator/operatortest"
)

func TestPageAnswersOnlyItself(t *testing.T) {
	h := Page(operatortest.New(12))
	for _, tt := range []struct {
		method, path, host string
		want               int
	}{
		{"GET", "/", "127.0.0.1:8470", 200}, {"HEAD", "/", "localhost:8470", 200}, {"GET", "/view.json", "[::1]:8470", 200},
		{"GET", "/", "10.20.0.1", 200}, {"GET", "/", "LOCALHOST", 200}, {"GET", "/timeline.json?id=none", "::1", 200},
		{"GET", "/", "evil.example", 421}, {"GET", "/view.json", "127.0.0.1.evil.example:7480", 421}, {"GET", "/", "", 421}, {"GET", "/", "localhost.evil", 421},
		{"POST", "/", "127.0.0.1", 405}, {"POST", "/v1/nodes/cp-2/approve", "127.0.0.1", 404}, {"GET", "/v1/kubeconfig", "127.0.0.1", 404}, {"GET", "/v1/status", "127.0.0.1", 404}, {"DELETE", "/view.json", "127.0.0.1", 405},
	} {
		r := httptest.NewRequest(tt.method, tt.path, nil)
		r.Host = tt.host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tt.want {
			t.Errorf("%s %s at %q: %d, want %d", tt.method, tt.path, tt.host, w.Code, tt.want)
		}
		if p := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(p, "default-src 'none'; style-src 'sha256-") || strings.Contains(p, "unsafe") {
			t.Errorf("%s: policy %q", tt.path, p)
		}
		if tt.want == 421 && strings.Contains(w.Body.String(), "fab-7") {
			t.Errorf("%q was told of the cluster", tt.host)
		}
	}
}

func TestPageUsesNothingFromElsewhere(t *testing.T) {
	for _, bad := range []string{"http://", "https://", "src=", "@import", "url(", "innerHTML", "insertAdjacentHTML", "eval(", "style=\"", "onclick=\""} {
		text := strings.ReplaceAll(page, "http://www.w3.org/2000/svg", "")
		if strings.Contains(text, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	for _, once := range []string{"VIEW_GOES_HERE", "<style>", "<script>"} {
		if strings.Count(page, once) != 1 {
			t.Errorf("the page has %q %d times", once, strings.Count(page, once))
		}
	}
}

func TestViewChangesItsTagWithTheSeed(t *testing.T) {
	d := operatortest.New(12)
	now := operatortest.Now()
	h := pageAt(d, func() time.Time { return now })
	ask := func(tag string) (int, string, View) {
		r := httptest.NewRequest("GET", "/view.json", nil)
		r.Host = "127.0.0.1"
		r.Header.Set("If-None-Match", tag)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var v View
		if w.Code == 200 {
			if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
				t.Fatal(err)
			}
		}
		return w.Code, w.Header().Get("ETag"), v
	}
	code, tag, v := ask("")
	if code != 200 || len(v.Machines) != 12 || !v.Now.Equal(now) || v.Machines[0].Label != "cp-2" || v.Machines[0].Command != "slipway approve 7K3-M9Q" {
		t.Fatalf("%d %+v", code, v)
	}
	now = now.Add(time.Hour)
	if code, _, _ := ask(tag); code != 304 {
		t.Errorf("nothing changed but the time: %d", code)
	}
	d.Change("worker-1", func(m *seed.Machine) { m.Done++ })
	if code, other, _ := ask(tag); code != 200 || other == tag {
		t.Errorf("one more byte: %d %s", code, other)
	}
}

func TestPageCannotBeLeft(t *testing.T) {
	d := operatortest.New(12) // one machine's product is </script>
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/", nil)
	r.Host = "127.0.0.1"
	Page(d).ServeHTTP(w, r)
	if n := strings.Count(w.Body.String(), "</script>"); n != 2 {
		t.Errorf("%d ends of scripts, want 2", n)
	}
	if strings.Contains(w.Body.String(), "<img") {
		t.Error("a product became an element")
	}
}

func TestMarks(t *testing.T) {
	_, all, _ := operatortest.Site(13)
	short := map[Mark]string{MarkPending: ".", MarkActive: ">", MarkDone: "#", MarkFailed: "x", MarkStuck: "!", MarkWaits: "?", MarkSkipped: "-"}
	got := func(m seed.Machine) (s string) {
		marks, _ := Marks(m)
		for _, k := range marks {
			s += short[k]
		}
		return s
	}
	for i, want := range []string{"####?....", "#########", "!........", "#####>...", "#######>.", "######x..", "#-####>..", "#>.......", "####x....", "#--#?....", "#####....", "#########", "#########"} {
		if g := got(all[i]); g != want {
			t.Errorf("%d %s: %s, want %s", i, Name(all[i]), g, want)
		}
	}
	for text, want := range map[string]string{"running system: ACK": "#-###>...", "DISCOVER": ">........"} {
		again := all[6]
		again.Step = seed.Step{Stage: seed.StageDHCP, Text: text}
		if g := got(again); g != want {
			t.Errorf("a node with its config and %q is at %s, want %s", text, g, want)
		}
	}
	for facts, want := range map[*handoff.Facts]string{nil: ">........", all[0].Facts: "###>....."} {
		assigned := seed.Machine{State: seed.Seen, Facts: facts, Step: seed.Step{Stage: seed.StageEnrol, State: "done"}}
		if g := got(assigned); g != want {
			t.Errorf("a machine that was assigned a role is at %s, want %s", g, want)
		}
	}
	if g := got(seed.Machine{}); g != ">........" {
		t.Errorf("the zero machine is at %s", g)
	}
}

func TestCommand(t *testing.T) {
	for hint, want := range map[string]string{
		"slipway approve 7K3-M9Q": "slipway approve 7K3-M9Q", "kubectl describe node cp-1": "kubectl describe node cp-1",
		"compare the codes with the screens; this one: slipway reject 7K3-M9Q": "slipway reject 7K3-M9Q",
		"write it, then `slipway check cluster.yaml` and power it on: at once": "slipway check cluster.yaml",
		"look at its screen": "", "": "", "run: rm -rf /": "", "slipway nodes; rm -rf /": "", "`slipway $(rm)`": "", "`slipway nodes | sh`": "", "slipway nodes\nrm": "", "`slipwayx a`": "",
	} {
		if got := Command(seed.Machine{Verdict: &seed.Verdict{Hint: hint}}); got != want {
			t.Errorf("%q: %q, want %q", hint, got, want)
		}
	}
}

func TestSorted(t *testing.T) {
	_, all, _ := operatortest.Site(16)
	var got []string
	for _, m := range Sorted(all) {
		got = append(got, Name(m))
	}
	want := strings.Fields("cp-2 52:54:00:12:00:09 worker-2 52:54:00:12:00:02 cp-3 worker-1 worker-3 worker-4 52:54:00:12:00:07 cp-1 worker-5 worker-10 worker-11 worker-12 worker-13 52:54:00:12:00:08")
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
