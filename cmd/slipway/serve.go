package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/medium"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/boot"
	"slipway.dev/slipway/pxe/seed/kube"
	"slipway.dev/slipway/pxe/seed/operator"
	"slipway.dev/slipway/pxe/seed/operator/table"
	"slipway.dev/slipway/pxe/seed/serve"
)

// serveFlags are those of the seed.
type serveFlags struct {
	seedFlags
	cluster, iface, pub, page string
	self, kubeconfig          string
	pageLAN                   bool
	ports                     serve.Ports
	kernel                    []string
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve ISO | NETBOOT-DIR ...",
		Short: "Be the seed: boot the machines of a LAN over the network and make them a cluster",
		Long: `Serve reads one medium per architecture in place and answers the machines on one
interface: DHCP or, beside another DHCP server, proxyDHCP; TFTP, HTTP and NTP;
and, over TLS, enrolment. It listens before it speaks and never gives an address
unless cluster.yaml names the subnet. A machine becomes a node when its code is
approved (slipway approve), or by the rule in cluster.yaml.

It keeps what it knows in the state directory and goes on there when it is
started again. The nodes need it no more once they are Ready.`,
		Example: `  slipway serve out/example-amd64.iso --cluster cluster.yaml
  slipway serve /dev/sdb --cluster site.yaml --interface eth1 --pub release.key.pub
  slipway serve amd64.iso arm64.iso --page ""`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("name the ISO, stick or netboot directory to serve")}
			}
			return a.serve(cmd.Context(), &f, args)
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.cluster, "cluster", "f", "cluster.yaml", "the site")
	fl.StringVarP(&f.iface, "interface", "i", "", "network interface of the machines (default: the only one that is up and has an address)")
	fl.StringVar(&f.pub, "pub", "", "public key that the media are signed with (default: that of the signing key in the user's config directory)")
	fl.StringVar(&f.page, "page", operator.PageAddress, `address of the read-only web page, "" for none`)
	fl.BoolVar(&f.pageLAN, "page-on-lan", false, "allow --page on an address that others reach")
	fl.IntVar(&f.ports.HTTP, "http-port", 80, "port of loaders and content")
	fl.IntVar(&f.ports.Node, "node-port", 8443, "port where nodes enrol, with TLS")
	fl.StringSliceVar(&f.kernel, "kernel-argument", nil, "further argument of every machine's kernel")
	f.register(cmd)
	fl.StringVar(&f.self, "self", "", "name of the node that this very machine is")
	fl.StringVar(&f.kubeconfig, "kubeconfig", "", "the admin's kubeconfig of this machine's own cluster, with --self")
	return cmd
}

func (a *app) serve(ctx context.Context, f *serveFlags, names []string) error {
	raw, err := os.ReadFile(f.cluster)
	if err != nil {
		return fmt.Errorf("%w (write one with: slipway new cluster)", err)
	}
	cluster, err := configs.ParseCluster(f.cluster, raw)
	if err != nil {
		return err
	}
	key, err := a.trusted(f.pub)
	if err != nil {
		return err
	}
	wire, err := serve.FindWire(f.iface)
	if err != nil {
		return err
	}
	media, done, err := openMedia(key, names)
	defer done()
	if err != nil {
		return err
	}
	if f.dir, err = f.stateOr(); err != nil {
		return err
	}
	screen := display(a.out)
	live, log := table.NewLive(a.out, screen), a.logger()
	if screen.Size != nil { // above the table, which it would tear
		log = a.loggerTo(live)
	}
	self := wire.Addr.Addr()
	web, k := netip.AddrPortFrom(self, uint16(f.ports.HTTP)), kube.New(log)
	o := seed.Options{Log: log, Kube: k, Address: wire.Addr, Store: func(a arch.Arch) string { return boot.Store(web, a) }}
	for _, m := range media {
		o.Media = append(o.Media, m.Manifest)
	}
	s, err := seed.Open(f.dir, cluster, o)
	if err != nil {
		return err
	}
	defer s.Close()
	p := newProgress(a.err)
	b, err := boot.New(ctx, media, boot.Options{
		HTTP: web, Seed: "https://" + netip.AddrPortFrom(self, uint16(f.ports.Node)).String(),
		Pin: s.Pin(), Extra: f.kernel, Progress: func(done, total int64) { p.Step("reading what machines boot", done, total) }})
	p.Done()
	if err != nil {
		return err
	}
	srv := serve.New(serve.Options{Wire: wire, Cluster: cluster, Seed: s, Boot: b, Nodes: k, Ports: f.ports, State: f.dir, Page: f.page, PageLAN: f.pageLAN, Self: f.self, Kubeconfig: f.kubeconfig, Log: log})
	return a.runSeed(ctx, srv, live)
}

// runSeed serves and shows the machines, until it is interrupted: the ordinary
// end of a seed.
func (a *app) runSeed(ctx context.Context, srv *serve.Server, live *table.Live) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return srv.Run(gctx) })
	g.Go(func() error { return live.Run(gctx, since(srv), nil) })
	err := g.Wait()
	if e := live.Close(); err == nil {
		err = e
	}
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		fmt.Fprintln(a.err, "the seed has stopped; nodes go on without it, and it goes on here when it is started again")
		return nil
	}
	return err
}

// since leaves out what earlier runs of the seed have printed.
func since(srv *serve.Server) table.Load {
	var before uint64
	steps, _ := srv.Steps(0)
	began := srv.Status().Started
	for _, st := range steps {
		if st.Time.Before(began) {
			before = st.Seq
		}
	}
	load := table.Of(srv)
	return func(ctx context.Context, after uint64) (table.Snapshot, error) { return load(ctx, max(after, before)) }
}

// openMedia opens the media and verifies their manifests, of which a combined
// one has several. done closes what was opened, with an error too.
func openMedia(key ed25519.PublicKey, names []string) (all []boot.Medium, done func(), err error) {
	var open []*medium.Medium
	done = func() {
		for _, m := range open {
			m.Close()
		}
	}
	for _, name := range names {
		m, err := medium.Open(name)
		if err != nil {
			return nil, done, fmt.Errorf("%s: %w", name, err)
		}
		open = append(open, m)
		parts, err := m.Parts()
		if err != nil {
			return nil, done, fmt.Errorf("%s: %w", name, err)
		}
		for _, part := range parts {
			man, err := part.Manifest(key)
			if err != nil {
				return nil, done, fmt.Errorf("%s: %w", name, err)
			}
			all = append(all, boot.Medium{Medium: part, Manifest: man})
		}
	}
	return all, done, nil
}
