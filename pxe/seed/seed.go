package seed

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/time/rate"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/configs/render"
)

// Options are what a seed is given besides cluster.yaml. All may be zero.
type Options struct {
	Clock   func() time.Time // wall clock; nil: time.Now
	Log     *slog.Logger     // nil: silent
	Kube    Kube             // nil: no node can join
	Media   []*lock.Manifest // of the bundle that is served, one per architecture
	Address netip.Prefix     // on the wire it serves; nodes take the time from it
	// Store is the URL where the bundle for an architecture is served, as
	// slipway.store= has it; nil: nowhere.
	Store func(arch.Arch) string
	Grace time.Duration // before a disk is written that a person lets lose what it holds; 0: half a minute
}

func (o Options) times() []netip.Addr {
	if !o.Address.IsValid() {
		return nil
	}
	return []netip.Addr{o.Address.Addr()}
}

// Alarm begins what Kube.Watch tells when somebody tries to join who may not.
const Alarm = "ALARM: "

// Kube lets nodes join a cluster that runs.
type Kube interface {
	// Mint makes the means for one node with one kubelet key to join.
	Mint(ctx context.Context, c handoff.Cluster, node, key string) (handoff.Join, error)
	// Finish removes them again.
	Finish(ctx context.Context, c handoff.Cluster, node string) error
	// Watch tells how nodes fare until ctx ends. A text that begins with Alarm says
	// nothing new of that; node may be empty.
	Watch(ctx context.Context, c handoff.Cluster, tell func(node string, ready bool, text string)) error
}

// Seed is what the seed knows and decides. Use Open. All methods may be called
// from many goroutines.
type Seed struct {
	dir     string
	cluster *configs.Cluster
	o       Options
	log     *slog.Logger
	db      *bolt.DB
	ca      *authority
	leases  *leases
	began   time.Time     // for the monotonic clock
	hellos  *rate.Limiter // how often machines may introduce themselves
	joining sync.Mutex    // one request to the API server at a time

	known sync.Map // ID of every machine that was let in, for Known
	local sync.Map // MAC of every card of a machine that starts from its own disk, for Local

	write sync.Mutex // held over every write to disk; taken before mu
	mu    sync.Mutex // of all below
	started,
	armedAt, armedTo time.Time
	machines   map[string]*record
	enrolments map[string]*enrolment
	presence   map[string]*presence
	marked     map[string]map[string]bool // what identifies a machine → keys that say so
	reached    *handoff.Cluster           // nil: none yet
	steps      []Step                     // by Seq
	seq, saved uint64                     // the newest step, and the newest on disk
	gone       []uint64                   // steps to remove from disk
	dirty      map[string]bool            // machines to save
	tokens     map[string]string          // of orders that were told, by ID: on disk is only their hash
	strangers  int
	changed    chan struct{} // closed when a machine or an enrolment changed
	stepped    chan struct{} // closed when a step was added
	closed     bool
	unwatch    context.CancelFunc

	queue queue
	life  context.Context
	end   context.CancelFunc
	group sync.WaitGroup
}

// Open reads a seed's state, or begins a new one, in a directory of its own. A
// cluster.yaml of which no node's config can be made is an error.
func Open(dir string, c *configs.Cluster, o Options) (*Seed, error) {
	if err := render.TryAll(c, o.times()); err != nil {
		return nil, err
	}
	db, err := openState(dir)
	if err != nil {
		return nil, fmt.Errorf("seed's state: %w", err)
	}
	s := &Seed{dir: dir, cluster: c, o: o, log: o.Log, db: db, began: time.Now(), hellos: rate.NewLimiter(32, 128),
		machines: map[string]*record{}, enrolments: map[string]*enrolment{}, presence: map[string]*presence{},
		marked: map[string]map[string]bool{}, dirty: map[string]bool{}, tokens: map[string]string{}, changed: make(chan struct{}), stepped: make(chan struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.started = s.now()
	s.queue.wake = make(chan struct{}, 1)
	s.life, s.end = context.WithCancel(context.Background())
	if s.ca, err = loadAuthority(db, c.Metadata.Name); err == nil {
		if err = s.load(); err == nil {
			s.leases, err = loadLeases(s)
		}
	}
	if err != nil {
		s.end()
		return nil, errors.Join(fmt.Errorf("seed's state in %s: %w", dir, err), db.Close())
	}
	for _, e := range s.enrolments {
		s.index(e)
	}
	for id, r := range s.machines {
		if r.stranger() {
			s.strangers++
		}
		if r.ours() {
			s.known.Store(id, struct{}{})
		}
		s.starts(r)
	}
	if err := s.do(s.interrupted); err != nil {
		s.end()
		return nil, errors.Join(err, db.Close())
	}
	s.mu.Lock()
	s.rewatch()
	s.mu.Unlock()
	s.group.Go(s.keep)
	s.Record(Step{Stage: StageSeed, State: string(handoff.Started), Text: fmt.Sprintf("seed of cluster %q: %d machines known", c.Metadata.Name, len(s.machines))})
	return s, nil
}

// Close saves what was observed and gives the state free.
func (s *Seed) Close() error {
	s.mu.Lock() // no watcher begins after this
	s.end()
	s.mu.Unlock()
	s.group.Wait()
	err := s.flush()
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.mu.Unlock()
	if was {
		return nil
	}
	return errors.Join(err, s.db.Close())
}

var errClosed = errors.New("the seed is closed")

func (s *Seed) now() time.Time {
	if s.o.Clock != nil {
		return s.o.Clock()
	}
	return time.Now().Round(0)
}

// mono is time since Open, whatever happens to the wall clock.
func (s *Seed) mono() time.Duration { return time.Since(s.began) }

// keep saves observations, at most once a second, and forgets machines that
// stopped waiting.
func (s *Seed) keep() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-s.life.Done():
			return
		case <-tick.C:
			if err := s.flush(); err != nil {
				s.log.Error("observations were not saved", "err", err)
			}
			if n%10 == 0 {
				if err := s.do(s.sweep); err != nil {
					s.log.Error("forgetting machines that went away", "err", err)
				}
			}
		case <-s.queue.wake:
			s.mu.Lock()
			s.drain()
			s.mu.Unlock()
			n--
		}
	}
}

// sweep forgets enrolments whose machine went away before it was approved.
func (s *Seed) sweep(c *change) error {
	for key, e := range s.enrolments {
		if !(e.Phase == introduced && s.silent(key, forgetHello) || e.Phase == revealed && s.silent(key, forgetAfter)) {
			continue
		}
		c.enrolments[key] = nil
		if e.Phase == revealed {
			c.fall(e, Seen, "it stopped waiting for approval")
		}
	}
	return nil
}

// fall shows what is left of a machine after an enrolment of it ended.
func (c *change) fall(e *enrolment, to State, reason string) {
	r := c.machine(e.Machine)
	if r == nil || r.Key != e.Key {
		return
	}
	if rest := c.pending(r.ID); len(rest) > 0 {
		c.show(r, rest[0])
		c.judge(rest[0].Key)
		return
	}
	r.State, r.Code, r.Reason, r.Key = cmp.Or(r.Back, to), "", reason, r.Node
	r.Back = ""
	if r.State == Taken || r.State == Ready {
		return
	}
	r.Node = ""
	if !r.Used { // the slot of one that was a node is the operator's to give away
		r.release()
	}
}

// Machines are all, by ID, each with its verdict.
func (s *Seed) Machines() []Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain()
	byMachine := map[string][]Step{}
	for _, st := range s.steps {
		byMachine[st.Machine] = append(byMachine[st.Machine], st)
	}
	out := make([]Machine, 0, len(s.machines))
	for id, r := range s.machines {
		m := r.Machine
		m.Verdict = Judge(m, byMachine[id], s.now())
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Machine) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Machine is one by its ID, node name or code.
func (s *Seed) Machine(ref string) (Machine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain()
	c := &change{s: s, machines: map[string]*record{}, enrolments: map[string]*enrolment{}}
	r, _, err := c.find(ref)
	if err != nil {
		return Machine{}, err
	}
	m := r.Machine
	m.Verdict = Judge(m, s.timeline(m.ID), s.now())
	return m, nil
}

// At finds the machine that has an address: wire servers know no more of it.
func (s *Seed) At(a netip.Addr) (id string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain()
	var last time.Time
	for _, r := range s.machines {
		if r.Address == a.Unmap() && !r.Last.Before(last) {
			id, ok, last = r.ID, true, r.Last
		}
	}
	return id, ok
}

// Status is the seed as a whole. What only the wire servers know is left zero.
func (s *Seed) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain()
	st := Status{Cluster: s.cluster.Metadata.Name, Address: s.o.Address, Pin: s.Pin(), Approve: string(s.cluster.Spec.Seed.Approve),
		Started: s.started, Machines: len(s.machines), Trust: "L0", Arch: []arch.Arch{}, Foreign: []string{}}
	for _, m := range s.o.Media { // boot.New wants them of one bundle
		st.Bundle, st.Arch = fmt.Sprintf("%s %d", m.Name, m.Serial), append(st.Arch, m.Arch)
	}
	slices.Sort(st.Arch)
	if s.armedNow() {
		st.Armed = s.armedTo.Round(0)
	}
	if s.reached != nil {
		st.API = s.reached.Server
	}
	for _, r := range s.machines {
		if r.Node != "" {
			st.ReadyOf[1]++
		}
		if r.State == Ready || r.Back == Ready {
			st.ReadyOf[0]++
		}
	}
	return st
}

// Kubeconfig is the operator's, of the cluster that runs.
func (s *Seed) Kubeconfig() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reached == nil {
		return nil, refusal(codeNoCluster, "it appears when the first control plane runs", "there is no cluster yet")
	}
	return []byte(s.reached.Kubeconfig), nil
}

func random() ([]byte, error) {
	b := make([]byte, 32)
	_, err := rand.Read(b)
	return b, err
}
