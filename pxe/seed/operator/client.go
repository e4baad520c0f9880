package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
)

// Client asks the seed whose state is in one directory. Every error of its
// methods is an *Error.
type Client struct {
	dir  string
	http *http.Client
}

// Error is a question that got no good answer.
type Error struct {
	Refusal handoff.Refusal // what the seed says; only Text and Hint when none answers
	Err     error           // the cause when no seed answered
}

// ErrNoSeed: nothing answers on the socket.
var ErrNoSeed = errors.New("no seed runs")

func (e *Error) Error() string {
	if e.Refusal.Code != "" {
		return e.Refusal.Text + " (" + e.Refusal.Code + ")"
	}
	return e.Refusal.Text
}

// Hint is the next step.
func (e *Error) Hint() string { return e.Refusal.Hint }

func (e *Error) Unwrap() []error {
	if e.Err != nil {
		return []error{e.Err}
	}
	return []error{&e.Refusal}
}

// NewClient asks on the socket in dir; nothing is opened yet.
func NewClient(dir string) *Client {
	return &Client{dir: dir, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(dir, seed.Socket))
		},
		IdleConnTimeout: 30 * time.Second,
	}}}
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status is the seed as a whole.
func (c *Client) Status(ctx context.Context) (s seed.Status, err error) {
	return s, c.ask(ctx, http.MethodGet, seed.PathStatus, nil, &s)
}

// Machines are all machines, by ID.
func (c *Client) Machines(ctx context.Context) (all []seed.Machine, err error) {
	return all, c.ask(ctx, http.MethodGet, seed.PathNodes, nil, &all)
}

// Machine is the one with this ID, node name or code.
func (c *Client) Machine(ctx context.Context, ref string) (m seed.Machine, err error) {
	return m, c.ask(ctx, http.MethodGet, node(ref), nil, &m)
}

// Timeline is what happened to one machine, oldest first.
func (c *Client) Timeline(ctx context.Context, ref string) (all []seed.Step, err error) {
	return all, c.ask(ctx, http.MethodGet, node(ref)+"/timeline", nil, &all)
}

// Approve lets a machine become a node if code, when given, is the one its screen
// shows. The disks named in wipe may lose what they hold.
func (c *Client) Approve(ctx context.Context, ref, code string, wipe ...string) (m seed.Machine, err error) {
	return m, c.ask(ctx, http.MethodPost, node(ref)+"/approve", seed.Approval{Code: code, Wipe: wipe}, &m)
}

// Reject refuses a machine.
func (c *Client) Reject(ctx context.Context, ref, reason string) (m seed.Machine, err error) {
	return m, c.ask(ctx, http.MethodPost, node(ref)+"/reject", seed.Rejection{Reason: reason}, &m)
}

// Assign gives a machine a name, a role or both; what is empty stays.
func (c *Client) Assign(ctx context.Context, ref, name, role string) (m seed.Machine, err error) {
	return m, c.ask(ctx, http.MethodPost, node(ref)+"/assign", seed.Assignment{Name: name, Role: role}, &m)
}

// Plan is what each node would get by an upgrade.
func (c *Client) Plan(ctx context.Context) (u seed.Upgrade, err error) {
	return u, c.ask(ctx, http.MethodGet, seed.PathUpgrade, nil, &u)
}

// Upgrade orders one node to take the bundle that the seed serves.
func (c *Client) Upgrade(ctx context.Context, ref string) (m seed.Machine, err error) {
	return m, c.ask(ctx, http.MethodPost, node(ref)+"/upgrade", nil, &m)
}

// Withdraw takes an order back that the node has not been told.
func (c *Client) Withdraw(ctx context.Context, ref string) (m seed.Machine, err error) {
	return m, c.ask(ctx, http.MethodPost, node(ref)+"/withdraw", nil, &m)
}

// UndoWipe has a machine give back the disk that held others' data.
func (c *Client) UndoWipe(ctx context.Context, ref string) (m seed.Machine, err error) {
	return m, c.ask(ctx, http.MethodPost, node(ref)+"/undo-wipe", nil, &m)
}

// Departure is what a node has to lose.
func (c *Client) Departure(ctx context.Context, ref string) (d seed.Departure, err error) {
	return d, c.ask(ctx, http.MethodGet, node(ref)+"/leave", nil, &d)
}

// Reimage empties a node and orders it to install itself anew. It takes as long
// as the node's pods take to move.
func (c *Client) Reimage(ctx context.Context, ref string, how seed.Leaving) (m seed.Machine, err error) {
	return m, c.ask(ctx, http.MethodPost, node(ref)+"/reimage", how, &m)
}

// Remove empties a node and takes it out of the cluster. The machine has no order
// if it was not reached.
func (c *Client) Remove(ctx context.Context, ref string, how seed.Leaving) (m seed.Machine, err error) {
	return m, c.ask(ctx, http.MethodPost, node(ref)+"/remove", how, &m)
}

// Arm opens the window in which approve: auto lets machines in; 0 closes it.
func (c *Client) Arm(ctx context.Context, d time.Duration) (s seed.Status, err error) {
	return s, c.ask(ctx, http.MethodPost, seed.PathArm, seed.Arming{Seconds: int((d + time.Second - 1) / time.Second)}, &s)
}

// Kubeconfig is the cluster's, with the operator's secret; a Refusal while there is no cluster.
func (c *Client) Kubeconfig(ctx context.Context) ([]byte, error) {
	res, err := c.do(ctx, http.MethodGet, seed.PathKubeCfg, nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return nil, c.broken(err)
	}
	return b, nil
}

// Events gives tell every step after a sequence number. With follow it goes on
// until tell or ctx ends it; when the seed ends, that is ErrNoSeed.
func (c *Client) Events(ctx context.Context, after uint64, follow bool, tell func(seed.Step) error) error {
	q := url.Values{"after": {strconv.FormatUint(after, 10)}}
	if follow {
		q.Set("follow", "1")
	}
	res, err := c.do(ctx, http.MethodGet, seed.PathEvents+"?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	for d := json.NewDecoder(res.Body); ; {
		var s seed.Step
		err := d.Decode(&s)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF) && !follow:
			return nil
		case err != nil:
			return c.broken(err)
		}
		if err := tell(s); err != nil {
			return err
		}
	}
}

func node(ref string) string { return seed.PathNodes + "/" + url.PathEscape(ref) }

func (c *Client) ask(ctx context.Context, method, path string, q, into any) error {
	res, err := c.do(ctx, method, path, q)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		return c.broken(err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, q any) (*http.Response, error) {
	var body io.Reader
	if q != nil {
		b, err := json.Marshal(q)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://seed"+path, body)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, c.silent(err)
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	defer res.Body.Close()
	e := &Error{}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxBody)).Decode(&e.Refusal); err != nil || e.Refusal.Text == "" {
		e.Refusal = handoff.Refusal{Text: fmt.Sprintf("the seed answers %s to %s %s", res.Status, method, path), Hint: "is the seed of the same version as this program?"}
	}
	return nil, e
}

// silent explains why nobody answers on the socket.
func (c *Client) silent(err error) error {
	e := &Error{Err: fmt.Errorf("%w: %w", ErrNoSeed, err)}
	switch {
	case errors.Is(err, fs.ErrPermission):
		e.Refusal = handoff.Refusal{Text: fmt.Sprintf("the seed in %q belongs to another user", c.dir), Hint: "run this as the user who started it (sudo, if it was started with sudo)"}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		e.Refusal = handoff.Refusal{Text: fmt.Sprintf("no seed runs with its state in %q", c.dir),
			Hint: "start it with: slipway serve -f cluster.yaml ISO; or say where its state is with --state DIR (a seed started with sudo is found with sudo)"}
	default:
		e.Refusal = handoff.Refusal{Text: fmt.Sprintf("asking the seed in %q: %v", c.dir, err)}
	}
	return e
}

// broken is an answer that ended in the middle.
func (c *Client) broken(err error) error {
	return &Error{Err: fmt.Errorf("%w: %w", ErrNoSeed, err),
		Refusal: handoff.Refusal{Text: fmt.Sprintf("the seed in %q ended: %v", c.dir, err), Hint: "start it again; it goes on where it was"}}
}
