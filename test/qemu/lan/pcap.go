package lan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// capture writes the classic pcap format with nanoseconds (magic 0xa1b23c4d,
// draft-ietf-opsawg-pcap section 4), link type 1, Ethernet.
type capture struct {
	mu    sync.Mutex
	f     *os.File
	left  int64
	err   error
	ended bool
}

func newCapture(path string, limit int64) (*capture, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	var h [24]byte
	binary.LittleEndian.PutUint32(h[0:], 0xa1b23c4d)
	binary.LittleEndian.PutUint16(h[4:], 2)
	binary.LittleEndian.PutUint16(h[6:], 4)
	binary.LittleEndian.PutUint32(h[16:], frameLimit*2)
	binary.LittleEndian.PutUint32(h[20:], 1)
	if _, err := f.Write(h[:]); err != nil {
		return nil, errors.Join(fmt.Errorf("capture %q: %w", path, err), f.Close())
	}
	return &capture{f: f, left: limit}, nil
}

// frame appends one record in a single write, so that the file is whole at
// any moment, also after the process was killed.
func (c *capture) frame(t time.Time, frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := int64(16 + len(frame))
	if c.err != nil || c.ended || n > c.left {
		c.ended = true
		return
	}
	c.left -= n
	b := make([]byte, 16, n)
	binary.LittleEndian.PutUint32(b[0:], uint32(t.Unix()))
	binary.LittleEndian.PutUint32(b[4:], uint32(t.Nanosecond()))
	binary.LittleEndian.PutUint32(b[8:], uint32(len(frame)))
	binary.LittleEndian.PutUint32(b[12:], uint32(len(frame)))
	_, c.err = c.f.Write(append(b, frame...))
}

func (c *capture) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if err := errors.Join(c.err, c.f.Close()); err != nil {
		return fmt.Errorf("capture %q: %w", c.f.Name(), err)
	}
	return nil
}
