package web

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func content(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

func lookup(files map[string][]byte) Files {
	return func(name string) (Content, bool) {
		b, ok := files[name]
		c := Content{Reader: bytes.NewReader(b), Size: int64(len(b))}
		if strings.HasSuffix(name, ".efi") {
			c.Digest, c.Type = "sha256:"+name, "application/efi"
		}
		return c, ok
	}
}

// served is a running server, its address and the events it gave out.
type served struct {
	addr   string
	events chan Event
}

// start serves on loopback until the test ends and demands no panic.
func start(t testing.TB, h *Handler, lim Limits) *served {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out := &served{addr: ln.Addr().String(), events: make(chan Event, 1024)}
	if h.Events == nil {
		h.Events = func(e Event) { out.events <- e }
	}
	srv := Server(h, lim, h.Log)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(Listen(ln, lim)) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
		if n := h.Panics(); n != 0 {
			t.Errorf("%d panics", n)
		}
	})
	return out
}

func (s *served) next(t testing.TB) Event {
	t.Helper()
	select {
	case e := <-s.events:
		return e
	case <-time.After(time.Minute):
		t.Fatal("no event")
		return Event{}
	}
}

func (s *served) dial(t testing.TB) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute)) // ends a hung test
	return c
}

// ask sends a request as written, since clients of net/http tidy paths, and
// reads the answer.
func ask(t testing.TB, c net.Conn, method, path, headers string) (*http.Response, string) {
	t.Helper()
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: seed\r\n%s\r\n", method, path, headers)
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %q: %v", method, path, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %q: %v", method, path, err)
	}
	return resp, string(body)
}

func TestRequests(t *testing.T) {
	s := start(t, &Handler{Files: lookup(map[string][]byte{
		"grubx64.efi": []byte("0123456789"), "boot/vmlinuz": []byte("kernel"), "empty": {}, "page.html": []byte("<html>"),
	})}, Limits{})
	tag := `"sha256:grubx64.efi"`
	for _, c := range []struct {
		method, path, headers string
		status                int
		body                  string
		want                  map[string]string // headers; - is absent
	}{
		{"GET", "/grubx64.efi", "", 200, "0123456789", map[string]string{"Content-Length": "10", "Content-Type": "application/efi", "Etag": tag, "Accept-Ranges": "bytes", "Last-Modified": "-"}},
		{"HEAD", "/grubx64.efi", "", 200, "", map[string]string{"Content-Length": "10", "Etag": tag}},
		{"GET", "//grubx64.efi", "", 200, "0123456789", map[string]string{"Location": "-"}},
		{"HEAD", "//grubx64.efi", "", 200, "", map[string]string{"Content-Length": "10"}},
		{"GET", "/boot/vmlinuz", "", 200, "kernel", map[string]string{"Etag": "-", "Content-Type": "application/octet-stream"}},
		{"GET", "/boot/vmlinuz?x=1", "", 200, "kernel", nil},
		{"GET", "/page.html", "", 200, "<html>", map[string]string{"Content-Type": "application/octet-stream"}},
		{"GET", "/empty", "", 200, "", map[string]string{"Content-Length": "0"}},
		{"GET", "/grubx64.efi", "Range: bytes=2-4\r\n", 206, "234", map[string]string{"Content-Range": "bytes 2-4/10", "Content-Length": "3"}},
		{"GET", "/grubx64.efi", "Range: bytes=7-\r\n", 206, "789", nil},
		{"GET", "/grubx64.efi", "Range: bytes=-2\r\n", 206, "89", nil},
		{"GET", "/grubx64.efi", "Range: bytes=10-\r\n", 416, "invalid range: failed to overlap\n", map[string]string{"Content-Range": "bytes */10"}},
		{"HEAD", "/grubx64.efi", "Range: bytes=2-4\r\n", 206, "", map[string]string{"Content-Length": "3"}},
		{"GET", "/grubx64.efi", "Range: bytes=7-\r\nIf-Range: " + tag + "\r\n", 206, "789", nil},
		{"GET", "/grubx64.efi", "Range: bytes=7-\r\nIf-Range: \"sha256:other\"\r\n", 200, "0123456789", nil},
		{"GET", "/boot/vmlinuz", "Range: bytes=2-\r\nIf-Range: \"any\"\r\n", 200, "kernel", nil},
		{"GET", "/grubx64.efi", "If-None-Match: " + tag + "\r\n", 304, "", nil},
		{"GET", "/none", "", 404, "not found\n", nil},
		{"GET", "/", "", 404, "not found\n", nil},
		{"GET", "/boot/", "", 404, "not found\n", nil},
		{"GET", "/boot", "", 404, "not found\n", nil},
		{"POST", "/grubx64.efi", "Content-Length: 0\r\n", 405, "read-only\n", map[string]string{"Allow": "GET, HEAD"}},
		{"PUT", "/grubx64.efi", "Content-Length: 0\r\n", 405, "read-only\n", map[string]string{"Allow": "GET, HEAD"}},
		{"DELETE", "/grubx64.efi", "", 405, "read-only\n", nil},
		{"OPTIONS", "/grubx64.efi", "", 405, "read-only\n", nil},
		{"PROPFIND", "/", "", 405, "read-only\n", nil},
		{"GET", "/grubx64.efi", "Content-Length: 5\r\n", 400, "no body expected\n", nil},
		{"GET", "/grubx64.efi", "Transfer-Encoding: chunked\r\n", 400, "no body expected\n", nil},
	} {
		t.Run(c.method+" "+c.path+" "+strings.TrimSpace(c.headers), func(t *testing.T) {
			resp, body := ask(t, s.dial(t), c.method, c.path, c.headers)
			if resp.StatusCode != c.status || body != c.body {
				t.Errorf("got %d %q, want %d %q", resp.StatusCode, body, c.status, c.body)
			}
			for k, want := range c.want {
				if got := resp.Header.Get(k); got != want && (want != "-" || got != "") {
					t.Errorf("%s: %q, want %q", k, got, want)
				}
			}
			if e := s.next(t); e.Status != c.status || e.Bytes != int64(len(body)) || e.Method != c.method || !e.Client.IsValid() || e.Err != nil {
				t.Errorf("event %+v", e)
			}
		})
	}
}

// A keep-alive connection serves several requests.
func TestKeepAlive(t *testing.T) {
	want := content(100_000)
	s := start(t, &Handler{Files: lookup(map[string][]byte{"f": want})}, Limits{})
	c := s.dial(t)
	for range 3 {
		if _, body := ask(t, c, "GET", "/f", ""); body != string(want) {
			t.Fatalf("%d bytes", len(body))
		}
	}
}

func TestTraversal(t *testing.T) {
	listed := map[string][]byte{"a": []byte("public a"), "boot/a": []byte("public boot/a")}
	looked := make(chan string, 1)
	s := start(t, &Handler{Events: func(Event) {}, Files: func(name string) (Content, bool) {
		looked <- name
		return lookup(listed)(name)
	}}, Limits{})
	up := []string{"..", ".", "%2e%2e", "..%00", "..;", "%252e%252e", "%c0%ae%c0%ae", "%ef%bc%8e", "~", "C:", "%5c%5chost", "\\", ""}
	sep := []string{"/", "//", "%2f", "%5c", "\\", "/./", "%c0%af", ":"}
	tail := []string{"etc/passwd", "secret", "windows%5cwin.ini", "a", "boot/a", ""}
	r := rand.New(rand.NewPCG(3, 3))
	count := map[int]int{}
	c := s.dial(t)
	for range 5000 {
		path := "/"
		if r.IntN(3) == 0 {
			path += "boot" + sep[r.IntN(len(sep))]
		}
		for range r.IntN(5) {
			path += up[r.IntN(len(up))] + sep[r.IntN(len(sep))]
		}
		path += tail[r.IntN(len(tail))]
		resp, body := ask(t, c, "GET", path, "")
		count[resp.StatusCode]++
		name := ""
		select {
		case name = <-looked:
		default:
		}
		for part := range strings.SplitSeq(name, "/") {
			if part == ".." || part == "." || strings.Contains(part, "\\") || strings.HasPrefix(name, "/") {
				t.Fatalf("%q was looked up as %q", path, name)
			}
		}
		ok := resp.StatusCode == 404 && body == "not found\n" || resp.StatusCode == 400 || // not a URL at all
			resp.StatusCode == 200 && name != "" && body == string(listed[name])
		if !ok {
			t.Fatalf("%q looked up as %q: %d %q", path, name, resp.StatusCode, body)
		}
		if resp.Close {
			c = s.dial(t)
		}
	}
	if count[200] == 0 || count[404] == 0 {
		t.Errorf("answers %v: one kind was never tried", count)
	}
	t.Logf("5000 paths: answers %v, 0 bytes outside the map", count)
}

type brokenReader struct{ good int64 }

func (b brokenReader) ReadAt(p []byte, off int64) (int, error) {
	if off >= b.good {
		return 0, errors.New("medium gone")
	}
	return len(p), nil
}

// A file that ends early must look cut off to the client, and say so here.
func TestFileFailure(t *testing.T) {
	s := start(t, &Handler{Files: func(string) (Content, bool) {
		return Content{Reader: brokenReader{64 << 10}, Size: 1 << 20}, true
	}}, Limits{})
	resp, err := http.Get("http://" + s.addr + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err == nil || n >= 1<<20 {
		t.Errorf("read %d bytes, %v: want an unexpected end", n, err)
	}
	if e := s.next(t); e.Err == nil || e.Err.Error() != `reading "f": medium gone` || e.Bytes != 64<<10 {
		t.Errorf("event %+v", e)
	}
}

func TestPanicIsOneRequest(t *testing.T) {
	h := &Handler{Files: func(name string) (Content, bool) {
		if name == "bad" {
			panic("deliberate")
		}
		return Content{Reader: strings.NewReader("ok"), Size: 2}, true
	}}
	s := start(t, h, Limits{})
	if resp, err := http.Get("http://" + s.addr + "/bad"); err == nil {
		t.Errorf("got %d", resp.StatusCode)
	}
	if _, body := ask(t, s.dial(t), "GET", "/good", ""); body != "ok" {
		t.Errorf("got %q", body)
	}
	// net/http's client asks once more when a kept connection dies.
	if n := h.panics.Swap(0); n == 0 {
		t.Error("no panic counted")
	}
}

// Handler is usable without Server: no connection in the context.
func TestCapWithoutServer(t *testing.T) { capInFlight(context.Background()) }
