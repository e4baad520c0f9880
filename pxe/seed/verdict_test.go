package seed

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
)

// walk makes steps a second apart: "dhcp OFFER: 10.0.0.5", "tftp/failed shimx64.efi".
func walk(lines ...string) (steps []Step) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, l := range lines {
		where, text, _ := strings.Cut(l, " ")
		stage, state, _ := strings.Cut(where, "/")
		st := Step{Seq: uint64(i + 1), Time: at.Add(time.Duration(i) * time.Second), Stage: Stage(stage), State: state, Text: text}
		if code, rest, ok := strings.Cut(text, "|"); ok {
			st.Code, st.Text = code, rest
			st.Text, st.Hint, _ = strings.Cut(rest, "|")
		}
		steps = append(steps, st)
	}
	return steps
}

func TestJudge(t *testing.T) {
	full := []string{"dhcp DISCOVER: PXEClient", "dhcp OFFER: 10.0.0.5", "dhcp REQUEST: 10.0.0.5", "dhcp ACK: 10.0.0.5"}
	proxy := []string{"dhcp DISCOVER: PXEClient", "dhcp PROXY-OFFER: boots shimx64.efi"}
	loaded := append(append([]string{}, full...), "tftp/done shimx64.efi")
	kernel := append(append([]string{}, loaded...), "loader/done grub.cfg", "kernel/done vmlinuz", "kernel/done initrd.img")
	for _, tc := range []struct {
		name  string
		m     Machine
		steps []string
		after time.Duration // the last step
		code  string
		hint  string // part of it
	}{
		{"just begun", Machine{State: Seen}, full[:1], time.Second, "", ""},
		{"no answer", Machine{State: Seen}, full[:1], time.Minute, "SW-SEED-NO-OFFER", "mode: off"},
		{"offer not taken", Machine{State: Seen}, full[:2], time.Minute, "SW-SEED-NO-REQUEST", "another DHCP server"},
		{"offer not taken, asked again just now", Machine{State: Seen}, append(append([]string{}, full[:2]...), "dhcp DISCOVER: PXEClient", "dhcp OFFER: 10.0.0.5"), time.Minute, "SW-SEED-NO-REQUEST", ""},
		{"proxy, silent", Machine{State: Seen}, proxy, time.Minute, "SW-SEED-NO-4011", "4011"},
		{"proxy, 4011, no loader", Machine{State: Seen}, append(append([]string{}, proxy...), "dhcp PROXY-4011: boots shimx64.efi"), time.Minute, "SW-SEED-NO-TFTP", "port 69"},
		{"address, no loader", Machine{State: Seen}, full, time.Minute, "SW-SEED-NO-TFTP", "port 69"},
		{"refused", Machine{State: Seen}, []string{"dhcp DISCOVER: PXEClient", "dhcp IGNORED: no medium for arm64"}, time.Second, "SW-SEED-IGNORED", "architecture"},
		{"conflicts", Machine{State: Seen}, []string{"dhcp DISCOVER: PXEClient", "dhcp CONFLICT: 10.0.0.5 is in use"}, time.Minute, "SW-SEED-CONFLICT", "dhcp.first"},
		{"two aborts", Machine{State: Seen}, append(append([]string{}, full...), "tftp/failed a", "tftp/failed a"), time.Second, "", ""},
		{"three aborts", Machine{State: Seen}, append(append([]string{}, full...), "tftp/failed a", "tftp/failed a", "tftp/failed a"), time.Second, "SW-SEED-TFTP", "firewall"},
		{"three aborts, then well", Machine{State: Seen}, append(append([]string{}, full...), "tftp/failed a", "tftp/failed a", "tftp/failed a", "tftp/done a"), time.Second, "", ""},
		{"loading", Machine{State: Seen}, loaded, 10 * time.Second, "", ""},
		{"loader, no kernel", Machine{State: Seen}, loaded, 2 * time.Minute, "SW-SEED-NO-KERNEL", "Secure Boot"},
		{"kernel starting", Machine{State: Seen}, kernel, time.Minute, "", ""},
		{"kernel, nothing since", Machine{State: Seen}, kernel, 5 * time.Minute, "SW-SEED-NO-START", "memory"},
		{"kernel runs, never spoke", Machine{State: Seen}, append(append([]string{}, kernel...), "dhcp "+RunningSystem+"ACK: 10.0.0.5"), 5 * time.Minute, "SW-SEED-NO-HELLO", "pin"},
		{"a new power-on", Machine{State: Seen}, append(append([]string{}, kernel...), full[:2]...), 10 * time.Second, "", ""},
		{"a new power-on that fails", Machine{State: Seen}, append(append([]string{}, kernel...), full[:2]...), time.Minute, "SW-SEED-NO-REQUEST", ""},
		{"waits", Machine{State: Waiting, Code: "ABC-DEF"}, []string{"enrol/started x"}, 0, "SW-SEED-APPROVE", "slipway approve ABC-DEF"},
		{"two of a kind", Machine{State: Waiting, Code: "ABC-DEF", Reason: "2 machines have the same MAC x; none gets a config until the wrong one is rejected"}, nil, 0, "SW-SEED-DUPLICATE", "slipway reject ABC-DEF"},
		{"no slot", Machine{State: Waiting, Reason: "no rule of cluster.yaml has room for it (..)"}, nil, 0, "SW-SEED-NO-ROLE", "cluster.yaml"},
		{"approved", Machine{State: Approved}, []string{"enrol/running x"}, time.Second, "", ""},
		{"approved and gone", Machine{State: Approved}, []string{"enrol/running x"}, time.Hour, "SW-SEED-NOT-FETCHED", "new code"},
		{"held", Machine{State: Held}, []string{"system/failed SW-STORE-DIGEST|damaged|write it again", "system/running hold: the node holds"}, time.Hour, "SW-STORE-DIGEST", "write it again"},
		{"held without steps", Machine{State: Held, Reason: "why"}, nil, 0, "SW-SEED-HELD", "screen"},
		{"blobs move", Machine{State: Taken}, []string{"blobs/running system.erofs"}, 10 * time.Second, "", ""},
		{"blobs stand still", Machine{State: Taken, Done: 1e6, Total: 9e6}, []string{"blobs/running system.erofs"}, 2 * time.Minute, "SW-SEED-BLOBS", "cable"},
		{"silent", Machine{State: Taken}, []string{"kubernetes/done kubelet"}, time.Hour, "SW-SEED-SILENT", "screen"},
		{"not Ready yet", Machine{State: Taken, Name: "worker-1", Reason: "its Node is not Ready: CNI"}, []string{"kubernetes/running wait"}, 20 * time.Second, "", ""},
		{"not Ready for long", Machine{State: Taken, Name: "worker-1", Reason: "its Node is not Ready: CNI"}, []string{"kubernetes/running wait"}, 3 * time.Minute, "SW-SEED-NOT-READY", "describe node worker-1"},
		{"not Ready any more", Machine{State: Taken, Name: "worker-1", Reason: "its Node is not Ready: gone"}, []string{"ready/done Ready", "ready/failed not Ready"}, 0, "SW-SEED-NOT-READY", "describe node worker-1"},
		{"not Ready", Machine{State: Taken, Name: "worker-1", Reason: "its Node is not Ready: CNI"}, nil, 0, "SW-SEED-NOT-READY", "describe node worker-1"},
		{"Ready", Machine{State: Ready}, []string{"ready/done x"}, 24 * time.Hour, "", ""},
		{"rejected", Machine{State: Rejected, Reason: "rejected: wrong one"}, nil, 0, "SW-SEED-REJECTED", "new code"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			steps := walk(tc.steps...)
			now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			if n := len(steps); n > 0 {
				now = steps[n-1].Time.Add(tc.after)
				tc.m.Step = steps[n-1]
			}
			got := Judge(tc.m, steps, now)
			switch {
			case got == nil && tc.code == "":
			case got == nil || got.Code != tc.code:
				t.Fatalf("got %+v, want %q", got, tc.code)
			case got.Text == "" || !strings.Contains(got.Hint, tc.hint) || got.Hint == "":
				t.Errorf("got %+v, want a hint with %q", got, tc.hint)
			}
		})
	}
}

func TestStageOf(t *testing.T) {
	for _, tc := range []struct {
		e    handoff.Event
		want Stage
	}{
		{handoff.Event{Phase: "kernel"}, StageKernel},
		{handoff.Event{Phase: "medium", Step: "wait"}, StageSystem},
		{handoff.Event{Phase: "config"}, StageSystem},
		{handoff.Event{Phase: "network"}, StageSystem},
		{handoff.Event{Phase: "enrol", Step: "code"}, StageEnrol},
		{handoff.Event{Phase: "system", Data: map[string]any{"bytes": 1.0}}, StageSystem},
		{handoff.Event{Phase: "system", Step: "verify", Data: map[string]any{"bytes": 1.0}}, StageBlobs},
		{handoff.Event{Phase: "services"}, StageSystem},
		{handoff.Event{Phase: "kubernetes", Step: "certs"}, StageKubernetes},
		{handoff.Event{Phase: "ready"}, StageReady},
		{handoff.Event{Phase: "something new"}, StageSystem},
	} {
		if got := stageOf(tc.e); got != tc.want {
			t.Errorf("%s/%s: got %s, want %s", tc.e.Phase, tc.e.Step, got, tc.want)
		}
	}
}

func TestSnippet(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.7")
	for _, server := range []string{"dnsmasq", "isc", "kea", "windows"} {
		s := Snippet(server, a)
		for _, want := range []string{"192.0.2.7", "undionly.kpxe", "shimx64.efi", "shimaa64.efi", "boot.ipxe", "iPXE"} {
			if !strings.Contains(s, want) {
				t.Errorf("%s: no %q", server, want)
			}
		}
		if strings.Contains(s, "SEED") {
			t.Errorf("%s: a place was not filled in", server)
		}
	}
	if s := Snippet("vi", a); s != "" {
		t.Errorf("got %q", s)
	}
}

func TestJudgeOrders(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for name, tt := range map[string]struct {
		o     Ordered
		state State
		want  string
	}{
		"given":            {Ordered{Verb: handoff.Upgrade, Bundle: "s 4", Given: ago(time.Minute)}, Ready, ""},
		"not asked for":    {Ordered{Verb: handoff.Upgrade, Bundle: "s 4", Given: ago(time.Hour)}, Ready, "SW-ORDER-NOT-ASKED: it has not asked for its order for 60 min: upgrade to s 4"},
		"told":             {Ordered{Verb: handoff.Reset, Given: ago(time.Hour), Told: ago(time.Minute)}, Taken, ""},
		"told long ago":    {Ordered{Verb: handoff.Reset, Given: ago(time.Hour), Told: ago(time.Hour)}, Taken, "SW-ORDER-SLOW: told 60 min ago"},
		"done":             {Ordered{Verb: handoff.Reset, Ended: now, State: handoff.Done}, Ready, ""},
		"withdrawn":        {Ordered{Verb: handoff.Reset, Ended: now, State: handoff.Skipped}, Ready, ""},
		"failed":           {Ordered{Verb: handoff.Upgrade, Bundle: "s 4", Ended: now, State: handoff.Failed, Code: "SW-X", Text: "fell back"}, Ready, "SW-X: upgrade to s 4: fell back"},
		"failed, no words": {Ordered{Verb: handoff.Reset, Ended: now, State: handoff.Failed}, Ready, "SW-ORDER-FAILED: reset: it failed"},
		"enrols again":     {Ordered{Verb: handoff.Reimage, Given: ago(time.Hour), Told: ago(time.Hour)}, Waiting, "SW-SEED-APPROVE"},
	} {
		m := Machine{Name: "w1", State: tt.state, Order: &tt.o, Step: Step{Time: ago(20 * time.Minute), Stage: StageReady}}
		got := ""
		if v := Judge(m, nil, now); v != nil {
			got = v.Code + ": " + v.Text
		}
		if !strings.HasPrefix(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}
