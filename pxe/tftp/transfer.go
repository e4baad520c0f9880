package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// transfer sends one file to one client from one port.
//
// Blocks are counted from 1 without wrapping; on the wire they are the low 16
// bits, so a file goes past 65535 blocks through 0, as OVMF, iPXE and tftp-hpa
// expect. The OACK counts as block 0, because ACK 0 acknowledges it.
type transfer struct {
	terms
	conn   net.PacketConn
	peer   net.Addr
	client netip.AddrPort // peer in comparable form
	file   io.ReaderAt
	size   int64
	idle   time.Duration
	asked  []option
	proven func() // called once, at the first ACK

	base   int64 // highest block acknowledged; -1 before the OACK is
	sent   int64 // highest block sent since base last moved
	most   int64 // highest block ever sent
	last   int64 // the block, shorter than the others, that ends the file
	resent int
	out    []byte
	in     []byte
}

// run sends the file and reports how that ended.
func (t *transfer) run(ctx context.Context) Event {
	t.last = t.size/int64(t.block) + 1
	t.most = -1
	if t.oack != nil {
		t.base = -1
	}
	t.out = make([]byte, 4+t.block)
	t.in = make([]byte, maxRequest+1)
	// A cancelled transfer wakes from its read at once.
	stop := context.AfterFunc(ctx, func() { t.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	outcome, err := t.send(ctx)
	return Event{
		Outcome: outcome, Err: err, Size: t.size, Resent: t.resent, Block: t.block, Window: t.window,
		Bytes: min(max(t.base, 0)*int64(t.block), t.size),
	}
}

// send is the protocol: a window out, an acknowledgement in. Only an ACK of a
// block not acknowledged before moves it on; anything else, also a second copy
// of the last ACK, waits for the timer. That is the cure of the Sorcerer's
// Apprentice (RFC 1123 section 4.2.3.1), and bounds what copies can cost.
func (t *transfer) send(ctx context.Context) (Outcome, error) {
	wait, progress := t.wait, time.Now()
	for t.base < t.last {
		if err := t.transmit(); err != nil {
			t.tell(&refusal{codeUndefined, "reading the file"})
			return Failed, err
		}
		moved, err := t.await(ctx, progress, wait)
		var bye *refusal
		switch {
		case errors.As(err, &bye):
			return t.hungUp(bye)
		case err != nil:
			t.tell(&refusal{codeUndefined, "transfer ended"})
			if cause := context.Cause(ctx); errors.Is(cause, errAgain) || errors.Is(cause, errEvicted) {
				return Aborted, cause
			}
			return Stopped, err
		case moved:
			wait, progress = t.wait, time.Now()
		case time.Since(progress) >= t.idle:
			t.tell(&refusal{codeUndefined, "no acknowledgement"})
			return Stalled, fmt.Errorf("no acknowledgement of block %d for %v", t.base+1, t.idle)
		default:
			wait = min(2*wait, 8*t.wait)
		}
	}
	return Sent, nil
}

// transmit sends what follows base: the OACK alone, or a window of blocks. A
// datagram the kernel would not take counts as lost.
func (t *transfer) transmit() error {
	if t.base < 0 {
		t.write(0, t.oack)
		t.sent = 0
		return nil
	}
	end := min(t.base+int64(t.window), t.last)
	for n := t.base + 1; n <= end; n++ {
		off := (n - 1) * int64(t.block)
		data := t.out[4 : 4+min(int64(t.block), t.size-off)]
		if got, err := t.file.ReadAt(data, off); got < len(data) {
			return fmt.Errorf("reading %d bytes at %d of %d: %w", len(data), off, t.size, err)
		}
		binary.BigEndian.PutUint16(t.out, opData)
		binary.BigEndian.PutUint16(t.out[2:], uint16(n))
		t.write(n, t.out[:4+len(data)])
	}
	t.sent = end
	return nil
}

func (t *transfer) write(n int64, b []byte) {
	if n <= t.most {
		t.resent++
	}
	t.most = max(t.most, n)
	t.conn.WriteTo(b, t.peer)
}

// await reads until an ACK moves base (true), the time to retransmit has come
// (false), the client hangs up (a *refusal) or ctx ends.
func (t *transfer) await(ctx context.Context, progress time.Time, wait time.Duration) (bool, error) {
	until := time.Now().Add(wait)
	if end := progress.Add(t.idle); until.After(end) {
		until = end
	}
	for {
		// Ordered so that a cancellation either is seen here or finds the
		// deadline already set and overrules it.
		t.conn.SetReadDeadline(until)
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n, from, err := t.conn.ReadFrom(t.in)
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case err != nil:
			if left := time.Until(until); left > 0 {
				sleep(ctx, min(left, 10*time.Millisecond)) // a client's ICMP, see readErrors
				continue
			}
			return false, nil
		case addrPort(from) != t.client:
			// RFC 1350 section 4: tell the stranger, go on undisturbed.
			t.conn.WriteTo((&refusal{codeUnknownTID, "unknown transfer"}).packet(), from)
			continue
		}
		switch moved, bye := t.receive(t.in[:n]); {
		case bye != nil:
			return false, bye
		case moved:
			return true, nil
		case !time.Now().Before(until):
			return false, nil
		}
	}
}

// receive judges one datagram of the client.
func (t *transfer) receive(b []byte) (moved bool, bye *refusal) {
	if len(b) < 4 {
		return false, nil
	}
	switch value := binary.BigEndian.Uint16(b[2:]); binary.BigEndian.Uint16(b) {
	case opError:
		text, _ := split(b[4:])
		bye = &refusal{code: value}
		if len(text) > 0 {
			bye.text = text[0]
		}
		return false, bye
	case opAck:
		// Right for any window below 32768 blocks. An ACK inside the window
		// says the block after it was lost (RFC 7440 section 4).
		ahead := int64(value - uint16(t.base))
		if ahead < 1 || ahead > t.sent-t.base {
			return false, nil
		}
		if t.proven != nil {
			t.proven()
			t.proven = nil
		}
		t.base += ahead
		return true, nil
	}
	return false, nil
}

// hungUp judges the client's ERROR. OVMF asks for tsize, reads the OACK, aborts
// with error 8 and comes back for the file; other ROMs do so with error 0.
func (t *transfer) hungUp(bye *refusal) (Outcome, error) {
	wantsSize := false
	for _, o := range t.asked {
		wantsSize = wantsSize || o.name == "tsize"
	}
	if t.base <= 0 && wantsSize && (bye.code == codeOptions || bye.code == codeUndefined) {
		return Probed, nil
	}
	return Aborted, fmt.Errorf("the client hung up: %w", bye)
}

func (t *transfer) tell(no *refusal) { t.conn.WriteTo(no.packet(), t.peer) }
