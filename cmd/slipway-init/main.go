// Command slipway-init is PID 1 of a node. Under the name modprobe it loads
// modules for the kernel, under the name slipway it shows people what the node
// does, or becomes the operator's tool for all other verbs; with the argument poweroff or reboot it asks PID 1 to end the machine.
//
// It holds no logic: package firstboot does.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"slipway.dev/slipway/firstboot"
	"slipway.dev/slipway/firstboot/control"
	"slipway.dev/slipway/firstboot/status"
	"slipway.dev/slipway/images/layout"
)

func main() {
	switch {
	case filepath.Base(os.Args[0]) == "modprobe":
		exit(firstboot.Modprobe(os.Args[1:]))
	case os.Getpid() == 1:
		boot()
	case filepath.Base(os.Args[0]) == "slipway":
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		if r, ok := firstboot.Asked(os.Args[1:]); ok {
			exit(control.Ask(ctx, control.Path, r, os.Stdout))
		}
		if args, ok := status.Operator(os.Args[1:]); ok {
			exit(syscall.Exec("/"+layout.Tool, append([]string{"slipway"}, args...), os.Environ()))
		}
		exit(firstboot.Status().Run(ctx, os.Args[1:], os.Stdout))
	case len(os.Args) == 2 && os.Args[1] == "poweroff":
		exit(syscall.Kill(1, syscall.SIGTERM))
	case len(os.Args) == 2 && os.Args[1] == "reboot":
		exit(syscall.Kill(1, syscall.SIGINT))
	default:
		fmt.Fprintln(os.Stderr, "usage: slipway-init poweroff|reboot")
		os.Exit(2)
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "slipway-init:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// boot never returns: a PID 1 that ends is a kernel panic.
func boot() {
	debug.SetGCPercent(50) // a small heap: memory belongs to the pods
	// The kernel gives PID 1 no PATH; commands of user-data are looked up in it.
	if err := os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"); err != nil {
		fmt.Fprintln(os.Stderr, "slipway-init:", err)
	}
	sig := make(chan os.Signal, 4)
	signal.Notify(sig, syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPWR)
	ctx, cancel := context.WithCancel(context.Background())
	n := firstboot.New(ctx)
	ended := make(chan struct{})
	go func() {
		firstboot.Run(ctx, n)
		close(ended)
	}()
	power := firstboot.Off // SIGTERM, SIGPWR, SIGUSR1 and SIGUSR2 as busybox init has it; slipway.until
	select {
	case s := <-sig:
		if s == syscall.SIGINT { // Ctrl-Alt-Del (reboot(2))
			power = firstboot.Reboot
		}
	case <-ended:
	}
	n.Shutdown(power)
	cancel()
	select {}
}
