package tftp

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// faults is what a proxy does to datagrams, in both directions. Shares are of 1.
type faults struct {
	loss, double, swap float64
	ack                time.Duration // added to every datagram towards the server
}

// proxy stands between clients and a TFTP server and keeps what TFTP is made
// of: every port of the server appears to the client as a port of its own.
type proxy struct {
	faults
	addr   string // where clients send requests
	server net.Addr
	open   []net.PacketConn
	work   sync.WaitGroup
	mu     sync.Mutex
	rng    *rand.Rand
	ports  map[string]*flow // by client
}

// flow is one client's socket towards the server, and what the client sees of
// the server's ports.
type flow struct {
	back   net.PacketConn
	client net.Addr
	front  map[string]net.PacketConn // by the server's address
}

func newProxy(t testing.TB, server string, f faults, seed uint64) *proxy {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{faults: f, server: to, ports: map[string]*flow{}, rng: rand.New(rand.NewPCG(seed, 1))}
	front := p.listen()
	p.addr = front.LocalAddr().String()
	p.work.Go(func() { p.up(front, nil) })
	t.Cleanup(func() {
		p.mu.Lock()
		for _, c := range p.open {
			c.Close()
		}
		p.mu.Unlock()
		p.work.Wait()
	})
	return p
}

func (p *proxy) listen() net.PacketConn {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	p.open = append(p.open, c)
	return c
}

// up moves datagrams of clients from one front socket to the server's port
// behind it; nil is port 69.
func (p *proxy) up(front net.PacketConn, to net.Addr) {
	if to == nil {
		to = p.server
	}
	p.relay(front, func(b []byte, from net.Addr) (net.PacketConn, net.Addr) {
		if p.ack > 0 {
			delay(p.ack)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		f := p.ports[from.String()]
		if f == nil {
			f = &flow{back: p.listen(), client: from, front: map[string]net.PacketConn{}}
			p.ports[from.String()] = f
			p.work.Go(func() { p.down(f) })
		}
		return f.back, to
	})
}

// down moves datagrams of the server to one client.
func (p *proxy) down(f *flow) {
	p.relay(f.back, func(b []byte, from net.Addr) (net.PacketConn, net.Addr) {
		p.mu.Lock()
		defer p.mu.Unlock()
		front := f.front[from.String()]
		if front == nil {
			front = p.listen()
			f.front[from.String()] = front
			p.work.Go(func() { p.up(front, from) })
		}
		return front, f.client
	})
}

// relay is one direction of one socket, with the faults. A swapped datagram
// waits for the next one and goes after it.
func (p *proxy) relay(in net.PacketConn, route func([]byte, net.Addr) (net.PacketConn, net.Addr)) {
	var held func()
	b := make([]byte, 1<<16)
	for {
		n, from, err := in.ReadFrom(b)
		if err != nil {
			return
		}
		out, to := route(b[:n], from)
		p.mu.Lock()
		lose, double, swap := p.rng.Float64() < p.loss, p.rng.Float64() < p.double, p.rng.Float64() < p.swap
		p.mu.Unlock()
		if lose {
			continue
		}
		if swap && held == nil {
			late := append([]byte(nil), b[:n]...)
			held = func() { out.WriteTo(late, to) }
			continue
		}
		out.WriteTo(b[:n], to)
		if double {
			out.WriteTo(b[:n], to)
		}
		if held != nil {
			held()
			held = nil
		}
	}
}

// fetched is what the windowed client received.
type fetched struct {
	data   []byte
	window int
	acks   int
}

// fetch is a client after RFC 7440, which no TFTP library in Go is: it
// acknowledges the last block of a window, at once when one is missing, and
// again when nothing comes for wait.
func fetch(server, name string, block, window int, wait time.Duration) (out fetched, err error) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return out, err
	}
	defer conn.Close()
	var to net.Addr
	if to, err = net.ResolveUDPAddr("udp", server); err != nil {
		return out, err
	}
	first := to
	say := func(b []byte) { conn.WriteTo(b, to); out.acks++ }
	last := fmt.Appendf(nil, "\x00\x01%s\x00octet\x00blksize\x00%d\x00windowsize\x00%d\x00tsize\x000\x00", name, block, window)
	say(last)
	b := make([]byte, 1<<16)
	opened, expect, run := false, 1, 0
	ack := func(n int) {
		last = binary.BigEndian.AppendUint16([]byte{0, opAck}, uint16(n))
		run = 0
		say(last)
	}
	for tries := 0; tries < 400; {
		conn.SetReadDeadline(time.Now().Add(wait))
		n, from, err := conn.ReadFrom(b)
		switch {
		case err != nil:
			tries++
			say(last)
		case to != first && from.String() != to.String():
			conn.WriteTo([]byte("\x00\x05\x00\x05other\x00"), from)
		case b[1] == opError:
			return out, fmt.Errorf("error %d: %s", b[3], b[4:n-1])
		case b[1] == opOACK:
			to = from
			if !opened {
				opened = true
				if out.window, err = windowOf(string(b[2:n])); err != nil {
					return out, err
				}
			}
			if expect == 1 && run == 0 {
				ack(0)
			}
		case b[1] == opData && opened && binary.BigEndian.Uint16(b[2:]) == uint16(expect):
			tries = 0
			out.data = append(out.data, b[4:n]...)
			expect++
			if run++; n < 4+block {
				ack(expect - 1)
				return out, nil
			}
			if run == out.window {
				ack(expect - 1)
			}
		case b[1] == opData && opened:
			ack(expect - 1)
		}
	}
	return out, fmt.Errorf("gave up at block %d", expect)
}

func windowOf(oack string) (n int, err error) {
	_, after, ok := strings.Cut(oack, "windowsize\x00")
	if !ok {
		return 1, nil
	}
	_, err = fmt.Sscanf(after, "%d", &n)
	return n, err
}
