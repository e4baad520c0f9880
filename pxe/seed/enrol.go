package seed

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/configs/render"
)

// phase is how far one enrolment is. An enrolment is one key of one power-on.
type phase string

// The phases. The last three are for ever: no key leaves them.
const (
	introduced phase = "introduced" // said hello; in memory only
	revealed   phase = "waiting"    // both screens show the code
	granted    phase = "approved"   // may fetch its config, any number of times
	used       phase = "taken"      // has it
	refused    phase = "rejected"
	replaced   phase = "replaced" // a later enrolment of the machine was approved
)

const (
	liveFor     = handoff.Patience + 10*time.Second // a node that waits asks at least so often
	forgetHello = time.Minute
	forgetAfter = 10 * time.Minute // a node that waits and is gone
	maxPending  = 1024             // enrolments that are not decided
	maxSource   = 8                // of one address
)

// enrolment is what is known of one key.
type enrolment struct {
	Key      string        `json:"key"` // KeyID of the node's public key
	Phase    phase         `json:"phase"`
	Machine  string        `json:"machine"`
	Source   netip.Addr    `json:"source"`
	Facts    handoff.Facts `json:"facts"`
	Commit   string        `json:"commit,omitempty"`
	Nonce    []byte        `json:"nonce,omitempty"` // the seed's
	Code     string        `json:"code,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Compared bool          `json:"compared,omitempty"` // the operator told the code
	Role     configs.Role  `json:"role,omitempty"`
	Name     string        `json:"name,omitempty"`
	Began    time.Time     `json:"began"`
	Token    string        `json:"token,omitempty"` // of the order to reimage the machine, which it showed: hashed
	Wipe     []string      `json:"wipe,omitempty"`  // disks that the operator lets lose what they hold, this once
}

func (e *enrolment) same(o *enrolment) bool { return reflect.DeepEqual(e, o) }

// undecided enrolments count against the limits and against each other.
func (e *enrolment) undecided() bool { return e.Phase == introduced || e.Phase == revealed }

// pendingPhase says that the machine may yet get a config with this key.
func (e *enrolment) pendingPhase() bool { return e.Phase == revealed || e.Phase == granted }

// presence is when a key was heard of last.
type presence struct {
	last  time.Duration // monotonic
	asks  int           // requests that are being answered now
	event int           // number of its last event
	talk  *rate.Limiter // of events while nobody has let it in
}

// newPresence takes what a node says while it boots, 600 events at most
// (firstboot/enrol), and then what one that waits has to say.
func (s *Seed) newPresence() *presence {
	return &presence{last: s.mono(), talk: rate.NewLimiter(rate.Every(2*time.Second), 600)}
}

func (s *Seed) live(key string) bool {
	p := s.presence[key]
	return p != nil && (p.asks > 0 || s.mono()-p.last < liveFor)
}

func (s *Seed) silent(key string, d time.Duration) bool {
	p := s.presence[key]
	return p == nil || p.asks == 0 && s.mono()-p.last >= d
}

// marks are what tells two machines to be one; those with "like" may well be
// two boards of one careless maker.
func (e *enrolment) marks() (same, like []string) {
	same = []string{"id " + e.Machine}
	for _, m := range e.Facts.MACs {
		same = append(same, "mac "+m)
	}
	if !blank(e.Facts.UUID) {
		like = append(like, "UUID "+e.Facts.UUID)
	}
	if !blank(e.Facts.Serial) {
		like = append(like, "serial number "+e.Facts.Serial)
	}
	return same, like
}

func (s *Seed) index(e *enrolment) {
	if !e.pendingPhase() {
		return
	}
	same, like := e.marks()
	for _, m := range append(same, like...) {
		if s.marked[m] == nil {
			s.marked[m] = map[string]bool{}
		}
		s.marked[m][e.Key] = true
	}
}

func (s *Seed) unindex(e *enrolment) {
	if e == nil {
		return
	}
	same, like := e.marks()
	for _, m := range append(same, like...) {
		if delete(s.marked[m], e.Key); len(s.marked[m]) == 0 {
			delete(s.marked, m)
		}
	}
}

// rivals are the live enrolments that say to be the same machine, and those
// that say to have the same UUID or serial number.
func (c *change) rivals(e *enrolment) (same, like []*enrolment) {
	a, b := e.marks()
	found := map[string]bool{e.Key: true}
	collect := func(marks []string) (out []*enrolment) {
		for _, m := range marks {
			for key := range c.s.marked[m] {
				o := c.peek(key)
				if found[key] || o == nil || !o.pendingPhase() || !c.s.live(key) {
					continue
				}
				found[key] = true
				out = append(out, o)
			}
		}
		slices.SortFunc(out, func(a, b *enrolment) int { return cmp.Compare(a.Key, b.Key) })
		return out
	}
	return collect(a), collect(b)
}

// pending are a machine's enrolments that may yet get a config, newest first.
func (c *change) pending(id string) (out []*enrolment) {
	add := func(key string) {
		if e := c.peek(key); e != nil && e.Machine == id && e.pendingPhase() && !slices.ContainsFunc(out, func(o *enrolment) bool { return o.Key == key }) {
			out = append(out, e)
		}
	}
	for key := range c.s.marked["id "+id] {
		add(key)
	}
	for key := range c.enrolments {
		add(key)
	}
	slices.SortFunc(out, func(a, b *enrolment) int { return cmp.Or(b.Began.Compare(a.Began), cmp.Compare(a.Key, b.Key)) })
	return out
}

// hello takes up a node's introduction.
func (c *change) hello(key string, from netip.Addr, h handoff.Hello) ([]byte, error) {
	e := c.enrolment(key)
	if e != nil && (e.Phase == used || e.Phase == refused || e.Phase == replaced) {
		return nil, c.s.turnedDown(e)
	}
	if e == nil {
		if err := c.s.crowded(from); err != nil {
			return nil, err
		}
		e = &enrolment{Key: key, Phase: introduced, Began: c.s.now()}
		c.enrolments[key] = e
	}
	if err := c.vouch(e, &h.Facts, h.Token); err != nil {
		return nil, err
	}
	if e.Phase == revealed && e.Commit == h.Commit {
		return e.Nonce, nil // the answer was lost
	}
	if e.Phase == revealed { // another nonce: another code
		e.Phase, e.Code, e.Reason = introduced, "", ""
	}
	nonce, err := random()
	if err != nil {
		return nil, err
	}
	e.Commit, e.Nonce = h.Commit, nonce
	if e.Phase == introduced { // what was approved stays what it was
		e.Source, e.Facts, e.Machine = from, h.Facts, c.identify(h.Facts)
	}
	return nonce, nil
}

// crowded keeps one address, or all, from filling the operator's list.
func (s *Seed) crowded(from netip.Addr) error {
	all, here := 0, 0
	for _, e := range s.enrolments {
		if e.undecided() {
			if all++; e.Source == from {
				here++
			}
		}
	}
	switch {
	case here >= maxSource:
		return refusal(codeCrowd, "approve or reject those that wait", "%d machines wait at %s already", here, from)
	case all >= maxPending:
		return refusal(codeCrowd, "approve or reject those that wait", "%d machines wait already", all)
	}
	return nil
}

// identify finds the row of a machine: one that was a node before any other,
// then the one that booted from the card with the default route.
func (c *change) identify(f handoff.Facts) string {
	all := f.MACs
	if f.Boot != "" {
		all = append([]string{f.Boot}, f.MACs...)
	}
	for _, known := range []func(*record) bool{func(r *record) bool { return !r.stranger() }, func(*record) bool { return true }} {
		for _, m := range all {
			if r := c.peekMachine(m); r != nil && known(r) {
				return m
			}
		}
	}
	return all[0]
}

// reveal completes the exchange: from here on both sides show the code.
func (c *change) reveal(key string, public, nonce []byte) error {
	e := c.enrolment(key)
	if e == nil {
		return errUnknown()
	}
	if sum := sha256.Sum256(nonce); hex.EncodeToString(sum[:]) != e.Commit {
		return refusal(codeNonce, "restart the machine", "this is not the nonce that the machine committed to")
	}
	code := handoff.Code(public, c.s.ca.cert.Raw, nonce, e.Nonce)
	switch e.Phase {
	case granted:
		return nil
	case revealed:
		if e.Code == code {
			return nil
		}
		return refusal(codeNonce, "restart the machine", "another nonce was told before")
	case introduced:
	default:
		return c.s.turnedDown(e)
	}
	e.Phase, e.Code = revealed, code
	r := c.machine(e.Machine)
	if r == nil {
		r = &record{Machine: Machine{ID: e.Machine, First: c.s.now(), State: Seen}}
		c.machines[e.Machine] = r
	}
	c.supersede(e)
	c.show(r, e)
	c.step(r.ID, StageEnrol, handoff.Started, "enrols from %s, code %s", e.Source, e.Code)
	c.judge(key)
	return nil
}

// supersede forgets what the machine's earlier power-ons left undone.
func (c *change) supersede(e *enrolment) {
	for _, o := range c.pending(e.Machine) {
		if o.Key == e.Key || c.s.live(o.Key) {
			continue
		}
		if o.Phase == granted {
			c.enrolment(o.Key).Phase = replaced
			continue
		}
		c.enrolments[o.Key] = nil
	}
}

// show makes an enrolment what the machine's row shows.
func (c *change) show(r *record, e *enrolment) {
	switch {
	case e.Phase == granted:
		r.State, r.Back = Approved, ""
	default:
		if r.State == Held {
			r.State = cmp.Or(r.HeldFrom, Seen)
		}
		if r.State == Taken || r.State == Ready {
			r.Back = r.State
		}
		r.State = Waiting
	}
	facts := e.Facts
	if r.Facts == nil || !reflect.DeepEqual(*r.Facts, facts) {
		r.Facts = &facts
	}
	r.Key, r.Code, r.Reason, r.Address, r.Arch = e.Key, e.Code, e.Reason, e.Source, facts.Arch
	r.UUID = cmp.Or(facts.UUID, r.UUID)
	r.HeldFrom, r.HeldAt = "", ""
	r.Trust = "L0"
	if facts.Medium == "iso" { // it brought the bundle's key and maybe the pin with it
		r.Trust = "L1"
	}
}

// judge applies the rule of cluster.yaml to an enrolment that waits. It may be
// asked at any time: what stood in the way may have gone.
func (c *change) judge(key string) {
	e := c.peek(key)
	if e == nil || e.Phase != revealed {
		return
	}
	e = c.enrolment(key)
	r := c.machine(e.Machine)
	c.supersede(e)
	same, like := c.rivals(e)
	all := append(same, like...)
	var reason string
	if len(all) == 0 {
		if how, why := c.admit(r, e); why == "" {
			err := c.grant(r, e, how)
			if err == nil {
				return
			}
			why = err.Error()
			reason = why
		} else {
			reason = why
		}
	} else {
		reason = double(e, all)
		for _, o := range all {
			o = c.enrolment(o.Key)
			others := []*enrolment{e}
			for _, p := range all {
				if p.Key != o.Key {
					others = append(others, p)
				}
			}
			o.Reason = double(o, others)
			if m := c.machine(o.Machine); m != nil && m.Key == o.Key && m.ID != r.ID {
				m.Reason = o.Reason
			}
		}
	}
	e.Reason = reason
	if p := c.pending(r.ID); len(p) > 0 && p[0].Key == e.Key || r.Key == e.Key {
		c.show(r, e)
	}
}

// double names both machines of which one claims to be the other.
func double(e *enrolment, others []*enrolment) string {
	text := []string{e.describe()}
	for _, o := range others {
		text = append(text, o.describe())
	}
	a, b := e.marks()
	x, y := others[0].marks()
	what := "are alike"
	for _, m := range append(a, b...) {
		if slices.Contains(append(x, y...), m) {
			what = "have the same " + strings.Replace(strings.Replace(m, "id ", "MAC ", 1), "mac ", "MAC ", 1)
			break
		}
	}
	slices.Sort(text)
	return fmt.Sprintf("%d machines %s: %s; none gets a config until the wrong one is rejected: slipway reject CODE",
		len(text), what, strings.Join(text, " and "))
}

func (e *enrolment) describe() string {
	s := fmt.Sprintf("%s (at %s, card %s", e.Code, e.Source, e.Machine)
	if e.Facts.Serial != "" {
		s += ", serial " + e.Facts.Serial
	}
	return s + ")"
}

// admit says how a machine gets in without the operator, or why it does not.
func (c *change) admit(r *record, e *enrolment) (how, why string) {
	if r.vouched(e) {
		return "by the token of the order to reimage it", ""
	}
	if r.Used {
		return "", fmt.Sprintf("enrolled before as %s; approve again to replace it", cmp.Or(r.Name, r.ID))
	}
	if r.Refused != "" {
		return "", "rejected before: " + r.Refused
	}
	const compare = "compare the code with the machine's screen and approve it"
	switch c.s.cluster.Spec.Seed.Approve {
	case configs.ApproveList:
		slot, err := c.room(r, &e.Facts)
		if err != nil {
			return "", err.Error()
		}
		if !slot.ours {
			return "", "no rule of cluster.yaml names it by MAC, serial number or UUID: " + compare
		}
		return "by rule: cluster.yaml names it", ""
	case configs.ApproveAuto:
		if !c.s.armedNow() {
			return "", "the window is closed: arm the seed, or " + compare
		}
		return "by rule: the window is open", ""
	}
	return "", compare
}

// grant lets an enrolment have its config.
func (c *change) grant(r *record, e *enrolment, how string) error {
	slot, err := c.room(r, &e.Facts)
	if err != nil {
		return err
	}
	n := render.Node{Name: slot.name, Role: slot.role, Instance: instance(e), Endpoint: cmp.Or(c.endpoint(), "192.0.2.1"), Time: c.s.o.times(), Rule: slot.rule, Wipe: e.Wipe}
	if _, err := render.Config(c.s.cluster, n); err != nil {
		return refusal(codeConfig, "correct cluster.yaml and start the seed again", "%s", err)
	}
	for _, key := range []string{r.Node, r.Key} {
		if o := c.peek(key); o != nil && key != e.Key && o.Machine == r.ID && (o.Phase == used || o.Phase == granted) {
			c.enrolment(key).Phase = replaced
		}
	}
	if r.Node != e.Key {
		r.Disk = ""                                            // it is about to be written
		if r.Order.Open() && r.Order.Verb != handoff.Reimage { // that one ends when the config is taken
			c.outlived(r, false, "the machine was installed anew")
		}
		r.again()
	}
	r.Name, r.Role, r.Rule, r.Node, r.Refused = slot.name, slot.role, slot.rule, e.Key, ""
	e.Phase, e.Name, e.Role, e.Reason = granted, slot.name, slot.role, ""
	c.show(r, e)
	c.step(r.ID, StageEnrol, handoff.Running, "approved %s as %s, %s", how, slot.name, slot.role)
	return nil
}

// take uses an enrolment up. The node is where it asks from now: it may have
// waited longer than its lease.
func (c *change) take(key string, from netip.Addr) error {
	e := c.enrolment(key)
	switch {
	case e == nil || e.Phase == introduced:
		return errUnknown()
	case e.Phase == used:
		return nil // the answer was lost
	case e.Phase == revealed:
		return refusal(codeWaiting, "", "not approved yet")
	case e.Phase != granted:
		return c.s.turnedDown(e)
	}
	r := c.machine(e.Machine)
	e.Phase, e.Commit, e.Nonce, e.Source, r.Address = used, "", nil, from, from
	r.State, r.Used, r.Code, r.Reason, r.Back = Taken, true, "", "", ""
	r.Done, r.Total = 0, 0
	r.runs(c.s.o, e.Facts.Bundle)
	c.outlived(r, true, "enrolled again as "+e.Name)
	c.wiped(r)
	if e.Role == configs.RoleControlPlane && c.s.reached != nil {
		c.meta[metaCluster] = nil // it makes a new one, or tells of the old one again
	}
	c.step(r.ID, StageEnrol, handoff.Done, "%s has its config; this enrolment is used up", e.Name)
	return nil
}
