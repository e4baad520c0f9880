// Package operatortest is a seed in memory for tests of what its operator sees:
// a site with machines in every state, at a fixed time.
//
// It speaks no protocol, keeps nothing on disk, and is imported by tests only.
package operatortest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
)

// Now is the time at the site.
func Now() time.Time { return time.Date(2026, 11, 21, 10, 30, 0, 0, time.UTC) }

// Desk is an operator.Desk. The zero Desk has no machines and no cluster.
type Desk struct {
	mu       sync.Mutex
	status   seed.Status
	machines []seed.Machine
	steps    []seed.Step
	config   []byte
	changed  chan struct{}
	obey     map[string]handoff.Outcome
}

// New has the machines of Site.
func New(n int) *Desk {
	s, machines, steps := Site(n)
	d := &Desk{status: s, machines: machines}
	for _, st := range steps {
		d.Record(st)
	}
	return d
}

// Status is the seed as a whole.
func (d *Desk) Status() seed.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.status
	s.Machines = len(d.machines)
	s.ReadyOf = [2]int{}
	for _, m := range d.machines {
		if m.Name != "" && m.State != seed.Rejected {
			s.ReadyOf[1]++
		}
		if m.State == seed.Ready {
			s.ReadyOf[0]++
		}
	}
	return s
}

// Machines are all, by ID.
func (d *Desk) Machines() []seed.Machine {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := slices.Clone(d.machines)
	slices.SortFunc(out, func(a, b seed.Machine) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Machine finds by ID, name or code.
func (d *Desk) Machine(ref string) (seed.Machine, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i, err := d.find(ref)
	if err != nil {
		return seed.Machine{}, err
	}
	return d.machines[i], nil
}

func (d *Desk) find(ref string) (int, error) {
	i := slices.IndexFunc(d.machines, func(m seed.Machine) bool { return ref != "" && (m.ID == ref || m.Name == ref || m.Code == ref) })
	if i < 0 {
		return 0, &handoff.Refusal{Code: "SW-SEED-UNKNOWN", Text: fmt.Sprintf("no machine is called %q", ref), Hint: "`slipway nodes` lists them"}
	}
	return i, nil
}

// Timeline is what happened to one machine.
func (d *Desk) Timeline(id string) (out []seed.Step) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.steps {
		if s.Machine == id {
			out = append(out, s)
		}
	}
	return out
}

// Steps are those after a sequence number.
func (d *Desk) Steps(after uint64) ([]seed.Step, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return slices.Clone(d.steps[min(after, uint64(len(d.steps))):]), d.changed
}

// Record adds a step; it becomes its machine's newest.
func (d *Desk) Record(s seed.Step) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Seq = uint64(len(d.steps)) + 1
	d.steps = append(d.steps, s)
	for i := range d.machines {
		if m := &d.machines[i]; m.ID == s.Machine {
			m.Step, m.Last = s, s.Time
		}
	}
	if d.changed != nil {
		close(d.changed)
	}
	d.changed = nil
}

// Change alters one machine, as the seed would.
func (d *Desk) Change(ref string, f func(*seed.Machine)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i, err := d.find(ref); err == nil {
		f(&d.machines[i])
	}
}

// Approve compares the code when there is one. The step that it records names
// the disks in wipe.
func (d *Desk) Approve(ref, code string, wipe ...string) (seed.Machine, error) {
	return d.judge(ref, seed.StageEnrol, strings.Join(append([]string{"approved by the operator"}, wipe...), ", wiping "), func(m *seed.Machine) error {
		if m.State != seed.Waiting {
			return &handoff.Refusal{Code: "SW-SEED-STATE", Text: fmt.Sprintf("%s is %s and waits for nothing", m.ID, m.State)}
		}
		if code != "" && code != m.Code {
			return &handoff.Refusal{Code: "SW-SEED-CODE", Text: fmt.Sprintf("%s shows another code than %s", m.ID, code), Hint: "somebody may sit between the seed and the machine: compare again, and `slipway reject` it when they differ"}
		}
		for _, w := range wipe {
			if !slices.ContainsFunc(m.Facts.Disks, func(d handoff.Disk) bool { return configs.Called(w, d.Serial, d.WWN, d.Path) }) {
				return &handoff.Refusal{Code: "SW-SEED-DISK", Text: fmt.Sprintf("%s has no disk %q", m.ID, w)}
			}
		}
		m.State, m.Code, m.Verdict = seed.Approved, "", nil
		return nil
	})
}

// Reject refuses a machine.
func (d *Desk) Reject(ref, reason string) (seed.Machine, error) {
	return d.judge(ref, seed.StageEnrol, "rejected: "+reason, func(m *seed.Machine) error {
		m.State, m.Code, m.Reason, m.Verdict = seed.Rejected, "", reason, nil
		return nil
	})
}

// Assign names a machine.
func (d *Desk) Assign(ref, name, role string) (seed.Machine, error) {
	return d.judge(ref, seed.StageEnrol, "assigned", func(m *seed.Machine) error {
		if m.State == seed.Taken || m.State == seed.Ready {
			return &handoff.Refusal{Code: "SW-SEED-STATE", Text: m.ID + " has its config already"}
		}
		m.Name, m.Role = cmp.Or(name, m.Name), cmp.Or(configs.Role(role), m.Role)
		return nil
	})
}

func (d *Desk) judge(ref string, stage seed.Stage, text string, f func(*seed.Machine) error) (seed.Machine, error) {
	d.mu.Lock()
	i, err := d.find(ref)
	if err == nil {
		err = f(&d.machines[i])
	}
	if err != nil {
		d.mu.Unlock()
		return seed.Machine{}, err
	}
	id := d.machines[i].ID
	d.mu.Unlock()
	d.Record(seed.Step{Machine: id, Time: Now(), Stage: stage, State: string(handoff.Done), Text: text})
	return d.Machine(id)
}

// Arm opens the window.
func (d *Desk) Arm(t time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.status.Approve != "auto" {
		return &handoff.Refusal{Code: "SW-SEED-ARM", Text: "spec.seed.approve is " + d.status.Approve + ": there is nothing to arm", Hint: "write approve: auto in cluster.yaml"}
	}
	d.status.Armed = time.Time{}
	if t > 0 {
		d.status.Armed = Now().Add(t)
	}
	return nil
}

// Form makes a cluster with this kubeconfig.
func (d *Desk) Form(config string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.config, d.status.API = []byte(config), "https://10.20.0.10:6443"
}

// Kubeconfig is what Form was given.
func (d *Desk) Kubeconfig() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.config == nil {
		return nil, &handoff.Refusal{Code: "SW-SEED-NO-CLUSTER", Text: "there is no cluster yet", Hint: "`slipway kubeconfig --wait` waits for it"}
	}
	return d.config, nil
}
