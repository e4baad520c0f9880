package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// tftpRequest is what a firmware asks for.
type tftpRequest struct {
	server, name  string
	block, window int           // window 0: not asked for
	ack           time.Duration // what an ACK costs
	wait          time.Duration // until an ACK is sent again
	tries         int
}

// fetchTFTP reads a file as firmware does (RFC 1350, 2347, 2348, 7440) and
// returns it. It is for a network that loses nothing.
func fetchTFTP(r tftpRequest) ([]byte, error) {
	conn, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	to, err := net.ResolveUDPAddr("udp4", r.server)
	if err != nil {
		return nil, err
	}
	ask := fmt.Appendf(nil, "\x00\x01%s\x00octet\x00blksize\x00%d\x00", r.name, r.block)
	if r.window > 0 {
		ask = fmt.Appendf(ask, "windowsize\x00%d\x00", r.window)
	}
	conn.WriteToUDP(ask, to)
	var file []byte
	last, expect, run, window := ask, uint16(1), 0, 1
	ack := func(n uint16) {
		pause(r.ack)
		last, run = binary.BigEndian.AppendUint16([]byte{0, 4}, n), 0
		conn.WriteToUDP(last, to)
	}
	for b, tries := make([]byte, 1<<16), 0; tries < r.tries; {
		conn.SetReadDeadline(time.Now().Add(r.wait))
		n, from, err := conn.ReadFromUDP(b)
		if err != nil {
			tries++
			conn.WriteToUDP(last, to)
			continue
		}
		switch to = from; b[1] {
		case 5:
			return nil, fmt.Errorf("error %d: %s", b[3], b[4:max(4, n-1)])
		case 6:
			if _, v, ok := strings.Cut(string(b[2:n]), "windowsize\x00"); ok {
				fmt.Sscanf(v, "%d", &window)
			}
			ack(0)
		case 3:
			if binary.BigEndian.Uint16(b[2:]) != expect {
				ack(expect - 1)
				continue
			}
			file = append(file, b[4:n]...)
			expect++
			if run++; run == window || n < 4+r.block {
				ack(expect - 1)
			}
			if n < 4+r.block {
				return file, nil
			}
		}
	}
	return nil, errors.New("no answer")
}

// pause sleeps for d and not, as time.Sleep in a process that waits in epoll,
// for the next whole millisecond.
func pause(d time.Duration) {
	left := syscall.NsecToTimespec(int64(d))
	for d > 0 && syscall.Nanosleep(&left, &left) == syscall.EINTR {
	}
}

// webClient keeps one connection, from an address of its own, as a node does.
type webClient struct {
	conn net.Conn
	in   *bufio.Reader
	buf  []byte
}

// dialWeb dials from 127.0.n.1.
func dialWeb(server string, n int) (*webClient, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(n), 1)}, Timeout: 10 * time.Second}
	conn, err := d.Dial("tcp4", server)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(5 * time.Minute))
	return &webClient{conn, bufio.NewReaderSize(conn, 4<<10), make([]byte, 256<<10)}, nil
}

// get writes length bytes of a file from off to w; length 0 is all of it.
func (c *webClient) get(path string, off, length int64, w io.Writer) (int64, error) {
	ranges, want := "", http.StatusOK
	if length > 0 {
		ranges, want = fmt.Sprintf("Range: bytes=%d-%d\r\n", off, off+length-1), http.StatusPartialContent
	}
	if _, err := fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: seed\r\n%s\r\n", path, ranges); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != want {
		return 0, fmt.Errorf("GET %s: status %d", path, resp.StatusCode)
	}
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{resp.Body}, c.buf)
}
