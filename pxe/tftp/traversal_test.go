package tftp

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// traversals are names that mean a file outside the served set to somebody: to
// a shell, to Windows, to a URL decoder, to a careless join.
func traversals(n int) []string {
	up := []string{"..", ".", "...", "%2e%2e", "..%00", "..;", "%252e%252e", "．．", "\xc0\xae\xc0\xae", "..\x00", "~", "C:", "\\\\host\\share", ""}
	sep := []string{"/", "//", "\\", "%2f", "%5c", "/./", "／", "\xc0\xaf", ":"}
	tail := []string{"etc/passwd", "etc/shadow", "secret", "boot/secret", "windows\\win.ini", "a", "boot/a", "proc/self/environ", ""}
	r := rand.New(rand.NewPCG(7, 7))
	out := make([]string, 0, n)
	for range n {
		var b strings.Builder
		if r.IntN(2) == 0 {
			b.WriteString(sep[r.IntN(len(sep))])
		}
		if r.IntN(3) == 0 {
			b.WriteString("boot" + sep[r.IntN(len(sep))])
		}
		for range r.IntN(6) {
			b.WriteString(up[r.IntN(len(up))] + sep[r.IntN(len(sep))])
		}
		b.WriteString(tail[r.IntN(len(tail))])
		out = append(out, b.String())
	}
	return out
}

// TestTraversal sends every form over the wire. A careless Files that would
// answer anything shows which names get through cleanName; of the real map
// nothing but the two listed files may ever be served.
func TestTraversal(t *testing.T) {
	listed := map[string][]byte{"a": []byte("public a"), "boot/a": []byte("public boot/a")}
	asked, ended := make(chan string, 1), make(chan bool, 1)
	s := start(t, &Server{
		Limits: never,
		Events: func(e Event) {
			if e.Outcome == Sent {
				ended <- true
			}
		},
		Files: func(name string) (io.ReaderAt, int64, bool) {
			asked <- name
			b, ok := listed[name]
			return bytes.NewReader(b), int64(len(b)), ok
		},
	})
	c := dial(t, s.addr)
	served, refused, missing := 0, 0, 0
	for _, name := range traversals(6000) {
		c.send("\x00\x01" + name + "\x00octet\x00")
		got := c.recv(t)
		code := binary.BigEndian.Uint16([]byte(got[2:]))
		var looked string
		select {
		case looked = <-asked:
			for part := range strings.SplitSeq(looked, "/") {
				if part == ".." || part == "." || strings.Contains(part, "\\") || strings.HasPrefix(looked, "/") {
					t.Fatalf("%q was looked up as %q", name, looked)
				}
			}
		default:
		}
		switch {
		case got[1] == opError && code == codeNotFound && looked != "":
			missing++
		case got[1] == opError && (code == codeAccess || code == codeIllegal) && looked == "":
			refused++
		case got[1] == opData && got[4:] == string(listed[strings.TrimPrefix(name, "/")]) && looked != "":
			served++
			c.reply(ackOf(1))
			<-ended
		default:
			t.Fatalf("%q (looked up as %q) got %.60q", name, looked, got)
		}
	}
	if served == 0 || missing == 0 || refused == 0 {
		t.Errorf("served %d, missing %d, refused %d: one kind was never tried", served, missing, refused)
	}
	t.Logf("6000 names: %d refused, %d missing, %d served, 0 bytes outside the map", refused, missing, served)
}

// FuzzParseRequest holds what parseRequest promises for any datagram.
func FuzzParseRequest(f *testing.F) {
	for _, seed := range []string{
		rrq, "\x00\x01/f\x00OCTET\x00tsize\x000\x00blksize\x001468\x00windowsize\x004\x00",
		"\x00\x02f\x00octet\x00", "\x00\x01f\x00netascii\x00", "\x00\x01f\x00octet\x00\x00\x00\x00",
		"\x00\x01f\x00octet\x00blksize\x00", "\x00\x01f\x00octet\x00\x00\x00", "\x00\x01", "\x00", "",
		"\x00\x04\x00\x01", "\x00\x05\x00\x08no\x00", "\x00\x01../../f\x00octet\x00", "\x00\x01\\f\x00octet\x00",
		"\x00\x01f\xff\x00octet\x00", "\x00\x01f\x00octet\x00timeout\x00999999999999999999999\x00",
	} {
		f.Add([]byte(seed))
	}
	lim := Limits{}.orDefaults()
	f.Fuzz(func(t *testing.T, b []byte) {
		req, no, ok := parseRequest(b)
		if !ok {
			if no != nil && (len(no.packet()) > 64 || b[0] != 0 || b[1] != opRead && b[1] != opWrite) {
				t.Fatalf("%q answered with %q", b, no.packet())
			}
			return
		}
		if no != nil || b[1] != opRead || len(b) > maxRequest {
			t.Fatalf("%q accepted: %+v %v", b, req, no)
		}
		if again, fine := cleanName(req.name); !fine || again != req.name {
			t.Fatalf("%q: name %q is not clean", b, req.name)
		}
		got := agree(req.options, 1<<40, lim)
		if got.block < minBlock || got.block > maxBlock || got.window < 1 || got.window > 64 ||
			got.wait < lim.Wait || got.wait > lim.Idle || len(got.oack) > maxRequest {
			t.Fatalf("%q: terms %+v", b, got)
		}
	})
}

// FuzzReceive: whatever a client sends within a transfer, block numbers wrapped
// or not, moves it by at most what was sent.
func FuzzReceive(f *testing.F) {
	for _, b := range []string{"\x00\x04\x00\x01", "\x00\x04\xff\xff", "\x00\x05\x00\x08no\x00", "\x00\x05\x00", "\x00\x04\x00", "", "\x00\x03\x00\x01x"} {
		f.Add([]byte(b), int64(0), int64(4))
		f.Add([]byte(b), int64(-1), int64(0))
		f.Add([]byte(b), int64(65533), int64(65537))
	}
	f.Fuzz(func(t *testing.T, b []byte, base, sent int64) {
		if base < -1 || sent < base || sent-base > 64 || sent > 1<<40 {
			return
		}
		x := &transfer{base: base, sent: sent}
		moved, bye := x.receive(b)
		switch {
		case moved && (x.base <= base || x.base > sent || b[1] != opAck || bye != nil):
			t.Fatalf("%x moved from %d to %d of %d", b, base, x.base, sent)
		case !moved && x.base != base, bye != nil && b[1] != opError:
			t.Fatalf("%x: base %d, %v", b, x.base, bye)
		}
	})
}
