package firstboot

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/control"
)

// Asks says that a verb is for PID 1 to do, and not to be read from its files.
func Asks(verb string) bool { return verb == "upgrade" }

// answering answers what is asked on the node itself, once the node is Ready.
func (n *Node) answering(ctx context.Context) {
	if err := control.Serve(ctx, control.Path, n.asked); err != nil {
		n.Report.Error("control", "", err, nil)
	}
}

// asked does what somebody who is root on the node wants.
func (n *Node) asked(ctx context.Context, r control.Request, tell func(handoff.Event)) error {
	n.asking.Store(&tell)
	defer n.asking.Store(nil)
	switch r.Verb {
	case "upgrade":
		w, err := parseUpgrade(r.Args)
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
	return fmt.Errorf("%q: PID 1 of this node does not know it", r.Verb)
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
