package lan

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	headerLength = 14      // destination, source, EtherType
	frameLimit   = 1 << 16 // a frame with segmentation offload is at most 64 KiB
	queueLength  = 4096    // frames waiting at one port; more are dropped, as a switch does
)

// Port is one socket of the switch. Set MAC before the machine starts, should
// the given one not do (two machines with one MAC, for example).
type Port struct {
	Name string
	MAC  net.HardwareAddr

	sw      *Switch
	number  int
	watched bool
	path    string
	queue   chan queued
	done    chan struct{}
	wg      sync.WaitGroup
	once    sync.Once

	mu       sync.Mutex
	listener net.Listener
	conn     net.Conn
	deliver  func(frame []byte) // of an in-process port
	up       bool
	impair   Impairment
	random   *rand.Rand
	counters Counters
}

// Impairment is what is wrong with a cable, in both directions.
type Impairment struct {
	Drop  float64       // probability of losing a frame, 0 to 1
	Delay time.Duration // added on the way to the machine; order is kept
}

// Counters count frames and bytes as the switch sees them: In came from the
// machine, Out went to it.
type Counters struct {
	InFrames, InBytes   uint64
	OutFrames, OutBytes uint64
	Dropped             uint64 // by impairment, link down, a full queue or no machine
}

type queued struct {
	frame []byte
	due   time.Time
}

// newRandom is seeded by the port's number: a lossy test loses the same
// frames of the same traffic.
func newRandom(n int) *rand.Rand { return rand.New(rand.NewPCG(0x51197, uint64(n))) }

// SocketPath is for QEMU's -netdev stream,server=off,addr.type=unix.
func (p *Port) SocketPath() string { return p.path }

// Switch is the segment the port belongs to.
func (p *Port) Switch() *Switch { return p.sw }

// SetLink pulls (false) or plugs the cable behind the NIC: frames vanish, but
// the guest sees no carrier change. For that, see VM.SetLink of package qemu.
func (p *Port) SetLink(up bool) {
	p.mu.Lock()
	p.up = up
	p.mu.Unlock()
	if !up {
		p.sw.forget(p)
	}
}

// Impair makes the cable bad; the zero Impairment repairs it.
func (p *Port) Impair(i Impairment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.impair = i
}

// Counters returns the counts so far.
func (p *Port) Counters() Counters {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counters
}

// Close takes the port off the switch and disconnects its machine.
func (p *Port) Close() error {
	p.once.Do(func() {
		p.sw.remove(p)
		close(p.done)
		p.mu.Lock()
		if p.listener != nil {
			p.listener.Close()
		}
		if p.conn != nil {
			p.conn.Close()
		}
		p.mu.Unlock()
	})
	p.wg.Wait()
	return nil
}

// admit counts a frame from the machine and tells whether it gets through.
func (p *Port) admit(n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.passes() {
		return false
	}
	p.counters.InFrames++
	p.counters.InBytes += uint64(n)
	return true
}

// passes wants p.mu held.
func (p *Port) passes() bool {
	if !p.up || (p.impair.Drop > 0 && p.random.Float64() < p.impair.Drop) {
		p.counters.Dropped++
		return false
	}
	return true
}

// send queues a frame for the machine and never waits.
func (p *Port) send(now time.Time, frame []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.passes() {
		return
	}
	select {
	case p.queue <- queued{frame, now.Add(p.impair.Delay)}:
	default:
		p.counters.Dropped++
	}
}

// write delivers queued frames until the port is closed.
func (p *Port) write() {
	for {
		select {
		case <-p.done:
			return
		case q := <-p.queue:
			if wait := time.Until(q.due); wait > 0 {
				select {
				case <-p.done:
					return
				case <-time.After(wait):
				}
			}
			p.emit(q.frame)
		}
	}
}

// emit hands one frame to the machine or the in-process receiver.
func (p *Port) emit(frame []byte) {
	p.mu.Lock()
	conn, deliver := p.conn, p.deliver
	p.mu.Unlock()
	sent := false
	switch {
	case deliver != nil:
		deliver(frame)
		sent = true
	case conn != nil:
		b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(frame)), uint32(len(frame)))
		_, err := conn.Write(append(b, frame...))
		sent = err == nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !sent {
		p.counters.Dropped++
		return
	}
	p.counters.OutFrames++
	p.counters.OutBytes += uint64(len(frame))
}

// accept serves one machine after the other: a VM may be started again on the
// same port.
func (p *Port) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.conn = conn
		p.mu.Unlock()
		select { // Close may have looked before conn was set
		case <-p.done:
			conn.Close()
		default:
		}
		p.sw.opts.Log.Debug("machine attached", "port", p.Name)
		if err := p.read(conn); !errors.Is(err, net.ErrClosed) {
			p.sw.opts.Log.Debug("machine detached", "port", p.Name, "reason", err)
		}
		p.mu.Lock()
		p.conn = nil
		p.mu.Unlock()
		conn.Close()
		p.sw.forget(p)
	}
}

// read takes frames off QEMU's stream: each is preceded by its length, 32 bit
// big-endian (qemu net/stream.c).
func (p *Port) read(conn net.Conn) error {
	r := bufio.NewReaderSize(conn, 256<<10)
	var head [4]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > frameLimit+headerLength+8 {
			return errors.New("frame longer than any frame can be: stream out of step")
		}
		frame := make([]byte, n)
		if _, err := io.ReadFull(r, frame); err != nil {
			return err
		}
		p.sw.receive(p, frame)
	}
}
