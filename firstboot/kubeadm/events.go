package kubeadm

import (
	"regexp"
	"strings"
	"sync"

	"slipway.dev/slipway/configs/handoff"
)

// marker is how kubeadm begins the lines of a phase: "[certs] Generating ...".
var marker = regexp.MustCompile(`^\[([a-z][a-z-]*)\] (.+)$`)

// narrator turns kubeadm's output into events: a phase starts at its first
// line and is done at the first line of another.
type narrator struct {
	report func(handoff.Event)
	began  func(step string) // called once per phase
	mu     sync.Mutex
	step   string
	seen   map[string]bool
}

func newNarrator(report func(handoff.Event), began func(string)) *narrator {
	return &narrator{report: report, began: began, seen: map[string]bool{}}
}

// line takes one line of output.
func (n *narrator) line(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if text, ok := strings.CutPrefix(s, "\t["); ok {
		// Preflight findings: "\t[WARNING Hostname]: ...", "\t[ERROR Port-6443]: ...".
		n.report(handoff.Event{Step: n.step, State: handoff.Running, Text: "[" + text})
		return
	}
	m := marker.FindStringSubmatch(s)
	if m == nil {
		return
	}
	step, text := m[1], m[2]
	if step == "patches" || step == "kubelet" && n.step == "upload-config" {
		return // inside another phase
	}
	if strings.HasPrefix(text, "Skipping phase.") || step == n.step {
		return
	}
	n.finish(handoff.Done, "")
	n.step = step
	if n.seen[step] {
		return
	}
	n.seen[step] = true
	n.report(handoff.Event{Step: step, State: handoff.Started, Text: text})
	if n.began != nil {
		n.began(step)
	}
}

// end closes the phase that is open and returns its name.
func (n *narrator) end(s handoff.State, text string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	step := n.step
	n.finish(s, text)
	return step
}

func (n *narrator) finish(s handoff.State, text string) {
	if n.step != "" {
		n.report(handoff.Event{Step: n.step, State: s, Text: text})
	}
	n.step = ""
}
