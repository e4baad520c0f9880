package seed

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe"
)

// stateFile holds secrets: the CA's key and, once there is a cluster, its
// operator's kubeconfig.
const stateFile = "seed.db"

// The buckets of the state file.
var (
	bucketMeta       = []byte("meta")       // name → JSON
	bucketMachines   = []byte("machines")   // ID → record
	bucketEnrolments = []byte("enrolments") // KeyID → enrolment
	bucketSteps      = []byte("steps")      // sequence number → Step
	bucketLeases     = []byte("leases")     // address → stored lease
)

const (
	metaAuthority = "authority"
	metaCluster   = "cluster"
	metaArmed     = "armed"
)

// seqGap is left between the runs of a seed: steps that a crash took away had
// numbers that followers may have seen.
const seqGap = 1 << 20

// record is a machine as it is stored.
type record struct {
	Machine
	Rule     string `json:"rule,omitempty"`     // name pattern of the rule whose slot it holds
	Node     string `json:"node,omitempty"`     // key that was approved last and holds the name
	Fixed    bool   `json:"fixed,omitempty"`    // name and role are the operator's
	Used     bool   `json:"used,omitempty"`     // a config was taken before
	Refused  string `json:"refused,omitempty"`  // why an earlier enrolment was rejected
	Back     State  `json:"back,omitempty"`     // what it was before it enrolled again
	HeldFrom State  `json:"heldFrom,omitempty"` // what it was before it held
	HeldAt   string `json:"heldAt,omitempty"`   // the phase
	Token    string `json:"token,omitempty"`    // what proves that of its order, unused: hashed
	Past     string `json:"past,omitempty"`     // IDs of its earlier orders, spaces between
}

// stranger says that nothing but packets is known of it.
func (r *record) stranger() bool { return r.State == Seen && !r.ours() }

// ours says that the operator or a rule let it in; a machine that waits only
// says of itself who it is.
func (r *record) ours() bool { return r.Node != "" || r.Used || r.Fixed }

// openState opens the file; a second process is refused.
func openState(dir string) (*bolt.DB, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, stateFile)
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("%s: in use by another process: stop the other seed, or give this one its own directory", path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketMeta, bucketMachines, bucketEnrolments, bucketSteps, bucketLeases} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), db.Close())
	}
	// The name of a new file has to last as well.
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync() // not every file system can
		d.Close()
	}
	return db, nil
}

// load reads everything but leases.
func (s *Seed) load() error {
	return s.db.View(func(tx *bolt.Tx) error {
		err := errors.Join(
			each(tx, bucketMachines, func(k []byte, r *record) { s.machines[string(k)] = r }),
			each(tx, bucketEnrolments, func(k []byte, e *enrolment) {
				s.enrolments[string(k)] = e
				s.presence[string(k)] = s.newPresence()
			}),
			each(tx, bucketSteps, func(_ []byte, st *Step) { s.steps = append(s.steps, *st) }),
		)
		if err != nil {
			return err
		}
		if n := len(s.steps); n > 0 {
			s.seq = s.steps[n-1].Seq + seqGap
		}
		s.saved = s.seq
		meta := tx.Bucket(bucketMeta)
		if raw := meta.Get([]byte(metaCluster)); raw != nil {
			s.reached = new(handoff.Cluster)
			if err := json.Unmarshal(raw, s.reached); err != nil {
				return fmt.Errorf("cluster: %w", err)
			}
		}
		if raw := meta.Get([]byte(metaArmed)); raw != nil {
			return s.rearm(raw)
		}
		return nil
	})
}

// each decodes a bucket.
func each[T any](tx *bolt.Tx, bucket []byte, f func(k []byte, v *T)) error {
	return tx.Bucket(bucket).ForEach(func(k, raw []byte) error {
		v := new(T)
		if err := json.Unmarshal(raw, v); err != nil {
			return fmt.Errorf("%s %q: %w", bucket, k, err)
		}
		f(k, v)
		return nil
	})
}

// change is what one decision alters. Nobody sees any of it before it is on disk.
type change struct {
	s          *Seed
	machines   map[string]*record
	enrolments map[string]*enrolment // nil: forgotten
	steps      []Step
	meta       map[string]any // nil: removed
}

// machine is a copy to alter; nil when there is none.
func (c *change) machine(id string) *record {
	if r, ok := c.machines[id]; ok {
		return r
	}
	old := c.s.machines[id]
	if old == nil {
		return nil
	}
	r := *old
	c.machines[id] = &r
	return &r
}

// enrolment is a copy to alter; nil when there is none.
func (c *change) enrolment(key string) *enrolment {
	if e, ok := c.enrolments[key]; ok {
		return e
	}
	old := c.s.enrolments[key]
	if old == nil {
		return nil
	}
	e := *old
	c.enrolments[key] = &e
	return &e
}

// peek is an enrolment as the change leaves it, not to alter.
func (c *change) peek(key string) *enrolment {
	if e, ok := c.enrolments[key]; ok {
		return e
	}
	return c.s.enrolments[key]
}

// peekMachine is a machine as the change leaves it, not to alter.
func (c *change) peekMachine(id string) *record {
	if r, ok := c.machines[id]; ok {
		return r
	}
	return c.s.machines[id]
}

// step adds a line to a machine's timeline.
func (c *change) step(machine string, stage Stage, state handoff.State, format string, args ...any) {
	c.steps = append(c.steps, Step{Machine: machine, Stage: stage, State: string(state), Text: fmt.Sprintf(format, args...)})
}

// do makes one decision. What f changes is synced to disk before do returns, or
// not done at all.
func (s *Seed) do(f func(c *change) error) error {
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	s.drain()
	c := &change{s: s, machines: map[string]*record{}, enrolments: map[string]*enrolment{}, meta: map[string]any{}}
	if err := f(c); err != nil {
		return err
	}
	c.prune()
	if len(c.machines)+len(c.enrolments)+len(c.steps)+len(c.meta) == 0 {
		return nil
	}
	now, seq := s.now(), s.seq
	for i := range c.steps {
		st := &c.steps[i]
		seq++
		st.Seq, st.Time = seq, now
		if r := c.machine(st.Machine); r != nil {
			r.Step, r.Last = *st, now
		}
	}
	if !c.lasting() {
		c.install()
		return nil
	}
	if err := s.db.Update(c.put); err != nil {
		s.log.Error("the seed's state was not saved", "dir", s.dir, "err", err)
		return fmt.Errorf("saving the seed's state: %w", err)
	}
	s.seq = seq
	c.install()
	return nil
}

// prune takes out what was looked at and left alone.
func (c *change) prune() {
	for id, r := range c.machines {
		if old := c.s.machines[id]; old != nil && r != nil && *old == *r {
			delete(c.machines, id)
		}
	}
	for key, e := range c.enrolments {
		if old := c.s.enrolments[key]; e == nil && old == nil || e != nil && old != nil && e.same(old) {
			delete(c.enrolments, key)
		}
	}
}

// stored says that an enrolment is on disk: one that was only introduced is not.
func stored(e *enrolment) bool { return e != nil && e.Phase != introduced }

// lasting says that there is something to write.
func (c *change) lasting() bool {
	for key, e := range c.enrolments {
		if stored(e) || stored(c.s.enrolments[key]) {
			return true
		}
	}
	return len(c.machines)+len(c.steps)+len(c.meta) > 0
}

func (c *change) put(tx *bolt.Tx) error {
	for id, r := range c.machines {
		if err := putJSON(tx, bucketMachines, []byte(id), r); err != nil {
			return err
		}
	}
	for key, e := range c.enrolments {
		var value any
		if stored(e) {
			value = e
		}
		if err := putJSON(tx, bucketEnrolments, []byte(key), value); err != nil {
			return err
		}
	}
	for _, st := range c.steps {
		if err := putJSON(tx, bucketSteps, seqKey(st.Seq), st); err != nil {
			return err
		}
	}
	for name, v := range c.meta {
		if err := putJSON(tx, bucketMeta, []byte(name), v); err != nil {
			return err
		}
	}
	return nil
}

// putJSON stores a value; nil removes it.
func putJSON(tx *bolt.Tx, bucket, key []byte, v any) error {
	if v == nil {
		return tx.Bucket(bucket).Delete(key)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s %q: %w", bucket, key, err)
	}
	return tx.Bucket(bucket).Put(key, raw)
}

func seqKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// install makes a saved change what everybody sees.
func (c *change) install() {
	s := c.s
	for key, e := range c.enrolments {
		s.unindex(s.enrolments[key])
		if e == nil {
			delete(s.enrolments, key)
			delete(s.presence, key)
			continue
		}
		s.enrolments[key] = e
		s.index(e)
		if s.presence[key] == nil {
			s.presence[key] = s.newPresence()
		}
	}
	for id, r := range c.machines {
		if old := s.machines[id]; old != nil && old.stranger() {
			s.strangers--
		}
		if s.machines[id] = r; r.stranger() {
			s.strangers++
		}
		if r.ours() {
			s.known.Store(id, struct{}{})
		} else {
			s.known.Delete(id)
		}
		s.starts(r)
	}
	if v, ok := c.meta[metaCluster]; ok {
		s.reached, _ = v.(*handoff.Cluster)
		s.rewatch()
	}
	if len(c.steps) > 0 {
		s.steps = append(s.steps, c.steps...)
		s.trim()
		close(s.stepped)
		s.stepped = make(chan struct{})
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// leases are pxe.Leases in the state file. What is stored is how long a lease
// was given for, never until when: after a restart nobody can tell how long the
// seed was away, and the whole time runs again from then.
type leases struct {
	s      *Seed
	mu     sync.Mutex
	byAddr map[netip.Addr]running
	byMAC  map[pxe.MAC]netip.Addr
}

type running struct {
	lease pxe.Lease
	from  time.Duration // on the seed's monotonic clock
}

// storedLease is the value of an address.
type storedLease struct {
	MAC string `json:"mac"`
	For int64  `json:"for"` // nanoseconds
}

func loadLeases(s *Seed) (*leases, error) {
	l := &leases{s: s, byAddr: map[netip.Addr]running{}, byMAC: map[pxe.MAC]netip.Addr{}}
	now := s.mono()
	var bad error
	err := s.db.View(func(tx *bolt.Tx) error {
		return each(tx, bucketLeases, func(k []byte, v *storedLease) {
			a, ok := netip.AddrFromSlice(k)
			m, err := pxe.ParseMAC(v.MAC)
			if !ok || err != nil {
				bad = fmt.Errorf("lease of %x to %q: damaged", k, v.MAC)
				return
			}
			l.byAddr[a] = running{pxe.Lease{MAC: m, Addr: a, For: time.Duration(v.For)}, now}
			l.byMAC[m] = a
		})
	})
	if err == nil {
		err = bad
	}
	return l, err
}

// Leases keeps the addresses that the seed's DHCP server gave.
func (s *Seed) Leases() pxe.Leases { return s.leases }

// All returns the running leases by address.
func (l *leases) All() ([]pxe.Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.s.mono()
	var all []pxe.Lease
	for _, r := range l.byAddr {
		one := r.lease
		if one.For -= now - r.from; one.For > 0 {
			all = append(all, one)
		}
	}
	slices.SortFunc(all, func(a, b pxe.Lease) int { return a.Addr.Compare(b.Addr) })
	return all, nil
}

// holder is who has an address, whether or not its time has run out since.
func (l *leases) holder(a netip.Addr) (pxe.MAC, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.byAddr[a.Unmap()]
	return r.lease.MAC, ok
}

// Put records a lease and syncs it.
func (l *leases) Put(n pxe.Lease) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, had := l.byMAC[n.MAC]
	raw, err := json.Marshal(storedLease{n.MAC.String(), int64(n.For)})
	if err != nil {
		return err
	}
	err = l.s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketLeases)
		if had && old != n.Addr {
			if err := b.Delete(old.AsSlice()); err != nil {
				return err
			}
		}
		return b.Put(n.Addr.AsSlice(), raw)
	})
	if err != nil {
		return fmt.Errorf("saving the lease of %s: %w", n.Addr, err)
	}
	if had {
		delete(l.byAddr, old)
	}
	if other, ok := l.byAddr[n.Addr]; ok {
		delete(l.byMAC, other.lease.MAC)
	}
	l.byAddr[n.Addr], l.byMAC[n.MAC] = running{n, l.s.mono()}, n.Addr
	return nil
}

// Drop forgets the lease of an address and syncs that.
func (l *leases) Drop(a netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.byAddr[a]
	if !ok {
		return nil
	}
	if err := l.s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketLeases).Delete(a.AsSlice()) }); err != nil {
		return fmt.Errorf("forgetting the lease of %s: %w", a, err)
	}
	delete(l.byAddr, a)
	delete(l.byMAC, r.lease.MAC)
	return nil
}
