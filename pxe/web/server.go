package web

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Limits bound what clients can take. A zero field means its default.
type Limits struct {
	Connections int           // at one time, all clients; 1024
	PerIP       int           // at one time, one address; 32
	Header      time.Duration // from the first byte of a connection to the end of a request's header; 10 s
	Idle        time.Duration // between requests; 60 s
}

func (l Limits) orDefaults() Limits {
	if l.Connections <= 0 {
		l.Connections = 1024
	}
	if l.PerIP <= 0 {
		l.PerIP = 32
	}
	if l.Header <= 0 {
		l.Header = 10 * time.Second
	}
	if l.Idle <= 0 {
		l.Idle = time.Minute
	}
	return l
}

// maxHeader is in bytes; firmware and iPXE send less than 1 KiB.
const maxHeader = 16 << 10

// Server is the http.Server for a handler of this package, alone or behind
// others. It serves connections from Listen. log may be nil.
func Server(h http.Handler, lim Limits, log *slog.Logger) *http.Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	lim = lim.orDefaults()
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: lim.Header,
		IdleTimeout:       lim.Idle,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
}

// connKey finds the connection in a request's context.
type connKey struct{}

// inFlight is what a client with a faulty TCP may have unacknowledged, in
// bytes: iPXE announces a window of 2 MB, which hangs some NICs.
const inFlight = 256 << 10

// capInFlight bounds the send buffer of the request's connection.
func capInFlight(ctx context.Context) {
	c, _ := ctx.Value(connKey{}).(net.Conn)
	for {
		inner, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = inner.NetConn()
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		setSendBuffer(tcp, inFlight)
	}
}

// Listen wraps ln so that connections beyond the limits are closed as soon as
// they are accepted. It closes ln when closed.
func Listen(ln net.Listener, lim Limits) net.Listener {
	return &listener{Listener: ln, lim: lim.orDefaults(), perIP: map[netip.Addr]int{}}
}

type listener struct {
	net.Listener
	lim   Limits
	mu    sync.Mutex
	total int
	perIP map[netip.Addr]int
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		ap, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		ip := ap.Addr().Unmap().WithZone("")
		if l.take(ip) {
			return &conn{Conn: c, free: sync.OnceFunc(func() { l.free(ip) })}, nil
		}
		c.Close()
	}
}

func (l *listener) take(ip netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.lim.Connections || l.perIP[ip] >= l.lim.PerIP {
		return false
	}
	l.total++
	l.perIP[ip]++
	return true
}

func (l *listener) free(ip netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.perIP[ip]--; l.perIP[ip] == 0 {
		delete(l.perIP, ip)
	}
}

// conn gives its place back when closed.
type conn struct {
	net.Conn
	free func()
}

func (c *conn) Close() error {
	defer c.free()
	return c.Conn.Close()
}

// NetConn is the connection beneath, as of tls.Conn.
func (c *conn) NetConn() net.Conn { return c.Conn }
