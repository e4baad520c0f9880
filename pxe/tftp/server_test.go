package tftp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	pin "github.com/pin/tftp/v3"
)

// served is a running Server, its address, and the events it gave out.
type served struct {
	*Server
	addr   string
	events chan Event
}

// content is n bytes that are different in every place and the same every run.
func content(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	r.Read(b)
	return b
}

func lookup(files map[string][]byte) Files {
	return func(name string) (io.ReaderAt, int64, bool) {
		b, ok := files[name]
		return bytes.NewReader(b), int64(len(b)), ok
	}
}

// start serves on loopback until the test ends and then demands that nothing
// panicked and Serve returned nil.
func start(t testing.TB, s *Server) *served {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out := &served{Server: s, addr: pc.LocalAddr().String(), events: make(chan Event, 1024)}
	if s.Events == nil {
		s.Events = func(e Event) { out.events <- e }
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, pc) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if n := s.Counters().Panics; n != 0 {
			t.Errorf("%d panics", n)
		}
	})
	return out
}

// next is the next event; the deadline only ends a hung test.
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

func TestPinClient(t *testing.T) {
	files := map[string][]byte{}
	for _, n := range []int{0, 1, 511, 512, 513, 1024, 100_000} {
		files[strings.Repeat("x", n%7+1)+".bin"] = content(n)
	}
	s := start(t, &Server{Files: lookup(files)})
	for name, want := range files {
		for _, block := range []int{0, 512, 1468, 65464} {
			c, err := pin.NewClient(s.addr)
			if err != nil {
				t.Fatal(err)
			}
			if block > 0 {
				c.SetBlockSize(block)
			}
			c.RequestTSize(true)
			w, err := c.Receive("/"+name, "octet")
			if err != nil {
				t.Fatal(err)
			}
			if n, ok := w.(pin.IncomingTransfer).Size(); !ok || n != int64(len(want)) {
				t.Errorf("%s blksize %d: tsize %d %v, want %d", name, block, n, ok, len(want))
			}
			var got bytes.Buffer
			if _, err := w.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s blksize %d: %d bytes of %d, %v", name, block, got.Len(), len(want), err)
			}
			if e := s.next(t); e.Outcome != Sent || e.Bytes != int64(len(want)) || e.Name != name {
				t.Errorf("event %+v", e)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		why, packet string
		code        int // -1: no answer
		outcome     Outcome
	}{
		{"unknown", "\x00\x01nope\x00octet\x00", 1, Missing},
		{"shim's revocations", "\x00\x01/revocations_sbat.efi\x00octet\x00", 1, Optional},
		{"shim's revocations in a directory", "\x00\x01efi/revocations_sku.efi\x00octet\x00", 1, Optional},
		{"shim's certificate", "\x00\x01shim_certificate_0.efi\x00octet\x00", 1, Optional},
		{"GRUB's module list", "\x00\x01grub/x86_64-efi/fs.lst\x00octet\x00", 1, Optional},
		{"a list elsewhere", "\x00\x01grub/fs.lst\x00octet\x00", 1, Missing},
		{"write", "\x00\x02a\x00octet\x00", 2, Refused},
		{"netascii", "\x00\x01a\x00netascii\x00", 4, Refused},
		{"mail", "\x00\x01a\x00mail\x00", 4, Refused},
		{"no mode", "\x00\x01a\x00", 4, Refused},
		{"unterminated", "\x00\x01a\x00octet", 4, Refused},
		{"empty name", "\x00\x01\x00octet\x00", 4, Refused},
		{"option without value", "\x00\x01a\x00octet\x00tsize\x00", 4, Refused},
		{"too long", "\x00\x01" + strings.Repeat("a", 512) + "\x00octet\x00", 4, Refused},
		{"dot-dot", "\x00\x01../a\x00octet\x00", 2, Refused},
		{"backslash", "\x00\x01\\a\x00octet\x00", 2, Refused},
		{"two slashes", "\x00\x01//a\x00octet\x00", 2, Refused},
		{"control byte", "\x00\x01a\n\x00octet\x00", 2, Refused},
		{"stray ACK", "\x00\x04\x00\x01", -1, ""},
		{"stray ERROR", "\x00\x05\x00\x01x\x00", -1, ""},
		{"stray DATA", "\x00\x03\x00\x01x", -1, ""},
		{"unknown opcode", "\x00\x09a\x00octet\x00", -1, ""},
		{"one byte", "\x00", -1, ""},
		{"nothing", "", -1, ""},
	} {
		t.Run(c.why, func(t *testing.T) {
			s := start(t, &Server{Files: lookup(map[string][]byte{"a": []byte("secret")})})
			conn := dial(t, s.addr)
			conn.send(c.packet)
			if c.code < 0 {
				// The refusal of a second packet proves that the first got none.
				conn.send("\x00\x02marker\x00octet\x00")
				if got := conn.recv(t); !strings.HasPrefix(got, "\x00\x05\x00\x02") {
					t.Fatalf("answered %q", got)
				}
				if n := s.Counters().Malformed; n != 2 {
					t.Errorf("%d malformed counted, want 2", n)
				}
				return
			}
			got := conn.recv(t)
			if len(got) < 5 || got[:2] != "\x00\x05" || int(got[3]) != c.code || got[len(got)-1] != 0 {
				t.Fatalf("answered %q, want error %d", got, c.code)
			}
			if e := s.next(t); e.Outcome != c.outcome || e.Quiet() != (c.outcome == Optional) {
				t.Errorf("event %+v, want %v", e, c.outcome)
			}
		})
	}
}

// peer is a bare UDP socket that plays the client.
type peer struct {
	net.PacketConn
	server net.Addr // where send goes
	from   net.Addr // of the last datagram received
}

func dial(t testing.TB, server string) *peer {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	to, err := net.ResolveUDPAddr("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	return &peer{PacketConn: pc, server: to}
}

func (p *peer) send(b string)  { p.WriteTo([]byte(b), p.server) }
func (p *peer) reply(b string) { p.WriteTo([]byte(b), p.from) }

func (p *peer) recv(t testing.TB) string {
	t.Helper()
	got, ok := p.within(time.Minute)
	if !ok {
		t.Fatal("no datagram")
	}
	return got
}

func (p *peer) within(d time.Duration) (string, bool) {
	b := make([]byte, 1<<16)
	p.SetReadDeadline(time.Now().Add(d))
	n, from, err := p.ReadFrom(b)
	if err != nil {
		return "", false
	}
	p.from = from
	return string(b[:n]), true
}

func TestNegotiation(t *testing.T) {
	lim := Limits{}.orDefaults()
	for _, c := range []struct {
		asked string // NUL-terminated pairs
		want  string // the OACK without opcode; empty: none
		terms terms
	}{
		{"", "", terms{block: 512, window: 1}},
		{"tsize\x000\x00", "tsize\x00777\x00", terms{block: 512, window: 1}},
		{"BlkSize\x001468\x00", "blksize\x001468\x00", terms{block: 1468, window: 1}},
		{"blksize\x008\x00", "blksize\x008\x00", terms{block: 8, window: 1}},
		{"blksize\x007\x00", "", terms{block: 512, window: 1}},
		{"blksize\x0065465\x00", "blksize\x0065464\x00", terms{block: 65464, window: 1}},
		{"blksize\x00-5\x00", "", terms{block: 512, window: 1}},
		{"blksize\x00999999999999999999999\x00", "", terms{block: 512, window: 1}},
		{"windowsize\x004\x00", "windowsize\x004\x00", terms{block: 512, window: 4}},
		{"windowsize\x0065535\x00", "windowsize\x0064\x00", terms{block: 512, window: 64}},
		{"windowsize\x0065536\x00", "", terms{block: 512, window: 1}},
		{"windowsize\x000\x00", "", terms{block: 512, window: 1}},
		{"windowsize\x0016\x00blksize\x0065464\x00", "windowsize\x002\x00blksize\x0065464\x00", terms{block: 65464, window: 2}},
		{"timeout\x003\x00", "timeout\x003\x00", terms{block: 512, window: 1, wait: 3 * time.Second}},
		{"timeout\x000\x00", "", terms{block: 512, window: 1}},
		{"timeout\x0011\x00", "", terms{block: 512, window: 1}},
		{"timeout\x00256\x00", "", terms{block: 512, window: 1}},
		{"multicast\x00\x00tsize\x000\x00", "tsize\x00777\x00", terms{block: 512, window: 1}},
		{"blksize\x00600\x00blksize\x00700\x00", "blksize\x00600\x00", terms{block: 600, window: 1}},
		// OVMF's own order.
		{"tsize\x000\x00blksize\x001468\x00windowsize\x004\x00", "tsize\x00777\x00blksize\x001468\x00windowsize\x004\x00", terms{block: 1468, window: 4}},
	} {
		req, no, ok := parseRequest([]byte("\x00\x01f\x00OCTET\x00" + c.asked))
		if !ok {
			t.Errorf("%q: refused: %v", c.asked, no)
			continue
		}
		got := agree(req.options, 777, lim)
		want := c.want
		if want != "" {
			want = "\x00\x06" + want
		}
		if c.terms.wait == 0 {
			c.terms.wait = lim.Wait
		}
		if string(got.oack) != want || got.block != c.terms.block || got.window != c.terms.window || got.wait != c.terms.wait {
			t.Errorf("%q: OACK %q, terms %+v; want %q, %+v", c.asked, got.oack, got, want, c.terms)
		}
	}
}

// A panic in Files costs one request and is counted; the server goes on.
func TestPanicIsOneRequest(t *testing.T) {
	var log lockedBuffer
	s := &Server{
		Files: func(name string) (io.ReaderAt, int64, bool) {
			if name == "bad" {
				panic("deliberate")
			}
			return strings.NewReader("ok"), 2, true
		},
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	addr := start(t, s).addr
	conn := dial(t, addr)
	conn.send("\x00\x01bad\x00octet\x00")
	conn.send("\x00\x01good\x00octet\x00")
	if got := conn.recv(t); got != "\x00\x03\x00\x01ok" {
		t.Fatalf("got %q", got)
	}
	conn.reply("\x00\x04\x00\x01")
	for s.Counters().Panics == 0 {
		time.Sleep(time.Millisecond)
	}
	s.counts.panics.Store(0)
	if out := log.String(); !strings.Contains(out, "deliberate") || !strings.Contains(out, "name=bad") {
		t.Errorf("log: %s", out)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type brokenReader struct{}

func (brokenReader) ReadAt([]byte, int64) (int, error) { return 0, errors.New("medium gone") }

func TestFileFailure(t *testing.T) {
	s := start(t, &Server{Files: func(string) (io.ReaderAt, int64, bool) { return brokenReader{}, 9, true }})
	conn := dial(t, s.addr)
	conn.send("\x00\x01a\x00octet\x00")
	if got := conn.recv(t); !strings.HasPrefix(got, "\x00\x05\x00\x00") {
		t.Errorf("got %q, want error 0", got)
	}
	e := s.next(t)
	if e.Outcome != Failed || e.Err == nil || e.Err.Error() != "reading 9 bytes at 0 of 9: medium gone" {
		t.Errorf("event %+v", e)
	}
}
