package tftp

import (
	"log/slog"
	"net/netip"
	"path"
	"strings"
	"time"
)

// Outcome is how a request ended.
type Outcome string

const (
	Sent     Outcome = "sent"       // every block acknowledged
	Probed   Outcome = "size probe" // the client wanted tsize and hung up, as OVMF does
	Missing  Outcome = "missing"    // Files does not know the name
	Optional Outcome = "optional"   // missing, and the client goes on without it
	Refused  Outcome = "refused"    // a write, netascii, a malformed request or name
	Aborted  Outcome = "aborted"    // the client sent an ERROR, or began again
	Stalled  Outcome = "stalled"    // no acknowledgement for Limits.Idle
	Failed   Outcome = "failed"     // reading the file or opening a port went wrong
	Stopped  Outcome = "stopped"    // the server's context ended
)

// Event is one finished request. It is given out once per request, from the
// goroutine that served it. Requests counted in Counters give none.
type Event struct {
	Client   netip.AddrPort
	Name     string // cleaned; as sent when refused
	Outcome  Outcome
	Size     int64 // bytes of the file
	Bytes    int64 // bytes the client acknowledged
	Block    int   // bytes per block, 0 when no transfer began
	Window   int   // blocks per acknowledgement
	Resent   int   // datagrams sent again
	Duration time.Duration
	Err      error // why, for every outcome but Sent, Probed and Optional
}

// Quiet reports whether the event is part of a normal boot.
func (e Event) Quiet() bool {
	return e.Outcome == Sent || e.Outcome == Probed || e.Outcome == Optional
}

// optional names what shim 15.8 and later ask for beside themselves
// (revocations_sbat.efi, revocations_sku.efi) and do without.
func optional(name string) bool {
	base := path.Base(name)
	return strings.HasPrefix(base, "revocations") && strings.HasSuffix(base, ".efi")
}

// level keeps the probes of a normal boot out of an operator's sight.
func (e Event) level() slog.Level {
	switch e.Outcome {
	case Sent, Stopped:
		return slog.LevelInfo
	case Probed, Optional:
		return slog.LevelDebug
	default:
		return slog.LevelWarn
	}
}

func (e Event) attrs() []slog.Attr {
	a := []slog.Attr{
		slog.String("client", e.Client.String()), slog.String("name", e.Name),
		slog.String("outcome", string(e.Outcome)),
	}
	if e.Block > 0 {
		a = append(a, slog.Int64("bytes", e.Bytes), slog.Int64("size", e.Size),
			slog.Int("block", e.Block), slog.Int("window", e.Window),
			slog.Int("resent", e.Resent), slog.Duration("took", e.Duration))
	}
	if e.Err != nil {
		a = append(a, slog.Any("err", e.Err))
	}
	return a
}
