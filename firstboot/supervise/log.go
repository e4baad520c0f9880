package supervise

import "sync"

// maxLog is the size in bytes at which a log file is renamed (package logfile).
const maxLog = 10 << 20

// ring remembers the last lines.
type ring struct {
	mu  sync.Mutex
	max int
	buf []string
}

func newRing(max int) *ring { return &ring{max: max} }

func (r *ring) add(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buf = append(r.buf, s)
	if len(r.buf) > r.max {
		r.buf = append(r.buf[:0], r.buf[len(r.buf)-r.max:]...)
	}
}

func (r *ring) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.buf...)
}
