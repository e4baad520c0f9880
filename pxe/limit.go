package pxe

import (
	"sync"
	"time"
)

// Packets a second, and how many may come at once. A machine sends about six
// at each of firmware, iPXE and kernel; a rack of fifty powered on together
// fits in the burst for strangers.
const (
	macRate, macBurst           = 2, 16
	strangerRate, strangerBurst = 64, 256
	bucketsKept                 = 4096 // MACs remembered of each kind
)

type bucket struct {
	tokens float64
	at     time.Duration
}

func (b *bucket) take(now time.Duration, rate, burst float64) bool {
	b.tokens = min(burst, b.tokens+rate*max(0, now-b.at).Seconds())
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// limiter holds each MAC to its own rate and all strangers together to one.
// What strangers do costs known machines nothing.
type limiter struct {
	mu        sync.Mutex
	known     map[MAC]*bucket // as many as the site has machines
	strangers map[MAC]*bucket // at most bucketsKept
	all       bucket
	swept     time.Duration
}

func newLimiter() *limiter {
	return &limiter{known: map[MAC]*bucket{}, strangers: map[MAC]*bucket{}, all: bucket{tokens: strangerBurst}}
}

func (l *limiter) allow(m MAC, known bool, now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.strangers
	if known {
		of = l.known
	}
	b := of[m]
	if b == nil {
		if len(of) >= bucketsKept && !l.sweep(of, now) && !known {
			return false
		}
		b = &bucket{tokens: macBurst, at: now}
		of[m] = b
	}
	if !b.take(now, macRate, macBurst) {
		return false
	}
	return known || l.all.take(now, strangerRate, strangerBurst)
}

// sweep forgets MACs whose bucket is full again, at most once a second; it says
// whether there is room.
func (l *limiter) sweep(of map[MAC]*bucket, now time.Duration) bool {
	if now-l.swept >= time.Second {
		l.swept = now
		for m, b := range of {
			if b.tokens+macRate*(now-b.at).Seconds() >= macBurst {
				delete(of, m)
			}
		}
	}
	return len(of) < bucketsKept
}
