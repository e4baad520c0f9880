// Command slipway builds, boots and watches offline Kubernetes bundles. One
// file per verb; this one only turns an error into an exit code.
//
// It holds no logic of its own: every verb is a call into a package.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
