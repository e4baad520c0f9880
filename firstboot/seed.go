package firstboot

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/blobs"
	"slipway.dev/slipway/firstboot/enrol"
	"slipway.dev/slipway/firstboot/install"
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
	b, err := manifestFrom(ctx, n.seed, key)
	if err != nil {
		return err
	}
	m := b.Manifest
	if err := n.useBundle(b); err != nil {
		return err
	}
	n.done(fmt.Sprintf("bundle %q serial %d, Kubernetes %s, from %s", m.Name, m.Serial, m.Kubernetes, n.seed.Base),
		map[string]any{"store": n.seed.Base, "bundle": m.Name, "serial": m.Serial, "blobs": len(m.Blobs)})
	return nil
}

func (n *Node) newSeed(base string) *blobs.Seed { return n.seedFor("medium", base) }

// seedFor is a source whose waiting is told in a phase.
func (n *Node) seedFor(phase, base string) *blobs.Seed {
	var w outage
	return blobs.NewSeed(base, func(cause error) {
		if w.worthALine(time.Now()) {
			n.Report.Emit(handoff.Event{Phase: phase, Step: "wait", State: handoff.Running, Text: "waiting for the seed: " + cause.Error(),
				Code: enrol.CodeAway, Hint: enrol.HintAway})
		}
	})
}

// outage is what was said of a seed that does not answer.
type outage struct {
	mu          sync.Mutex
	heard, told time.Time
}

// worthALine says whether a request that failed is told: the first after some that
// did not, and one a minute.
func (o *outage) worthALine(now time.Time) bool {
	const quiet, again = 45 * time.Second, time.Minute // a request may take 30 s to fail
	o.mu.Lock()
	defer o.mu.Unlock()
	tell := now.Sub(o.heard) > quiet || now.Sub(o.told) >= again
	o.heard = now
	if tell {
		o.told = now
	}
	return tell
}

// manifestFrom reads the manifest that a seed serves, and verifies it.
func manifestFrom(ctx context.Context, s *blobs.Seed, key ed25519.PublicKey) (install.Bundle, error) {
	fail := func(err error) error {
		return report.Fail("SW-SEED-MANIFEST", "check that the seed runs and serves this bundle's netboot files at slipway.store=; the node goes on asking",
			fmt.Errorf("%s: %w", s.Base, err))
	}
	raw, err := s.Get(ctx, layout.Manifest, maxManifest)
	if err != nil {
		return install.Bundle{}, fail(err)
	}
	sig, err := s.Get(ctx, layout.Signature, ed25519.SignatureSize)
	if err != nil {
		return install.Bundle{}, fail(err)
	}
	m, err := lock.Open(key, raw, sig)
	if err != nil {
		return install.Bundle{}, report.Fail("SW-MEDIUM-REFUSED", "serve the netboot files that this kernel and initramfs came with: both come from one build", err)
	}
	return install.Bundle{Manifest: m, Raw: raw, Signature: sig, From: s}, nil
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

// enrolled takes the config from the seed of slipway.seed=, and from nowhere
// else: a volume that is plugged in changes nothing. Waiting for approval has no
// limit.
func (n *Node) enrolled(ctx context.Context) error {
	if n.Cmdline.Config != "" {
		return report.Fail("SW-CMDLINE", "leave one of them out of the boot entry", errors.New("slipway.seed= and slipway.config= (or ds=nocloud) both say where the config is"))
	}
	if n.enrol == nil {
		c, err := enrol.New(n.Cmdline.Seed, n.Cmdline.Pin, n.seedEvent())
		if err != nil {
			return err
		}
		if n.Cmdline.Reimage != "" {
			if err := c.Token(n.Cmdline.Reimage); err != nil {
				return err
			}
		}
		n.enrol = c
	}
	facts, err := n.facts(ctx)
	if err != nil {
		return err
	}
	conf, err := n.enrol.Enrol(ctx, facts)
	if err != nil {
		n.forgetNoted(ctx)
		return err
	}
	n.followSeed(n.enrol.Offset())
	r, err := n.take(conf)
	if err != nil {
		return err
	}
	if err := r.store(); err != nil {
		return err
	}
	// A node that is installed takes it when its disk has it.
	if !n.installs() {
		if err := n.enrol.Taken(ctx); err != nil {
			return err
		}
	}
	n.done(fmt.Sprintf("from the seed %s, as %s", n.Cmdline.Seed, conf.Name), map[string]any{"source": n.Cmdline.Seed})
	return nil
}

// seedEvent reports what the conversation says. Events go to the seed from the
// moment that it knows this machine.
func (n *Node) seedEvent() func(handoff.Event) {
	var known sync.Once
	return func(e handoff.Event) {
		n.Report.Emit(e)
		if e.Step == "code" && e.State == handoff.Running {
			known.Do(func() { n.own("config", "events", func(ctx context.Context) { n.enrol.Events(ctx, n.sink) }) })
		}
	}
}

// facts are this machine's, once it has an address.
func (n *Node) facts(ctx context.Context) (handoff.Facts, error) {
	ctx, cancel := context.WithTimeout(ctx, netconf.Patience)
	defer cancel()
	if err := n.earlyNetwork(ctx); err != nil {
		return handoff.Facts{}, err
	}
	addresses, err := n.net.Wait(ctx)
	if err != nil {
		return handoff.Facts{}, err
	}
	_ = n.drivers.get().Load("efivarfs") // without it Secure Boot is told from the boot parameters
	_ = unix.Mount("efivarfs", "/sys/firmware/efi/efivars", "efivarfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	f := enrol.Gather("/")
	f.Arch, f.Boot, f.Medium = n.Manifest.Arch, strings.ToLower(addresses[0].MAC), "iso"
	if n.seed != nil {
		f.Medium = "network"
	}
	f.Bundle = fmt.Sprintf("%s %d", n.Manifest.Name, n.Manifest.Serial)
	return f, nil
}

// take understands what the seed gave out.
func (n *Node) take(conf handoff.Config) (raw, error) {
	r := raw{source: "seed " + n.Cmdline.Seed, files: map[string][]byte{}}
	for _, name := range nocloudFiles {
		if s, ok := conf.Files[name]; ok {
			r.files[name] = []byte(s)
		}
	}
	err := n.parse(r)
	if err == nil {
		name := shortName(cmp.Or(n.User.Hostname, n.User.FQDN, n.Meta.LocalHostname))
		if name == "" {
			name, n.Meta.LocalHostname = conf.Name, conf.Name
		}
		if name != conf.Name {
			err = fmt.Errorf("the node is called %q in its config and %q at the seed", name, conf.Name)
		}
	}
	if err != nil {
		err = report.Fail("SW-CONFIG-INVALID", "correct cluster.yaml at the seed; the node asks again by itself", fmt.Errorf("%s: %w", r.source, err))
	}
	return r, err
}
