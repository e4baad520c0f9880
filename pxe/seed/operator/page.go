package operator

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"slipway.dev/slipway/pxe/seed"
)

//go:embed page.html
var page string

// The page's questions.
const (
	pathView     = "/view.json"
	pathTimeline = "/timeline.json" // ?id=ID
)

// Page serves the web page: GET only, nothing to decide with and no kubeconfig.
// A Host that is a name other than localhost is refused, so that no foreign web
// site can read it by pointing its own name here (DNS rebinding).
func Page(d Viewer) http.Handler { return pageAt(d, time.Now) }

func pageAt(d Viewer, now func() time.Time) http.Handler {
	head, tail, _ := strings.Cut(page, "VIEW_GOES_HERE")
	policy := policyOf(page)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		body, _ := view(d, now)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		// json.Marshal writes <, > and & as escapes: nothing in it ends the element.
		_, _ = fmt.Fprintf(w, "%s%s%s", head, body, tail)
	})
	mux.HandleFunc("GET "+pathView, func(w http.ResponseWriter, r *http.Request) {
		body, tag := view(d, now)
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	})
	mux.HandleFunc("GET "+pathTimeline, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(append([]seed.Step{}, d.Timeline(r.URL.Query().Get("id"))...))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		if !hostIsUs(r.Host) {
			http.Error(w, "ask by address: this name may be somebody else's", http.StatusMisdirectedRequest)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// view is the JSON of a View, and a tag that changes with all of it but Now.
func view(d Viewer, now func() time.Time) (body []byte, tag string) {
	v := NewView(d.Status(), d.Machines(), time.Time{})
	v.Status.Counters = nil // not shown, and the only thing that cannot be trusted to encode
	bare, _ := json.Marshal(v)
	v.Now = now()
	body, _ = json.Marshal(v)
	return body, fmt.Sprintf(`"%x"`, sha256.Sum256(bare))
}

// hostIsUs: an address cannot be rebound, and localhost is ours by RFC 6761 section 6.3.
func hostIsUs(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}

// policyOf allows the page's own style and script by their digests (CSP level 3
// section 2.3.1), questions to where it came from, and nothing else.
func policyOf(html string) string {
	digest := func(open, end string) string {
		_, rest, _ := strings.Cut(html, open)
		text, _, _ := strings.Cut(rest, end)
		sum := sha256.Sum256([]byte(text))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; style-src " + digest("<style>", "</style>") + "; script-src " + digest("<script>", "</script>") +
		"; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}
