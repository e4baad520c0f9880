package enrol

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/report"
)

// Enrol introduces the node, shows the code, and returns its config once it was
// approved. It returns early only when ctx ends or when the seed refuses for
// good; it may be called again then, and takes its time before it asks.
func (c *Client) Enrol(ctx context.Context, f handoff.Facts) (handoff.Config, error) {
	c.mu.Lock()
	not := c.not
	c.mu.Unlock()
	if err := sleep(ctx, time.Until(not)); err != nil {
		return handoff.Config{}, err
	}
	for {
		conf, err := c.once(ctx, f)
		switch {
		case err == nil:
			c.tell(handoff.Event{Step: "code", State: handoff.Done, Text: fmt.Sprintf("approved as %q", conf.Name)})
			return conf, nil
		case ctx.Err() != nil:
			return handoff.Config{}, ctx.Err()
		case stranger(err):
			c.mu.Lock()
			c.code = ""
			c.mu.Unlock()
			c.shown = false
			c.tell(handoff.Event{Step: "seed", State: handoff.Running, Text: "the seed does not know this machine any more: introducing it again"})
			if err := sleep(ctx, mostPause/5); err != nil {
				return handoff.Config{}, err
			}
			continue
		case c.spent(err):
			c.tell(handoff.Event{Step: "token", State: handoff.Running, Text: "the seed does not take the token of the order to reimage this machine any more: waiting for approval instead"})
			continue
		}
		c.mu.Lock()
		c.not = time.Now().Add(calmPause)
		c.mu.Unlock()
		if c.shown {
			c.shown = false
			c.tell(handoff.Event{Step: "code", State: handoff.Skipped, Text: "not approved"})
		}
		return handoff.Config{}, failure(fmt.Errorf("enrolling at %s: %w", c.base, err))
	}
}

// stranger says that the seed lost what it knew of the node's key.
func stranger(err error) bool {
	r, ok := errors.AsType[*refused](err)
	return ok && r.Code == "SW-ENROL-UNKNOWN"
}

// spent says that the seed refused the token, which is not shown any more then.
func (c *Client) spent(err error) bool {
	r, ok := errors.AsType[*refused](err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ok || r.Code != "SW-ENROL-TOKEN" || c.token == "" {
		return false
	}
	c.token = ""
	return true
}

// once is one enrolment: hello, reveal, and the wait for the config.
func (c *Client) once(ctx context.Context, f handoff.Facts) (handoff.Config, error) {
	c.mu.Lock()
	code := c.code
	c.mu.Unlock()
	if code == "" {
		var err error
		if code, err = c.introduce(ctx, f); err != nil {
			return handoff.Config{}, err
		}
		c.show(code)
	}
	said := ""
	raw, err := c.ask(ctx, http.MethodGet, handoff.PathConfig, nil, func(s handoff.Standing) {
		c.show(code) // after a refusal too: it waits for approval again
		if s.Text != said {
			said = s.Text
			c.tell(handoff.Event{Step: "standing", State: handoff.Running, Text: s.Text})
		}
	})
	if err != nil {
		return handoff.Config{}, err
	}
	var conf handoff.Config
	if err := json.Unmarshal(raw, &conf); err != nil {
		return conf, fmt.Errorf("%s: %w", handoff.PathConfig, err)
	}
	return conf, nil
}

// show has the code on the screen until it was approved or refused.
func (c *Client) show(code string) {
	if c.shown {
		return
	}
	c.shown = true
	c.tell(handoff.Event{Step: "code", State: handoff.Running, Data: map[string]any{"code": code},
		Text: "Approve this machine at the seed: slipway approve " + code})
}

// introduce commits to a nonce, learns the seed's and reveals its own. Both
// sides know the code then.
func (c *Client) introduce(ctx context.Context, f handoff.Facts) (string, error) {
	nonce := make([]byte, 32)
	if _, err := rand.Read(nonce); err != nil {
		return "", err
	}
	commit := sha256.Sum256(nonce)
	c.mu.Lock()
	hello := handoff.Hello{Facts: f, Commit: hex.EncodeToString(commit[:]), Token: c.token}
	c.mu.Unlock()
	raw, err := c.ask(ctx, http.MethodPost, handoff.PathHello, hello, nil)
	if err != nil {
		return "", err
	}
	var w handoff.Welcome
	if err := json.Unmarshal(raw, &w); err != nil {
		return "", fmt.Errorf("%s: %w", handoff.PathHello, err)
	}
	theirs, err := hex.DecodeString(w.Nonce)
	if err != nil || len(theirs) != 32 {
		return "", report.Fail("SW-ENROL-PROTOCOL", "check that slipway.seed= names a seed of this version",
			fmt.Errorf("%s: nonce %q, want 64 hex digits", handoff.PathHello, w.Nonce))
	}
	c.mu.Lock()
	if !w.Time.IsZero() {
		c.offset = time.Until(w.Time)
	}
	ca := c.ca
	c.mu.Unlock()
	if _, err := c.ask(ctx, http.MethodPost, handoff.PathReveal, handoff.Reveal{Nonce: hex.EncodeToString(nonce)}, nil); err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.code = handoff.Code(c.id.public, ca, nonce, theirs)
	return c.code, nil
}

// Offset is how far the seed's clock was ahead of this machine's at the last
// introduction. Only after Enrol has returned a config is it the seed's word.
func (c *Client) Offset() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offset
}

// Taken tells the seed that the config is stored.
func (c *Client) Taken(ctx context.Context) error {
	_, err := c.ask(ctx, http.MethodPost, handoff.PathTaken, nil, nil)
	return failure(err)
}

// Join asks for the means to join, and waits until there is a cluster.
func (c *Client) Join(ctx context.Context, r handoff.JoinRequest) (handoff.Join, error) {
	said := ""
	raw, err := c.ask(ctx, http.MethodPost, handoff.PathJoin, r, func(s handoff.Standing) {
		if s.Text != said {
			said = s.Text
			c.tell(handoff.Event{Phase: "kubernetes", Step: "cluster", State: handoff.Running, Text: s.Text})
		}
	})
	if err != nil {
		return handoff.Join{}, failure(err)
	}
	var j handoff.Join
	if err := json.Unmarshal(raw, &j); err != nil {
		return j, fmt.Errorf("%s: %w", handoff.PathJoin, err)
	}
	return j, nil
}

// Joined tells the seed that the token is not needed any more.
func (c *Client) Joined(ctx context.Context) error {
	_, err := c.ask(ctx, http.MethodPost, handoff.PathJoined, nil, nil)
	return failure(err)
}

// Cluster tells the seed of the cluster that this node made.
func (c *Client) Cluster(ctx context.Context, k handoff.Cluster) error {
	_, err := c.ask(ctx, http.MethodPost, handoff.PathCluster, k, nil)
	return failure(err)
}
