package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
)

const (
	answerWithin = 30 * time.Second
	watchFor     = 5 * time.Minute // then the API server ends a watch and it is begun again
	maxAnswer    = 64 << 20
)

// api talks to one API server with a client certificate, trusting one CA.
type api struct {
	base   string // https://10.0.0.1:6443
	client *http.Client
}

// statusError is the API server's refusal.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return fmt.Sprintf("HTTP %d: %s", e.code, e.text) }

// Is says whether it is seed.ErrCredentials: TLS takes a client certificate that has
// ended, and the API server's answer is 401.
func (e *statusError) Is(target error) bool {
	return target == seed.ErrCredentials && e.code == http.StatusUnauthorized
}

// gone says that a watch must begin with a new list.
func (e *statusError) gone() bool { return e.code == http.StatusGone }

// dial prepares a client and sends nothing. The kubeconfig must hold its
// certificates, as kubeadm writes it, and its CA must be the cluster's.
func dial(c handoff.Cluster) (*api, error) {
	server, err := url.Parse(c.Server)
	if err != nil {
		return nil, fmt.Errorf("cluster: server: %w", err)
	}
	if server.Scheme != "https" || server.Host == "" || strings.Trim(server.Path, "/") != "" || server.User != nil {
		return nil, fmt.Errorf("cluster: server %q: want https://ADDRESS:PORT", c.Server)
	}
	cert, roots, err := credentials([]byte(c.Kubeconfig))
	if err != nil {
		return nil, fmt.Errorf("cluster: kubeconfig: %w", err)
	}
	own := x509.NewCertPool()
	if !own.AppendCertsFromPEM([]byte(c.CA)) {
		return nil, errors.New("cluster: ca holds no certificate")
	}
	if !own.Equal(roots) {
		return nil, errors.New("cluster: ca is not the one of its kubeconfig")
	}
	t := &http.Transport{Proxy: nil, ForceAttemptHTTP2: true, ResponseHeaderTimeout: answerWithin, TLSHandshakeTimeout: answerWithin,
		HTTP2:           &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second}, // a watch over a cable that was pulled
		TLSClientConfig: &tls.Config{RootCAs: own, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}}
	return &api{base: "https://" + server.Host, client: &http.Client{Transport: t, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		return fmt.Errorf("redirected to %s", r.URL.Redacted())
	}}}, nil
}

func credentials(kubeconfig []byte) (tls.Certificate, *x509.CertPool, error) {
	var k struct {
		Clusters []struct {
			Cluster struct {
				CA []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	var none tls.Certificate
	if err := yaml.Unmarshal(kubeconfig, &k); err != nil {
		return none, nil, err
	}
	if len(k.Clusters) != 1 || len(k.Users) != 1 {
		return none, nil, fmt.Errorf("%d clusters and %d users, want one of each", len(k.Clusters), len(k.Users))
	}
	cert, err := tls.X509KeyPair(k.Users[0].User.Cert, k.Users[0].User.Key)
	if err != nil {
		return none, nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(k.Clusters[0].Cluster.CA) {
		return none, nil, errors.New("certificate-authority-data holds no certificate")
	}
	return cert, roots, nil
}

func (a *api) close() { a.client.CloseIdleConnections() }

// open sends a request and returns the answer if it is a success.
func (a *api) open(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "slipway-seed")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
		if method == http.MethodPatch {
			req.Header.Set("Content-Type", "application/merge-patch+json") // RFC 7386
		}
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	raw, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	var s struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(raw, &s) != nil || s.Message == "" {
		s.Message = strings.TrimSpace(string(raw[:min(len(raw), 300)]))
	}
	return nil, fmt.Errorf("%s %s: %w", method, req.URL.Path, &statusError{resp.StatusCode, s.Message})
}

// do sends body, reads the answer into into (either may be nil) and returns the
// API server's clock, in whole seconds (RFC 9110 section 6.6.1).
func (a *api) do(ctx context.Context, method, path string, body, into any) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	resp, err := a.open(ctx, method, path, body)
	if err != nil {
		return time.Time{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && into != nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("%s %s: %w", method, path, err)
	}
	now, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return time.Time{}, fmt.Errorf("%s %s: Date: %w", method, path, err)
	}
	return now, nil
}

// drop deletes what may be gone already.
func (a *api) drop(ctx context.Context, path string) error {
	_, err := a.do(ctx, http.MethodDelete, path, nil, nil)
	var refused *statusError
	if errors.As(err, &refused) && refused.code == http.StatusNotFound {
		return nil
	}
	return err
}

// sink takes what is in a collection: first all of it, then each change.
type sink interface {
	all(ctx context.Context, items []json.RawMessage) error
	changed(ctx context.Context, kind string, object json.RawMessage) error // ADDED, MODIFIED, DELETED
}

// follow lists and then watches a collection until the connection ends; nil is
// the ordinary end of a watch, after watchFor.
func (a *api) follow(ctx context.Context, path string, s sink) error {
	type meta struct {
		ResourceVersion string `json:"resourceVersion"`
	}
	var list struct {
		Metadata meta              `json:"metadata"`
		Items    []json.RawMessage `json:"items"`
	}
	if _, err := a.do(ctx, http.MethodGet, path, nil, &list); err != nil {
		return err
	}
	if err := s.all(ctx, list.Items); err != nil {
		return err
	}
	q := url.Values{"watch": {"1"}, "resourceVersion": {list.Metadata.ResourceVersion},
		"timeoutSeconds": {strconv.Itoa(int(watchFor.Seconds()))}}
	ctx, cancel := context.WithTimeout(ctx, watchFor+answerWithin)
	defer cancel()
	resp, err := a.open(ctx, http.MethodGet, path+"?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var e struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("watching %s: %w", path, err)
		}
		if e.Type == "ERROR" {
			var st struct {
				Code    int    `json:"code"`
				Message string `json:"message"`
			}
			if err := json.Unmarshal(e.Object, &st); err != nil {
				return fmt.Errorf("watching %s: %w", path, err)
			}
			return fmt.Errorf("watching %s: %w", path, &statusError{st.Code, st.Message})
		}
		if err := s.changed(ctx, e.Type, e.Object); err != nil {
			return err
		}
	}
}
