package lan

import (
	"encoding/binary"
	"fmt"
	"time"
)

// ntpEpoch is 1900-01-01 in Unix seconds (RFC 5905, section 6).
const ntpEpoch = -2208988800

// ServeNTP answers on UDP port 123 with the time that now gives, until the host
// is closed (RFC 5905, a primary server; no authentication).
func (h *Host) ServeNTP(now func() time.Time) error {
	c, err := h.ListenPacket(123)
	if err != nil {
		return fmt.Errorf("NTP: %w", err)
	}
	h.onClose(c.Close)
	h.wg.Go(func() {
		b := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			reply := ntpReply(b[:n], now())
			if reply == nil {
				continue
			}
			if _, err := c.WriteTo(reply, from); err != nil {
				h.sw.opts.Log.Warn("NTP answer lost", "to", from.String(), "reason", err)
			}
		}
	})
	return nil
}

// ntpReply answers a client's request (mode 3), nil for anything else.
func ntpReply(q []byte, now time.Time) []byte {
	if len(q) < 48 || q[0]&7 != 3 {
		return nil
	}
	r := make([]byte, 48)
	r[0] = q[0]&0x38 | 4 // no leap second, the client's version, server
	r[1] = 1             // stratum
	r[2] = q[2]          // poll
	r[3] = 0xec          // precision: 2^-20 s
	copy(r[12:], "TEST") // reference identifier
	stamp := make([]byte, 8)
	binary.BigEndian.PutUint32(stamp, uint32(now.Unix()-ntpEpoch)) // era 1 from 2036 on wraps, as it should
	binary.BigEndian.PutUint32(stamp[4:], uint32(uint64(now.Nanosecond())<<32/1e9))
	for _, at := range []int{16, 32, 40} { // reference, receive, transmit
		copy(r[at:], stamp)
	}
	copy(r[24:32], q[40:48]) // originate: the client's transmit time
	return r
}
