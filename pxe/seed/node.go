package seed

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
)

// peer is the node behind a request.
type peer struct {
	key    string     // KeyID
	public []byte     // PKIX DER
	from   netip.Addr // of the connection; no header says otherwise
}

// reply is what a request is answered with: no body for nil.
type reply struct {
	status int
	body   any
}

// Node is the protocol of configs/handoff. It is to be served with TLS.
func (s *Seed) Node() http.Handler {
	mux := http.NewServeMux()
	for pattern, f := range map[string]func(context.Context, peer, io.Reader) (reply, error){
		"POST " + handoff.PathHello:   s.serveHello,
		"POST " + handoff.PathReveal:  s.serveReveal,
		"GET " + handoff.PathConfig:   s.serveConfig,
		"POST " + handoff.PathTaken:   s.serveTaken,
		"POST " + handoff.PathEvents:  s.serveEvents,
		"POST " + handoff.PathCluster: s.serveCluster,
		"POST " + handoff.PathJoin:    s.serveJoin,
		"POST " + handoff.PathJoined:  s.serveJoined,
		"GET " + handoff.PathOrder:    s.serveOrder,
		"POST " + handoff.PathOrdered: s.serveOrdered,
		"POST " + handoff.PathWipe:    s.serveWiping,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, f) })
	}
	mux.HandleFunc("POST "+handoff.PathSaved, func(w http.ResponseWriter, r *http.Request) {
		patient(w)
		s.serve(w, r, s.serveSaved)
	})
	mux.HandleFunc("GET "+handoff.PathSaved+"/{id}", s.giveSaved)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, reply{http.StatusNotFound, refusal(codeBody, "", "no such request")})
	})
	return mux
}

func (s *Seed) serve(w http.ResponseWriter, r *http.Request, f func(context.Context, peer, io.Reader) (reply, error)) {
	p, err := peerOf(r)
	if err != nil {
		answer(w, reply{HTTPStatus(err), err})
		return
	}
	s.heard(p.key, 1)
	defer s.heard(p.key, -1)
	out, err := f(r.Context(), p, http.MaxBytesReader(w, r.Body, mostBody(r.URL.Path)))
	if err != nil {
		if _, ok := errors.AsType[*handoff.Refusal](err); !ok {
			s.log.Error("a node was not answered", "path", r.URL.Path, "from", p.from, "err", err)
			err = refusal(codeState, "look at the seed's own log", "the seed has a problem of its own")
		}
		out = reply{HTTPStatus(err), err}
	}
	answer(w, out)
}

func mostBody(path string) int64 {
	switch path {
	case handoff.PathHello:
		return handoff.MaxHello
	case handoff.PathEvents:
		return handoff.MaxEvents
	case handoff.PathCluster:
		return 1 << 20
	case handoff.PathSaved:
		return handoff.MaxSaved
	}
	return 16 << 10
}

func answer(w http.ResponseWriter, r reply) {
	w.Header().Set("Cache-Control", "no-store")
	if r.body == nil {
		w.WriteHeader(r.status)
		return
	}
	raw, err := json.Marshal(r.body)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if r.status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "2")
	}
	w.WriteHeader(r.status)
	_, _ = w.Write(append(raw, '\n'))
}

func peerOf(r *http.Request) (peer, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return peer{}, refusal(codeTLS, "", "a node shows a certificate of its key")
	}
	public := r.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return peer{}, refusal(codeTLS, "", "a connection without an address")
	}
	return peer{handoff.KeyID(public), public, from.Addr().Unmap().WithZone("")}, nil
}

// heard counts the requests of a key that are being answered.
func (s *Seed) heard(key string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.presence[key]; p != nil {
		p.last = s.mono()
		p.asks = max(0, p.asks+n)
	}
}

// read decodes one JSON value and nothing behind it.
func read(r io.Reader, into any) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return refusal(codeBody, "", "reading the request: %s", err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(into); err != nil {
		return refusal(codeBody, "is the machine's image of this seed's version?", "not the JSON that was expected: %s", clean(err.Error(), 200))
	}
	if _, err := d.Token(); err != io.EOF {
		return refusal(codeBody, "", "more than one JSON value")
	}
	return nil
}

func (s *Seed) serveHello(_ context.Context, p peer, body io.Reader) (reply, error) {
	var h handoff.Hello
	if err := read(body, &h); err != nil {
		return reply{}, err
	}
	if b, err := hex.DecodeString(h.Commit); err != nil || len(b) != 32 {
		return reply{}, refusal(codeBody, "", "commit: want 64 hex digits")
	}
	h.Commit = strings.ToLower(h.Commit)
	if err := tidy(&h.Facts); err != nil {
		return reply{}, err
	}
	if !s.hellos.Allow() {
		return reply{}, refusal(codeRate, "it tries again by itself", "too many machines introduce themselves at once")
	}
	var nonce []byte
	err := s.do(func(c *change) (err error) {
		nonce, err = c.hello(p.key, p.from, h)
		return err
	})
	if err != nil {
		s.doubt(&h.Facts, err)
		return reply{}, err
	}
	return reply{http.StatusOK, handoff.Welcome{Cluster: s.cluster.Metadata.Name, Nonce: hex.EncodeToString(nonce), Time: s.now()}}, nil
}

func (s *Seed) serveReveal(_ context.Context, p peer, body io.Reader) (reply, error) {
	var r handoff.Reveal
	if err := read(body, &r); err != nil {
		return reply{}, err
	}
	nonce, err := hex.DecodeString(r.Nonce)
	if err != nil || len(nonce) != 32 {
		return reply{}, refusal(codeBody, "", "nonce: want 64 hex digits")
	}
	var out handoff.Standing
	err = s.do(func(c *change) error {
		if err := c.reveal(p.key, p.public, nonce); err != nil {
			return err
		}
		e := c.peek(p.key)
		out = handoff.Standing{State: "waiting", Text: e.Reason}
		if e.Phase == granted {
			out = handoff.Standing{State: "approved", Text: "approved as " + e.Name}
		}
		return nil
	})
	return reply{http.StatusOK, out}, err
}

// poll asks f until it has something, for at most handoff.Patience. What it says
// meanwhile is the answer then.
func (s *Seed) poll(ctx context.Context, f func() (done any, wait handoff.Standing, err error)) (reply, error) {
	end := time.NewTimer(handoff.Patience)
	defer end.Stop()
	first := ""
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		done, wait, err := f()
		if err != nil || done != nil {
			return reply{http.StatusOK, done}, err
		}
		if first = cmp.Or(first, wait.Text); wait.Text != first { // let the screen show it at once
			return reply{http.StatusAccepted, wait}, nil
		}
		again := time.NewTimer(5 * time.Second) // a rival may have gone silent
		select {
		case <-changed:
		case <-again.C:
		case <-end.C:
			return reply{http.StatusAccepted, wait}, nil
		case <-s.life.Done():
			return reply{http.StatusAccepted, wait}, nil
		case <-ctx.Done():
			return reply{http.StatusAccepted, wait}, nil
		}
		again.Stop()
	}
}

func (s *Seed) serveConfig(ctx context.Context, p peer, _ io.Reader) (reply, error) {
	return s.poll(ctx, func() (done any, wait handoff.Standing, err error) {
		err = s.do(func(c *change) error {
			conf, w, err := c.config(p.key)
			if wait = w; err == nil && w.State == "" {
				done = conf
			}
			return err
		})
		return done, wait, err
	})
}

func (s *Seed) serveTaken(_ context.Context, p peer, _ io.Reader) (reply, error) {
	return reply{status: http.StatusNoContent}, s.do(func(c *change) error { return c.take(p.key, p.from) })
}

// serveEvents takes what it can read; a line that cannot be read is no reason
// for the node to send the others again.
func (s *Seed) serveEvents(_ context.Context, p peer, body io.Reader) (reply, error) {
	raw, err := io.ReadAll(body)
	if err != nil {
		return reply{}, refusal(codeBody, "", "reading events: %s", err)
	}
	var all []handoff.Event
	for line := range bytes.Lines(raw) {
		var e handoff.Event
		if json.Unmarshal(line, &e) == nil && e.Slipway == handoff.EventVersion && e.Phase != "" {
			all = append(all, e)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain()
	e := s.enrolments[p.key]
	if e == nil || e.Phase == introduced {
		return reply{}, errUnknown()
	}
	r := s.machines[e.Machine]
	if r == nil || e.Phase == refused || e.Phase == replaced || e.Phase == revealed && r.Key != p.key || e.Phase != revealed && r.Node != p.key {
		return reply{}, s.turnedDown(e)
	}
	now := s.now()
	here := s.presence[p.key]
	for _, ev := range all {
		if e.Phase == revealed && !here.talk.Allow() {
			continue // a stranger that fills everybody's timeline
		}
		s.told(r, here, ev, now)
		s.believe(r, p.key, ev)
	}
	s.dirty[r.ID] = true
	return reply{status: http.StatusNoContent}, nil
}

// holder is the enrolment of the key that holds a node, with a role; "" is any.
func (s *Seed) holder(key string, role configs.Role) (*enrolment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holds(key, role)
}

// holds is holder while s.mu is held.
func (s *Seed) holds(key string, role configs.Role) (*enrolment, error) {
	e := s.enrolments[key]
	if e == nil || e.Phase == introduced {
		return nil, errUnknown()
	}
	if r := s.machines[e.Machine]; e.Phase != used || r == nil || r.Node != key {
		return nil, refusal(codeNotYours, "", "this key holds no node: the config was not taken, or another start of the machine took its place")
	}
	if role != "" && e.Role != role {
		return nil, refusal(codeNotYours, "", "%s is a %s", e.Name, e.Role)
	}
	return e, nil
}

func (s *Seed) serveCluster(_ context.Context, p peer, body io.Reader) (reply, error) {
	e, err := s.holder(p.key, configs.RoleControlPlane)
	if err != nil {
		return reply{}, err
	}
	k := new(handoff.Cluster)
	if err := read(body, k); err != nil {
		return reply{}, err
	}
	u, err := url.Parse(k.Server)
	if b, _ := pem.Decode([]byte(k.CA)); err != nil || u.Scheme != "https" || u.Host == "" || b == nil || b.Type != "CERTIFICATE" || k.Kubeconfig == "" {
		return reply{}, refusal(codeBody, "", "want an https server, a CA certificate and a kubeconfig")
	}
	return reply{status: http.StatusNoContent}, s.do(func(c *change) error {
		if old := s.reached; old == nil || *old != *k {
			c.meta[metaCluster] = k
			c.step(e.Machine, StageKubernetes, handoff.Done, "the cluster runs at %s", clean(k.Server, 200))
		}
		return nil
	})
}

func (s *Seed) serveJoin(ctx context.Context, p peer, body io.Reader) (reply, error) {
	e, err := s.holder(p.key, configs.RoleWorker)
	if err != nil {
		return reply{}, err
	}
	var q handoff.JoinRequest
	if err := read(body, &q); err != nil {
		return reply{}, err
	}
	if q.Name != e.Name {
		return reply{}, refusal(codeNotYours, "", "%q is not the name of this node, which is %q", clean(q.Name, 64), e.Name)
	}
	if b, err := hex.DecodeString(q.Key); err != nil || len(b) != 32 {
		return reply{}, refusal(codeBody, "", "key: want 64 hex digits")
	}
	if s.o.Kube == nil {
		return reply{}, refusal(codeJoin, "", "this seed cannot let nodes join")
	}
	return s.poll(ctx, func() (any, handoff.Standing, error) {
		s.mu.Lock()
		k := s.reached
		s.mu.Unlock()
		if k == nil {
			return nil, handoff.Standing{State: "waiting", Text: "waiting for the control plane: there is no cluster yet"}, nil
		}
		if s.leaving(e.Machine) {
			return nil, handoff.Standing{State: "waiting", Text: "its Node of before is still being deleted from the cluster"}, nil
		}
		j, err := s.mint(ctx, *k, e, strings.ToLower(q.Key))
		if err != nil {
			return nil, handoff.Standing{}, err
		}
		return j, handoff.Standing{}, nil
	})
}

func (s *Seed) mint(ctx context.Context, k handoff.Cluster, e *enrolment, key string) (handoff.Join, error) {
	s.joining.Lock()
	defer s.joining.Unlock()
	if _, err := s.holder(e.Key, configs.RoleWorker); err != nil { // it may have been rejected meanwhile
		return handoff.Join{}, err
	}
	j, err := s.o.Kube.Mint(ctx, k, e.Name, key)
	if err != nil {
		s.log.Warn("a node cannot join yet", "node", e.Name, "err", err)
		return j, refusal(codeJoin, HintAPI(err), "the API server at %s gives %s no token yet", k.Server, e.Name)
	}
	if !j.Address.IsValid() {
		j.Address = e.Source
	}
	s.Record(Step{Machine: e.Machine, Stage: StageKubernetes, State: string(handoff.Started), Text: "may join the cluster at " + k.Server})
	return j, nil
}

func (s *Seed) serveJoined(ctx context.Context, p peer, _ io.Reader) (reply, error) {
	e, err := s.holder(p.key, configs.RoleWorker)
	if err != nil {
		return reply{}, err
	}
	s.mu.Lock()
	k := s.reached
	s.mu.Unlock()
	if k == nil || s.o.Kube == nil {
		return reply{status: http.StatusNoContent}, nil
	}
	s.joining.Lock()
	defer s.joining.Unlock()
	if err := s.o.Kube.Finish(ctx, *k, e.Name); err != nil { // it ends by itself a quarter of an hour later
		s.log.Warn("a join token was not deleted", "node", e.Name, "err", err)
	}
	s.Record(Step{Machine: e.Machine, Stage: StageKubernetes, State: string(handoff.Done), Text: "joined the cluster"})
	return reply{status: http.StatusNoContent}, nil
}

// rewatch follows the nodes of the cluster that is known now. s.mu is held.
func (s *Seed) rewatch() {
	if s.unwatch != nil {
		s.unwatch()
		s.unwatch = nil
	}
	if s.reached == nil || s.o.Kube == nil || s.life.Err() != nil {
		return
	}
	ctx, stop := context.WithCancel(s.life)
	s.unwatch = stop
	k := *s.reached
	s.group.Go(func() {
		for ctx.Err() == nil {
			err := s.o.Kube.Watch(ctx, k, func(node string, ready bool, text string) {
				if ctx.Err() == nil {
					s.nodeIs(node, ready, text)
				}
			})
			if ctx.Err() == nil {
				s.log.Warn("the cluster's nodes are not seen", "server", k.Server, "err", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(15 * time.Second):
			}
		}
	})
}

// nodeIs takes what the cluster says of a node.
func (s *Seed) nodeIs(name string, ready bool, text string) {
	if strings.HasPrefix(text, Alarm) {
		s.alarm(name, text)
		return
	}
	err := s.do(func(c *change) error {
		for id, old := range s.machines {
			if old.Name != name || old.Node == "" {
				continue
			}
			r := c.machine(id)
			state, reason := Taken, "its Node is not Ready: "+clean(text, maxText)
			if ready {
				state, reason = Ready, ""
			}
			was := cmp.Or(r.Back, r.State)
			switch {
			case r.Back != "": // it enrols again meanwhile
				r.Back = state
			case r.State == Taken || r.State == Ready || r.State == Held && ready:
				r.State, r.Reason, r.HeldFrom, r.HeldAt = state, reason, "", ""
			default:
				return nil
			}
			if ready && was != Ready {
				c.step(id, StageReady, handoff.Done, "node %s is Ready", name)
			} else if !ready && was == Ready {
				c.step(id, StageReady, handoff.Failed, "node %s is not Ready: %s", name, clean(text, maxText))
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, errClosed) {
		s.log.Error("a node's state was not saved", "node", name, "err", err)
	}
}
