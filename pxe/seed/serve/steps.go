package serve

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/boot"
	"slipway.dev/slipway/pxe/tftp"
	"slipway.dev/slipway/pxe/web"
)

// machine tells which machine has an address: by its lease, or, beside another
// DHCP server, by this computer's neighbour table. There an address that a
// machine had yesterday may be another's now.
func (s *Server) machine(a netip.Addr) string {
	a = a.Unmap()
	if s.modeNow() == Full {
		if id, ok := s.At(a); ok {
			return id
		}
	}
	m := s.neighbour(a)
	if _, err := s.Machine(m.String()); err == nil {
		return m.String()
	}
	if id, ok := s.At(a); ok { // by another card than it booted from
		return id
	}
	if m != (pxe.MAC{}) {
		return m.String()
	}
	return ""
}

func (s *Server) onTFTP(e tftp.Event) {
	if e.Outcome == tftp.Probed || e.Outcome == tftp.Optional {
		return
	}
	st := seed.Step{Machine: s.machine(e.Client.Addr()), Stage: seed.StageTFTP, State: string(handoff.Done), Text: fmt.Sprintf("%s, %d bytes", e.Name, e.Size)}
	if kind := s.o.Boot.Kind(e.Name); kind == boot.Kernel || kind == boot.Initramfs {
		st.Stage = seed.StageKernel // GRUB takes them by TFTP when HTTP fails
	}
	if !e.Quiet() {
		st.State, st.Code, st.Text = string(handoff.Failed), "SW-SEED-TFTP", fmt.Sprintf("%s: %s", e.Name, e.Outcome)
		if e.Err != nil {
			st.Text += ": " + e.Err.Error()
		}
	}
	if st.Machine != "" {
		s.o.Seed.Record(st)
	}
}

// onHTTP records loaders, kernel and initramfs. Of blobs the node itself tells:
// there are thousands of ranges.
func (s *Server) onHTTP(e web.Event) {
	kind := s.o.Boot.Kind(e.Name)
	if kind == boot.Blob || e.Method != "GET" {
		return
	}
	st := seed.Step{Stage: seed.StageLoader, State: string(handoff.Done), Text: fmt.Sprintf("%s, %d bytes", e.Name, e.Bytes)}
	if kind == boot.Kernel || kind == boot.Initramfs || kind == boot.Manifest {
		st.Stage = seed.StageKernel
	}
	if kind == boot.Manifest { // by PID 1 alone
		st.Text = seed.RunningSystem + st.Text
	}
	if e.Status >= 400 {
		if strings.Contains(e.Name, "revocations") { // shim asks for what only some distributions have
			return
		}
		st.State, st.Code, st.Text = string(handoff.Failed), "SW-SEED-HTTP", fmt.Sprintf("%s: status %d", e.Name, e.Status)
	} else if e.Err != nil {
		st.State, st.Code, st.Text = string(handoff.Failed), "SW-SEED-HTTP", fmt.Sprintf("%s: %d of %d bytes: %v", e.Name, e.Bytes, e.Size, e.Err)
	}
	if st.Machine = s.machine(e.Client.Addr()); st.Machine != "" {
		s.o.Seed.Record(st)
	}
}

// worth keeps a line per transfer, of which a node's content has thousands, for
// who asked for details. What went wrong stays.
func worth(l *slog.Logger) *slog.Logger {
	if l == nil || l.Enabled(context.Background(), slog.LevelDebug) {
		return l
	}
	return slog.New(warnings{l.Handler()})
}

type warnings struct{ slog.Handler }

func (h warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && h.Handler.Enabled(ctx, l)
}
func (h warnings) WithAttrs(a []slog.Attr) slog.Handler { return warnings{h.Handler.WithAttrs(a)} }
func (h warnings) WithGroup(name string) slog.Handler   { return warnings{h.Handler.WithGroup(name)} }
