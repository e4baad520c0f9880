package kubeadm

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/kubeadm/api"
	"slipway.dev/slipway/firstboot/report"
)

// poll is how often the API server is asked; a request costs it a few milliseconds.
const poll = 500 * time.Millisecond

// session is one conversation with the node's API server, which may not be
// there yet. One goroutine uses it.
type session struct {
	Runner
	node Node
	own  bool // with kubelet's certificate: a worker has no other
	api  *api.Client
}

func (r Runner) session(n Node) *session { return &session{Runner: r, node: n} }

// applyAll applies files in order, waiting for an API server that is not there yet.
func (s *session) applyAll(ctx context.Context, step string, files map[string][]byte, names []string) error {
	s.Report(handoff.Event{Step: step, State: handoff.Started, Text: strings.Join(names, ", ")})
	err := func() error {
		for _, name := range names {
			list, err := api.Objects(files[name])
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			for _, o := range list {
				if err := s.until(ctx, step, func(c *api.Client) (string, error) { return "", c.Apply(ctx, o) }); err != nil {
					return fmt.Errorf("applying %s: %s: %w", name, o, err)
				}
			}
		}
		return nil
	}()
	if err != nil {
		s.Report(handoff.Event{Step: step, State: handoff.Failed, Text: err.Error()})
		return report.Fail("SW-APPLY-"+strings.ToUpper(step), "", err)
	}
	s.Report(handoff.Event{Step: step, State: handoff.Done})
	return nil
}

// ready waits for the node and its system pods, saying what is missing whenever that changes.
func (s *session) ready(ctx context.Context) error {
	s.Report(handoff.Event{Step: "ready", State: handoff.Started, Text: "waiting for node " + s.node.Name + " and its system pods"})
	start, err := s.start()
	if err == nil {
		err = s.until(ctx, "ready", func(c *api.Client) (string, error) {
			ask := c.Missing
			if s.own {
				ask = c.MissingOwn
			}
			m, err := ask(ctx, s.node.Name, start)
			return strings.Join(m, "; "), err
		})
	}
	if err != nil {
		s.Report(handoff.Event{Step: "ready", State: handoff.Failed, Text: err.Error()})
		return report.Fail("SW-READY", "The text names what is not ready and why.", fmt.Errorf("waiting for node %q: %w", s.node.Name, err))
	}
	s.Report(handoff.Event{Step: "ready", State: handoff.Done, Text: "node " + s.node.Name + " is Ready",
		Data: map[string]any{"node": s.node.Name, "address": s.node.Address.String(), "version": s.node.KubernetesVersion}})
	return nil
}

// tasks is where containerd 2 has a directory for each of kubelet's containers that
// runs. It is in memory: none is from before this start.
const tasks = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"

// start is this start of the machine as kubelet will report it.
func (s *session) start() (api.Start, error) {
	id, err := os.ReadFile(s.at("/proc/sys/kernel/random/boot_id"))
	return api.Start{BootID: strings.TrimSpace(string(id)), Runs: func(id string) bool { return exists(s.at(filepath.Join(tasks, filepath.Base(id)))) }}, err
}

// until repeats try until it returns neither a text (what is missing) nor an
// error, an error that cannot pass, or Patience ends.
func (s *session) until(ctx context.Context, step string, try func(*api.Client) (string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, s.Patience)
	defer cancel()
	last := ""
	for {
		var err error
		var text string
		if s.api == nil {
			s.api, err = s.connect()
		}
		if err == nil {
			text, err = try(s.api)
		}
		switch {
		case err == nil && text == "":
			return nil
		case err != nil && api.Final(err):
			return err
		case err != nil:
			text = err.Error()
		}
		if text != last && ctx.Err() == nil {
			last = text
			s.Log.Debug("waiting", "step", step, "for", text)
			if step == "ready" || step == "certificate" {
				s.Report(handoff.Event{Step: step, State: handoff.Running, Text: text})
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %s", ctx.Err(), last)
		case <-time.After(poll):
		}
	}
}

// connect uses super-admin.conf while it is there: admin.conf has no rights
// until kubeadm has bound its group, late in init.
func (s *session) connect() (*api.Client, error) {
	if s.own {
		raw, err := os.ReadFile(s.at(kubeletKubeconfig))
		if err != nil {
			return nil, err
		}
		return api.Open(raw, s.server, s.Root)
	}
	raw, err := os.ReadFile(s.at(superConf))
	if os.IsNotExist(err) {
		raw, err = os.ReadFile(s.at(adminConf))
	}
	if err != nil {
		return nil, err
	}
	server := s.server
	if server == "" {
		server = "https://" + net.JoinHostPort(s.node.Address.String(), fmt.Sprint(apiPort))
	}
	return api.Open(raw, server, s.Root)
}
