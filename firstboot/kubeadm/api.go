package kubeadm

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
	"path"
	"regexp"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// cluster talks to this node's own API server with a client certificate from a
// kubeconfig. It takes the place of kubectl, which costs seconds per call.
type cluster struct {
	client *http.Client
	base   string
	kinds  map[string]resource // by apiVersion + " " + kind
}

type resource struct {
	name       string // plural: "daemonsets"
	namespaced bool
}

// statusError is the API server's refusal.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return fmt.Sprintf("HTTP %d: %s", e.code, e.text) }

// final reports whether asking again cannot help: the object itself is wrong.
// A missing kind or namespace (404), a missing rule (403) and a race (409) pass.
func final(err error) bool {
	var s *statusError
	return errors.As(err, &s) && (s.code == http.StatusBadRequest || s.code == http.StatusUnprocessableEntity || s.code == http.StatusUnsupportedMediaType)
}

// open reads a kubeconfig with embedded certificates, as kubeadm writes it, and
// aims it at server ("https://192.0.2.11:6443"), whose certificate its CA must have signed.
func open(kubeconfig []byte, server string) (*cluster, error) {
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
	if err := yaml.Unmarshal(kubeconfig, &k); err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	if len(k.Clusters) != 1 || len(k.Users) != 1 {
		return nil, fmt.Errorf("kubeconfig: %d clusters and %d users, want one of each", len(k.Clusters), len(k.Users))
	}
	cert, err := tls.X509KeyPair(k.Users[0].User.Cert, k.Users[0].User.Key)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(k.Clusters[0].Cluster.CA) {
		return nil, errors.New("kubeconfig: certificate-authority-data holds no certificate")
	}
	return &cluster{base: server, kinds: map[string]resource{},
		client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{Proxy: nil, ForceAttemptHTTP2: true,
			TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}}}}, nil
}

func (c *cluster) do(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
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
		return nil, &statusError{resp.StatusCode, s.Message}
	}
	return raw, nil
}

func (c *cluster) get(ctx context.Context, path string, into any) error {
	raw, err := c.do(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

// object is what has to be known of any object to send it.
type object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	json []byte
}

func (o object) String() string {
	return strings.TrimPrefix(path.Join(o.Metadata.Namespace, strings.ToLower(o.Kind), o.Metadata.Name), "/")
}

var separator = regexp.MustCompile(`(?m)^---[ \t\r]*(#.*)?$`)

// objects splits a stream of YAML documents.
func objects(manifest []byte) ([]object, error) {
	var out []object
	for i, doc := range separator.Split(string(manifest), -1) {
		raw, err := yaml.YAMLToJSONStrict([]byte(doc))
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		if string(raw) == "null" {
			continue // empty or only comments
		}
		o := object{json: raw}
		if err := json.Unmarshal(raw, &o); err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		if o.APIVersion == "" || o.Kind == "" || o.Metadata.Name == "" {
			return nil, fmt.Errorf("document %d: apiVersion, kind and metadata.name must be there", i+1)
		}
		out = append(out, o)
	}
	return out, nil
}

// apply makes the object what the manifest says (server-side apply; the fields
// become slipway's).
func (c *cluster) apply(ctx context.Context, o object) error {
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
func (c *cluster) resource(ctx context.Context, version, kind string) (resource, string, error) {
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
		return resource{}, "", &statusError{http.StatusNotFound, fmt.Sprintf("no kind %q in %q", kind, version)}
	}
	return r, prefix, nil
}
