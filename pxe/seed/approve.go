package seed

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
)

// mostArmed bounds the window in which machines let themselves in.
const mostArmed = 24 * time.Hour

// window is how the armed window is stored: by the wall clock, because nothing
// else lasts over a restart, and with its beginning, so that a clock that went
// back before it opens nothing.
type window struct{ From, To time.Time }

// Arm opens the window in which approve: auto lets machines in; 0 closes it.
func (s *Seed) Arm(d time.Duration) error {
	if d < 0 || d > mostArmed {
		return refusal(codeArm, "", "want 0 to %s, got %s", mostArmed, d)
	}
	if s.cluster.Spec.Seed.Approve != configs.ApproveAuto && d > 0 {
		return refusal(codeArm, "write seed: {approve: auto} in cluster.yaml", "cluster.yaml says approve: %s: the window is for approve: auto", s.cluster.Spec.Seed.Approve)
	}
	var was [2]time.Time
	err := s.do(func(c *change) error {
		from := time.Now() // with the monotonic clock
		w := window{from, from.Add(d)}
		c.meta[metaArmed] = w
		if d == 0 {
			c.meta[metaArmed] = nil
			c.step("", StageSeed, handoff.Done, "the window is closed")
		} else {
			c.step("", StageSeed, handoff.Started, "machines let themselves in for %s", d)
		}
		was, s.armedAt, s.armedTo = [2]time.Time{s.armedAt, s.armedTo}, w.From, w.To
		for key, e := range s.enrolments {
			if e.Phase == revealed {
				c.judge(key)
			}
		}
		return nil
	})
	if err != nil {
		s.mu.Lock()
		s.armedAt, s.armedTo = was[0], was[1]
		s.mu.Unlock()
	}
	return err
}

func (s *Seed) armedNow() bool {
	now := time.Now()
	return now.Before(s.armedTo) && !now.Before(s.armedAt)
}

func (s *Seed) rearm(raw []byte) error {
	var w window
	if err := json.Unmarshal(raw, &w); err != nil {
		return fmt.Errorf("armed window: %w", err)
	}
	now := time.Now()
	if now.Before(w.To) && !now.Before(w.From) && w.To.Sub(w.From) <= mostArmed {
		s.armedAt, s.armedTo = now, now.Add(w.To.Sub(now)) // by the monotonic clock from here on
	}
	return nil
}

// find resolves a machine's ID, node name or code. The enrolment is the one
// with that code, else the machine's newest that may yet get a config; nil when
// there is none.
func (c *change) find(ref string) (*record, *enrolment, error) {
	code := plainCode(ref)
	for key, e := range c.s.enrolments {
		if e.Code != "" && plainCode(e.Code) == code {
			if e = c.enrolment(key); c.machine(e.Machine) != nil {
				return c.machine(e.Machine), e, nil
			}
		}
	}
	low := strings.ToLower(strings.ReplaceAll(ref, "-", ":"))
	for id, r := range c.s.machines {
		if id != ref && id != low && (r.Name == "" || r.Name != ref) {
			continue
		}
		if all := c.pending(id); len(all) > 0 {
			return c.machine(id), c.enrolment(all[0].Key), nil
		}
		return c.machine(id), nil, nil
	}
	return nil, nil, refusal(codeUnknown, "list them: slipway nodes", "no machine has the ID, name or code %q", ref)
}

// plainCode is a code as people type it: Crockford's letters, any case.
func plainCode(s string) string {
	s = strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(s))
	return strings.NewReplacer("O", "0", "I", "1", "L", "1").Replace(s)
}

// Approve lets a machine become a node. A code that is given must be the one it
// shows. Wipe names disks of the machine that may lose what they hold: this
// enrolment's config says so, and no later one's.
func (s *Seed) Approve(ref, code string, wipe ...string) (Machine, error) {
	var m Machine
	err := s.do(func(c *change) error {
		r, e, err := c.find(ref)
		if err != nil {
			return err
		}
		if e == nil {
			if r.Node != "" {
				return refusal(codeTaken, "restart the machine: it enrols again", "%s has its config already as %q", r.ID, r.Name)
			}
			return refusal(codeWaiting, "wait until it shows its code", "%s has not enrolled yet", r.ID)
		}
		if code != "" && plainCode(code) != plainCode(e.Code) {
			return refusal(codeCode, "do not approve it: another machine answers in its place, or the code was mistyped",
				"%s has the code %s, not %s", r.ID, e.Code, code)
		}
		if e.Phase == granted {
			m = r.Machine
			return c.consent(r, e, r.Rule, wipe)
		}
		if e.Phase != revealed && e.Phase != refused {
			return s.turnedDown(e)
		}
		c.supersede(e)
		same, like := c.rivals(e)
		compared := code != "" || plainCode(ref) == plainCode(e.Code)
		if len(same) > 0 || len(like) > 0 && !compared {
			return refusal(codeDouble, "reject the wrong one by its code", "%s", double(e, append(same, like...)))
		}
		e.Compared = compared
		slot, err := c.room(r, &e.Facts)
		if err == nil {
			err = c.consent(r, e, slot.rule, wipe)
		}
		if err != nil {
			return err
		}
		if err := c.grant(r, e, "by the operator"); err != nil {
			return err
		}
		m = c.machine(r.ID).Machine
		return nil
	})
	return m, err
}

// consent notes disks that may lose what they hold.
func (c *change) consent(r *record, e *enrolment, rule string, wipe []string) error {
	if len(wipe) == 0 {
		return nil
	}
	if i := c.s.cluster.Spec.InstallOf(rule); len(i.Disk) == 0 {
		return refusal(codeDisk, "approve it without --wipe, or say under spec.install of cluster.yaml which disk it goes to",
			"cluster.yaml installs it on no disk: nothing would be lost")
	}
	var kept []string
	for _, name := range wipe {
		if err := configs.CheckDiskName(name); err != nil {
			return refusal(codeDisk, "", "%s", clean(err.Error(), 200))
		}
		i := slices.IndexFunc(e.Facts.Disks, func(d handoff.Disk) bool { return configs.Called(name, d.Serial, d.WWN, d.Path) })
		if i < 0 {
			return refusal(codeDisk, "look what they hold: slipway disks "+r.ID, "%s has no disk %q: it has %s", r.ID, name, diskNames(e.Facts.Disks))
		}
		if d := e.Facts.Disks[i]; !slices.Contains(e.Wipe, name) && !slices.Contains(kept, name) {
			kept = append(kept, name)
			c.step(r.ID, StageEnrol, handoff.Running, "the operator lets disk %s (%s) lose what it holds: %s", d.Name, name, clean(cmp.Or(strings.Join(d.Holds, "; "), "nothing"), 300))
		}
	}
	e.Wipe = slices.Concat(e.Wipe, kept)
	return nil
}

// diskNames are the names by which disks can be told to lose what they hold.
func diskNames(all []handoff.Disk) string {
	var out []string
	for _, d := range all {
		out = append(out, fmt.Sprintf("%s (%s)", cmp.Or(d.Serial, d.WWN, d.Path, "no name"), d.Name))
	}
	return cmp.Or(strings.Join(out, ", "), "none")
}

// Reject refuses a machine, or the one of two that has the code.
func (s *Seed) Reject(ref, reason string) (Machine, error) {
	var m Machine
	err := s.do(func(c *change) error {
		r, e, err := c.find(ref)
		if err != nil {
			return err
		}
		reason = cmp.Or(clean(reason, 200), "by the operator")
		if e != nil && plainCode(ref) != plainCode(e.Code) {
			if all := c.pending(r.ID); len(all) > 1 {
				return refusal(codeDouble, "name the wrong one by its code", "%s", double(all[0], all[1:]))
			}
		}
		if e == nil {
			e = c.enrolment(r.Node)
		}
		if e == nil { // it never enrolled
			r.State, r.Refused, r.Reason = Rejected, reason, "rejected: "+reason
		} else {
			before := e.Phase
			if r.Node == e.Key || e.Token != "" {
				c.outlived(r, false, "the node was rejected")
			}
			e.Phase, e.Reason, e.Commit = refused, reason, ""
			if before == used || before == granted && r.Node == e.Key {
				r.Back = ""
			}
			if len(c.pending(r.ID)) == 0 { // the other one is not the one that was refused
				r.Refused = reason
			}
			c.step(r.ID, StageEnrol, handoff.Failed, "rejected: %s", reason)
			c.fall(e, Rejected, "rejected: "+reason)
		}
		for _, key := range c.rivalsOf(e) {
			c.judge(key)
		}
		m = c.machine(r.ID).Machine
		return nil
	})
	return m, err
}

// rivalsOf are the enrolments that a rejected one stood in the way of.
func (c *change) rivalsOf(e *enrolment) (keys []string) {
	if e == nil {
		return nil
	}
	same, like := c.rivals(e)
	for _, o := range append(same, like...) {
		keys = append(keys, o.Key)
	}
	return keys
}

// Assign gives a machine a name or a role, before it has its config.
func (s *Seed) Assign(ref, name, role string) (Machine, error) {
	var m Machine
	err := s.do(func(c *change) error {
		r, e, err := c.find(ref)
		if err != nil {
			return err
		}
		if e == nil && r.Node != "" || e != nil && e.Phase == used {
			return refusal(codeTaken, "let it enrol again: restart it", "%s has its config already as %q", r.ID, r.Name)
		}
		if r.Fixed = true; role != "" {
			if err := c.assignRole(r, configs.Role(role)); err != nil {
				return err
			}
		}
		if name != "" {
			if err := c.assignName(r, name); err != nil {
				return err
			}
		}
		c.step(r.ID, StageEnrol, handoff.Done, "assigned by the operator: name %q, role %q", r.Name, r.Role)
		for _, e := range c.pending(r.ID) {
			c.judge(e.Key)
		}
		m = c.machine(r.ID).Machine
		return nil
	})
	return m, err
}

func (c *change) assignRole(r *record, role configs.Role) error {
	if role != configs.RoleControlPlane && role != configs.RoleWorker {
		return refusal(codeName, "", "role %q: want %s or %s", role, configs.RoleControlPlane, configs.RoleWorker)
	}
	if role == r.Role {
		return nil
	}
	r.Role, r.Rule = role, ""
	if role == configs.RoleControlPlane {
		for _, n := range c.s.cluster.Spec.Nodes {
			if n.Role != role {
				continue
			}
			if holders := c.holders(&n, r.ID); len(holders) >= n.Count {
				return refusal(codeRule, "", "the control plane is %s already", strings.Join(holders, ", "))
			}
			r.Rule = n.Name
		}
	}
	return nil
}

func (c *change) assignName(r *record, name string) error {
	if _, err := configs.ParseMetaData("", []byte(fmt.Sprintf("local-hostname: %q\n", name))); err != nil || len(name) > 63 || strings.Contains(name, ".") {
		return refusal(codeName, "", "%q: want one name of lower-case letters, digits and hyphens", name)
	}
	var holder *record
	c.all(func(o *record) {
		if o.Name == name && o.ID != r.ID {
			holder = o
		}
	})
	if holder != nil {
		if holder.State != Rejected {
			return refusal(codeName, "reject that machine first, or give another name", "%q is the name of %s", name, holder.ID)
		}
		h := c.machine(holder.ID)
		if r.Rule == "" {
			r.Rule, r.Role = h.Rule, h.Role
		}
		h.Fixed = false
		h.release()
	}
	r.Name = name
	return nil
}

// Adopt makes the machine that runs this seed one of its nodes, with its MAC as
// ID: it has its config from elsewhere and never enrols.
func (s *Seed) Adopt(id, name string, role configs.Role, at netip.Addr) error {
	return s.do(func(c *change) error {
		r := c.machine(id)
		if r == nil {
			r = &record{Machine: Machine{ID: id, First: s.now()}}
			c.machines[id] = r
		}
		for _, rule := range s.cluster.Spec.Nodes {
			if rule.Role == role && r.Rule == "" {
				r.Rule = rule.Name
			}
		}
		r.Name, r.Role, r.Address, r.Trust, r.Fixed, r.Used = name, role, at, "L1", true, true
		r.Node = selfKey
		if r.State != Ready {
			r.State = Taken
		}
		c.step(id, StageSeed, handoff.Running, "this machine is the seed and the node %s", name)
		return nil
	})
}

// selfKey stands for the key of the machine that runs the seed.
const selfKey = "self"

// Reach tells of the cluster that the seed's own machine runs.
func (s *Seed) Reach(k handoff.Cluster) error {
	return s.do(func(c *change) error {
		if old := s.reached; old == nil || *old != k {
			c.meta[metaCluster] = &k
			c.step("", StageKubernetes, handoff.Done, "the cluster runs at %s", clean(k.Server, 200))
		}
		return nil
	})
}
