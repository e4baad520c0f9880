package control

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/report"
)

// served answers with a handler until the test ends.
func served(t *testing.T, do Handler) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.sock")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, path, do) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	for {
		if fi, err := os.Stat(path); err == nil && fi.Mode().Perm() == 0o600 {
			return path
		}
	}
}

func TestAskAndServe(t *testing.T) {
	for name, c := range map[string]struct {
		do        Handler
		out, fail string
	}{
		"it goes well": {do: func(_ context.Context, r Request, tell func(handoff.Event)) error {
			tell(handoff.Event{Phase: "reset", Step: r.Verb, State: handoff.Running, Text: strings.Join(r.Args, " ")})
			return nil
		}, out: "reset: --yes really\n"},
		"it is refused": {do: func(context.Context, Request, func(handoff.Event)) error {
			return report.Fail("SW-RESET-CONSENT", "do that", errors.New("not so"))
		}, fail: "SW-RESET-CONSENT not so\n  next: do that"},
		"a step of it fails": {do: func(_ context.Context, _ Request, tell func(handoff.Event)) error {
			tell(handoff.Event{Phase: "reset", State: handoff.Failed, Code: "SW-X", Text: "no", Hint: "go"})
			return errors.New("gone wrong")
		}, out: "failed SW-X no\n  next: go\n", fail: "gone wrong"},
		"a fault of ours": {do: func(context.Context, Request, func(handoff.Event)) error { panic("oh") }, fail: "internal error: oh"},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			err := Ask(t.Context(), served(t, c.do), Request{"reset", []string{"--yes", "really"}}, &out)
			if got := out.String(); got != c.out {
				t.Errorf("printed %q, want %q", got, c.out)
			}
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != c.fail {
				t.Errorf("error %q, want %q", got, c.fail)
			}
		})
	}
}

func TestOneRequestAtATime(t *testing.T) {
	began, done := make(chan struct{}), make(chan struct{})
	path := served(t, func(_ context.Context, r Request, _ func(handoff.Event)) error {
		if r.Verb == "long" {
			close(began)
			<-done
		}
		return nil
	})
	long := make(chan error, 1)
	go func() { long <- Ask(context.Background(), path, Request{Verb: "long"}, os.Stderr) }()
	<-began
	if err := Ask(t.Context(), path, Request{Verb: "short"}, os.Stderr); err == nil || !strings.HasPrefix(err.Error(), "SW-CONTROL-BUSY") {
		t.Errorf("a second request meanwhile: %v", err)
	}
	close(done)
	if err := <-long; err != nil {
		t.Error(err)
	}
	if err := Ask(t.Context(), path, Request{Verb: "short"}, os.Stderr); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// What was begun goes on when the one who asked goes away.
func TestAskerGoes(t *testing.T) {
	began, gone, end := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	path := served(t, func(ctx context.Context, _ Request, tell func(handoff.Event)) error {
		close(began)
		<-gone
		tell(handoff.Event{Phase: "x", State: handoff.Running})
		end <- ctx.Err()
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() { asked <- Ask(ctx, path, Request{Verb: "x"}, os.Stderr) }()
	<-began
	cancel()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Errorf("the one who asked hears %v", err)
	}
	close(gone)
	if err := <-end; err != nil {
		t.Errorf("the handler's context: %v", err)
	}
}

func TestWrongRequests(t *testing.T) {
	path := served(t, func(context.Context, Request, func(handoff.Event)) error { t.Error("it was followed"); return nil })
	for _, said := range []string{"reset\n", "[]\n", strings.Repeat("x", maxRequest+1)} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(said)); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 4096)
		n, err := c.Read(answer)
		e, ok, bad := handoff.ParseLine(answer[:n])
		if err != nil || bad != nil || !ok || e.State != handoff.Failed {
			t.Errorf("%.20q is answered with %q (%v, %v)", said, answer[:n], err, bad)
		}
		c.Close()
	}
	if err := Ask(t.Context(), filepath.Join(t.TempDir(), "none"), Request{Verb: "x"}, os.Stderr); err == nil {
		t.Error("nobody listens, and it went well")
	}
}
