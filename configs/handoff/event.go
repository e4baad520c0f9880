// Package handoff is the whole conversation between a node and the outside:
// what it reports (Event), what it is told, and the names of its kernel
// arguments.
//
// It does not know how any of this travels: serial console, HTTP or a file.
package handoff

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// State is where a step stands.
type State string

// The states of a step. Every step that starts ends in done, failed or skipped.
const (
	Started State = "started"
	Running State = "running" // progress within a step
	Done    State = "done"
	Failed  State = "failed"
	Skipped State = "skipped"
)

// Event is one step of a node's life, one JSON object per line on the serial
// console and, with a seed, the same object over the network. It never holds a
// secret.
type Event struct {
	Slipway int     `json:"slipway"`        // version of this shape: 1
	Seq     int     `json:"seq"`            // counts from 1 at power-on; a gap is a lost event
	Uptime  float64 `json:"uptime"`         // seconds since the kernel started
	Phase   string  `json:"phase"`          // name in firstboot/sequence.go
	Step    string  `json:"step,omitempty"` // within the phase: a service, a blob, a kubeadm phase
	State   State   `json:"state"`
	Text    string  `json:"text,omitempty"` // for people
	Code    string  `json:"code,omitempty"` // stable error code: "SW-STORE-DIGEST"
	Hint    string  `json:"hint,omitempty"` // next step for the operator
	// Data holds figures for machines: "bytes", "blobs", "address".
	Data map[string]any `json:"data,omitempty"`
}

// EventVersion is the value of Event.Slipway.
const EventVersion = 1

// prefix begins every encoded event: it is how a reader of a console tells
// events from kernel messages.
const prefix = `{"slipway":1,`

// Line renders the event as one line of JSON that ends in a newline.
func (e Event) Line() []byte {
	e.Slipway = EventVersion
	b, err := json.Marshal(e)
	if err != nil { // only Data can do this
		e.Data = map[string]any{"encoding": err.Error()}
		b, _ = json.Marshal(e)
	}
	return append(b, '\n')
}

// ParseLine finds an event in one line of console output. Text around it (a
// kernel message that got in between, carriage returns) is allowed; ok is
// false when the line holds no event.
func ParseLine(line []byte) (e Event, ok bool, err error) {
	i := bytes.Index(line, []byte(prefix))
	if i < 0 {
		return Event{}, false, nil
	}
	d := json.NewDecoder(bytes.NewReader(line[i:]))
	if err := d.Decode(&e); err != nil {
		return Event{}, true, fmt.Errorf("event in %q: %w", strings.TrimSpace(string(line)), err)
	}
	return e, true, nil
}

// DataHostKeys names the fingerprints of a node's SSH host keys in the Data of an
// event, []string as ssh-keygen -l prints them: "SHA256:" and 43 characters. The
// node tells them when sshd starts; the channel it enrolled on vouches for them.
const DataHostKeys = "hostkeys"

var fingerprint = regexp.MustCompile(`^SHA256:[A-Za-z0-9+/]{43}$`)

// HostKeys are the fingerprints that the event tells; nil if it tells none, or
// something else under their name.
func (e Event) HostKeys() []string {
	const most = 8
	list, _ := e.Data[DataHostKeys].([]any)
	if own, ok := e.Data[DataHostKeys].([]string); ok { // before it travelled
		for _, k := range own {
			list = append(list, k)
		}
	}
	if len(list) > most {
		return nil
	}
	var out []string
	for _, x := range list {
		k, ok := x.(string)
		if !ok || !fingerprint.MatchString(k) {
			return nil
		}
		out = append(out, k)
	}
	return out
}
