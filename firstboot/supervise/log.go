package supervise

import (
	"os"
	"path/filepath"
	"sync"
)

// maxLog is the size in bytes at which a log file is renamed to <name>.log.1.
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

// logFile appends lines to a file and keeps one older file.
type logFile struct {
	path string
	max  int64
	f    *os.File
	size int64
}

func openLog(path string, max int64) (*logFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	l := &logFile{path: path, max: max}
	return l, l.open()
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.f, l.size = f, st.Size()
	return nil
}

// line appends s. A log that cannot be written loses lines and stops nothing.
func (l *logFile) line(s string) {
	if l.size > l.max {
		l.f.Close()
		_ = os.Rename(l.path, l.path+".1")
		if l.open() != nil {
			return
		}
	}
	n, _ := l.f.WriteString(s + "\n")
	l.size += int64(n)
}

func (l *logFile) close() { l.f.Close() }
