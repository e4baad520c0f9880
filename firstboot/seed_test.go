package firstboot

import (
	"errors"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/enrol"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/images/boot"
)

func TestTake(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string // of the error, "" when it is taken
		host  string
		role  configs.Role
	}{
		{"control plane", map[string]string{"user-data": "#cloud-config\nhostname: cp-1\n", "meta-data": "instance-id: i-1\n", "other": "x"}, "", "cp-1", configs.RoleControlPlane},
		{"worker, named by meta-data", map[string]string{"user-data": "#cloud-config\nslipway: {role: worker, endpoint: 10.0.0.1}\n", "meta-data": "instance-id: i-1\nlocal-hostname: cp-1\n"}, "", "cp-1", configs.RoleWorker},
		{"nameless", map[string]string{"user-data": "#cloud-config\n{}\n"}, "", "cp-1", configs.RoleControlPlane},
		{"another name", map[string]string{"user-data": "#cloud-config\nhostname: w-1\n"}, `the node is called "w-1" in its config and "cp-1" at the seed`, "", ""},
		{"wrong", map[string]string{"user-data": "#cloud-config\nhostnam: cp-1\n"}, "user-data:2:1: hostnam", "", ""},
		{"nothing", nil, "user-data", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := New(t.Context())
			n.Report = report.New(&recorder{}, true, func() float64 { return 0 })
			n.Cmdline.Seed = "https://192.0.2.1:8443"
			r, err := n.take(handoff.Config{Name: "cp-1", Files: c.files})
			if c.want != "" {
				var f *report.Failure
				if !errors.As(err, &f) || f.Code != "SW-CONFIG-INVALID" || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "seed https://192.0.2.1:8443: ") {
					t.Errorf("got %v, want %q", err, c.want)
				}
				return
			}
			if err != nil || r.files["other"] != nil || n.source != "seed https://192.0.2.1:8443" || n.User.Slipway.Role != c.role {
				t.Fatalf("got %+v, role %q, %v", r, n.User.Slipway.Role, err)
			}
			if got := firstNonEmpty(n.User.Hostname, n.Meta.LocalHostname); got != c.host {
				t.Errorf("host name %q, want %q", got, c.host)
			}
		})
	}
}

func firstNonEmpty(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func TestASeedIsTheOnlySource(t *testing.T) {
	for _, c := range []struct {
		cmdline boot.Cmdline
		want    string
	}{
		{boot.Cmdline{Seed: "https://192.0.2.1:1", Config: "cidata"}, "both say where the config is"},
		{boot.Cmdline{Seed: "http://192.0.2.1:1"}, "want https://HOST:PORT"},
		{boot.Cmdline{Seed: "https://192.0.2.1:1", Pin: "abc"}, `slipway.pin="abc": want 64 hex digits`},
	} {
		n := New(t.Context())
		n.Cmdline = c.cmdline
		var f *report.Failure
		if err := configPhase(t.Context(), n); !errors.As(err, &f) || f.Code != "SW-CMDLINE" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %q", c.cmdline, err, c.want)
		}
	}
}

func TestEventsOfTheBootAreKeptForTheSeed(t *testing.T) {
	n := New(t.Context())
	n.Report.Emit(handoff.Event{Phase: "kernel", State: handoff.Done})
	var got []handoff.Event
	n.sink = enrol.NewSink()
	n.Report.Also(func(e handoff.Event) { got = append(got, e) })
	n.Report.Emit(handoff.Event{Phase: "medium", State: handoff.Done})
	n.Report.Also(nil)
	n.Report.Emit(handoff.Event{Phase: "config", State: handoff.Done})
	if len(got) != 1 || got[0].Seq != 2 || got[0].Phase != "medium" {
		t.Errorf("got %+v", got)
	}
}

// TestOutageIsALineAMinute: a node may wait for hours, and retries every few seconds.
func TestOutageIsALineAMinute(t *testing.T) {
	var o outage
	at, lines := time.Now(), 0
	ask := func(seconds ...int) {
		for _, s := range seconds {
			at = at.Add(time.Duration(s) * time.Second)
			if o.worthALine(at) {
				lines++
			}
		}
	}
	ask(0, 1, 2, 4, 8, 10, 10, 10, 10) // 55 s
	if lines != 1 {
		t.Errorf("%d lines in the first minute, want 1", lines)
	}
	ask(10, 10, 10)
	if lines != 2 {
		t.Errorf("%d lines in 85 s, want 2", lines)
	}
	if ask(50); lines != 3 {
		t.Errorf("another outage was not told")
	}
}
