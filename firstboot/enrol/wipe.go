package enrol

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/report"
)

// savedLimit is how long a saved beginning may travel, either way: 20 MB on a
// wire of 1 MBit/s take three minutes.
const savedLimit = 10 * time.Minute

// Save gives the seed a saved beginning. It returns once that is on the seed's
// disk; an error of a seed that is away has a code, for the caller to try again.
func (c *Client) Save(ctx context.Context, body []byte) (w handoff.Window, err error) {
	raw, err := c.large(ctx, http.MethodPost, handoff.PathSaved, body)
	if err == nil {
		err = json.Unmarshal(raw, &w)
	}
	return w, held("nothing was written", err)
}

// Saved is a saved beginning that the seed has.
func (c *Client) Saved(ctx context.Context, id string) ([]byte, error) {
	raw, err := c.large(ctx, http.MethodGet, handoff.PathSaved+"/"+url.PathEscape(id), nil)
	return raw, held("what was saved is at the seed", err)
}

// Wiping tells the seed how far a wipe is, over every absence of the seed, and
// is told whether to go on.
func (c *Client) Wiping(ctx context.Context, q handoff.Wiping) (w handoff.Window, err error) {
	raw, err := c.ask(ctx, http.MethodPost, handoff.PathWipe, q, func(handoff.Standing) {})
	if r, ok := errors.AsType[*refused](err); ok && r.status == http.StatusNotFound && r.Code == "SW-ENROL-BODY" && q.Stage == handoff.WipeAgain {
		return w, nil // a seed that knows no wipes has saved nothing
	}
	if err == nil {
		err = json.Unmarshal(raw, &w)
	}
	return w, failure(err)
}

// large is send with bodies that take their time.
func (c *Client) large(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	slow := *c.http
	slow.Timeout = savedLimit
	resp, err := slow.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, handoff.MaxSaved+1))
	if err == nil && len(raw) > handoff.MaxSaved {
		err = fmt.Errorf("%s: more than %d bytes", path, handoff.MaxSaved)
	}
	if err != nil || resp.StatusCode/100 == 2 {
		return raw, err
	}
	r := &refused{status: resp.StatusCode}
	if json.Unmarshal(raw, &r.Refusal) != nil || r.Text == "" {
		r.Text = http.StatusText(resp.StatusCode)
	}
	return nil, r
}

// held gives an error that the installation holds with its code.
func held(state string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if _, coded := errors.AsType[*report.Failure](err); coded {
		return err
	}
	if r, ok := errors.AsType[*refused](err); ok && r.Code != "" && !passes(err) {
		return failure(err)
	}
	return report.Fail("SW-UNDO-SEED", "look at the seed: it has to run, to be reached, and to have room on its disk; the node tries again by itself, and "+state,
		fmt.Errorf("the seed does not keep what the disk holds: %w", err))
}
