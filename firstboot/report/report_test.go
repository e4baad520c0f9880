package report

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway.dev/slipway/configs/handoff"
)

type memory struct{ screen, serial []string }

func (m *memory) Write(screen, serial []byte) {
	m.screen, m.serial = append(m.screen, string(screen)), append(m.serial, string(serial))
}

func TestEmit(t *testing.T) {
	var m memory
	r := New(&m, true, func() float64 { return 3.21456 })
	file := filepath.Join(t.TempDir(), "events")
	if err := r.KeepIn(file); err != nil {
		t.Fatal(err)
	}
	r.Enter("network")
	r.Emit(handoff.Event{State: handoff.Started})
	r.Emit(handoff.Event{Phase: "system", Step: "verify", State: handoff.Done, Text: "two\nlines\x1b[2J", Data: map[string]any{"seconds": 1.25}})
	if want := "[    3.21] ok   system/verify two\r\n           | lines[2J (1.2 s)\r\n"; !strings.HasPrefix(m.serial[1], want) {
		t.Errorf("serial %q, want %q", m.serial[1], want)
	}
	for i, s := range m.serial {
		l := strings.Split(strings.TrimRight(s, "\r\n"), "\r\n")
		e, ok, err := handoff.ParseLine([]byte(l[len(l)-1]))
		if !ok || err != nil || e.Seq != i+1 || e.Uptime != 3.214 || e.Phase != []string{"network", "system"}[i] {
			t.Errorf("event %d: %+v, %v, %v", i, e, ok, err)
		}
	}
	raw, err := os.ReadFile(file)
	if err != nil || strings.Count(string(raw), "\n") != 2 {
		t.Errorf("file %q, %v", raw, err)
	}
	r.JSON(false)
	r.Emit(handoff.Event{State: handoff.Running, Text: "x"})
	if strings.Contains(m.serial[2], `{"slipway"`) {
		t.Errorf("JSON although it is off: %q", m.serial[2])
	}
}

func TestError(t *testing.T) {
	var m memory
	r := New(&m, true, func() float64 { return 1 })
	inner := &Failure{Code: "SW-X-Y", Hint: "do this", Tail: []string{"last\twords\x07"}, Err: errors.New("it broke")}
	r.Error("services", "sshd", fmt.Errorf("starting: %w", inner), nil)
	want := "[    1.00] FAIL services/sshd starting: it broke\r\n           code: SW-X-Y\r\n           | last words\r\n           next: do this\r\n"
	if !strings.HasPrefix(m.serial[0], want) {
		t.Errorf("got %q, want %q", m.serial[0], want)
	}
	r.Error("services", "", errors.New("plain"), nil)
	if !strings.Contains(m.serial[1], `"code":"SW-INTERNAL"`) {
		t.Errorf("got %q", m.serial[1])
	}
	if Fail("C", "", nil) != nil {
		t.Error("no error became one")
	}
}

// TestTextOfWaiting: what is waited for has its code and next step on the console
// too, as a failure has; what only goes on has neither.
func TestTextOfWaiting(t *testing.T) {
	e := handoff.Event{Uptime: 12, Phase: "install", Step: "wait", State: handoff.Running, Text: "waiting for the seed", Code: "SW-SEED-AWAY", Hint: "look at the seed"}
	want := "[   12.00] ..   install/wait waiting for the seed\r\n           code: SW-SEED-AWAY\r\n           next: look at the seed\r\n"
	if got := Text(e); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	e.Code = ""
	if got := Text(e); strings.Contains(got, "next") {
		t.Errorf("got %q", got)
	}
}
