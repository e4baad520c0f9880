package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/spf13/cobra"
)

// app is what every verb shares: where to write and what was asked globally.
type app struct {
	out, err io.Writer
	verbose  bool
	cacheDir string
	output   string // text or json: what stdout carries

	telling sync.Mutex // see tell
}

// tell writes a line to stderr while something else may do so, too.
func (a *app) tell(line string) {
	a.telling.Lock()
	defer a.telling.Unlock()
	fmt.Fprintln(a.err, line)
}

// usageError is the user's mistake on the command line: exit code 2.
type usageError struct{ error }

// run executes one command line and returns the exit code: 0 done, 1 the
// command's own failure, 2 a wrong command line, 130 interrupted.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	a := &app{out: out, err: errOut}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(errOut, "slipway: interrupted")
		return 130
	case errors.As(err, &usage):
		fmt.Fprintf(errOut, "slipway: %v\n", err)
		return 2
	}
	fmt.Fprintf(errOut, "slipway: %v\n", err)
	for _, h := range hints(err) {
		fmt.Fprintf(errOut, "hint: %s\n", h)
	}
	return 1
}

// hints collects what the errors of a chain suggest to do next.
func hints(err error) (out []string) {
	var h interface{ Hint() string }
	if errors.As(err, &h) && h.Hint() != "" {
		out = append(out, h.Hint())
	}
	return out
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "slipway",
		Short:         "Powered-off servers to a Kubernetes cluster, without the internet",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.output != "text" && a.output != "json" {
				return usageError{fmt.Errorf("--output %q: want text or json", a.output)}
			}
			if a.cacheDir != "" {
				return nil
			}
			dir, err := os.UserCacheDir()
			if err != nil {
				return usageError{fmt.Errorf("%w (or give --cache DIR)", err)}
			}
			a.cacheDir = filepath.Join(dir, "slipway")
			return nil
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "say every step and command that is run")
	root.PersistentFlags().StringVar(&a.cacheDir, "cache", "", "directory for downloads and built programs (default: slipway below the user's cache directory)")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "text", "what stdout carries: text or json")
	root.AddCommand(a.newCommand(), a.checkCommand(), a.lockCommand(), a.fetchCommand(), a.verifyCommand(), a.planCommand(),
		a.buildCommand(), a.keygenCommand(), a.schemaCommand(), a.demoCommand(), manCommand(root))
	root.AddCommand(a.serveCommand(), a.nodesCommand(), a.disksCommand(), a.statusCommand(), a.eventsCommand(), a.approveCommand(), a.rejectCommand(), a.assignCommand(),
		a.upgradeCommand(), a.reimageCommand(), a.removeCommand(), a.withdrawCommand(), a.undoWipeCommand(), a.armCommand(), a.kubeconfigCommand(), a.logsCommand(), a.supportCommand())
	return root
}

// show prints a result: as JSON, or as text does it.
func (a *app) show(result any, text func()) error {
	if a.output != "json" {
		text()
		return nil
	}
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	return e.Encode(result)
}

func (a *app) logger() *slog.Logger { return a.loggerTo(a.err) }

func (a *app) loggerTo(w io.Writer) *slog.Logger {
	level := slog.LevelInfo
	if a.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, at slog.Attr) slog.Attr {
		if at.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return at
	}}))
}

// noArgs refuses positional arguments as a usage error.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no arguments, got %q", cmd.CommandPath(), args[0])}
	}
	return nil
}
