package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway.dev/slipway/images/layout"
)

// ackDelay is what a firmware's ACK costs on a quiet gigabit LAN.
const ackDelay = 300 * time.Microsecond

// measureWire compares the seed's TFTP and HTTP servers with those that people
// run. All servers, and the medium, are on loopback and in the page cache.
func (w *work) measureWire(ctx context.Context) ([]*comparison, *pulls, error) {
	m, err := makeSample(ctx, w.at("wire"))
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(m.root)
	tftp, err := w.compareTFTP(ctx, m)
	if err != nil {
		return nil, nil, err
	}
	web, err := w.compareHTTP(ctx, m)
	if err != nil {
		return nil, nil, err
	}
	p, err := w.pull(ctx, m)
	return append(tftp, web...), p, err
}

func (w *work) compareTFTP(ctx context.Context, m sample) (all []*comparison, err error) {
	ours, err := w.startOurs(ctx, "slipway", m.iso)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ours.end()) }()
	root := filepath.Join(m.dir, layout.Netboot)
	for _, start := range []func(context.Context, string) (*server, error){w.startTftpdHPA, w.startDnsmasq} {
		peer, err := start(ctx, root)
		if err != nil {
			return nil, err
		}
		for _, c := range []struct {
			what   string
			window int
			goal   float64
		}{{"TFTP as OVMF asks, windowsize 4", 4, 3}, {"TFTP without a window", 0, 0}} {
			cmp := &comparison{What: fmt.Sprintf("%s, 0.3 ms per ACK, against %s", c.what, peer.name), Bytes: loader, Goal: c.goal,
				Ours: tftpSide(ours, c.window), Peer: tftpSide(peer, c.window)}
			if !w.match.MatchString(cmp.What) {
				continue
			}
			if err := cmp.alternate(ctx, 5); err != nil {
				return nil, errors.Join(err, peer.end())
			}
			all = append(all, cmp)
		}
		if err := peer.end(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func tftpSide(s *server, window int) side {
	return side{Name: s.name, do: func(context.Context) (usage, error) {
		return s.measured(func() error {
			b, err := fetchTFTP(tftpRequest{server: s.tftp, name: "shimx64.efi", block: 1468, window: window, ack: ackDelay, wait: time.Second, tries: 5})
			if err == nil && len(b) != loader {
				err = fmt.Errorf("%d bytes of %d", len(b), loader)
			}
			return err
		})
	}}
}

// load is what clients ask of a web server at a time.
type load struct {
	what    string
	clients int
	each    int // times a client asks
	piece   int64
	path    string
	size    int64
}

func (w *work) compareHTTP(ctx context.Context, m sample) (all []*comparison, err error) {
	peer, err := w.startNginx(ctx, m.root)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, peer.end()) }()
	blob, early := m.path(m.large), "/amd64/boot/initrd.img"
	blobs := []load{
		{"whole blob, 1 client", 1, 8, 0, blob, largeBlob}, {"whole blob, 16 clients", 16, 1, 0, blob, largeBlob},
		{"ranges of 1 MiB, 1 client", 1, 2048, 1 << 20, blob, largeBlob}, {"ranges of 1 MiB, 16 clients", 16, 256, 1 << 20, blob, largeBlob},
	}
	memory := []load{{"initramfs, 1 client", 1, 48, 0, early, initramfs}, {"initramfs, 16 clients", 16, 6, 0, early, initramfs}}
	for _, c := range []struct {
		name, medium string
		loads        []load
	}{{"slipway, from the ISO", m.iso, append(blobs, memory...)}, {"slipway, from a directory", m.dir, blobs}} {
		ours, err := w.startOurs(ctx, c.name, c.medium)
		if err != nil {
			return nil, err
		}
		for _, l := range c.loads {
			cmp := &comparison{What: "HTTP, " + l.what, Bytes: l.bytes(), Goal: 0.9, Ours: webSide(ours, l), Peer: webSide(peer, l)}
			if !w.match.MatchString(cmp.What) {
				continue
			}
			if err := cmp.alternate(ctx, 5); err != nil {
				return nil, errors.Join(err, ours.end())
			}
			all = append(all, cmp)
		}
		if err := ours.end(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (l load) bytes() int64 {
	each := l.piece
	if each == 0 {
		each = l.size
	}
	return int64(l.clients) * int64(l.each) * each
}

func webSide(s *server, l load) side {
	return side{Name: s.name, do: func(context.Context) (usage, error) { return s.measured(func() error { return l.run(s.http) }) }}
}

// run lets every client fetch at once, each on a connection that it keeps.
func (l load) run(server string) error {
	var g errgroup.Group
	for i := range l.clients {
		g.Go(func() error {
			c, err := dialWeb(server, i)
			if err != nil {
				return err
			}
			defer c.conn.Close()
			for n := range int64(l.each) {
				want, off := l.size, int64(0)
				if l.piece > 0 {
					want, off = l.piece, (int64(i)*7+n)*l.piece%l.size
				}
				if got, err := c.get(l.path, off, l.piece, io.Discard); err != nil || got != want {
					return fmt.Errorf("%s: %d bytes of %d: %w", l.path, got, want, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// nodes are how many fetch at the same time, from an address each.
const nodes = 100

// pulls is what a hundred simultaneous ones did to the server.
type pulls struct {
	usage
	Nodes  int   `json:"nodes"`
	Right  int   `json:"rightHashes"`
	Bytes  int64 `json:"bytes"` // of the blob
	Before int64 `json:"residentBytesBefore"`
	After  int64 `json:"residentBytesAfter"`
}

// pull lets a hundred nodes fetch the same blob whole at once, and hash it.
func (w *work) pull(ctx context.Context, m sample) (p *pulls, err error) {
	if !w.match.MatchString("pulls") {
		return nil, nil
	}
	ours, err := w.startOurs(ctx, "slipway", m.iso)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ours.end()) }()
	pid := strconv.Itoa(ours.cmd.Process.Pid)
	if err := (load{clients: 1, each: 1, path: m.path(m.small), size: smallBlob}).run(ours.http); err != nil {
		return nil, err
	}
	p = &pulls{Nodes: nodes, Bytes: smallBlob, Before: memory(pid, "VmRSS")}
	if err := os.WriteFile("/proc/"+pid+"/clear_refs", []byte("5"), 0); err != nil { // resets VmHWM
		return nil, err
	}
	hashes := make([]string, nodes)
	p.usage, err = ours.measured(func() error {
		var g errgroup.Group
		for i := range hashes {
			g.Go(func() error {
				c, err := dialWeb(ours.http, i+1)
				if err != nil {
					return err
				}
				defer c.conn.Close()
				h := sha256.New()
				_, err = c.get(m.path(m.small), 0, 0, h)
				hashes[i] = fmt.Sprintf("%x", h.Sum(nil))
				return err
			})
		}
		return g.Wait()
	})
	if err != nil {
		return nil, err
	}
	for _, h := range hashes {
		if h == string(m.small.SHA256) {
			p.Right++
		}
	}
	p.After = memory(pid, "VmRSS")
	mb := func(n int64) float64 { return float64(n) / 1e6 }
	fmt.Printf("%d simultaneous pulls of %.0f MB: %d hashes right, %.1f s, %.2f s of CPU; resident before %.1f MB, peak %.1f MB, after %.1f MB\n",
		p.Nodes, mb(p.Bytes), p.Right, p.Seconds, p.CPU, mb(p.Before), mb(p.Peak), mb(p.After))
	if p.Right < nodes {
		return p, fmt.Errorf("%d of %d pulls have another hash than %s", nodes-p.Right, nodes, m.small.SHA256)
	}
	return p, nil
}
