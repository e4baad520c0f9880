// Package kube is what the seed does in a cluster that runs: it makes one
// bootstrap token for each node that may join, approves the one certificate
// request that belongs to it, follows which nodes are Ready, and empties and
// deletes those that leave.
//
// It keeps nothing of its own: what it must know after a restart stands in the
// cluster, as an annotation on the token. It does not decide who may join, and
// no certificate request of a node that has joined is its business.
package kube

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
)

// Tell reports a node: whether it is Ready, and for people why not or what
// happened to it. What begins with seed.Alarm names the node whose token was used,
// or none, and says nothing new of whether it is Ready. It is called from one
// goroutine at a time.
type Tell = func(node string, ready bool, text string)

// Kube makes tokens and watches. The zero value is not ready for use: see New.
type Kube struct {
	log   *slog.Logger
	mint  sync.Mutex    // one token per node: deleting the earlier and making the new one go together
	first time.Duration // backoff of a connection that broke
	most  time.Duration
	sweep time.Duration // between looks for expired tokens
	evict time.Duration // between two tries of a drain
}

var _ seed.Kube = (*Kube)(nil)

// New returns a Kube that logs to log.
func New(log *slog.Logger) *Kube {
	return &Kube{log: log, first: 500 * time.Millisecond, most: 30 * time.Second, sweep: time.Minute, evict: 2 * time.Second}
}

// Watch approves and denies certificate requests, tells how nodes fare and
// deletes expired tokens until ctx ends. An API server that is away is tried
// again for ever; only credentials that cannot be used end it with an error.
func (k *Kube) Watch(ctx context.Context, c handoff.Cluster, tell func(node string, ready bool, text string)) error {
	a, err := dial(c)
	if err != nil {
		return err
	}
	defer a.close()
	n := newNodes(tell)
	r := &requests{api: a, nodes: n, log: k.log, told: map[string]bool{}}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return k.forever(ctx, a, "nodes", "/api/v1/nodes", n) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.listed:
			return k.forever(ctx, a, "certificate requests", pathCSR, r)
		}
	})
	g.Go(func() error {
		for {
			if err := a.expire(ctx); err != nil && ctx.Err() == nil {
				k.log.Debug("looking for expired tokens", "cause", err)
			}
			if err := sleep(ctx, k.sweep); err != nil {
				return err
			}
		}
	})
	return g.Wait()
}

// forever follows a collection over every break of the connection.
func (k *Kube) forever(ctx context.Context, a *api, name, path string, s sink) error {
	pause := k.first
	for {
		began := time.Now()
		err := a.follow(ctx, path, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var refused *statusError
		if err == nil || errors.As(err, &refused) && refused.gone() {
			pause = k.first // the ordinary end of a watch
			continue
		}
		if time.Since(began) > k.most {
			pause = k.first
		}
		k.log.Warn("watch broke, trying again", "of", name, "in", pause.Round(time.Millisecond), "cause", err, "hint", seed.HintAPI(err))
		if err := sleep(ctx, pause/2+rand.N(pause/2+1)); err != nil {
			return err
		}
		pause = min(2*pause, k.most)
	}
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
