package console

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pty is a terminal; what the console writes comes out of the master.
func pty(t *testing.T) (master *os.File, path string) {
	t.Helper()
	m, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { m.Close() })
	raw, err := m.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	_ = raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return m, fmt.Sprintf("/dev/pts/%d", n)
}

// until reads the master until text has come.
func until(t *testing.T, m *os.File, text string) string {
	t.Helper()
	if err := m.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(all.String(), text) {
		n, err := m.Read(buf)
		if err != nil {
			t.Fatalf("waiting for %q: %v after %q", text, err, all.String())
		}
		all.Write(buf[:n])
	}
	return all.String()
}

func TestLogin(t *testing.T) {
	for name, serial := range map[string]bool{"serial": true, "screen": false} {
		t.Run(name, func(t *testing.T) {
			m, path := pty(t)
			s := &Set{}
			defer s.Close(time.Second)
			f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY, 0)
			if err != nil {
				t.Fatal(err)
			}
			s.add(&Console{Name: filepath.Base(path), Serial: serial, path: path, w: f})
			s.Opened()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			in, leave := make(chan string), make(chan bool)
			s.Login(ctx, func(_ context.Context, device string, got bool) {
				if got != serial {
					t.Errorf("serial is %v", got)
				}
				in <- device
				<-leave
			})
			s.Write([]byte("before"), []byte("before"))
			until(t, m, "before")
			for quiet := false; !quiet; time.Sleep(time.Millisecond) { // it reads once it has set the terminal
				quiet = !echoes(t, path)
			}
			if _, err := m.WriteString("an echoed line\r"); err != nil {
				t.Fatal(err)
			}
			select {
			case <-in:
				t.Fatal("a line that is not empty counted as Enter")
			case <-time.After(50 * time.Millisecond):
			}
			if _, err := m.WriteString("\r"); err != nil {
				t.Fatal(err)
			}
			if got := <-in; got != path {
				t.Errorf("device %q, want %q", got, path)
			}
			if !echoes(t, path) {
				t.Error("the program got a terminal without echo")
			}
			for i := range 2 * queue { // more than is kept; none of it may wait
				text := fmt.Appendf(nil, "[%d]", i)
				s.Write(text, text)
			}
			leave <- true
			want, not := fmt.Sprintf("%d messages were not shown, somebody was logged in here: they are in `slipway events`\n[%d]", queue, queue), fmt.Sprintf("[%d]", queue-1)
			got := strings.ReplaceAll(until(t, m, fmt.Sprintf("[%d]", 2*queue-1)), "\r", "") // the terminal adds some
			if !serial {                                                                     // one whole picture, the newest
				want, not = fmt.Sprintf("\x1bc[%d]", 2*queue-1), fmt.Sprintf("[%d]", 2*queue-2)
			}
			if !strings.Contains(got, want) || strings.Contains(got, not) {
				t.Errorf("%q is there, or not %q: %.400q", not, want, got)
			}
			s.Write([]byte("after"), []byte("after"))
			until(t, m, "after")
		})
	}
}

func echoes(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	set, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return set.Lflag&unix.ECHO != 0
}
