package web

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// closed demands that the server ends the connection by itself.
func closed(t *testing.T, c net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the server kept the connection: %v", err)
	}
}

// Each of these would hold a goroutine and a place for as long as it liked.
func TestSlowClientsAreClosed(t *testing.T) {
	lim := Limits{Header: 100 * time.Millisecond, Idle: 100 * time.Millisecond}
	for _, c := range []struct {
		why   string
		first string
		drip  string // sent every 20 ms until the end
	}{
		{"says nothing", "", ""},
		{"header byte by byte", "GET /f HTTP/1.1\r\nHost: seed\r\nX: ", "x"},
		{"header never ends", "GET /f HTTP/1.1\r\n", ""},
		{"keeps an idle connection", "GET /f HTTP/1.1\r\nHost: seed\r\n\r\n", ""},
		{"body byte by byte", "GET /f HTTP/1.1\r\nHost: seed\r\nContent-Length: 100000\r\n\r\n", "x"},
		{"upload byte by byte", "PUT /f HTTP/1.1\r\nHost: seed\r\nContent-Length: 100000\r\n\r\n", "x"},
	} {
		t.Run(c.why, func(t *testing.T) {
			t.Parallel()
			s := start(t, &Handler{Files: lookup(map[string][]byte{"f": []byte("x")})}, lim)
			conn := s.dial(t)
			io.WriteString(conn, c.first)
			stop := make(chan bool)
			defer close(stop)
			go func() {
				for c.drip != "" {
					select {
					case <-stop:
						return
					case <-time.After(20 * time.Millisecond):
						io.WriteString(conn, c.drip)
					}
				}
			}()
			closed(t, conn)
		})
	}
}

// A client that stops reading is cut off; one that reads slowly is not.
func TestStalledReader(t *testing.T) {
	big := content(16 << 20)
	stalls(t, int64(len(big)), func(stall time.Duration) *Handler {
		return &Handler{Files: lookup(map[string][]byte{"f": big}), Stall: stall}
	})
}

// stalls asks for /f, of size bytes, without reading it, and then too slowly for
// anybody who wants all of it within one stall.
func stalls(t *testing.T, size int64, h func(stall time.Duration) *Handler) {
	t.Run("stops", func(t *testing.T) {
		t.Parallel()
		s := start(t, h(200*time.Millisecond), Limits{})
		io.WriteString(s.dial(t), "GET /f HTTP/1.1\r\nHost: seed\r\n\r\n")
		if e := s.next(t); !errors.Is(e.Err, os.ErrDeadlineExceeded) || e.Bytes >= size {
			t.Errorf("event %+v", e)
		}
	})
	t.Run("reads slowly", func(t *testing.T) {
		t.Parallel()
		const stall = 6 * time.Second // of which a busy machine may take five
		s := start(t, h(stall), Limits{})
		slow := s.dial(t)
		slow.SetDeadline(time.Now().Add(5 * time.Minute))
		io.WriteString(slow, "GET /f HTTP/1.1\r\nHost: seed\r\nConnection: close\r\n\r\n")
		var got int64
		for b := make([]byte, size/16); ; time.Sleep(stall / 8) {
			n, err := io.ReadFull(slow, b)
			if got += int64(n); err != nil {
				break
			}
		}
		if e := s.next(t); e.Err != nil || e.Bytes != size || got < size {
			t.Errorf("%d bytes, event %+v", got, e)
		}
	})
}

func TestConnectionLimits(t *testing.T) {
	s := start(t, &Handler{Files: lookup(map[string][]byte{"f": []byte("x")})}, Limits{PerIP: 2, Header: time.Hour, Idle: time.Hour})
	a, b := s.dial(t), s.dial(t)
	ask(t, a, "GET", "/f", "")
	ask(t, b, "GET", "/f", "")
	closed(t, s.dial(t))
	a.Close()
	// The server learns of the end when its read returns.
	for {
		c := s.dial(t)
		io.WriteString(c, "GET /f HTTP/1.1\r\nHost: seed\r\nConnection: close\r\n\r\n")
		if got, _ := io.ReadAll(c); bytes.HasPrefix(got, []byte("HTTP/1.1 200 ")) {
			return
		}
	}
}

func TestListenerGivesPlacesBack(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Listen(ln, Limits{Connections: 1}).(*listener)
	defer l.Close()
	for range 3 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		got.Close()
		got.Close() // net/http may
		c.Close()
		if l.total != 0 || len(l.perIP) != 0 {
			t.Fatalf("left over: %d, %v", l.total, l.perIP)
		}
	}
}

// TestCurl fetches as an operator or an installer would.
func TestCurl(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skipf("skipped: %v (Debian: curl)", err)
	}
	want := content(5_000_001)
	s := start(t, &Handler{Files: lookup(map[string][]byte{"big.bin": want, "a.efi": []byte("efi")})}, Limits{})
	base := "http://" + s.addr
	dir := t.TempDir()
	local := filepath.Join(dir, "out")
	curl := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("curl", append([]string{"-sS", "-o", local, "-w", "%{http_code} %{size_download}"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("curl %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	expect := func(got, status string, file []byte) {
		t.Helper()
		b, err := os.ReadFile(local)
		if err != nil || got != status || !bytes.Equal(b, file) {
			t.Errorf("curl says %q, want %q; %d bytes of %d, %v", got, status, len(b), len(file), err)
		}
		os.Remove(local)
	}
	expect(curl(base+"/big.bin"), "200 5000001", want)
	expect(curl("--path-as-is", base+"//big.bin"), "200 5000001", want)
	expect(curl("-r", "1000-1999", base+"/big.bin"), "206 1000", want[1000:2000])
	expect(curl("-r", "-10", base+"/big.bin"), "206 10", want[len(want)-10:])
	if err := os.WriteFile(local, want[:3_000_000], 0o600); err != nil {
		t.Fatal(err)
	}
	expect(curl("-C", "-", base+"/big.bin"), "206 2000001", want)
	expect(curl("--path-as-is", base+"/../../etc/passwd"), "404 10", []byte("not found\n"))
	if got := curl("-I", base+"/a.efi"); got != "200 0" {
		t.Errorf("HEAD: %q", got)
	}
	head, _ := os.ReadFile(local)
	for _, line := range []string{"Content-Length: 3\r\n", "Etag: \"sha256:a.efi\"\r\n", "Content-Type: application/efi\r\n"} {
		if !strings.Contains(string(head), line) {
			t.Errorf("HEAD lacks %q:\n%s", line, head)
		}
	}
	got := curl("-r", "0-1,5-6", base+"/big.bin")
	b, _ := os.ReadFile(local)
	if !strings.HasPrefix(got, "206 ") || !bytes.Contains(b, want[0:2]) || !bytes.Contains(b, want[5:7]) {
		t.Errorf("two ranges: %q\n%q", got, b)
	}
	for _, name := range []string{"big.bin", "big.bin", "big.bin", "big.bin", "big.bin"} {
		if e := s.next(t); e.Name != name || !strings.HasPrefix(e.Agent, "curl/") {
			t.Errorf("event %+v", e)
		}
	}
}

// BenchmarkServe is the cost of one large file, whose events and deadlines are
// this package's own.
func BenchmarkServe(b *testing.B) {
	file := content(256 << 20)
	s := start(b, &Handler{Files: lookup(map[string][]byte{"f": file}), Events: func(Event) {}}, Limits{})
	b.SetBytes(int64(len(file)))
	for b.Loop() {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			b.Fatal(err)
		}
		fmt.Fprint(c, "GET /f HTTP/1.1\r\nHost: seed\r\nConnection: close\r\n\r\n")
		if n, err := io.Copy(io.Discard, c); err != nil || n < int64(len(file)) {
			b.Fatalf("%d bytes, %v", n, err)
		}
		c.Close()
	}
}
