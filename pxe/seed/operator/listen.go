package operator

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"slipway.dev/slipway/pxe/seed"
)

// maxSocket is what fits in sun_path with its final zero on every system:
// macOS has 104 bytes, Linux and Windows 108.
const maxSocket = 103

// PageAddress is where the web page is, unless the operator says otherwise.
const PageAddress = "127.0.0.1:8470"

// ErrRunning: another seed answers on the socket of this directory.
var ErrRunning = errors.New("a seed runs here already")

// Listen opens the operator's socket in a state directory, for its owner alone.
// What a dead seed left there is removed; a living one is ErrRunning.
func Listen(dir string) (net.Listener, error) {
	name := filepath.Join(dir, seed.Socket)
	if len(name) > maxSocket {
		return nil, fmt.Errorf("socket %q: the name has %d bytes, a socket's may have %d: choose a shorter directory", name, len(name), maxSocket)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	switch fi, err := os.Lstat(name); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, err
	case fi.Mode().IsRegular() || fi.IsDir(): // Windows shows a socket as irregular
		return nil, fmt.Errorf("socket %q: something else is there", name)
	default:
		if c, err := net.DialTimeout("unix", name, time.Second); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("socket %q: %w", name, ErrRunning)
		}
		if err := os.Remove(name); err != nil {
			return nil, err
		}
	}
	return listenPrivately(dir, name)
}

// listenPrivately makes the socket where only its owner can enter and moves it
// to its place with its mode: there is no moment at which others could connect.
func listenPrivately(dir, name string) (net.Listener, error) {
	tmp, err := os.MkdirTemp(dir, "") // mode 0700
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	first := filepath.Join(tmp, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: first, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket %q: %w", name, err)
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(first, 0o600); err == nil {
		err = os.Rename(first, name)
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return &socket{l, name}, nil
}

// socket removes its name when it is closed.
type socket struct {
	*net.UnixListener
	name string
}

func (s *socket) Close() error {
	err := s.UnixListener.Close()
	if err == nil {
		err = os.Remove(s.name)
	}
	return err
}

// ListenPage opens the page's TCP socket. An address beyond loopback shows
// hardware and codes to the whole LAN, so that lan must say it is meant.
func ListenPage(address string, lan bool) (net.Listener, error) {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("page at %q: %w", address, err)
	}
	if !ap.Addr().IsLoopback() && !lan {
		return nil, fmt.Errorf("page at %q: only loopback addresses unless the LAN may see it", address)
	}
	return net.Listen("tcp", address)
}

// Server serves the operator: bounded in what a client can hold back, unbounded
// in how long events may be followed.
func Server(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
}
