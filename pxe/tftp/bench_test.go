package tftp

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	pin "github.com/pin/tftp/v3"
)

// ackDelay is what a firmware's ACK costs on a quiet gigabit LAN, measured
// against tftpd-hpa and dnsmasq: 0.3 ms, hence their 3-4 MB/s.
const ackDelay = 300 * time.Microsecond

// pinServer is the peer: pin/tftp over the same bytes.
func pinServer(b *testing.B, file []byte) string {
	b.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	s := pin.NewServer(func(_ string, rf io.ReaderFrom) error {
		_, err := rf.ReadFrom(bytes.NewReader(file))
		return err
	}, nil)
	s.SetBackoff(func(int) time.Duration { return 0 })
	done := make(chan error, 1)
	go func() { done <- s.Serve(conn) }()
	b.Cleanup(func() {
		s.Shutdown()
		if err := <-done; err != nil {
			b.Errorf("pin: %v", err)
		}
	})
	return conn.LocalAddr().String()
}

// BenchmarkWindow fetches a loader of 2 MB as OVMF asks for it (blksize 1468,
// windowsize 4) through a proxy that delays each ACK, from pin/tftp and from
// this package, in turns. The goal is a ratio of 3.
func BenchmarkWindow(b *testing.B) {
	file := content(2 << 20)
	ours := start(b, &Server{Files: lookup(map[string][]byte{"f": file}), Events: func(Event) {}}).addr
	peers := []struct {
		name, addr string
		took       time.Duration
	}{{name: "pin/tftp", addr: pinServer(b, file)}, {name: "slipway", addr: ours}}
	for i := range peers {
		peers[i].addr = newProxy(b, peers[i].addr, faults{ack: ackDelay}, 1).addr
	}
	var windows [2]int
	for b.Loop() {
		for i := range peers {
			start := time.Now()
			got, err := fetch(peers[i].addr, "f", 1468, 4, time.Second)
			if err != nil || !bytes.Equal(got.data, file) {
				b.Fatalf("%s: %d bytes, %v", peers[i].name, len(got.data), err)
			}
			peers[i].took += time.Since(start)
			windows[i] = got.window
		}
	}
	rate := func(i int) float64 {
		return float64(len(file)) * float64(b.N) / peers[i].took.Seconds() / 1e6
	}
	b.ReportMetric(rate(0), "pin-MB/s")
	b.ReportMetric(rate(1), "slipway-MB/s")
	b.ReportMetric(rate(1)/rate(0), "ratio")
	b.Logf("windows %v: %.1f MB/s against %.1f MB/s, ratio %.2f (goal 3)", windows, rate(1), rate(0), rate(1)/rate(0))
}

// BenchmarkLoopback is the sender without any delay, per window.
func BenchmarkLoopback(b *testing.B) {
	file := content(16 << 20)
	s := start(b, &Server{Files: lookup(map[string][]byte{"f": file}), Events: func(Event) {}})
	for _, window := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprint("window ", window), func(b *testing.B) {
			b.SetBytes(int64(len(file)))
			for b.Loop() {
				if got, err := fetch(s.addr, "f", 1468, window, time.Second); err != nil || len(got.data) != len(file) {
					b.Fatalf("%d bytes, %v", len(got.data), err)
				}
			}
		})
	}
}
