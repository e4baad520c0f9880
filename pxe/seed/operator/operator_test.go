package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/operator/operatortest"
)

var _ Desk = (*operatortest.Desk)(nil)

// serve runs a desk on the socket of a new directory.
func serve(t *testing.T, d Desk) (dir string, c *Client) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sw") // t.TempDir is too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := Server(Handler(d))
	s.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	c = NewClient(dir)
	t.Cleanup(c.Close)
	return dir, c
}

func TestClientAsksAndDecides(t *testing.T) {
	d := operatortest.New(12)
	_, c := serve(t, d)
	ctx := t.Context()

	s, err := c.Status(ctx)
	if err != nil || s.Cluster != "fab-7" || s.ReadyOf != [2]int{2, 8} || s.Address.String() != "10.20.0.1/24" {
		t.Errorf("%+v, %v", s, err)
	}
	all, err := c.Machines(ctx)
	if err != nil || len(all) != 12 || all[0].Code != "7K3-M9Q" || all[0].Address.String() != "10.20.0.20" || all[0].Facts.Disks[0].Name != "nvme0n1" {
		t.Errorf("%+v, %v", all, err)
	}
	for _, ref := range []string{"52:54:00:12:00:00", "cp-2", "7K3-M9Q"} {
		if m, err := c.Machine(ctx, ref); err != nil || m.ID != "52:54:00:12:00:00" {
			t.Errorf("%s: %+v, %v", ref, m, err)
		}
	}
	if line, err := c.Timeline(ctx, "cp-2"); err != nil || len(line) != 6 || line[0].Stage != seed.StageDHCP || line[5].Stage != seed.StageEnrol {
		t.Errorf("%+v, %v", line, err)
	}
	if m, err := c.Assign(ctx, "7K3-M9Q", "cp-9", ""); err != nil || m.Name != "cp-9" || m.Role != "control-plane" {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err := c.Approve(ctx, "7K3-M9Q", "7K3-M9Q"); err != nil || m.State != seed.Approved {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err := c.Reject(ctx, "Q0W-4ZT", "a/b ünknown"); err != nil || m.State != seed.Rejected || m.Reason != "a/b ünknown" {
		t.Errorf("%+v, %v", m, err)
	}
	if s, err := c.Arm(ctx, 90*time.Second); err != nil || !s.Armed.Equal(operatortest.Now().Add(90*time.Second)) {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := c.Arm(ctx, 0); err != nil || !s.Armed.IsZero() {
		t.Errorf("%+v, %v", s, err)
	}
	d.Form("apiVersion: v1\nkind: Config\n")
	if b, err := c.Kubeconfig(ctx); err != nil || string(b) != "apiVersion: v1\nkind: Config\n" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestRefusalsReachTheClient(t *testing.T) {
	_, c := serve(t, operatortest.New(12))
	ctx := t.Context()
	for name, tt := range map[string]struct {
		ask        func() error
		code, text string
	}{
		"unknown":       {func() error { _, err := c.Machine(ctx, "../../v1/kubeconfig"); return err }, "SW-SEED-UNKNOWN", `no machine is called "../../v1/kubeconfig"`},
		"no timeline":   {func() error { _, err := c.Timeline(ctx, "x y"); return err }, "SW-SEED-UNKNOWN", `no machine is called "x y"`},
		"wrong code":    {func() error { _, err := c.Approve(ctx, "cp-2", "AAA-AAA"); return err }, "SW-SEED-CODE", "another code"},
		"not waiting":   {func() error { _, err := c.Approve(ctx, "cp-1", ""); return err }, "SW-SEED-STATE", "waits for nothing"},
		"too late":      {func() error { _, err := c.Assign(ctx, "cp-1", "x", ""); return err }, "SW-SEED-STATE", "has its config"},
		"no cluster":    {func() error { _, err := c.Kubeconfig(ctx); return err }, "SW-SEED-NO-CLUSTER", "no cluster yet"},
		"arm too long":  {func() error { _, err := c.Arm(ctx, 48*time.Hour); return err }, codeBody, "want 0 to 86400"},
		"arm negative":  {func() error { _, err := c.Arm(ctx, -time.Minute); return err }, codeBody, "seconds -59"},
		"no such place": {func() error { return c.ask(ctx, "GET", "/v2/", nil, new(int)) }, codePath, "GET /v2/"},
		"unknown field": {func() error {
			return c.ask(ctx, "POST", node("cp-2")+"/approve", map[string]any{"all": true}, new(seed.Machine))
		}, codeBody, `unknown field "all"`},
		"no number": {func() error { return c.ask(ctx, "GET", seed.PathEvents+"?after=x", nil, new(int)) }, codeBody, `after "x"`},
	} {
		err := tt.ask()
		var e *Error
		var r *handoff.Refusal
		if !errors.As(err, &e) || !errors.As(err, &r) || r.Code != tt.code || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: got %v, want %s %q", name, err, tt.code, tt.text)
		}
		if errors.Is(err, ErrNoSeed) {
			t.Errorf("%s: is ErrNoSeed", name)
		}
	}
}

// broken is a desk whose store fails.
type broken struct{ *operatortest.Desk }

func (broken) Machine(string) (seed.Machine, error) { return seed.Machine{}, io.ErrNoProgress }

func TestStatusCodes(t *testing.T) {
	for path, want := range map[string]int{
		"GET /v1/status": 200, "GET /v1/nodes": 200, "GET /v1/nodes/x": 500, "GET /v1/kubeconfig": 409, "GET /v1/events": 200,
		"POST /v1/status": 404, "GET /v1/arm": 404, "POST /v1/nodes/none/reject": 404, "GET /": 404, "GET /v1/events?after=-1": 400,
	} {
		method, url, _ := strings.Cut(path, " ")
		w := httptest.NewRecorder()
		Handler(broken{operatortest.New(1)}).ServeHTTP(w, httptest.NewRequest(method, url, nil))
		if w.Code != want {
			t.Errorf("%s: %d, want %d: %s", path, w.Code, want, w.Body)
		}
		if w.Code >= 400 && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: %s", path, w.Body)
		}
	}
	w := httptest.NewRecorder()
	Handler(new(operatortest.Desk)).ServeHTTP(w, httptest.NewRequest("GET", "/v1/nodes", nil))
	if got := w.Body.String(); got != "[]\n" {
		t.Errorf("no machines are %q", got)
	}
	w = httptest.NewRecorder()
	Handler(operatortest.New(1)).ServeHTTP(w, httptest.NewRequest("POST", "/v1/nodes/cp-2/approve", bytes.NewReader(make([]byte, maxBody+1))))
	if w.Code != http.StatusBadRequest {
		t.Errorf("a long body: %d %s", w.Code, w.Body)
	}
}

func TestEventsFollow(t *testing.T) {
	d := operatortest.New(2)
	_, c := serve(t, d)
	old, _ := d.Steps(0)
	var got []seed.Step
	if err := c.Events(t.Context(), 2, false, func(s seed.Step) error { got = append(got, s); return nil }); err != nil || len(got) != len(old)-2 || got[0].Seq != 3 {
		t.Fatalf("%d steps, %v", len(got), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got = nil
	next := uint64(len(old))
	d.Record(seed.Step{Machine: "x", Text: "0"})
	err := c.Events(ctx, next, true, func(s seed.Step) error { // each answer causes the next question
		if s.Seq != next+1 {
			t.Errorf("%d follows %d", s.Seq, next)
		}
		if next = s.Seq; len(got) == 50 {
			cancel()
		} else {
			d.Record(seed.Step{Machine: "x", Text: s.Text + "."})
		}
		got = append(got, s)
		return nil
	})
	if !errors.Is(err, context.Canceled) || len(got) < 51 {
		t.Errorf("%d steps, %v", len(got), err)
	}
	stop := errors.New("enough")
	if err := c.Events(t.Context(), 0, true, func(seed.Step) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}

func TestTheSeedEnds(t *testing.T) {
	dir, err := os.MkdirTemp("", "sw")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := Server(Handler(operatortest.New(1)))
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	c := NewClient(dir)
	defer c.Close()
	err = c.Events(t.Context(), 0, true, func(seed.Step) error { _ = s.Close(); return nil })
	if !errors.Is(err, ErrNoSeed) || !strings.Contains(err.Error(), "ended") {
		t.Errorf("%v", err)
	}
	<-done
	_, err = c.Status(t.Context())
	var e *Error
	if !errors.Is(err, ErrNoSeed) || !errors.As(err, &e) || !strings.Contains(e.Hint(), "slipway serve") {
		t.Errorf("%v", err)
	}
}

func TestListen(t *testing.T) {
	dir, err := os.MkdirTemp("", "sw")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, seed.Socket)

	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close() // as after kill -9: the name stays

	l, err := Listen(dir)
	if err != nil {
		t.Fatalf("a dead seed's socket: %v", err)
	}
	if fi, err := os.Lstat(name); err != nil || fi.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if _, err := Listen(dir); !errors.Is(err, ErrRunning) {
		t.Errorf("a living seed: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := os.WriteFile(name, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(dir); err == nil || !strings.Contains(err.Error(), "something else is there") {
		t.Errorf("a file: %v", err)
	}
	if _, err := Listen(filepath.Join(dir, strings.Repeat("d", 100))); err == nil || !strings.Contains(err.Error(), "choose a shorter directory") {
		t.Errorf("a long name: %v", err)
	}
}
