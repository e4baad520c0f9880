package seed

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
)

// Ordered is what a node is to do, or did last. It is never altered, only
// replaced: machines are copied and compared as they are.
type Ordered struct {
	ID     string       `json:"id"`
	Verb   handoff.Verb `json:"verb"`
	Bundle string       `json:"bundle,omitempty"` // upgrade, reimage: name and serial
	// Kubernetes is that bundle's version.
	Kubernetes string    `json:"kubernetes,omitempty"`
	Given      time.Time `json:"given"`
	Told       time.Time `json:"told,omitzero"` // from here on the node may know it: it cannot be withdrawn
	// State is started: given; running: told; then done, failed, or skipped: withdrawn.
	State handoff.State `json:"state"`
	Ended time.Time     `json:"ended,omitzero"`
	Code  string        `json:"code,omitempty"`
	Text  string        `json:"text,omitempty"`
	Hint  string        `json:"hint,omitempty"`
	// Leave: the cluster has its Node still, which goes when the machine has enrolled
	// again or is empty. Stay: it takes no new pods, and was to leave and does not.
	// Drain: its pods are being moved; until that has ended nobody is told, and its Node
	// is left alone.
	Leave  bool `json:"leave,omitempty"`
	Stay   bool `json:"stay,omitempty"`
	Drain  bool `json:"drain,omitempty"`
	Forget bool `json:"forget,omitempty"` // its name is free when it is done
}

// Open says that the order has not ended.
func (o *Ordered) Open() bool { return o != nil && o.Ended.IsZero() }

func (o *Ordered) String() string {
	if o.Bundle != "" && o.Verb == handoff.Upgrade {
		return fmt.Sprintf("%s to %s", o.Verb, o.Bundle)
	}
	return string(o.Verb)
}

// reimaging: what is on the machine's disk is not to be started any more.
func (r *record) reimaging() bool {
	return r.Order.Open() && r.Order.Verb == handoff.Reimage && !r.Order.Told.IsZero()
}

// mostPast is how many orders of a machine are remembered: an outcome whose
// answer was lost comes again.
const mostPast = 8

// Ordering is what an order is given with.
type Ordering struct {
	Leave  bool // delete the Node once the machine has enrolled again or is empty
	Drain  bool // tell nobody before Emptied
	Forget bool // make the name free once it is done
	Force  bool // in the place of one that a node has which is not reached
}

// Order tells a node to do something, as soon as it asks. A machine has one
// order at a time.
func (s *Seed) Order(ref string, verb handoff.Verb, how Ordering) (Machine, error) {
	var m Machine
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return m, err
	}
	err := s.do(func(c *change) error {
		r, err := c.orderable(ref, verb, how.Force)
		if err != nil {
			return err
		}
		if r.Order.Open() {
			c.end(r, handoff.Outcome{State: handoff.Skipped, Text: "given up by the operator: the machine is not reached"})
		}
		o := &Ordered{ID: hex.EncodeToString(id), Verb: verb, Given: s.now(), State: handoff.Started, Leave: how.Leave, Drain: how.Drain, Forget: how.Forget}
		if verb != handoff.Reset {
			served := s.o.medium(r.Arch)
			o.Bundle, o.Kubernetes = bundleOf(served), served.Kubernetes
		}
		if r.Order != nil {
			past := append(strings.Fields(r.Past), r.Order.ID)
			r.Past = strings.Join(past[max(0, len(past)-mostPast):], " ")
			o.Leave, o.Stay = o.Leave || r.Order.Leave, r.Order.Stay // what is still to be done in the cluster
		}
		r.Order, r.Token = o, ""
		c.step(r.ID, StageSystem, handoff.Started, "the operator orders: %s", o)
		m = r.Machine
		return nil
	})
	return m, err
}

// Orderable says why a node can be given no such order, or which it is. By force an
// order that it has is no hindrance while it is not reached.
func (s *Seed) Orderable(ref string, verb handoff.Verb, force bool) (m Machine, err error) {
	err = s.do(func(c *change) error {
		r, err := c.orderable(ref, verb, force)
		if err == nil {
			m = r.Machine
		}
		return err
	})
	return m, err
}

func (c *change) orderable(ref string, verb handoff.Verb, force bool) (*record, error) {
	r, _, err := c.find(ref)
	if err != nil {
		return nil, err
	}
	e := c.peek(r.Node)
	switch {
	case r.Node == selfKey:
		return nil, errSelf(r)
	case r.Node == "" || e == nil || e.Phase != used:
		return nil, refusal(codeOrderNode, "list them: slipway nodes", "%s is not a node that has its config", r.called())
	case r.State == Waiting || r.State == Approved:
		return nil, refusal(codeOrderState, "approve it, or reject it: slipway reject "+cmp.Or(r.Code, r.ID), "%s was restarted and enrols again", r.called())
	case r.Order.Open() && (r.Order.Drain || !force || c.s.live(r.Node)):
		hint := ", or take it back: slipway withdraw " + r.called()
		if !r.Order.Told.IsZero() {
			hint = r.ifGone()
		}
		return nil, refusal(codeOrderOpen, "wait for it: slipway nodes "+r.called()+hint,
			"%s has an order already, given at %s: %s", r.called(), r.Order.Given.Format(time.TimeOnly), r.Order)
	case r.Order != nil && r.Order.Drain:
		return nil, refusal(codeOrderOpen, "again in a moment", "the drain of %s is being stopped", r.called())
	case r.Order != nil && r.Order.Leave && verb != handoff.Reset:
		return nil, refusal(codeOrderOpen, "check that the control plane runs: slipway nodes", "%s was installed anew, and its Node of before is still to be deleted", r.called())
	case verb != handoff.Reset && c.s.o.medium(r.Arch) == nil:
		return nil, refusal(codeOrderArch, "start the seed with a medium for it: slipway serve", "this seed serves no bundle for %s, which is %s", r.called(), r.Arch)
	}
	return r, nil
}

func errSelf(r *record) error {
	return refusal(codeOrderSelf, "type it on the machine itself", "%s is the machine that runs this seed", r.called())
}

func (r *record) called() string { return cmp.Or(r.Name, r.ID) }

// ifGone ends a hint with what to type when a machine never comes back.
func (m Machine) ifGone() string {
	if m.Role == configs.RoleControlPlane {
		return ""
	}
	return "; if the machine is gone for good: slipway remove " + cmp.Or(m.Name, m.ID) + " --force"
}

// TakeBack withdraws an order, as long as the node cannot know it, or puts one
// that went wrong out of sight.
func (s *Seed) TakeBack(ref string) (Machine, error) {
	var m Machine
	err := s.do(func(c *change) error {
		r, _, err := c.find(ref)
		if err != nil {
			return err
		}
		o := r.Order
		switch {
		case o == nil || !o.Open() && o.State != handoff.Failed:
			return refusal(codeOrderNone, "list them: slipway nodes", "%s has no order", r.called())
		case o.Open() && !o.Told.IsZero():
			return refusal(codeOrderTold, "wait for its outcome: slipway nodes "+r.called()+r.ifGone(), "%s was told at %s and does it: %s", r.called(), o.Told.Format(time.TimeOnly), o)
		}
		c.end(r, handoff.Outcome{State: handoff.Skipped, Text: "withdrawn by the operator"})
		m = r.Machine
		return nil
	})
	return m, err
}

// end closes a machine's order; one that ended before gets another ending.
func (c *change) end(r *record, out handoff.Outcome) {
	o := *r.Order
	o.State, o.Ended, o.Code, o.Text, o.Hint = out.State, c.s.now(), clean(out.Code, longestCode), clean(out.Text, maxText), clean(out.Hint, maxText)
	switch {
	case o.State != handoff.Done:
		o.Leave, o.Stay = false, o.Stay || o.Leave
	case o.Verb != handoff.Upgrade:
		o.Stay = false // that Node goes
	}
	r.Order, r.Token = &o, ""
	text := fmt.Sprintf("%s: %s", &o, cmp.Or(o.Text, string(o.State)))
	c.steps = append(c.steps, Step{Machine: r.ID, Stage: StageSystem, State: string(o.State), Text: clean(text, maxText), Code: o.Code, Hint: o.Hint})
}

// outlived ends an order that nobody can follow any more: the machine is another
// node now, or none.
func (c *change) outlived(r *record, done bool, text string) {
	if !r.Order.Open() {
		return
	}
	out := handoff.Outcome{State: handoff.Skipped, Code: codeOrderLost, Text: text, Hint: "look what runs on it: slipway nodes " + r.called()}
	if done {
		out = handoff.Outcome{State: handoff.Done, Text: text}
	}
	c.end(r, out)
}

// tell is the order of the node that holds a key; nil while there is none.
func (c *change) tell(key string) (*handoff.Order, error) {
	e, err := c.s.holds(key, "")
	if err != nil {
		return nil, err
	}
	r := c.machine(e.Machine)
	o := r.Order
	if !o.Open() || o.Drain {
		return nil, nil
	}
	// A reimage that was told goes on: the machine may be in the installer by now.
	if served := c.s.o.medium(r.Arch); (o.Told.IsZero() || o.Verb == handoff.Upgrade) && o.Bundle != "" && (served == nil || bundleOf(served) != o.Bundle) {
		c.end(r, handoff.Outcome{State: handoff.Failed, Code: codeOrderArch, Text: "this seed serves that bundle no more", Hint: "order it again"})
		return nil, nil
	}
	out := &handoff.Order{ID: o.ID, Verb: o.Verb, Bundle: o.Bundle}
	if o.Bundle != "" && c.s.o.Store != nil {
		out.Store = c.s.o.Store(r.Arch)
	}
	if o.Verb == handoff.Reimage {
		token, err := c.s.token(o.ID)
		if err != nil {
			return nil, err
		}
		out.Token, r.Token = token, hashed(token)
	}
	if o.Told.IsZero() {
		told := *o
		told.Told, told.State = c.s.now(), handoff.Running
		r.Order = &told
		c.step(r.ID, StageSystem, handoff.Running, "%s was told: %s", r.called(), o)
	}
	return out, nil
}

// Emptied says that the drain which an order waits for has ended: the order stands
// from now on, or with an error does not. A Node that was drained for nothing takes
// pods again.
func (s *Seed) Emptied(id, order string, failed error) (Machine, error) {
	var m Machine
	var gone error
	err := s.do(func(c *change) error {
		r := c.machine(id)
		if r == nil || r.Order == nil || r.Order.ID != order || !r.Order.Drain {
			return refusal(codeOrderNone, "list them: slipway nodes", "that order does not stand any more")
		}
		o := *r.Order
		o.Drain = false
		switch r.Order = &o; {
		case !o.Open(): // it was withdrawn meanwhile, or the machine rejected
			c.step(r.ID, StageKubernetes, handoff.Running, "its drain has ended")
			gone = refusal(codeOrderNone, "look at it: slipway nodes "+r.called(), "the order of %s ended while its pods were moved: %s", r.called(), cmp.Or(o.Text, string(o.State)))
		case failed != nil:
			c.end(r, handoff.Outcome{State: handoff.Skipped, Text: "not drained: " + failed.Error()})
		default:
			o.Given = s.now()
		}
		m = r.Machine
		return nil
	})
	return m, cmp.Or(err, gone)
}

// interrupted ends the orders whose drain an earlier run of the seed did not finish.
func (s *Seed) interrupted(c *change) error {
	for id, old := range s.machines {
		if old.Order == nil || !old.Order.Drain {
			continue
		}
		r := c.machine(id)
		o := *r.Order
		o.Drain = false
		if r.Order = &o; o.Open() {
			verb := "remove"
			if o.Verb == handoff.Reimage {
				verb = "reimage"
			}
			c.end(r, handoff.Outcome{State: handoff.Failed, Code: codeOrderCut, Text: "the seed ended while its pods were moved", Hint: "order it again: slipway " + verb + " " + r.called()})
		}
	}
	return nil
}

// Left says that what the cluster has of an order's machine is as it should be:
// no Node of before, or one that takes pods again. The text says it.
func (s *Seed) Left(id, order, text string) error {
	return s.do(func(c *change) error {
		r := c.machine(id)
		if r == nil || r.Order == nil || r.Order.ID != order || !r.Order.Leave && !r.Order.Stay {
			return nil
		}
		o := *r.Order
		o.Leave, o.Stay = false, false
		r.Order = &o
		c.step(id, StageKubernetes, handoff.Done, "%s", text)
		if o.Forget && o.State == handoff.Done {
			c.forget(r)
		}
		return nil
	})
}

// Departing is a machine whose Node has to be deleted now, or has to take pods again.
type Departing struct {
	ID, Name, Order string
	Stays           bool
}

// Departing are the machines that are back from a reimage or were reset, and have
// a Node of before still, and those that were drained for nothing.
func (s *Seed) Departing() (all []Departing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, r := range s.machines {
		if o := r.Order; o != nil && !o.Drain && r.Name != "" && (!o.Open() && (o.Leave || o.Stay) || o.Stay && o.Verb == handoff.Upgrade) {
			all = append(all, Departing{id, r.Name, o.ID, o.Stay})
		}
	}
	return all
}

// leaving: its old Node is still there, and deleting it once the new one has
// joined would delete that.
func (s *Seed) leaving(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.machines[id]
	return r != nil && r.Order != nil && r.Order.Leave
}

// again is a machine that was to be reset and becomes a node instead: the Node of
// before goes first.
func (r *record) again() {
	if r.Order == nil || r.Order.Verb != handoff.Reset {
		return
	}
	o := *r.Order
	o.Leave, o.Stay, o.Forget = o.Leave || o.Stay, false, false
	r.Order = &o
}

// untold says that an order to do that is not known to the node.
func (o *Ordered) untold(verb handoff.Verb) bool {
	return o.Open() && o.Verb == verb && o.Told.IsZero()
}

// Reached is the cluster that runs; ok is false while there is none.
func (s *Seed) Reached() (k handoff.Cluster, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reached == nil {
		return k, false
	}
	return *s.reached, true
}

// Serves is the bundle for an architecture and its Kubernetes, "" for none.
func (s *Seed) Serves(a arch.Arch) (bundle, kubernetes string) {
	if m := s.o.medium(a); m != nil {
		return bundleOf(m), m.Kubernetes
	}
	return "", ""
}

// Reachable says that a node asked for orders, or said something, within the
// last half minute.
func (s *Seed) Reachable(ref string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, r := range s.machines {
		if (id == ref || r.Name == ref && ref != "") && r.Node != "" {
			return s.live(r.Node)
		}
	}
	return false
}

// outcome takes how an order ended. The first word counts, but for an upgrade that
// was not told again because another bundle is served now, and came about all the same.
func (c *change) outcome(key string, out handoff.Outcome) error {
	e, err := c.s.holds(key, "")
	if err != nil {
		return err
	}
	r := c.machine(e.Machine)
	o := r.Order
	switch {
	case slices.Contains(strings.Fields(r.Past), out.ID):
		return nil
	case o == nil || o.ID != out.ID:
		return refusal(codeOrderUnknown, "look at the seed: slipway nodes "+r.called(), "%q is no order of %s", clean(out.ID, 64), r.called())
	case !o.Open() && (o.Code != codeOrderArch || out.State != handoff.Done):
		return nil
	case out.State == handoff.Done && o.Verb == handoff.Reimage:
		return refusal(codeBody, "", "the outcome of a reimage is that the machine enrols with its token")
	case out.State != handoff.Done && out.State != handoff.Failed:
		return refusal(codeBody, "", "state %q: want done or failed", clean(string(out.State), 16))
	}
	if o.Verb == handoff.Reimage && !o.Leave {
		out.Hint = cmp.Or(out.Hint, "its Node was deleted: restart the machine to bring it back")
	}
	c.end(r, out)
	if out.State == handoff.Done && o.Verb == handoff.Reset {
		r.Disk = "" // it starts nothing
	}
	switch {
	case out.State == handoff.Done && o.Verb == handoff.Upgrade:
		r.Bundle, r.Kubernetes = o.Bundle, o.Kubernetes
	case out.State == handoff.Done && o.Forget && !o.Leave: // else its name is its Node's as long as there is one
		c.forget(r)
	}
	return nil
}

func (s *Seed) serveOrder(ctx context.Context, p peer, _ io.Reader) (reply, error) {
	return s.poll(ctx, func() (done any, wait handoff.Standing, err error) {
		err = s.do(func(c *change) error {
			o, err := c.tell(p.key)
			if o != nil {
				done = o
			}
			return err
		})
		return done, handoff.Standing{State: "waiting", Text: "no order"}, err
	})
}

func (s *Seed) serveOrdered(_ context.Context, p peer, body io.Reader) (reply, error) {
	var out handoff.Outcome
	if err := read(body, &out); err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusNoContent}, s.do(func(c *change) error { return c.outcome(p.key, out) })
}

// medium is what is served for an architecture; nil for none.
func (o Options) medium(a arch.Arch) *lock.Manifest {
	i := slices.IndexFunc(o.Media, func(m *lock.Manifest) bool { return m.Arch == a })
	if i < 0 {
		return nil
	}
	return o.Media[i]
}

func bundleOf(m *lock.Manifest) string { return fmt.Sprintf("%s %d", m.Name, m.Serial) }
