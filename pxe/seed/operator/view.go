package operator

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
)

// Group is where a machine is shown.
type Group string

// The groups, as they are shown from top to bottom.
const (
	NeedsYou Group = "needs" // it waits for approval or stands still
	OnTheWay Group = "way"
	IsReady  Group = "ready"
	Refused  Group = "refused"
)

// GroupOf says where a machine is shown.
func GroupOf(m seed.Machine) Group {
	switch {
	case m.State == seed.Rejected:
		return Refused
	case m.State == seed.Waiting || m.State == seed.Held || m.Verdict != nil:
		return NeedsYou
	case m.State == seed.Ready:
		return IsReady
	}
	return OnTheWay
}

// Waits says whether a machine waits for nothing but the operator's approval.
func Waits(m seed.Machine) bool {
	return m.State == seed.Waiting && (m.Verdict == nil || m.Verdict.Code == verdictApprove)
}

// verdictApprove is the seed's for a machine whose code can be compared.
const verdictApprove = "SW-SEED-APPROVE"

// Sorted returns the machines as they are shown: what needs the operator first,
// control planes before workers, then by name. The order does not change with
// progress within a group, so that rows stay where the eye left them.
func Sorted(all []seed.Machine) []seed.Machine {
	groups := []Group{NeedsYou, OnTheWay, IsReady, Refused}
	roles := []configs.Role{configs.RoleControlPlane, configs.RoleWorker, ""}
	out := slices.Clone(all)
	slices.SortStableFunc(out, func(a, b seed.Machine) int {
		return cmp.Or(
			cmp.Compare(slices.Index(groups, GroupOf(a)), slices.Index(groups, GroupOf(b))),
			cmp.Compare(stuck(a), stuck(b)),
			cmp.Compare(slices.Index(roles, a.Role), slices.Index(roles, b.Role)),
			natural(Name(a), Name(b)),
			cmp.Compare(a.ID, b.ID))
	})
	return out
}

// stuck orders those that need the operator: an approval is the quickest to give.
func stuck(m seed.Machine) int {
	if Waits(m) {
		return 0
	}
	return 1
}

// natural compares names so that n2 comes before n10.
func natural(a, b string) int {
	ta, tb := strings.TrimRight(a, "0123456789"), strings.TrimRight(b, "0123456789")
	if ta == tb && len(a) != len(b) {
		return cmp.Compare(len(a), len(b))
	}
	return cmp.Compare(a, b)
}

// Name is what people call a machine: its node name, or its ID.
func Name(m seed.Machine) string { return cmp.Or(m.Name, m.ID) }

// Stages lists the places from power-on to Ready, in order.
func Stages() []seed.Stage {
	return []seed.Stage{seed.StageDHCP, seed.StageTFTP, seed.StageLoader, seed.StageKernel, seed.StageEnrol,
		seed.StageBlobs, seed.StageSystem, seed.StageKubernetes, seed.StageReady}
}

// Mark is how a machine stands to one stage.
type Mark string

// The marks.
const (
	MarkPending Mark = "pending"
	MarkActive  Mark = "active"
	MarkDone    Mark = "done"
	MarkFailed  Mark = "failed"  // it ended there
	MarkStuck   Mark = "stuck"   // there is a verdict
	MarkWaits   Mark = "waits"   // for the operator
	MarkSkipped Mark = "skipped" // this machine does not come by
)

// Marks returns one mark for each of Stages, and the index of the stage the
// machine is in.
func Marks(m seed.Machine) (marks []Mark, at int) {
	stages := Stages()
	at = slices.Index(stages, place(m))
	here := MarkActive
	switch {
	case m.State == seed.Held || m.State == seed.Rejected:
		here = MarkFailed
	case Waits(m):
		here = MarkWaits
	case m.Verdict != nil:
		here = MarkStuck
	case m.State == seed.Ready:
		here = MarkDone
	case stages[at] == m.Step.Stage && m.Step.State == string(handoff.Done):
		here = MarkDone
	}
	for i, s := range stages {
		mark := MarkPending
		switch {
		case i == at:
			mark = here
		case i < at && passes(m, s):
			mark = MarkDone
		case i < at:
			mark = MarkSkipped
		}
		marks = append(marks, mark)
	}
	return marks, at
}

// place is the stage a machine is in. Its newest step tells, but for a node that
// is Ready, one that waits, and a running system that renews its lease.
func place(m seed.Machine) seed.Stage {
	at := m.Step.Stage
	if !slices.Contains(Stages(), at) || at == seed.StageDHCP && strings.HasPrefix(m.Step.Text, seed.RunningSystem) {
		at = ""
	}
	switch m.State {
	case seed.Ready:
		return seed.StageReady
	case seed.Waiting:
		return seed.StageEnrol
	case seed.Approved, seed.Rejected:
		return cmp.Or(at, seed.StageEnrol)
	case seed.Taken, seed.Held:
		return cmp.Or(at, seed.StageBlobs)
	}
	if slices.Index(Stages(), at) >= slices.Index(Stages(), seed.StageEnrol) { // it was assigned a role, or stopped waiting
		at = ""
		if m.Facts != nil {
			at = seed.StageKernel
		}
	}
	return cmp.Or(at, seed.StageDHCP)
}

// passes says whether a machine comes by a stage: HTTP boot needs no TFTP, a
// medium no network at all.
func passes(m seed.Machine, s seed.Stage) bool {
	switch s {
	case seed.StageTFTP:
		return m.Firmware != "uefi-http" && !fromMedium(m)
	case seed.StageLoader:
		return !fromMedium(m)
	}
	return true
}

func fromMedium(m seed.Machine) bool { return m.Facts != nil && m.Facts.Medium == "iso" }

// Command is what the operator types next for a machine; empty when there is
// nothing to type. A hint names one `in backquotes`, or ends in one. Hints may
// come from a machine that nobody has approved: only a plain call of slipway or
// kubectl counts, which a shell cannot take for anything else.
func Command(m seed.Machine) string {
	if Waits(m) && m.Code != "" {
		return "slipway approve " + m.Code
	}
	if m.Verdict == nil {
		return ""
	}
	hint := m.Verdict.Hint
	if _, rest, ok := strings.Cut(hint, "`"); ok {
		hint, _, _ = strings.Cut(rest, "`")
	} else if i := strings.LastIndex(hint, ": "); i >= 0 {
		hint = strings.TrimSuffix(hint[i+2:], ".")
	}
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(" ._:/=@-", r)
	}
	if !strings.HasPrefix(hint, "slipway ") && !strings.HasPrefix(hint, "kubectl ") || strings.ContainsFunc(hint, func(r rune) bool { return !plain(r) }) {
		return ""
	}
	return hint
}

// Row is a machine as the page shows it.
type Row struct {
	seed.Machine
	Label   string `json:"label"` // Name
	Group   Group  `json:"group"`
	Marks   []Mark `json:"marks"` // one for each of View.Stages
	At      int    `json:"at"`    // index of the stage it is in
	Waits   bool   `json:"waits,omitempty"`
	Command string `json:"command,omitempty"`
}

// View is all that the page shows at one moment.
type View struct {
	Now      time.Time    `json:"now"` // of the seed's clock
	Status   seed.Status  `json:"status"`
	Stages   []seed.Stage `json:"stages"`
	Machines []Row        `json:"machines"` // Sorted
}

// NewView puts together what a page shows.
func NewView(s seed.Status, all []seed.Machine, now time.Time) View {
	v := View{Now: now, Status: s, Stages: Stages(), Machines: []Row{}}
	for _, m := range Sorted(all) {
		marks, at := Marks(m)
		v.Machines = append(v.Machines, Row{m, Name(m), GroupOf(m), marks, at, Waits(m), Command(m)})
	}
	return v
}
