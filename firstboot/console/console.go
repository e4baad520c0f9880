// Package console writes to every console of a machine at once, so that an
// operator sees the boot on whichever screen or serial line is at hand.
//
// It checks no password: who presses Enter is handed to a program of the
// caller's, such as login(1). It knows nothing of events.
package console

import (
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Console is one device.
type Console struct {
	Name   string // "ttyS0"
	Serial bool   // a machine may be reading
	path   string // of the device, "" for a console that cannot be opened again
	line   *line
	done   chan struct{}

	mu     sync.Mutex // held while somebody is logged in
	w      *os.File
	latest []byte // what a screen showed last; the Set's mu guards it
}

// Set is all consoles.
type Set struct {
	mu     sync.Mutex
	all    []*Console
	early  []pair // what was written before there was a console
	missed int    // what early had no room for
	opened bool
}

type pair struct{ screen, serial []byte }

func (p pair) of(c *Console) []byte {
	if c.Serial {
		return p.serial
	}
	return p.screen
}

// Names lists the devices to try, in order and without repeats: those of the
// kernel command line, then the usual ones. "ttyS0,115200n8" is "ttyS0".
func Names(cmdline []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, c := range append(append([]string{}, cmdline...), "ttyS0", "tty0") {
		name, _, _ := strings.Cut(c, ",")
		if name == "" || seen[name] || strings.ContainsAny(name, "/.") {
			continue
		}
		seen[name] = true
		out = append(out, name)
	}
	return out
}

// Open opens the consoles that exist below dir (/dev). A serial port without
// hardware behind it opens, but has no terminal settings: it is left out.
func (s *Set) Open(dir string, names []string) {
	for _, n := range names {
		f, err := os.OpenFile(dir+"/"+n, os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
			f.Close()
			continue
		}
		// Fd() made the descriptor blocking: one write is one piece again.
		s.add(&Console{Name: n, Serial: !isVirtual(n), path: dir + "/" + n, w: f})
	}
}

func isVirtual(n string) bool {
	return strings.HasPrefix(n, "tty") && len(n) > 3 && n[3] >= '0' && n[3] <= '9'
}

// Add adds an open file as a console.
func (s *Set) Add(name string, serial bool, f *os.File) {
	s.add(&Console{Name: name, Serial: serial, w: f})
}

func (s *Set) add(c *Console) {
	c.line, c.done = newLine(c.Serial), make(chan struct{})
	s.mu.Lock()
	s.all = append(s.all, c)
	for _, p := range s.early {
		c.put(p.of(c))
	}
	c.line.miss(s.missed)
	s.mu.Unlock()
	go func() {
		defer close(c.done)
		for c.line.ready() {
			c.mu.Lock()
			c.write(c.line.take()) // only now: it waited for somebody who was logged in
			c.mu.Unlock()
		}
	}()
}

// write wants c.mu held. A line that was hung up (vhangup(2)) is opened again.
func (c *Console) write(b []byte) {
	if _, err := c.w.Write(b); err == nil || c.path == "" {
		return // or nobody to tell
	}
	c.reopen()
	_, _ = c.w.Write(b)
}

// reopen wants c.mu held.
func (c *Console) reopen() {
	if f, err := os.OpenFile(c.device(), os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
		c.w.Close()
		c.w = f
	}
}

// Write queues screen for screens and serial for serial lines, each as a single
// write(2). It never waits: what a console has no room for is counted, and the
// count shown there (line).
func (s *Set) Write(screen, serial []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := pair{screen, serial}
	if !s.opened && len(s.early) < queue {
		s.early = append(s.early, p)
	} else if !s.opened {
		s.missed++
	}
	for _, c := range s.all {
		c.put(p.of(c))
	}
}

func (c *Console) put(b []byte) {
	if len(b) == 0 {
		return
	}
	if !c.Serial {
		c.latest = b
	}
	c.line.put(b)
}

// Opened says that no more consoles will be added: what was kept for them goes.
func (s *Set) Opened() {
	s.mu.Lock()
	s.early, s.missed, s.opened = nil, 0, true
	s.mu.Unlock()
}

// Names lists the open consoles.
func (s *Set) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, c := range s.all {
		out = append(out, c.Name)
	}
	return out
}

// Close writes what is queued, for at most d, and closes the consoles.
func (s *Set) Close(d time.Duration) {
	s.mu.Lock()
	all := s.all
	s.all = nil
	s.mu.Unlock()
	limit := time.After(d)
	for _, c := range all {
		c.line.close()
		select {
		case <-c.done:
			if c.Serial && c.mu.TryLock() { // not with somebody logged in
				_ = unix.IoctlSetInt(int(c.w.Fd()), unix.TCSBRK, 1) // tcdrain(3)
				c.mu.Unlock()
			}
		case <-limit:
			return
		}
	}
}
