package seed

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe"
)

// Bounds of what is kept. Strangers' packets push out only each other's.
const (
	perMachine   = 500
	perSeed      = 20_000
	perStrangers = 5_000  // of perSeed, and as many of those that nobody let in
	slack        = 1_000  // steps between two trims
	maxStrangers = 4096   // machines that did nothing but ask
	maxQueue     = 16_384 // packets that wait for the disk
	maxText      = 500    // bytes of a step's text or hint
	longestCode  = 64
)

// queue holds what was observed until somebody has the time to sort it in.
type queue struct {
	mu   sync.Mutex
	all  []observation
	lost int
	wake chan struct{}
}

// observation is a packet or a step.
type observation struct {
	event pxe.Event
	step  Step
	at    time.Time
}

// Observe takes note of what the DHCP server did. It does no I/O and waits for
// nothing.
func (s *Seed) Observe(e pxe.Event) { s.push(observation{event: e, at: s.now()}) }

// Record adds a step to the timeline of a machine, or of the seed itself. For
// StageTFTP, StageLoader, StageKernel and StageBlobs its State is that of the
// file: started, done, or failed (aborted, stalled); its Text begins with the
// name, after RunningSystem when it was no loader that asked. Seq and Time are the seed's.
func (s *Seed) Record(st Step) { s.push(observation{step: st, at: s.now()}) }

func (s *Seed) push(o observation) {
	q := &s.queue
	q.mu.Lock()
	if len(q.all) < maxQueue {
		q.all = append(q.all, o)
	} else {
		q.lost++
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// drain sorts in what was observed. s.mu is held.
func (s *Seed) drain() {
	s.queue.mu.Lock()
	all, lost := s.queue.all, s.queue.lost
	s.queue.all, s.queue.lost = nil, 0
	s.queue.mu.Unlock()
	for _, o := range all {
		if o.step.Stage != "" {
			s.note(o.step, o.at)
		} else {
			s.packet(o.event, o.at)
		}
	}
	if lost > 0 {
		s.log.Warn("packets were not recorded: too many at once", "packets", lost)
	}
}

// packet sorts in one event of the DHCP server. Only what asks for a loader
// becomes a machine.
func (s *Seed) packet(e pxe.Event, at time.Time) {
	if e.Step == pxe.StepForeign {
		s.note(Step{Stage: StageSeed, Text: fmt.Sprintf("%s: %s", e.Step, e.Text)}, at)
		return
	}
	id := e.Machine.MAC.String()
	r := s.machines[id]
	if r == nil {
		if !e.Machine.Netboot() {
			return
		}
		s.makeRoom()
		r = &record{Machine: Machine{ID: id, State: Seen, First: at, Trust: "L0"}}
		s.machines[id] = r
		s.strangers++
	}
	r.Last = at
	if e.Machine.Netboot() && r.Facts == nil {
		r.Arch, r.UUID = e.Machine.Arch, e.Machine.UUID
	}
	if e.Machine.Netboot() && !e.Machine.IPXE {
		r.Firmware = string(e.Machine.Firmware)
	}
	if e.Step == pxe.StepAck {
		word, _, _ := strings.Cut(e.Text, " ")
		if a, err := netip.ParseAddr(strings.TrimRight(word, ":,;")); err == nil {
			r.Address = a
		}
	}
	text := string(e.Step)
	if e.Text != "" {
		text += ": " + e.Text
	}
	if !e.Machine.Netboot() && !e.Machine.IPXE {
		text = RunningSystem + text
	}
	s.note(Step{Machine: id, Stage: StageDHCP, Text: text}, at)
	s.dirty[id] = true
}

// makeRoom drops the strangers that were not seen for longest, some at once.
func (s *Seed) makeRoom() {
	if s.strangers < maxStrangers {
		return
	}
	var all []*record
	for _, r := range s.machines {
		if r.stranger() {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b *record) int { return a.Last.Compare(b.Last) })
	for _, r := range all[:min(len(all), maxStrangers/16)] {
		delete(s.machines, r.ID)
		s.dirty[r.ID] = true
	}
	s.strangers = len(all) - min(len(all), maxStrangers/16)
}

// note adds a step. s.mu is held.
func (s *Seed) note(st Step, at time.Time) {
	st.Text, st.Hint, st.Code = clean(st.Text, maxText), clean(st.Hint, maxText), clean(st.Code, longestCode)
	r := s.machines[st.Machine]
	if r == nil && st.Machine != "" {
		return
	}
	if r != nil {
		// A machine that asks again and again says nothing new.
		if l := r.Step; l.Stage == StageDHCP && st.Stage == StageDHCP && l.Text == st.Text && at.Sub(l.Time) < 2*time.Second {
			return
		}
	} else if n := s.timeline(""); len(n) > 0 && n[len(n)-1].Text == st.Text && at.Sub(n[len(n)-1].Time) < 10*time.Minute {
		return
	}
	s.seq++
	st.Seq, st.Time = s.seq, at
	s.steps = append(s.steps, st)
	if r != nil {
		r.Step, r.Last = st, at
		s.dirty[r.ID] = true
	}
	s.trim()
	close(s.stepped)
	s.stepped = make(chan struct{})
}

// trim keeps the timeline within its bounds, every so often.
func (s *Seed) trim() {
	if len(s.steps) < perSeed+slack {
		return
	}
	keep := make([]Step, 0, perSeed)
	count, strange, waiting := map[string]int{}, 0, 0
	for _, st := range slices.Backward(s.steps) {
		r := s.machines[st.Machine]
		gone := st.Machine != "" && r == nil || count[st.Machine] >= perMachine || len(keep) >= perSeed
		switch {
		case gone || r == nil || r.ours():
		case r.stranger():
			strange++
			gone = strange > perStrangers
		default: // a storm of packets does not push out who waits for approval
			waiting++
			gone = waiting > perStrangers
		}
		if gone {
			s.gone = append(s.gone, st.Seq)
			continue
		}
		count[st.Machine]++
		keep = append(keep, st)
	}
	slices.Reverse(keep)
	s.steps = keep
}

// flush saves what was merely observed, in one transaction.
func (s *Seed) flush() error {
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	s.drain()
	machines := map[string][]byte{}
	for id := range s.dirty {
		machines[id] = nil
		if r := s.machines[id]; r != nil {
			raw, err := json.Marshal(r)
			if err != nil {
				s.mu.Unlock()
				return err
			}
			machines[id] = raw
		}
	}
	steps, gone := s.since(s.saved), s.gone
	seq := s.seq
	s.dirty, s.gone = map[string]bool{}, nil
	s.mu.Unlock()
	if len(machines)+len(steps)+len(gone) == 0 {
		return nil
	}
	err := s.db.Update(func(tx *bolt.Tx) error {
		for id, raw := range machines {
			if raw == nil {
				if err := tx.Bucket(bucketMachines).Delete([]byte(id)); err != nil {
					return err
				}
			} else if err := tx.Bucket(bucketMachines).Put([]byte(id), raw); err != nil {
				return err
			}
		}
		for _, st := range steps {
			if err := putJSON(tx, bucketSteps, seqKey(st.Seq), st); err != nil {
				return err
			}
		}
		for _, n := range gone {
			if err := tx.Bucket(bucketSteps).Delete(seqKey(n)); err != nil {
				return err
			}
		}
		return nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil { // again with the next ones
		for id := range machines {
			s.dirty[id] = true
		}
		s.gone = append(s.gone, gone...)
		return fmt.Errorf("saving the seed's state: %w", err)
	}
	s.saved = max(s.saved, seq)
	return nil
}

// since is a copy of the steps after a number.
func (s *Seed) since(seq uint64) []Step {
	i := sort.Search(len(s.steps), func(i int) bool { return s.steps[i].Seq > seq })
	return slices.Clone(s.steps[i:])
}

func (s *Seed) timeline(id string) (out []Step) {
	for _, st := range s.steps {
		if st.Machine == id {
			out = append(out, st)
		}
	}
	return out[max(0, len(out)-perMachine):]
}

// Timeline is what happened to a machine, oldest first: its newest 500 steps.
// The seed's own are those of the empty ID.
func (s *Seed) Timeline(id string) []Step {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain()
	return s.timeline(id)
}

// Steps are all steps after a number, oldest first, and a channel that is
// closed when there is another.
func (s *Seed) Steps(after uint64) (steps []Step, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain()
	steps = s.since(after)
	return steps[max(0, len(steps)-perSeed):], s.stepped
}

// Known says that a machine is one of this site: it was let in here or is named
// in cluster.yaml. Its card alone counts: whoever hears a UUID on the wire could
// be as many known machines as there are MACs. It is quick enough to be asked for
// every packet.
func (s *Seed) Known(m pxe.Machine) bool {
	if _, ok := s.known.Load(m.MAC.String()); ok {
		return true
	}
	is := func(a configs.MAC) bool { return strings.EqualFold(string(a), m.MAC.String()) }
	return slices.ContainsFunc(s.cluster.Spec.Nodes, func(n configs.NodeRule) bool { return slices.ContainsFunc(n.Match.MAC, is) })
}

// clean keeps text that cannot steer a terminal, within a number of bytes.
func clean(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' || r == '\ufeff':
			return -1 // C0, C1, and what turns the direction of text around
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return strings.TrimSpace(s)
}

// stageOf maps a phase of firstboot/sequence.go.
func stageOf(e handoff.Event) Stage {
	_, sized := e.Data["bytes"]
	switch {
	case e.Phase == "kernel", e.Phase == "modules":
		return StageKernel
	case e.Phase == "enrol":
		return StageEnrol
	case (e.Phase == "system" || e.Phase == "medium") && e.Step != "" && sized:
		return StageBlobs
	case e.Phase == "kubernetes":
		return StageKubernetes
	case e.Phase == "ready":
		return StageReady
	}
	return StageSystem
}

// order of the phases, to tell whether a node that held went on.
var order = []string{"kernel", "modules", "medium", "config", "network", "enrol", "system", "services", "kubernetes", "ready"}

// ordered says that a phase is the following of an order, by a node that runs.
func ordered(phase string) bool {
	return phase == "order" || slices.Contains([]handoff.Verb{handoff.Upgrade, handoff.Reimage, handoff.Reset}, handoff.Verb(phase))
}

// told sorts in what a node says of itself. s.mu is held; the caller saves.
func (s *Seed) told(r *record, p *presence, e handoff.Event, at time.Time) {
	if e.Seq > 0 {
		if e.Seq <= p.event {
			return // sent again
		}
		p.event = e.Seq
	}
	text := clean(e.Text, maxText)
	if e.Step != "" {
		text = clean(e.Step, 64) + ": " + text
	}
	st := Step{Machine: r.ID, Stage: stageOf(e), State: clean(string(e.State), 16), Text: clean(e.Phase, 32) + "/" + text, Code: e.Code, Hint: e.Hint}
	if st.Stage == StageBlobs {
		r.progress(e)
	}
	place := slices.Index(order, e.Phase)
	switch {
	case ordered(e.Phase): // the node goes on as it was
	case e.State == handoff.Failed && e.Code != "":
		if r.State != Held {
			r.HeldFrom = r.State
		}
		r.State, r.HeldAt, r.Reason = Held, e.Phase, clean(e.Code+": "+e.Text, maxText)
	case r.State == Held && e.Step != "hold" && e.State != handoff.Failed && place >= slices.Index(order, r.HeldAt):
		r.State, r.HeldFrom, r.HeldAt, r.Reason = r.HeldFrom, "", "", ""
	}
	if e.Phase == "ready" && e.Step == "" && e.State == handoff.Done && r.State == Taken {
		r.State, r.Reason = Ready, ""
	}
	s.note(st, at)
}

// progress takes bytes of blobs from an event.
func (r *record) progress(e handoff.Event) {
	n := func(key string) int64 {
		f, _ := e.Data[key].(float64)
		if f < 0 || f > 1<<52 {
			return 0
		}
		return int64(f)
	}
	if done := n("bytes"); done > 0 {
		r.Done = done
	}
	if total := n("total"); total > 0 {
		r.Total = total
	} else if e.State == handoff.Done {
		r.Total = r.Done
	}
	r.Total = max(r.Total, r.Done)
}

// believe takes from a node, and from nobody who only says to be its machine,
// its host keys and that its disk is complete.
func (s *Seed) believe(r *record, key string, e handoff.Event) {
	if r.Node != key {
		return
	}
	if k := e.HostKeys(); k != nil {
		r.HostKeys = strings.Join(k, " ")
	}
	if disk, ok := e.Data[dataDisk].(string); ok && e.Phase == "install" && e.Step == "active" && e.State == handoff.Done {
		r.Disk = clean(disk, maxText)
		s.starts(r)
	}
	r.upgraded(e)
}

// alarm shows that somebody tried to join with a node's token, or with none of ours.
func (s *Seed) alarm(name, text string) {
	st := Step{Stage: StageSeed, State: string(handoff.Failed), Code: "SW-JOIN-ALARM", Text: clean(text, maxText),
		Hint: "somebody in the network has a join token: find the machine that asked in the API server's log before you let the node join again"}
	s.mu.Lock()
	for id, r := range s.machines {
		if name != "" && r.Name == name && r.Node != "" {
			st.Machine, st.Stage = id, StageKubernetes
		}
	}
	s.mu.Unlock()
	s.Record(st)
}

// dataDisk names the GUID of a node's disk in the event that says that the
// machine starts from it: phase install, step active.
const dataDisk = "disk"

// starts keeps Local's answers for a machine.
func (s *Seed) starts(r *record) {
	macs := []string{r.ID}
	if r.Facts != nil {
		macs = append(macs, r.Facts.MACs...)
	}
	for _, m := range macs {
		if r.Disk != "" && r.ours() && !r.reimaging() {
			s.local.Store(m, r.Disk)
		} else {
			s.local.Delete(m)
		}
	}
}

// Local says that a machine starts from its own disk, and from which: firmware
// that asks the network first gets an address and nothing to start, and goes on
// to the disk. It is called for every packet: it takes no lock and does no I/O.
func (s *Seed) Local(m pxe.Machine) (disk string, ok bool) {
	v, ok := s.local.Load(m.MAC.String())
	disk, _ = v.(string)
	return disk, ok
}
