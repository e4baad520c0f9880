// Package api is the little of the Kubernetes API that a node uses itself:
// applying objects, certificate signing requests, and what keeps a node from
// being Ready. It takes the place of kubectl, which costs seconds per call.
//
// It waits for nothing and repeats nothing; callers do.
package api

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
	"os"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Client talks to one API server; one goroutine uses it.
type Client struct {
	client *http.Client
	base   string
	token  string              // "" with a certificate
	kinds  map[string]resource // by apiVersion + " " + kind
}

type resource struct {
	name       string // plural: "daemonsets"
	namespaced bool
}

// Error is the API server's refusal.
type Error struct {
	Code int // HTTP
	Text string
}

func (e *Error) Error() string { return fmt.Sprintf("HTTP %d: %s", e.Code, e.Text) }

// Is says whether err is a refusal with an HTTP code.
func Is(err error, code int) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == code
}

// Final reports whether asking again cannot help: the object itself is wrong,
// or a request was denied.
// A missing kind or namespace (404), a missing rule (403) and a race (409) pass.
func Final(err error) bool {
	_, denied := errors.AsType[*DeniedError](err)
	return denied || Is(err, http.StatusBadRequest) || Is(err, http.StatusUnprocessableEntity) || Is(err, http.StatusUnsupportedMediaType)
}

// Open reads a kubeconfig with embedded certificates or files, as kubeadm writes
// it, and aims it at server ("https://192.0.2.11:6443"), "" for the one it names,
// whose certificate its CA must have signed. Files are below root.
func Open(kubeconfig []byte, server, root string) (*Client, error) {
	var k struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
				CA     []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Cert     []byte `json:"client-certificate-data"`
				Key      []byte `json:"client-key-data"`
				CertFile string `json:"client-certificate"`
				KeyFile  string `json:"client-key"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal(kubeconfig, &k); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	if len(k.Clusters) != 1 || len(k.Users) != 1 {
		return nil, fmt.Errorf("kubeconfig: %d clusters and %d users, want one of each", len(k.Clusters), len(k.Users))
	}
	u := k.Users[0].User
	for _, f := range []struct {
		data *[]byte
		name string
	}{{&u.Cert, u.CertFile}, {&u.Key, u.KeyFile}} {
		if len(*f.data) > 0 {
			continue
		}
		var err error
		if *f.data, err = os.ReadFile(filepath.Join(root, f.name)); err != nil {
			return nil, fmt.Errorf("kubeconfig: %w", err)
		}
	}
	cert, err := tls.X509KeyPair(u.Cert, u.Key)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	if server == "" {
		server = k.Clusters[0].Cluster.Server
	}
	return dial(server, k.Clusters[0].Cluster.CA, &cert, "")
}

// Bootstrap speaks to a server with a bootstrap token; ca is PEM.
func Bootstrap(server string, ca []byte, token string) (*Client, error) {
	return dial(server, ca, nil, token)
}

func dial(server string, ca []byte, cert *tls.Certificate, token string) (*Client, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("kubeconfig: certificate-authority-data holds no certificate")
	}
	conf := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	return &Client{base: strings.TrimRight(server, "/"), token: token, kinds: map[string]resource{},
		client: &http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{Proxy: nil, ForceAttemptHTTP2: true, TLSClientConfig: conf}}}, nil
}

func (c *Client) do(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		var s struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(raw, &s) != nil || s.Message == "" {
			s.Message = strings.TrimSpace(string(raw[:min(len(raw), 300)]))
		}
		return nil, &Error{resp.StatusCode, s.Message}
	}
	return raw, nil
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	raw, err := c.do(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

// Apply makes the object what the manifest says (server-side apply; the fields
// become slipway's).
func (c *Client) Apply(ctx context.Context, o Object) error {
	r, prefix, err := c.resource(ctx, o.APIVersion, o.Kind)
	if err != nil {
		return err
	}
	p := prefix
	if r.namespaced {
		ns := o.Metadata.Namespace
		if ns == "" {
			ns = "default"
		}
		p += "/namespaces/" + url.PathEscape(ns)
	}
	p += "/" + r.name + "/" + url.PathEscape(o.Metadata.Name) + "?fieldManager=slipway&force=true"
	_, err = c.do(ctx, http.MethodPatch, p, "application/apply-patch+yaml", o.json)
	return err
}

// resource finds the path of a kind by discovery, once per kind.
func (c *Client) resource(ctx context.Context, version, kind string) (resource, string, error) {
	prefix := "/apis/" + version
	if !strings.Contains(version, "/") {
		prefix = "/api/" + version
	}
	if r, ok := c.kinds[version+" "+kind]; ok {
		return r, prefix, nil
	}
	var list struct {
		Resources []struct {
			Name       string `json:"name"`
			Kind       string `json:"kind"`
			Namespaced bool   `json:"namespaced"`
		} `json:"resources"`
	}
	if err := c.get(ctx, prefix, &list); err != nil {
		return resource{}, "", err
	}
	for _, r := range list.Resources {
		if !strings.Contains(r.Name, "/") { // "pods/status" is a subresource
			c.kinds[version+" "+r.Kind] = resource{r.Name, r.Namespaced}
		}
	}
	r, ok := c.kinds[version+" "+kind]
	if !ok {
		return resource{}, "", &Error{http.StatusNotFound, fmt.Sprintf("no kind %q in %q", kind, version)}
	}
	return r, prefix, nil
}

// Delete removes an object by its path; one that is not there is removed.
func (c *Client) Delete(ctx context.Context, path string) error {
	_, err := c.do(ctx, http.MethodDelete, path, "", nil)
	if Is(err, http.StatusNotFound) {
		return nil
	}
	return err
}

// Version is the Kubernetes version that the server runs.
func (c *Client) Version(ctx context.Context) (string, error) {
	var v struct {
		GitVersion string `json:"gitVersion"`
	}
	err := c.get(ctx, "/version", &v)
	return v.GitVersion, err
}
