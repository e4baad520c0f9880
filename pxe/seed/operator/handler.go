package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
)

const (
	maxBody   = 64 << 10       // bytes of a question
	maxArm    = 24 * time.Hour // a window that is longer is a door
	maxDrain  = 24 * time.Hour
	slowest   = 30 * time.Second // for a reader of events to take one write
	typeLines = "application/x-ndjson"
)

// Handler serves what pxe/seed/api.go documents. Whoever reaches it may do
// everything: give it to Listen's socket and to nothing else.
func Handler(d Desk) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+seed.PathStatus, func(w http.ResponseWriter, _ *http.Request) { answer(w, d.Status(), nil) })
	mux.HandleFunc("GET "+seed.PathNodes, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, append([]seed.Machine{}, d.Machines()...), nil) // [], never null
	})
	mux.HandleFunc("GET "+seed.PathNodes+"/{ref}", func(w http.ResponseWriter, r *http.Request) {
		m, err := d.Machine(r.PathValue("ref"))
		answer(w, m, err)
	})
	mux.HandleFunc("GET "+seed.PathNodes+"/{ref}/timeline", func(w http.ResponseWriter, r *http.Request) {
		m, err := d.Machine(r.PathValue("ref"))
		if err != nil {
			answer(w, nil, err)
			return
		}
		answer(w, append([]seed.Step{}, d.Timeline(m.ID)...), nil)
	})
	decisions(mux, d)
	mux.HandleFunc("GET "+seed.PathNodes+"/{ref}/leave", func(w http.ResponseWriter, r *http.Request) {
		out, err := d.Departure(r.Context(), r.PathValue("ref"))
		answer(w, out, err)
	})
	mux.HandleFunc("GET "+seed.PathUpgrade, func(w http.ResponseWriter, r *http.Request) {
		out, err := d.Plan(r.Context())
		answer(w, out, err)
	})
	mux.HandleFunc("POST "+seed.PathArm, func(w http.ResponseWriter, r *http.Request) { arm(d, w, r) })
	mux.HandleFunc("GET "+seed.PathEvents, func(w http.ResponseWriter, r *http.Request) { events(d, w, r) })
	mux.HandleFunc("GET "+seed.PathKubeCfg, func(w http.ResponseWriter, _ *http.Request) {
		b, err := d.Kubeconfig()
		if err != nil {
			answer(w, nil, err)
			return
		}
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(b)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, &handoff.Refusal{Code: codePath, Text: fmt.Sprintf("%s %s is not asked of a seed", r.Method, r.URL.Path)})
	})
	return mux
}

// decisions are what is asked of one machine.
func decisions(mux *http.ServeMux, d Desk) {
	type none struct{}
	judge(mux, "approve", func(_ context.Context, ref string, a seed.Approval) (seed.Machine, error) {
		return d.Approve(ref, a.Code, a.Wipe...)
	})
	judge(mux, "reject", func(_ context.Context, ref string, a seed.Rejection) (seed.Machine, error) {
		return d.Reject(ref, a.Reason)
	})
	judge(mux, "assign", func(_ context.Context, ref string, a seed.Assignment) (seed.Machine, error) {
		return d.Assign(ref, a.Name, a.Role)
	})
	judge(mux, "upgrade", func(ctx context.Context, ref string, _ none) (seed.Machine, error) { return d.Upgrade(ctx, ref) })
	judge(mux, "withdraw", func(ctx context.Context, ref string, _ none) (seed.Machine, error) { return d.Withdraw(ctx, ref) })
	judge(mux, "undo-wipe", func(_ context.Context, ref string, _ none) (seed.Machine, error) { return d.UndoWipe(ref) })
	leave := func(do func(context.Context, string, seed.Leaving) (seed.Machine, error)) func(context.Context, string, seed.Leaving) (seed.Machine, error) {
		return func(ctx context.Context, ref string, how seed.Leaving) (seed.Machine, error) {
			if how.Drain < 0 || how.Drain > int(maxDrain/time.Second) {
				return seed.Machine{}, &handoff.Refusal{Code: codeBody, Text: fmt.Sprintf("drain %d: want 0 to %d seconds", how.Drain, int(maxDrain/time.Second))}
			}
			return do(ctx, ref, how)
		}
	}
	judge(mux, "reimage", leave(d.Reimage))
	judge(mux, "remove", leave(d.Remove))
}

func judge[Q any](mux *http.ServeMux, verb string, do func(ctx context.Context, ref string, q Q) (seed.Machine, error)) {
	mux.HandleFunc("POST "+seed.PathNodes+"/{ref}/"+verb, func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if err := read(w, r, &q); err != nil {
			answer(w, nil, err)
			return
		}
		m, err := do(r.Context(), r.PathValue("ref"), q)
		answer(w, m, err)
	})
}

func arm(d Desk, w http.ResponseWriter, r *http.Request) {
	var q seed.Arming
	err := read(w, r, &q)
	if err == nil && (q.Seconds < 0 || q.Seconds > int(maxArm/time.Second)) {
		err = &handoff.Refusal{Code: codeBody, Text: fmt.Sprintf("seconds %d: want 0 to %d", q.Seconds, int(maxArm/time.Second))}
	}
	if err == nil {
		err = d.Arm(time.Duration(q.Seconds) * time.Second)
	}
	answer(w, d.Status(), err)
}

func events(d Finder, w http.ResponseWriter, r *http.Request) {
	var after uint64
	if s := r.URL.Query().Get("after"); s != "" {
		var err error
		if after, err = strconv.ParseUint(s, 10, 64); err != nil {
			answer(w, nil, &handoff.Refusal{Code: codeBody, Text: fmt.Sprintf("after %q is no number", s)})
			return
		}
	}
	follow := r.URL.Query().Get("follow") == "1"
	w.Header().Set("Content-Type", typeLines)
	out := json.NewEncoder(w)
	control := http.NewResponseController(w)
	for {
		steps, changed := d.Steps(after)
		_ = control.SetWriteDeadline(time.Now().Add(slowest)) // a recorder has none
		for _, s := range steps {
			if out.Encode(s) != nil {
				return
			}
			after = s.Seq
		}
		if control.Flush() != nil {
			return
		}
		if len(steps) > 0 {
			continue
		}
		if !follow {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		}
	}
}

// The codes of this package's own answers.
const (
	codePath     = "SW-OPERATOR-PATH"
	codeBody     = "SW-OPERATOR-BODY"
	codeInternal = "SW-OPERATOR-INTERNAL"
)

// read takes the JSON of a question; no body is the zero question.
func read(w http.ResponseWriter, r *http.Request, q any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(q); err != nil && !errors.Is(err, io.EOF) {
		return &handoff.Refusal{Code: codeBody, Text: fmt.Sprintf("reading the question: %v", err)}
	}
	return nil
}

func answer(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		var refusal *handoff.Refusal
		if !errors.As(err, &refusal) {
			refusal = &handoff.Refusal{Code: codeInternal, Text: "internal error: " + err.Error(), Hint: "look at the seed's log"}
		}
		v, status = refusal, statusOf(refusal.Code)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that left is its own matter
}

// statusOf: 409 is "not as things are", which most refusals say.
func statusOf(code string) int {
	switch {
	case code == codeInternal:
		return http.StatusInternalServerError
	case code == codeBody:
		return http.StatusBadRequest
	case code == codePath, strings.HasSuffix(code, "-UNKNOWN"):
		return http.StatusNotFound
	}
	return http.StatusConflict
}
