package seed

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode"

	"slipway.dev/slipway/configs/handoff"
)

// say makes one request of a key without a network.
func say(s *Seed, key byte, path string, body []byte) (int, []byte) {
	r := httptest.NewRequest("POST", path, bytes.NewReader(body))
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{RawSubjectPublicKeyInfo: []byte{key}}}}
	w := httptest.NewRecorder()
	s.Node().ServeHTTP(w, r)
	return w.Code, w.Body.Bytes()
}

// sane checks what holds after any request.
func sane(t *testing.T, s *Seed, path string, status int, body []byte) {
	t.Helper()
	if status >= 500 && status != 503 {
		t.Errorf("%s: status %d: %s", path, status, body)
	}
	if status >= 400 {
		var r handoff.Refusal
		if err := json.Unmarshal(body, &r); err != nil || !strings.HasPrefix(r.Code, "SW-") || r.Text == "" {
			t.Errorf("%s: status %d with %q: not a Refusal", path, status, body)
		}
	}
	steps, _ := s.Steps(0)
	for _, st := range steps {
		for _, text := range []string{st.Text, st.Hint, st.Code, st.State, string(st.Stage)} {
			if strings.ContainsFunc(text, unicode.IsControl) || len(text) > maxText+3 {
				t.Errorf("a step holds %q", text)
			}
		}
	}
	for _, m := range s.Machines() {
		if m.State != Seen && m.State != Waiting && m.State != Taken && m.State != Held && m.State != Ready {
			t.Errorf("%s: nobody approved it: %+v", path, m)
		}
	}
}

func FuzzHello(f *testing.F) {
	s := openSeed(f, f.TempDir(), site(f, approve("ask")), Options{})
	good, _ := json.Marshal(handoff.Hello{Facts: facts(1), Commit: strings.Repeat("ab", 32)})
	for _, b := range []string{string(good), "{}", `{"facts":{"arch":"amd64","macs":["52:54:00:00:00:01","52:54:00:00:00:01"],"memory":-1},"commit":"` + strings.Repeat("00", 32) + `"}`,
		`{"facts":{"arch":"arm64","boot":"02-00-00-00-00-09","macs":null,"serial":"\u001b[2J\u202e","uuid":"A"},"commit":"` + strings.Repeat("0A", 32) + `"}`, `{"facts":{"disks":[{}]}}`, "[", ""} {
		f.Add(byte(1), []byte(b))
	}
	f.Fuzz(func(t *testing.T, key byte, body []byte) {
		s.hellos.SetBurst(1 << 30)
		status, out := say(s, key, handoff.PathHello, body)
		sane(t, s, handoff.PathHello, status, out)
	})
}

func FuzzReveal(f *testing.F) {
	s := openSeed(f, f.TempDir(), site(f, approve("ask")), Options{})
	for _, b := range []string{`{"nonce":"` + strings.Repeat("00", 32) + `"}`, `{"nonce":"00"}`, `{"nonce":1}`, "{}", `{"nonce":"` + strings.Repeat("zz", 32) + `"}`} {
		f.Add(byte(1), []byte(b))
	}
	// SHA-256 of 32 zero bytes
	hello, _ := json.Marshal(handoff.Hello{Facts: facts(1), Commit: "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925"})
	f.Fuzz(func(t *testing.T, key byte, body []byte) {
		s.hellos.SetBurst(1 << 30)
		say(s, key, handoff.PathHello, hello)
		status, out := say(s, key, handoff.PathReveal, body)
		sane(t, s, handoff.PathReveal, status, out)
	})
}

func FuzzEvents(f *testing.F) {
	s := openSeed(f, f.TempDir(), site(f, approve("ask")), Options{})
	e := &enrolment{Key: handoff.KeyID([]byte{1}), Phase: used, Machine: "52:54:00:00:00:01", Name: "w", Role: "worker"}
	if err := s.do(func(c *change) error {
		c.enrolments[e.Key] = e
		c.machines[e.Machine] = &record{Machine: Machine{ID: e.Machine, State: Taken, Name: "w"}, Node: e.Key, Used: true}
		return nil
	}); err != nil {
		f.Fatal(err)
	}
	for _, ev := range []handoff.Event{
		{Phase: "system", Step: "verify", State: handoff.Running, Text: "a\x1b[2J", Data: map[string]any{"bytes": 1e300, "total": -1.0}},
		{Phase: "\x00", State: handoff.Failed, Code: "SW-\u202e", Hint: "\n"}, {Seq: -1, Phase: "ready", State: handoff.Done}, {Seq: 1 << 40, Phase: "ready"},
	} {
		f.Add(ev.Line())
	}
	f.Add([]byte("\n\n{\"slipway\":1,\"phase\":3}\n{\"slipway\":1,\"phase\":\"x\",\"data\":[]}"))
	f.Fuzz(func(t *testing.T, body []byte) {
		s.mu.Lock()
		s.presence[e.Key].event = 0
		s.mu.Unlock()
		status, out := say(s, 1, handoff.PathEvents, body)
		sane(t, s, handoff.PathEvents, status, out)
		if m, err := s.Machine(e.Machine); err != nil || m.Done < 0 || m.Total < m.Done {
			t.Errorf("%+v %v", m, err)
		}
		for _, path := range []string{handoff.PathJoin, handoff.PathCluster} {
			status, out := say(s, 1, path, body)
			sane(t, s, path, status, out)
		}
	})
}
