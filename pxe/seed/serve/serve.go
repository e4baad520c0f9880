// Package serve puts a seed on the wire: it finds the interface, listens
// before it speaks, and runs DHCP, TFTP, HTTP, NTP, the nodes' and the operator's
// interface until it is told to stop.
//
// It decides nothing about machines (package seed does) and knows no protocol
// (package pxe and those below it do).
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe"
	"slipway.dev/slipway/pxe/ntp"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/boot"
	"slipway.dev/slipway/pxe/seed/fleet"
	"slipway.dev/slipway/pxe/seed/operator"
	"slipway.dev/slipway/pxe/tftp"
	"slipway.dev/slipway/pxe/web"
)

// Options is everything a seed serves.
type Options struct {
	Wire    Wire
	Cluster *configs.Cluster
	Seed    *seed.Seed
	Boot    *boot.Boot
	Ports   Ports
	State   string        // directory; the operator's socket is in it
	Page    string        // address of the read-only web page, "" for none
	PageLAN bool          // the page may be on an address that is not loopback
	Nodes   fleet.Cluster // of the cluster that runs
	Log     *slog.Logger
	// Self is the node that this very machine is, "" on a laptop; Kubeconfig
	// appears when its cluster runs.
	Self, Kubeconfig string
}

// Ports are those that can be chosen.
type Ports struct {
	HTTP int // of loaders and content
	Node int // TLS, of nodes that enrol
}

// Server is a running seed. It is the operator's Desk: the seed's knowledge with
// the state of the wire.
type Server struct {
	*seed.Seed
	*fleet.Fleet
	o    Options
	dhcp *pxe.Server
	tftp *tftp.Server
	web  *web.Handler

	neighbour pxe.Neighbour

	mu      sync.Mutex
	mode    Mode
	nobody  bool // gave an address when this seed asked, and this one does not
	foreign []pxe.Foreign
	fault   *seed.Verdict // of the wire
}

// New checks nothing and opens nothing; Run does.
func New(o Options) *Server {
	return &Server{Seed: o.Seed, Fleet: fleet.New(o.Seed, o.Nodes, o.Log), o: o, neighbour: pxe.ARPTable(o.Wire.Name)}
}

// Status is the seed's own with what the wire adds.
func (s *Server) Status() seed.Status {
	st := s.o.Seed.Status()
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Address, st.DHCP, st.Foreign = s.o.Wire.Addr, string(s.mode), []string{} // never null
	for _, f := range s.foreign {
		st.Foreign = append(st.Foreign, f.String())
	}
	if s.dhcp != nil && s.dhcp.Yielded() && s.mode == Full {
		st.DHCP = string(Yielded)
	}
	st.Verdict = s.verdict(st)
	st.Counters = s.counters()
	return st
}

// verdict is what keeps all machines from booting; it wants s.mu held.
func (s *Server) verdict(st seed.Status) *seed.Verdict {
	switch {
	case s.fault != nil:
		return s.fault
	case st.DHCP == string(Yielded):
		return &seed.Verdict{Code: "SW-SEED-YIELDED", Text: "another DHCP server appeared, " + strings.Join(st.Foreign, ", ") + ": this seed gives no addresses any more",
			Hint: "if it belongs here all is well; if not, switch it off and start the seed again"}
	case s.nobody && len(s.foreign) == 0:
		return &seed.Verdict{Code: "SW-SEED-NO-DHCP", Text: fmt.Sprintf("nobody gives addresses on %s: no DHCP server answered, and cluster.yaml names no subnet for the seed to give addresses of", s.o.Wire.Name),
			Hint: fmt.Sprintf("connect the site's DHCP server, or write into cluster.yaml, below spec: seed: {dhcp: {subnet: %s}} and start the seed again", s.o.Wire.Addr.Masked())}
	}
	return nil
}

// Counters are what the servers dropped, since the start.
type Counters struct {
	DHCP pxe.Counters  `json:"dhcp"`
	TFTP tftp.Counters `json:"tftp"`
	HTTP uint64        `json:"httpPanics"`
}

// counters wants s.mu held.
func (s *Server) counters() Counters {
	var c Counters
	if s.dhcp != nil {
		c.DHCP = s.dhcp.Counters()
	}
	if s.tftp != nil {
		c.TFTP = s.tftp.Counters()
	}
	if s.web != nil {
		c.HTTP = s.web.Panics()
	}
	return c
}

// service is one server whose port is open.
type service struct {
	run   func(context.Context) error
	close func() error
}

// Run opens every port, says what it does, and serves until ctx ends. A port
// that is taken is an error that names it; then nothing is served.
func (s *Server) Run(ctx context.Context) (err error) {
	var all []service
	defer func() {
		for _, sv := range all {
			err = errors.Join(err, ignoreClosed(sv.close()))
		}
	}()
	// The operator's socket is last: where it is, everything is.
	for _, open := range []func(context.Context) (service, error){s.openHTTP, s.openNode, s.openTFTP, s.openNTP, s.openDHCP, s.openPage, s.openOperator} {
		sv, err := open(ctx)
		if err != nil {
			return err
		}
		if sv.run != nil {
			all = append(all, sv)
		}
	}
	if s.o.Self != "" {
		if err := s.Adopt(s.o.Wire.MAC.String(), s.o.Self, configs.RoleControlPlane, s.o.Wire.Addr.Addr()); err != nil {
			return err
		}
		all = append(all, service{run: s.reach, close: func() error { return nil }})
	}
	all = append(all, service{run: s.Fleet.Run, close: func() error { return nil }})
	all = append(all, service{run: s.watchWire, close: func() error { return nil }})
	s.say("", "serving on %s, %s", s.o.Wire.Name, s.o.Wire.Addr)
	g, ctx := errgroup.WithContext(ctx)
	for _, sv := range all {
		g.Go(func() error { return sv.run(ctx) })
	}
	return g.Wait()
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *Server) openOperator(context.Context) (service, error) {
	ln, err := operator.Listen(s.o.State)
	if err != nil {
		return service{}, err
	}
	return httpService(operator.Server(operator.Handler(s)), ln), nil
}

func (s *Server) openPage(context.Context) (service, error) {
	if s.o.Page == "" {
		return service{}, nil
	}
	ln, err := operator.ListenPage(s.o.Page, s.o.PageLAN)
	if err != nil {
		return service{}, hinted("choose another address with --page, or --page \"\" for none", "web page: %w", err)
	}
	return httpService(operator.Server(operator.Page(s)), ln), nil
}

func (s *Server) address(port int) string {
	return netip.AddrPortFrom(s.o.Wire.Addr.Addr(), uint16(port)).String()
}

// httpService serves h on ln until its context ends.
func httpService(srv *http.Server, ln net.Listener) service {
	return service{close: ln.Close, run: func(ctx context.Context) error {
		go func() {
			<-ctx.Done()
			srv.Close()
		}()
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}}
}

func (s *Server) openHTTP(ctx context.Context) (service, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp4", s.address(s.o.Ports.HTTP))
	if err != nil {
		return service{}, busy("HTTP", err)
	}
	s.web = &web.Handler{Files: s.o.Boot.HTTP(), Events: s.onHTTP, Log: worth(s.o.Log)}
	lim := web.Limits{Connections: 4096} // 400 nodes that read with all they have (firstboot/blobs)
	return httpService(web.Server(s.web, lim, s.o.Log), web.Listen(ln, lim)), nil
}

func (s *Server) openNode(ctx context.Context) (service, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp4", s.address(s.o.Ports.Node))
	if err != nil {
		return service{}, busy("enrolment", err)
	}
	lim := web.Limits{Idle: 2 * handoff.Patience}
	srv := web.Server(s.o.Seed.Node(), lim, s.o.Log)
	srv.ReadTimeout, srv.WriteTimeout = time.Minute, 2*time.Minute // a config is four megabytes at most
	return httpService(srv, tls.NewListener(web.Listen(ln, lim), s.o.Seed.TLS(s.o.Wire.Addr.Addr()))), nil
}

func (s *Server) openTFTP(ctx context.Context) (service, error) {
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, "udp4", s.address(69))
	if err != nil {
		return service{}, busy("TFTP", err)
	}
	s.tftp = &tftp.Server{Files: s.o.Boot.TFTP(), Events: s.onTFTP, Log: worth(s.o.Log)}
	return service{close: pc.Close, run: func(ctx context.Context) error { return s.tftp.Serve(ctx, pc) }}, nil
}

// openNTP serves time unless this computer does already.
func (s *Server) openNTP(ctx context.Context) (service, error) {
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, "udp4", s.address(123))
	if err != nil {
		s.say("", "port 123 is taken (%v): nodes take the time from whoever has it", err)
		return service{}, nil
	}
	n := &ntp.Server{}
	return service{close: pc.Close, run: func(ctx context.Context) error { return n.Serve(ctx, pc) }}, nil
}

func (s *Server) openDHCP(ctx context.Context) (service, error) {
	spec := s.o.Cluster.Spec.Seed.DHCP
	if spec.Mode == configs.DHCPOff {
		s.setMode(Off, nil)
		s.say("", "%s", "spec.seed.dhcp.mode is off: the site's DHCP server has to name this seed")
		return service{}, nil
	}
	conns, err := pxe.Listen(ctx, s.o.Wire.Name)
	if err != nil {
		return service{}, busy("DHCP", err)
	}
	sv, err := s.prepareDHCP(ctx, conns, spec)
	if err != nil {
		return service{}, errors.Join(err, conns.Close())
	}
	return sv, nil
}

func (s *Server) prepareDHCP(ctx context.Context, conns pxe.Conns, spec configs.SeedDHCP) (service, error) {
	m, text, foreign, err := mode(ctx, s.o.Wire, spec, conns)
	if err != nil {
		return service{}, err
	}
	nobody := m == Proxy && spec.Mode == configs.DHCPAuto && conns.Client != nil && len(foreign) == 0
	s.mu.Lock()
	s.nobody = nobody
	s.mu.Unlock()
	s.setMode(m, foreign)
	s.say("", "%s", text)
	d := &pxe.Server{Proxy: pxe.NewProxy(s.o.Wire.Addr.Addr(), s.decide), Self: s.o.Wire.MAC, Who: pxe.ARPTable(s.o.Wire.Name),
		Event: s.o.Seed.Observe, Seek: nobody, Foreign: func(f pxe.Foreign) { s.setMode(s.modeNow(), []pxe.Foreign{f}) }}
	if m == Full {
		n, err := network(s.o.Wire, spec)
		if err != nil {
			return service{}, err
		}
		var options []pxe.DHCPOption
		if probe, err := pxe.ARPProbe(s.o.Wire.Name); err != nil {
			s.say("", "addresses are not probed before they are given: %v", err)
		} else {
			options = append(options, pxe.WithConflict(probe))
		}
		if d.Full, err = pxe.NewDHCP(n, s.o.Seed.Leases(), s.decide, options...); err != nil {
			return service{}, err
		}
	}
	s.mu.Lock()
	s.dhcp = d
	s.mu.Unlock()
	return service{close: conns.Close, run: func(ctx context.Context) error { return d.Serve(ctx, conns) }}, nil
}

func (s *Server) modeNow() Mode {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mode
}

func (s *Server) setMode(m Mode, foreign []pxe.Foreign) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mode = m
	for _, f := range foreign {
		if i := slices.IndexFunc(s.foreign, func(o pxe.Foreign) bool { return o.ID == f.ID }); i >= 0 {
			s.foreign[i] = f // heard before, by the probe
			continue
		}
		s.foreign = append(s.foreign, f)
	}
}

// decide asks what a machine boots, and whether it is of this site: that one
// gets its address whatever strangers do.
func (s *Server) decide(m pxe.Machine) pxe.Boot {
	b := s.o.Boot.Decide(m)
	b.Known = s.Known(m)
	if disk, ok := s.Local(m); ok && m.Netboot() {
		return pxe.Boot{Local: true, Known: true, Reason: "installed on disk " + disk}
	}
	return b
}

// say records what the seed itself does.
func (s *Server) say(code, format string, args ...any) {
	s.o.Seed.Record(seed.Step{Stage: seed.StageSeed, Code: code, Text: fmt.Sprintf(format, args...)})
}
