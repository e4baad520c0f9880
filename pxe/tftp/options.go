package tftp

import (
	"encoding/binary"
	"strconv"
	"time"
)

// Bounds of RFC 2348 section 2, in bytes of file data per block.
const (
	minBlock     = 8
	maxBlock     = 65464
	defaultBlock = 512
)

// terms are what a transfer runs under.
type terms struct {
	block  int           // bytes of data per block
	window int           // blocks per acknowledgement
	wait   time.Duration // before the first retransmission
	oack   []byte        // the OACK datagram, nil when no option was accepted
}

// agree judges the options of a request. An option that is unknown, malformed
// or out of range is left out of the OACK, which RFC 2347 defines as declining
// it; it is never an error.
func agree(asked []option, size int64, lim Limits) terms {
	t := terms{block: defaultBlock, window: 1, wait: lim.Wait}
	accepted := map[string]int64{}
	for _, o := range asked {
		v, err := strconv.ParseUint(o.value, 10, 62)
		if err != nil {
			continue
		}
		switch o.name {
		case "blksize":
			if v >= minBlock {
				t.block = int(min(v, uint64(lim.Block)))
				accepted[o.name] = int64(t.block)
			}
		case "tsize":
			accepted[o.name] = size
		case "timeout":
			// RFC 2349: 1-255 s, echoed or declined. One that leaves no
			// room for two retransmissions before Idle is declined.
			if d := time.Duration(min(v, 256)) * time.Second; v >= 1 && v <= 255 && d <= lim.Idle/3 {
				t.wait = d
				accepted[o.name] = int64(v)
			}
		case "windowsize":
			if v >= 1 && v <= 65535 {
				t.window = int(min(v, uint64(lim.Window)))
				accepted[o.name] = int64(t.window)
			}
		}
	}
	// RFC 7440 section 3 lets the server answer less than was asked.
	if fit := max(1, lim.InFlight/t.block); t.window > fit {
		t.window = fit
		accepted["windowsize"] = int64(fit)
	}
	t.oack = oack(asked, accepted)
	return t
}

// oack is the OACK datagram, options in the order asked.
func oack(asked []option, accepted map[string]int64) []byte {
	if len(accepted) == 0 {
		return nil
	}
	b := binary.BigEndian.AppendUint16(nil, opOACK)
	for _, o := range asked {
		if v, ok := accepted[o.name]; ok {
			b = append(append(b, o.name...), 0)
			b = append(strconv.AppendInt(b, v, 10), 0)
		}
	}
	return b
}
