package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"slipway.dev/slipway/configs/handoff"
)

func event(phase string, s handoff.State) handoff.Event { return handoff.Event{Phase: phase, State: s} }

func is(phase string, s handoff.State) func(handoff.Event) bool {
	return func(e handoff.Event) bool { return e.Phase == phase && e.State == s }
}

func TestConsoleReadsThroughNoise(t *testing.T) {
	config := strings.TrimSuffix(string(event("config", handoff.Done).Line()), "\n")
	stream := "\x1b[2J\x1b[01;01HBdsDxe: starting\r\n" +
		"[    1.0] kernel talks\r\r\n" +
		config + "\r\n" +
		"[    1.1] usb 1-1: " + config + "[    1.2] glued on\r\n" +
		config[:20] + "[    1.3] in between" + config[20:] + "\r\n" +
		"login: "
	// However the bytes are cut, the result is the same.
	for _, size := range []int{1, 2, 7, len(stream)} {
		var c Console
		var log bytes.Buffer
		c.Log = &log
		for b := []byte(stream); len(b) > 0; b = b[min(size, len(b)):] {
			c.Write(b[:min(size, len(b))])
		}
		if n := len(c.Events()); n != 2 {
			t.Errorf("cut by %d: %d events, want 2", size, n)
		}
		if n := len(c.Broken()); n != 1 {
			t.Errorf("cut by %d: %d broken events, want 1: %v", size, n, c.Broken())
		}
		if l := c.Lines(); len(l) != 5 || l[0] != "BdsDxe: starting" || l[1] != "[    1.0] kernel talks" {
			t.Errorf("cut by %d: lines %q", size, l)
		}
		if got := c.Tail(1); got != "login:" {
			t.Errorf("cut by %d: tail %q", size, got)
		}
		if string(c.Bytes()) != stream || log.String() != stream {
			t.Errorf("cut by %d: the raw output changed", size)
		}
	}
}

func TestConsoleWait(t *testing.T) {
	var c Console
	for i := range 60 {
		fmt.Fprintf(&c, "line %d\n", i)
	}
	c.Write(event("config", handoff.Done).Line())
	if _, err := c.Wait(t.Context(), is("config", handoff.Done)); err != nil {
		t.Errorf("an event of the past: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("patience is over"))
	_, err := c.Wait(ctx, is("ready", handoff.Done))
	if err == nil || !strings.Contains(err.Error(), "patience is over") {
		t.Errorf("got %v, want the cause", err)
	}
	if s := fmt.Sprint(err); !strings.Contains(s, "line 59") || !strings.Contains(s, "line 21") || strings.Contains(s, "line 20") {
		t.Errorf("the error does not show the last %d lines: %v", tailLines, err)
	}
	got := make(chan error)
	go func() { _, err := c.Wait(t.Context(), is("ready", handoff.Done)); got <- err }()
	c.Write(event("ready", handoff.Done).Line())
	if err := <-got; err != nil {
		t.Errorf("an event of the future: %v", err)
	}
	c.Forget()
	go func() { _, err := c.Wait(t.Context(), is("ready", handoff.Done)); got <- err }()
	c.End(errors.New("power cut"))
	if err := <-got; err == nil || !strings.Contains(err.Error(), "power cut") {
		t.Errorf("got %v, want the end after Forget", err)
	}
}

func TestConsoleFailedEvents(t *testing.T) {
	var c Console
	c.Tolerate = func(e handoff.Event) bool { return e.Step == "etcd" }
	c.Write(handoff.Event{Phase: "join", Step: "etcd", State: handoff.Failed}.Line())
	c.Write(event("join", handoff.Done).Line())
	if _, err := c.Wait(t.Context(), is("join", handoff.Done)); err != nil {
		t.Errorf("a tolerated failure: %v", err)
	}
	c.Write(event("join", handoff.Failed).Line())
	if _, err := c.Wait(t.Context(), is("join", handoff.Failed)); err != nil {
		t.Errorf("a failure that was waited for: %v", err)
	}
	var failed *FailedError
	if _, err := c.Wait(t.Context(), is("ready", handoff.Done)); !errors.As(err, &failed) {
		t.Errorf("got %v, want the failure", err)
	}
}

func TestConsoleWaitLine(t *testing.T) {
	var c Console
	c.Write([]byte("first\r\nlogin: "))
	if got, err := c.WaitLine(t.Context(), "login:"); err != nil || got != "login:" {
		t.Errorf("got %q, %v; want the prompt", got, err)
	}
	c.Forget()
	c.End(nil)
	if _, err := c.WaitLine(t.Context(), "login:"); !errors.Is(err, errConsoleEnded) {
		t.Errorf("a forgotten prompt: got %v", err)
	}
}

func TestConsoleSubscribe(t *testing.T) {
	var c Console
	c.Write(event("a", handoff.Done).Line())
	var got []string
	done := c.Subscribe(t.Context(), func(e handoff.Event) { got = append(got, e.Phase) })
	c.Write(event("b", handoff.Done).Line())
	c.End(nil)
	<-done
	if s := strings.Join(got, " "); s != "a b" {
		t.Errorf("got %q, want both events in order", s)
	}
}

func TestConsoleStale(t *testing.T) {
	var c Console
	_, _ = c.Write([]byte("[    1.0] Oops: general protection fault\n"))
	if got := c.Stale(); got != "" {
		t.Errorf("got %q", got)
	}
	_, _ = c.Write([]byte("[    2.640094] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\r\n"))
	if c.Forget(); !strings.Contains(c.Stale(), "2.640094") {
		t.Errorf("got %q", c.Stale())
	}
}
