package web

import (
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The kernel's own word on the buffer, asked from inside a request.
func TestSendBufferOfIPXE(t *testing.T) {
	b, err := os.ReadFile("/proc/sys/net/core/wmem_max")
	if err != nil {
		t.Skipf("skipped: %v", err)
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan int, 1)
	h := &Handler{Files: lookup(map[string][]byte{"f": []byte("x")})}
	probe := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		c := r.Context().Value(connKey{}).(*conn).NetConn().(*net.TCPConn)
		raw, err := c.SyscallConn()
		if err != nil {
			t.Error(err)
		}
		raw.Control(func(fd uintptr) {
			n, _ := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
			got <- n
		})
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := Server(probe, Limits{}, nil)
	go srv.Serve(Listen(ln, Limits{}))
	defer srv.Close()
	s := &served{addr: ln.Addr().String()}
	ask(t, s.dial(t), "GET", "/f", "User-Agent: curl/8\r\n")
	free := <-got
	ask(t, s.dial(t), "GET", "/f", "User-Agent: iPXE/1.21.1\r\n")
	want := 2 * min(inFlight, most)
	if capped := <-got; capped != want || free == want {
		t.Errorf("SO_SNDBUF %d for iPXE, %d for others; want %d for iPXE only", capped, free, want)
	} else {
		t.Logf("SO_SNDBUF %d for iPXE, %d for others", capped, free)
	}
}
