package firstboot

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/control"
	"slipway.dev/slipway/firstboot/report"
)

// Verbs of the control socket and of the node's slipway.
const (
	verbReset   = "reset"
	verbUpgrade = "upgrade"
)

// Asked is what a command line of the node's slipway asks of PID 1. A line with
// another machine's name is the operator's tool's.
func Asked(args []string) (r control.Request, ok bool) {
	if len(args) == 0 || args[0] != verbReset && args[0] != verbUpgrade || slices.Contains(args, "--help") {
		return r, false
	}
	for i, a := range args[1:] {
		url := args[0] == verbUpgrade && (strings.Contains(a, "/") || args[i] == "--limit")
		if !strings.HasPrefix(a, "-") && !url {
			return r, false
		}
	}
	return control.Request{Verb: args[0], Args: args[1:]}, true
}

// takeRequests answers on the control socket from here on: disk and config are known.
func (n *Node) takeRequests() {
	n.own("services", "control", func(ctx context.Context) {
		if err := control.Serve(ctx, control.Path, n.asked); err != nil {
			n.Report.Error("services", "control", report.Fail("SW-CONTROL", "start the node again to use slipway reset and slipway upgrade on it", err), nil)
		}
	})
}

// asked does what was asked on the control socket.
func (n *Node) asked(ctx context.Context, r control.Request, tell func(handoff.Event)) error {
	switch r.Verb {
	case verbReset:
		return n.resetAsked(ctx, r.Args, tell)
	case verbUpgrade:
		return n.upgradeAsked(ctx, r.Args, tell)
	}
	return report.Fail("SW-CONTROL-VERB", "slipway --help", fmt.Errorf("%q: not known here", r.Verb))
}

// upgradeAsked is `slipway upgrade` on the node.
func (n *Node) upgradeAsked(ctx context.Context, args []string, tell func(handoff.Event)) error {
	n.asking.Store(&tell)
	defer n.asking.Store(nil)
	w, err := parseUpgrade(args)
	if err != nil {
		return err
	}
	if err := n.upgrade(ctx, w); err != nil {
		if errors.Is(err, errCurrent) {
			return fmt.Errorf("%s: %w", title(n.Manifest), err)
		}
		return err
	}
	n.own(upgradePhase, "kexec", func(context.Context) { n.leave(Kexec) })
	return nil
}

// leave ends the machine when whoever asked has heard that it is going to.
func (n *Node) leave(p Power) {
	time.Sleep(time.Second)
	n.end(p)
}

const upgradeUsage = "usage: slipway upgrade [URL] [--limit DURATION]\n" +
	"  takes the bundle of the slipway medium that is plugged in, or of the seed at URL,\n" +
	"  into the other slot and starts it; not Ready within DURATION (20m), it goes back"

func parseUpgrade(args []string) (wanted, error) {
	f := flag.NewFlagSet("upgrade", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	var w wanted
	f.DurationVar(&w.limit, "limit", trialLimit, "")
	var rest []string
	for len(args) > 0 { // flags may come after the URL
		if err := f.Parse(args); err != nil {
			return w, fmt.Errorf("%w\n%s", err, upgradeUsage)
		}
		if args = f.Args(); len(args) > 0 {
			rest, args = append(rest, args[0]), args[1:]
		}
	}
	switch {
	case len(rest) > 1:
		return w, fmt.Errorf("%q: one source at most\n%s", rest[1], upgradeUsage)
	case len(rest) == 1:
		w.source = rest[0]
	}
	if w.source != "" && !strings.HasPrefix(w.source, "http://") && !strings.HasPrefix(w.source, "https://") {
		return w, fmt.Errorf("%q: want a URL, or nothing for the medium that is plugged in\n%s", w.source, upgradeUsage)
	}
	if w.limit < time.Minute {
		return w, fmt.Errorf("--limit %s: want a minute at least\n%s", w.limit, upgradeUsage)
	}
	return w, nil
}
