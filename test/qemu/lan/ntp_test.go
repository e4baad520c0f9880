package lan

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"
)

func TestNTPReply(t *testing.T) {
	q := make([]byte, 48)
	q[0] = 4<<3 | 3
	copy(q[40:], "12345678")
	r := ntpReply(q, time.Date(2026, 11, 21, 0, 0, 0, 5e8, time.UTC))
	if len(r) != 48 || r[0] != 4<<3|4 || r[1] != 1 || !bytes.Equal(r[24:32], q[40:48]) {
		t.Fatalf("got % x", r)
	}
	// 46345 days from 1900-01-01 to 2026-11-21.
	if s, f := binary.BigEndian.Uint32(r[40:]), binary.BigEndian.Uint32(r[44:]); s != 46345*86400 || f != 1<<31 {
		t.Errorf("got %d s and %d, want %d s and a half", s, f, 46345*86400)
	}
	q[0] = 4<<3 | 4
	if ntpReply(q, time.Now()) != nil || ntpReply(q[:47], time.Now()) != nil {
		t.Error("answered what is no request")
	}
}
