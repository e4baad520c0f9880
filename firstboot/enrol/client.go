// Package enrol is a node's side of the conversation with a seed: who the node
// is, the code that its screen shows, its config, the means to join a cluster,
// and its events.
//
// It does not show anything itself, applies no config, and knows nothing of
// kubeadm. What outlives the power-on is for the caller to keep, see Kept.
package enrol

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/report"
)

// Times of a conversation over slow wires and slow machines.
const (
	dialLimit   = 10 * time.Second
	answerLimit = handoff.Patience + 20*time.Second // of one request with its answer
	leastPause  = 500 * time.Millisecond            // before a request is sent again
	mostPause   = 15 * time.Second
	calmPause   = 30 * time.Second // after an answer that will not get better by itself
)

// Client speaks to one seed with a key that it made itself. Use New.
type Client struct {
	base string
	id   identity
	http *http.Client
	tell func(handoff.Event) // steps; the phase is the receiver's

	mu     sync.Mutex
	ca     []byte // DER of the seed's CA certificate, once it was seen
	pin    string
	gone   string    // why the seed does not answer, "" when it does
	since  time.Time // of gone
	not    time.Time // enrol not again before
	offset time.Duration
	code   string // what both sides know, once the node is introduced
	shown  bool   // the screen has it
	token  string // of an order, shown with each introduction
}

// New makes a key for this power-on. The seed is an https URL without a path;
// pin is the hex of the SHA-256 of its CA certificate (DER), "" to take the one
// that is seen first.
func New(seed, pin string, tell func(handoff.Event)) (*Client, error) {
	id, err := newIdentity()
	if err != nil {
		return nil, err
	}
	return newClient(seed, pin, id, tell)
}

func newClient(seed, pin string, id identity, tell func(handoff.Event)) (*Client, error) {
	u, err := url.Parse(seed)
	if err == nil && (u.Scheme != "https" || u.Host == "" || u.Path != "" || u.RawQuery != "") {
		err = errors.New("want https://HOST:PORT")
	}
	if err == nil && pin != "" && !isDigest(pin) {
		err = fmt.Errorf("slipway.pin=%q: want 64 hex digits", pin)
	}
	if err != nil {
		return nil, report.Fail("SW-CMDLINE", "correct slipway.seed= and slipway.pin= in the boot entry", fmt.Errorf("seed %q: %w", seed, err))
	}
	c := &Client{base: seed, id: id, pin: pin, tell: tell}
	c.http = &http.Client{
		Timeout:       answerLimit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{Proxy: nil, DialContext: (&net.Dialer{Timeout: dialLimit}).DialContext,
			TLSHandshakeTimeout: 2 * dialLimit, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 2,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{id.cert},
				// crypto/tls would ask the clock, which may be years off; verify does all but that.
				InsecureSkipVerify: true, VerifyConnection: c.verify}},
	}
	return c, nil
}

// Token has the introduction show the token of an order to reimage this machine.
// It is told to a seed that is pinned and to no other.
func (c *Client) Token(t string) error {
	if c.pin == "" {
		return report.Fail("SW-CMDLINE", "write slipway.pin= into the boot entry too", errors.New("slipway.reimage= is for the seed that gave it, and nothing says which that is"))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = t
	return nil
}

// Key is the KeyID of the node's key.
func (c *Client) Key() string { return handoff.KeyID(c.id.public) }

// answer is what the seed said: the status, and a body that was within its bound.
type answer struct {
	status int
	body   []byte
}

// refused is a Refusal with its status.
type refused struct {
	handoff.Refusal
	status int
}

func (r *refused) Error() string { return fmt.Sprintf("the seed says %d: %s", r.status, r.Text) }

// send makes one request.
func (c *Client) send(ctx context.Context, method, path, kind string, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the URL, which is said once
		}
		return answer{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, handoff.MaxConfig+1))
	if err != nil {
		return answer{}, err
	}
	if len(raw) > handoff.MaxConfig {
		return answer{}, fmt.Errorf("%s: more than %d bytes", path, handoff.MaxConfig)
	}
	if resp.StatusCode/100 == 2 {
		return answer{resp.StatusCode, raw}, nil
	}
	r := &refused{status: resp.StatusCode}
	if json.Unmarshal(raw, &r.Refusal) != nil || r.Text == "" {
		r.Text = http.StatusText(resp.StatusCode)
	}
	return answer{}, r
}

// passes says whether the same request may go well later.
func passes(err error) bool {
	if r, ok := errors.AsType[*refused](err); ok {
		return r.status >= 500 || r.status == http.StatusTooManyRequests || r.status == http.StatusRequestTimeout
	}
	_, wrong := errors.AsType[*report.Failure](err) // another seed, see verify
	return !wrong
}

// ask sends a request until it is answered: while the seed is away it waits and
// says so. An answer of 202 goes to standing and the request is sent again.
func (c *Client) ask(ctx context.Context, method, path string, body any, standing func(handoff.Standing)) ([]byte, error) {
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	pause := leastPause
	for {
		asked := time.Now()
		a, err := c.send(ctx, method, path, "application/json", raw)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil && !passes(err) {
			c.away(nil)
			return nil, err
		}
		c.away(err)
		switch {
		case err != nil:
			pause = min(2*pause, mostPause)
		case a.status == http.StatusAccepted && standing != nil:
			var s handoff.Standing
			if err := json.Unmarshal(a.body, &s); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			standing(s)
			pause = leastPause
			if time.Since(asked) > leastPause { // it waited for us
				continue
			}
		default:
			return a.body, nil
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// What is said while the seed does not answer.
const (
	CodeAway = "SW-SEED-AWAY"
	HintAway = "look at the seed: it has to run and to be reached from here; the node goes on by itself, where it was"
)

// away reports that the seed went, stays away or came back.
func (c *Client) away(err error) {
	c.mu.Lock()
	was, since := c.gone, c.since
	text := ""
	if err != nil {
		text = reason(err)
		if was == "" {
			c.since = time.Now()
		}
	}
	c.gone = text
	c.mu.Unlock()
	switch {
	case text != "" && text != was:
		c.tell(handoff.Event{Step: "seed", State: handoff.Running, Text: fmt.Sprintf("waiting for the seed at %s: %s", c.base, text), Code: CodeAway, Hint: HintAway})
	case text == "" && was != "":
		c.tell(handoff.Event{Step: "seed", State: handoff.Done, Text: fmt.Sprintf("the seed answers again after %.0f s", time.Since(since).Seconds())})
	}
}

// reason is an error without the addresses of the connection, whose own port is
// another one each time: hours of waiting are one line.
func reason(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		return op.Err.Error()
	}
	return err.Error()
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// failure gives an answer that will not get better its code and next step.
func failure(err error) error {
	r, ok := errors.AsType[*refused](err)
	if !ok || r.Code == "" {
		if _, has := errors.AsType[*report.Failure](err); has || !ok {
			return err
		}
		return report.Fail("SW-ENROL-REFUSED", "check that slipway.seed= names a seed of this version", err)
	}
	hint := r.Hint
	if hint == "" {
		hint = "look at the seed: slipway nodes"
	}
	return report.Fail(r.Code, hint, err)
}
