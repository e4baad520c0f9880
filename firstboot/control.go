package firstboot

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/control"
	"slipway.dev/slipway/firstboot/report"
)

// verbReset is a verb of the control socket and of the node's slipway.
const verbReset = "reset"

// Asked is what a command line of the node's slipway asks of PID 1. A line with
// another machine's name is the operator's tool's.
func Asked(args []string) (r control.Request, ok bool) {
	if len(args) == 0 || args[0] != verbReset || slices.ContainsFunc(args[1:], func(a string) bool { return !strings.HasPrefix(a, "-") || a == "--help" }) {
		return r, false
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
	if r.Verb == verbReset {
		return n.resetAsked(ctx, r.Args, tell)
	}
	return report.Fail("SW-CONTROL-VERB", "slipway --help", fmt.Errorf("%q: not known here", r.Verb))
}
