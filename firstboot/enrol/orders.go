package enrol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"slipway.dev/slipway/configs/handoff"
)

// unasked is how long a node that its seed does not know waits before it asks again.
const unasked = time.Minute

// Order waits until the seed wants something of this node, over every absence of
// the seed. A seed that does not know the node, or knows no orders, is asked again.
func (c *Client) Order(ctx context.Context) (handoff.Order, error) {
	for {
		raw, err := c.ask(ctx, http.MethodGet, handoff.PathOrder, nil, func(handoff.Standing) {})
		var o handoff.Order
		if err == nil {
			if err = json.Unmarshal(raw, &o); err != nil {
				return o, fmt.Errorf("%s: %w", handoff.PathOrder, err)
			}
			return o, nil
		}
		if _, refused := errors.AsType[*refused](err); !refused || ctx.Err() != nil {
			return o, err
		}
		if err := sleep(ctx, unasked); err != nil {
			return o, err
		}
	}
}

// Ordered tells the seed how an order ended. A seed that does not know the order
// any more has nothing to hear.
func (c *Client) Ordered(ctx context.Context, o handoff.Outcome) error {
	_, err := c.ask(ctx, http.MethodPost, handoff.PathOrdered, o, nil)
	if _, ok := errors.AsType[*refused](err); ok {
		return nil
	}
	return err
}
