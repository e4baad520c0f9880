package netconf

import (
	"context"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// watch learns of links from the kernel (rtnetlink(7), RTNLGRP_LINK), so that
// an idle node asks nothing.
type watch struct {
	mu      sync.Mutex
	changed chan struct{}  // closed at the next change of any link
	losses  map[string]int // how often an interface was seen without a link
}

func newWatch() *watch { return &watch{changed: make(chan struct{}), losses: map[string]int{}} }

// run listens until ctx ends; a socket that lost messages is opened again.
func (w *watch) run(ctx context.Context) {
	for ctx.Err() == nil {
		news, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
		if netlink.LinkSubscribe(news, done) == nil {
			w.take(ctx, news)
		}
		close(done)
		w.note("", false)
		sleep(ctx, time.Second)
	}
}

func (w *watch) take(ctx context.Context, news <-chan netlink.LinkUpdate) {
	for {
		select {
		case <-ctx.Done():
			return
		case u, ok := <-news:
			if !ok {
				return
			}
			w.note(u.Attrs().Name, u.Attrs().RawFlags&unix.IFF_LOWER_UP == 0)
		}
	}
}

// note wakes all who wait.
func (w *watch) note(name string, lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if lost {
		w.losses[name]++
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *watch) lost(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.losses[name]
}

// wait returns when a link changes, after d at the latest.
func (w *watch) wait(ctx context.Context, d time.Duration) {
	w.mu.Lock()
	changed := w.changed
	w.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-t.C:
	}
}
