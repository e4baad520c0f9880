package web

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// Content is one file.
type Content struct {
	Reader io.ReaderAt // shared by requests, not closed
	Size   int64       // bytes
	Type   string      // of Content-Type; empty: application/octet-stream
	Digest string      // becomes the ETag, such as "sha256:…"; empty: no ETag
}

// Files finds what a client asked for. It is a lookup in a fixed set, never a
// path; name has lost its leading slashes and holds no backslash, no dot-dot
// and only printable ASCII.
type Files func(name string) (Content, bool)

// Handler answers requests. Only Files is required.
type Handler struct {
	Files  Files
	Events func(Event)   // called once per finished request, from many goroutines
	Log    *slog.Logger  // nil: silent
	Stall  time.Duration // a client that does not take 64 KiB for so long is cut off; 60 s

	panics atomic.Uint64
}

// Event is one finished request.
type Event struct {
	Client   netip.AddrPort
	Agent    string // User-Agent, at most 128 bytes
	Method   string
	Name     string // looked up; the path as sent when refused
	Status   int
	Size     int64 // bytes of the file
	Bytes    int64 // bytes of body given to the connection
	Duration time.Duration
	Err      error // why the body is short
}

// Panics counts requests that panicked; any at all is our defect.
func (h *Handler) Panics() uint64 { return h.panics.Load() }

// ServeHTTP answers GET and HEAD, 405 to other methods, 404 to unknown names.
func (h *Handler) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	start := time.Now()
	w := &answer{ResponseWriter: rw, control: http.NewResponseController(rw), stall: h.stall()}
	w.conn, _ = r.Context().Value(connKey{}).(*conn)
	e := Event{Method: r.Method, Name: r.URL.Path, Agent: clip(r.UserAgent())}
	e.Client, _ = netip.ParseAddrPort(r.RemoteAddr)
	defer func() {
		if p := recover(); p != nil {
			h.log().Error("http panic", "client", r.RemoteAddr, "name", e.Name, "panic", fmt.Sprint(p))
			h.panics.Add(1)
			panic(http.ErrAbortHandler)
		}
	}()
	body := h.serve(w, r, &e)
	e.Status, e.Bytes, e.Duration = w.status, w.bytes, time.Since(start)
	switch {
	case body != nil && body.failing.err != nil:
		e.Err = fmt.Errorf("reading %q: %w", e.Name, body.failing.err)
	case w.err != nil:
		e.Err = fmt.Errorf("sending %q: %w", e.Name, w.err)
	}
	h.report(e)
}

// serve writes the answer; body is what was read from, if anything was.
func (h *Handler) serve(w *answer, r *http.Request, e *Event) *body {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.close(r)
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "read-only", http.StatusMethodNotAllowed)
		return nil
	}
	if r.ContentLength != 0 {
		w.close(r)
		http.Error(w, "no body expected", http.StatusBadRequest)
		return nil
	}
	name, ok := cleanName(r.URL.Path)
	var c Content
	if ok {
		c, ok = h.Files(name)
	}
	if !ok {
		http.Error(w, "not found", http.StatusNotFound)
		return nil
	}
	e.Name, e.Size = name, c.Size
	if strings.HasPrefix(r.UserAgent(), "iPXE/") {
		capInFlight(r.Context())
	}
	if c.Type == "" {
		c.Type = "application/octet-stream"
	}
	w.Header().Set("Content-Type", c.Type)
	if c.Digest != "" {
		w.Header().Set("ETag", `"`+c.Digest+`"`)
	}
	b := newBody(c, w.extend)
	http.ServeContent(w, r, "", time.Time{}, b)
	return b
}

// cleanName takes the leading slashes away. What could mean something to a file
// system is refused although names are only ever looked up: whoever gives Files
// may be less careful.
func cleanName(path string) (name string, ok bool) {
	name = strings.TrimLeft(path, "/")
	if name == "" || strings.ContainsRune(name, '\\') {
		return "", false
	}
	for i := range len(name) {
		if name[i] < 0x20 || name[i] > 0x7e {
			return "", false
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." || part == "." {
			return "", false
		}
	}
	return name, true
}

func clip(s string) string { return s[:min(len(s), 128)] }

func (h *Handler) stall() time.Duration {
	if h.Stall <= 0 {
		return time.Minute
	}
	return h.Stall
}

func (h *Handler) log() *slog.Logger {
	if h.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return h.Log
}

func (h *Handler) report(e Event) {
	// A 404 is no warning: shim and GRUB ask for much that they do without.
	level := slog.LevelInfo
	if e.Status >= 400 && e.Status != http.StatusNotFound || e.Err != nil {
		level = slog.LevelWarn
	}
	a := []slog.Attr{
		slog.String("client", e.Client.String()), slog.String("agent", e.Agent),
		slog.String("method", e.Method), slog.String("name", e.Name), slog.Int("status", e.Status),
		slog.Int64("bytes", e.Bytes), slog.Int64("size", e.Size), slog.Duration("took", e.Duration),
	}
	if e.Err != nil {
		a = append(a, slog.Any("err", e.Err))
	}
	h.log().LogAttrs(context.Background(), level, "http", a...)
	if h.Events != nil {
		h.Events(e)
	}
}

// answer counts what goes out and moves the write deadline along: a deadline
// for the whole response would cut off honest slow clients.
type answer struct {
	http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
	conn    *conn // nil behind TLS and without Listen
	status  int
	bytes   int64
	err     error // first of Write
}

func (w *answer) WriteHeader(status int) {
	w.extend()
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *answer) Write(b []byte) (int, error) {
	w.extend()
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	if w.err == nil {
		w.err = err
	}
	return n, err
}

// ReadFrom is what http.ServeContent calls. What can go without a copy takes the
// way of conn.ReadFrom, anything else that of Write.
func (w *answer) ReadFrom(src io.Reader) (int64, error) {
	rf, ok := w.ResponseWriter.(io.ReaderFrom)
	b := direct(src)
	if !ok || w.conn == nil || b == nil {
		return io.Copy(struct{ io.Writer }{w}, src)
	}
	// The header goes with the first bytes; a cork left in for longer costs a
	// large file a fifth of its rate on loopback.
	pieces := 0
	b.extend = func() {
		if pieces++; pieces == 2 {
			w.conn.cork(false)
		}
		w.extend()
	}
	w.extend()
	w.conn.cork(true)
	defer w.conn.cork(false)
	n, err := rf.ReadFrom(src)
	w.bytes += n
	if w.err == nil {
		w.err = err
	}
	return n, err
}

// direct is the body of which src is the beginning or a range, if its bytes can
// go to the connection without a copy of ours; otherwise nil.
func direct(src io.Reader) *body {
	l, ok := src.(*io.LimitedReader)
	if !ok {
		return nil
	}
	if b, ok := l.R.(*body); ok && b.direct() {
		return b
	}
	return nil
}

// extend has no effect on a connection without deadlines, as in httptest.
func (w *answer) extend() { w.control.SetWriteDeadline(time.Now().Add(w.stall)) }

// close ends the connection after this answer and does not wait for a body:
// net/http would read up to 256 KiB of it however slowly it came.
func (w *answer) close(r *http.Request) {
	w.Header().Set("Connection", "close")
	if r.ContentLength != 0 {
		w.control.SetReadDeadline(time.Now().Add(time.Second))
	}
}

// reader remembers why a file could not be read; http.ServeContent does not say.
type reader struct {
	io.ReaderAt
	err error
}

func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(p, off)
	if n < len(p) && err != nil && r.err == nil {
		r.err = err
	}
	return n, err
}
