package handoff

import (
	"slices"
	"strings"
	"testing"
)

func TestEventsAreFoundInANoisyConsole(t *testing.T) {
	line := string(Event{Seq: 3, Phase: "system", Step: "verify", State: Done, Data: map[string]any{"bytes": 7}}.Line())
	for name, in := range map[string]string{"alone": line, "after a kernel message": "[    1.2] usb 1-1: new device " + line, "with CR": line[:len(line)-1] + "\r\n"} {
		e, ok, err := ParseLine([]byte(in))
		if err != nil || !ok || e.Seq != 3 || e.Phase != "system" || e.Data["bytes"] != float64(7) {
			t.Errorf("%s: %+v, %v, %v", name, e, ok, err)
		}
	}
	if _, ok, err := ParseLine([]byte("plain text {\"a\":1}")); ok || err != nil {
		t.Errorf("plain text: %v, %v", ok, err)
	}
	if _, ok, err := ParseLine([]byte(line[:20])); !ok || err == nil {
		t.Errorf("a broken event: %v, %v", ok, err)
	}
}

func TestDataThatCannotBeEncodedIsNoLostEvent(t *testing.T) {
	e, ok, err := ParseLine(Event{Phase: "x", State: Failed, Data: map[string]any{"f": func() {}}}.Line())
	if err != nil || !ok || e.Phase != "x" || e.Data["encoding"] == nil {
		t.Errorf("%+v, %v, %v", e, ok, err)
	}
}

func TestHostKeysTravel(t *testing.T) {
	good := "SHA256:" + strings.Repeat("a", 43)
	e, _, err := ParseLine(Event{Phase: "services", Step: "sshd", State: Running, Data: map[string]any{DataHostKeys: []string{good, good}}}.Line())
	if got := e.HostKeys(); err != nil || !slices.Equal(got, []string{good, good}) {
		t.Errorf("%q, %v", got, err)
	}
	for name, data := range map[string]any{"none": nil, "text": good, "a number": []any{1}, "another hash": []any{"MD5:aa"}, "a line more": []any{good + "\n"},
		"one bad": []any{good, ""}, "too many": slices.Repeat([]any{good}, 9)} {
		if got := (Event{Data: map[string]any{DataHostKeys: data}}).HostKeys(); got != nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}
