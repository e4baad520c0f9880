package firstboot

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/netconf"
	"slipway.dev/slipway/firstboot/report"
	"slipway.dev/slipway/images/layout"
)

// maxManifest bounds manifest.json; one for 100 GB of blobs has 2 MB.
const maxManifest = 64 << 20

// findSeed takes the bundle from slipway.store= instead of a medium. The
// signature is verified with the key in the initramfs, as on a medium: whoever
// answers can refuse to serve, and nothing else.
func (n *Node) findSeed(ctx context.Context, key ed25519.PublicKey) error {
	if err := n.earlyNetwork(ctx); err != nil {
		return err
	}
	n.seed = n.newSeed(n.Cmdline.Store)
	m, err := n.seedManifest(ctx, key)
	if err != nil {
		return err
	}
	if err := n.useStore(m, n.seed); err != nil {
		return err
	}
	n.done(fmt.Sprintf("bundle %q serial %d, Kubernetes %s, from %s", m.Name, m.Serial, m.Kubernetes, n.seed.Base),
		map[string]any{"store": n.seed.Base, "bundle": m.Name, "serial": m.Serial, "blobs": len(m.Blobs)})
	return nil
}

func (n *Node) newSeed(base string) *blobs.Seed {
	var told atomic.Int64 // seconds
	return blobs.NewSeed(base, func(cause error) {
		if now, last := time.Now().Unix(), told.Load(); now-last > 5 && told.CompareAndSwap(last, now) {
			n.Report.Emit(handoff.Event{Phase: "medium", Step: "wait", State: handoff.Running, Text: "waiting for the seed: " + cause.Error()})
		}
	})
}

func (n *Node) seedManifest(ctx context.Context, key ed25519.PublicKey) (*lock.Manifest, error) {
	fail := func(err error) error {
		return report.Fail("SW-SEED-MANIFEST", "check that the seed runs and serves this bundle's netboot files at slipway.store=; the node goes on asking",
			fmt.Errorf("%s: %w", n.seed.Base, err))
	}
	raw, err := n.seed.Get(ctx, layout.Manifest, maxManifest)
	if err != nil {
		return nil, fail(err)
	}
	sig, err := n.seed.Get(ctx, layout.Signature, ed25519.SignatureSize)
	if err != nil {
		return nil, fail(err)
	}
	m, err := lock.Open(key, raw, sig)
	if err != nil {
		return nil, report.Fail("SW-MEDIUM-REFUSED", "serve the netboot files that this kernel and initramfs came with: both come from one build", err)
	}
	return m, nil
}

// earlyNetwork asks DHCP on all cards before there is a config that says otherwise.
func (n *Node) earlyNetwork(ctx context.Context) error {
	if n.net == nil {
		life, stop := context.WithCancel(n.life)
		m, err := netconf.Start(life, netconf.Options{
			Resolv: resolv,
			Report: func(e handoff.Event) {
				e.Phase = "network"
				n.Report.Emit(e)
			},
			Load: func(module string) error { return n.drivers.get().Load(module) },
		})
		if err != nil {
			stop()
			return err
		}
		n.net, n.noNet = m, stop
	}
	if _, err := n.net.Wait(ctx); err != nil {
		return report.Fail("SW-NET-NONE", "check cables, switch port and DHCP server; the node goes on trying", err)
	}
	return nil
}

// fetchConfig reads NoCloud's files from a URL that ends in "/". All but
// user-data may be missing.
func (n *Node) fetchConfig(ctx context.Context, url string) (raw, error) {
	if err := n.earlyNetwork(ctx); err != nil {
		return raw{}, err
	}
	s := n.newSeed(strings.TrimRight(url, "/"))
	r := raw{source: url, files: map[string][]byte{}}
	for _, name := range nocloudFiles {
		b, err := s.Get(ctx, name, maxConfig)
		if blobs.IsNotFound(err) && name != "user-data" {
			continue
		}
		if err != nil {
			return raw{}, report.Fail("SW-CONFIG-URL", "check that the server is up and has the file; the node goes on asking", err)
		}
		r.files[name] = b
	}
	return r, nil
}
