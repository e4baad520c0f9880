package modules

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Uevent is one message of the kernel about a device
// (Documentation/driver-api/kobject, lib/kobject_uevent.c).
type Uevent struct {
	Action  string            // "add", "remove", "change", "bind" ...
	DevPath string            // below /sys
	Env     map[string]string // SUBSYSTEM, DEVNAME, MODALIAS ...
}

// ParseUevent parses one netlink datagram: "action@devpath", then KEY=value,
// each ended by NUL. Messages of udevd begin with "libudev" and are refused.
func ParseUevent(b []byte) (Uevent, error) {
	parts := bytes.Split(bytes.TrimRight(b, "\x00"), []byte{0})
	action, devpath, ok := strings.Cut(string(parts[0]), "@")
	if !ok || action == "" {
		return Uevent{}, fmt.Errorf("uevent %.40q: no action@path", b)
	}
	u := Uevent{Action: action, DevPath: devpath, Env: map[string]string{}}
	for _, p := range parts[1:] {
		if k, v, ok := strings.Cut(string(p), "="); ok {
			u.Env[k] = v
		}
	}
	return u, nil
}

// Listener receives the kernel's uevents.
type Listener struct{ fd int }

// Listen opens the netlink socket. Messages from then on are queued.
func Listen() (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("uevents: %w", err)
	}
	// Coldplug of a large server sends thousands at once.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	tv := unix.NsecToTimeval((10 * time.Second).Nanoseconds()) // how late the end of a context is seen
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("uevents: %w", err)
	}
	return &Listener{fd: fd}, nil
}

// Run calls f for each uevent until ctx ends, then closes the socket. After
// lost messages f gets a zero Uevent: look at everything again.
func (l *Listener) Run(ctx context.Context, f func(Uevent)) {
	defer unix.Close(l.fd)
	buf := make([]byte, 16<<10)
	for ctx.Err() == nil {
		n, from, err := unix.Recvfrom(l.fd, buf, 0)
		if err == unix.ENOBUFS {
			f(Uevent{})
			continue
		}
		if err != nil {
			continue // EAGAIN at times, EINTR
		}
		// Anybody may send to a netlink group; port 0 is the kernel.
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			continue
		}
		if u, err := ParseUevent(buf[:n]); err == nil {
			f(u)
		}
	}
}
