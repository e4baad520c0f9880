package console

import (
	"context"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// loginPause is between the end of one login and the next Enter that counts:
// guessing stays slow however fast the program gives up.
const loginPause = 2 * time.Second

// ask is a login on a device; it returns when the person has gone.
type ask func(ctx context.Context, device string, serial bool)

// Login hands every console to f as soon as somebody presses Enter there, one
// person per console. Meanwhile the console's own output waits; afterwards a
// screen is drawn again and a serial line gets the newest of what it missed, and
// how many messages were before (line). It returns at once and goes on until ctx
// ends.
func (s *Set) Login(ctx context.Context, f ask) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.all {
		if c.path != "" {
			go s.serve(ctx, c, f)
		}
	}
}

func (s *Set) serve(ctx context.Context, c *Console, f ask) {
	for ctx.Err() == nil {
		if c.pressed(ctx) {
			c.mu.Lock()
			c.line.hold(true)
			f(ctx, c.device(), c.Serial)
			s.back(c)
			c.line.hold(false)
			c.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(loginPause):
		}
	}
}

// device is where a person types. tty0 is whichever screen is in front;
// reading is from the first, which the boot has been on.
func (c *Console) device() string {
	if strings.HasSuffix(c.path, "/tty0") {
		return strings.TrimSuffix(c.path, "0") + "1"
	}
	return c.path
}

// back takes the console again; wants c.mu held. login(1) hangs the line up,
// which kills the descriptor of before (vhangup(2)), and leaves it the user's.
func (s *Set) back(c *Console) {
	_ = os.Chown(c.device(), 0, 0)
	_ = os.Chmod(c.device(), 0o600)
	c.reopen()
	if c.Serial {
		_, _ = c.w.WriteString("\r\n")
		return
	}
	c.line.forget()
	s.mu.Lock()
	latest := c.latest
	s.mu.Unlock()
	_, _ = c.w.Write(append([]byte("\x1bc"), latest...)) // RIS: a program may have left colours behind
}

// pressed waits until somebody presses Enter and nothing else before it: a
// line that echoes what it is sent must not log in.
func (c *Console) pressed(ctx context.Context) bool {
	f, err := os.OpenFile(c.device(), os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	restore := quiet(f)
	defer restore()
	empty, buf := true, make([]byte, 64)
	for {
		n, err := f.Read(buf)
		if err != nil || n == 0 {
			return false
		}
		for _, b := range buf[:n] {
			switch {
			case b != '\r' && b != '\n':
				empty = false
			case empty:
				return true
			default:
				empty = true
			}
		}
	}
}

// quiet makes a terminal give each key at once and echo none, so that the
// dashboard stays whole, until restore is called.
func quiet(f *os.File) (restore func()) {
	raw, err := f.SyscallConn() // Fd would make reads uninterruptible
	if err != nil {
		return func() {}
	}
	var before *unix.Termios
	_ = raw.Control(func(fd uintptr) {
		t, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		if err != nil {
			return
		}
		before = t
		now := *t
		now.Lflag &^= unix.ICANON | unix.ECHO
		now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 1, 0
		_ = unix.IoctlSetTermios(int(fd), unix.TCSETS, &now)
	})
	return func() {
		if before != nil {
			before.Lflag |= unix.ICANON | unix.ECHO // somebody before may have left it raw
			_ = raw.Control(func(fd uintptr) { _ = unix.IoctlSetTermios(int(fd), unix.TCSETS, before) })
		}
	}
}
