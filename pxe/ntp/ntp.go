// Package ntp answers simple time requests (RFC 4330, RFC 5905 mode 4), so that
// machines on a wire without a time server agree with the seed's clock.
//
// It sets no clock, asks no other server and has no authentication: whoever can
// change packets on the wire can change the time. It never sends more than it was sent.
package ntp

import (
	"encoding/binary"
	"time"
)

const (
	size       = 48 // bytes of a header without extensions (RFC 5905 section 7.3)
	modeClient = 3
	modeServer = 4
	// precision is log2 of seconds: 2^-20, about a microsecond.
	precision = -20
	// dispersion is how far the seed's own clock may be off, in 2^-16 s: 10 ms is
	// a guess that clients add to their error bounds.
	dispersion = 655
	// freshness is how old the reference time may be: a client takes a clock that
	// was not set for a day as lost (RFC 5905 appendix A.5.5.3).
	freshness = 16 * time.Second

	// Stratum is that of a clock nobody has set: any better source wins.
	Stratum = 10
)

// epoch is the prime epoch, 1 January 1900, in Unix seconds (RFC 5905 section 6).
// Era 1 begins in February 2036; a timestamp holds the seconds modulo 2^32.
const epoch = -2208988800

// timestamp is t in units of 2^-32 s.
func timestamp(t time.Time) uint64 {
	seconds := uint64(uint32(t.Unix() - epoch))
	return seconds<<32 | uint64(t.Nanosecond())<<32/uint64(time.Second)
}

// Source is the clock that answers tell.
type Source struct {
	Clock     func() time.Time // nil: time.Now
	Stratum   uint8            // 1 to 15; 0: Stratum
	Reference [4]byte          // address of the server the clock follows; zero: 127.127.1.1, a local clock
}

func (s Source) now() time.Time {
	if s.Clock == nil {
		return time.Now()
	}
	return s.Clock()
}

// Answer makes the answer to one request that came at the time received, with
// the transmit timestamp of now. Anything but a client's request (mode 3) of
// version 3 or 4 and 48 bytes has none: nil.
func (s Source) Answer(request []byte, received time.Time) []byte {
	if len(request) != size {
		return nil
	}
	version, mode := request[0]>>3&7, request[0]&7
	if mode != modeClient || version != 3 && version != 4 {
		return nil
	}
	stratum, ref := s.Stratum, s.Reference
	if stratum == 0 || stratum > 15 {
		stratum = Stratum
	}
	if ref == [4]byte{} {
		ref = [4]byte{127, 127, 1, 1} // as the reference implementation names its local clock driver
	}
	a := make([]byte, size)
	a[0] = version<<3 | modeServer // leap indicator 0: no warning
	a[1] = stratum
	a[2] = request[2] // poll, as asked (RFC 4330 section 5)
	a[3] = byte(precision & 0xff)
	binary.BigEndian.PutUint32(a[8:], dispersion) // after the root delay, which is 0
	copy(a[12:], ref[:])
	binary.BigEndian.PutUint64(a[16:], timestamp(received.Truncate(freshness)))
	copy(a[24:32], request[40:48]) // origin: the client's transmit timestamp
	binary.BigEndian.PutUint64(a[32:], timestamp(received))
	binary.BigEndian.PutUint64(a[40:], timestamp(s.now()))
	return a
}
