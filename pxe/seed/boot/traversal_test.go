package boot

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/pxe/tftp"
	"slipway.dev/slipway/pxe/web"
)

// escapes are names that mean a file beside the served ones to somebody: to a
// shell, to Windows, to a URL decoder, to a careless join. Many begin with a
// directory that is really served, and the directory above holds a secret.
func escapes(n int) []string {
	start := []string{"", "/", "//", "amd64/", "amd64/slipway/", "amd64/slipway/blobs/sha256/", "amd64/boot/", "grub/", "amd64/slipway/nocloud/", "C:", "file:///", "http://localhost/"}
	up := []string{"..", ".", "...", "%2e%2e", "%2E%2e", "..%00", "..;", "%252e%252e", "．．", "\xc0\xae\xc0\xae", "%c0%ae%c0%ae", "..\x00", "~", "\\\\host\\share", ""}
	sep := []string{"/", "//", "\\", "%2f", "%5c", "%252f", "/./", "／", "\xc0\xaf", ":"}
	tail := []string{"secret", "etc/passwd", "slipway/nocloud/user-data", "nocloud/user-data", "user-data", "windows\\win.ini", "boot/vmlinuz", "vmlinuz", "grub.cfg", "shimx64.efi", "proc/self/environ", "manifest.json", ""}
	r := rand.New(rand.NewPCG(11, 11))
	out := make([]string, 0, n)
	for range n {
		b := start[r.IntN(len(start))]
		for range r.IntN(6) {
			b += up[r.IntN(len(up))] + sep[r.IntN(len(sep))]
		}
		out = append(out, b+tail[r.IntN(len(tail))])
	}
	return out
}

// whole is what is served under a name, "" for none.
func whole(b *Boot, name string) string {
	c, ok := b.HTTP()(name)
	if !ok {
		return ""
	}
	raw, _ := io.ReadAll(io.NewSectionReader(c.Reader, 0, c.Size))
	return string(raw)
}

const tries = 5000

// TestTraversalHTTP sends request lines that no client library would.
func TestTraversalHTTP(t *testing.T) {
	b := both(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := web.Server(&web.Handler{Files: b.HTTP()}, web.Limits{}, nil)
	go func() { _ = srv.Serve(ln) }()
	defer srv.Close()
	served, refused := 0, 0
	for _, path := range escapes(tries) {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /%s HTTP/1.1\r\nHost: seed\r\nConnection: close\r\n\r\n", path)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%q: %v", path, err)
		}
		body, err := io.ReadAll(resp.Body)
		conn.Close()
		switch {
		case err != nil:
			t.Fatalf("%q: %v", path, err)
		case strings.Contains(string(body), secret):
			t.Fatalf("%q gave the secret away", path)
		case resp.StatusCode == http.StatusOK && string(body) == whole(b, strings.TrimLeft(path, "/")) && len(body) > 0:
			served++
		case resp.StatusCode >= 400 && resp.StatusCode < 500 && len(body) < 64:
			refused++
		default:
			t.Fatalf("%q: status %d, %d bytes %.60q", path, resp.StatusCode, len(body), body)
		}
	}
	if served == 0 || refused == 0 {
		t.Errorf("served %d, refused %d: one kind was never tried", served, refused)
	}
	t.Logf("%d paths: %d refused, %d names of the map, 0 bytes outside it", tries, refused, served)
}

// TestTraversalTFTP sends the names in datagrams.
func TestTraversalTFTP(t *testing.T) {
	b := both(t)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan tftp.Outcome, 1)
	s := &tftp.Server{Files: b.TFTP(), Limits: tftp.Limits{PerIP: tries}, Events: func(e tftp.Event) { ended <- e.Outcome }}
	go func() { _ = s.Serve(t.Context(), pc) }()
	served, refused := 0, 0
	buf := make([]byte, 600)
	for _, name := range escapes(tries) {
		from, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := from.WriteTo([]byte("\x00\x01"+name+"\x00octet\x00"), pc.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if err := from.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, peer, err := from.ReadFrom(buf)
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		got := buf[:n]
		switch {
		case bytes.Contains(got, []byte(secret)):
			t.Fatalf("%q gave the secret away", name)
		case got[1] == 3 && strings.HasPrefix(whole(b, strings.TrimPrefix(name, "/")), string(got[4:])) && n > 4:
			served++
			if _, err := from.WriteTo([]byte("\x00\x05\x00\x00enough\x00"), peer); err != nil {
				t.Fatal(err)
			}
		case got[1] == 5 && binary.BigEndian.Uint16(got[2:]) != 0:
			refused++
		default:
			t.Fatalf("%q: %.60q", name, got)
		}
		<-ended
		from.Close()
	}
	if served == 0 || refused == 0 {
		t.Errorf("served %d, refused %d: one kind was never tried", served, refused)
	}
	t.Logf("%d names: %d refused, %d names of the map, 0 bytes outside it", tries, refused, served)
}

// FuzzNames: only the listed names are there, letter by letter, in either protocol.
func FuzzNames(f *testing.F) {
	b := both(f)
	listed := map[string]bool{}
	for _, n := range b.Names() {
		listed[n] = true
		f.Add(n)
	}
	for _, n := range escapes(50) {
		f.Add(n)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if _, ok := b.HTTP()(name); ok != listed[name] {
			t.Errorf("HTTP has %q: %v", name, ok)
		}
		if _, _, ok := b.TFTP()(name); ok && !listed[name] {
			t.Errorf("TFTP has %q", name)
		}
	})
}
