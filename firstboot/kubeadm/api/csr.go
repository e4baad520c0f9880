package api

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
)

const (
	requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	// kubeletSigner and what it wants of a request:
	// pkg/apis/certificates/helpers.go, IsKubeletClientCSR.
	kubeletSigner = "kubernetes.io/kube-apiserver-client-kubelet"
	nodesGroup    = "system:nodes"
)

// NodeUser is the name of a node's kubelet towards the API server.
func NodeUser(node string) string { return "system:node:" + node }

// signing is a CertificateSigningRequest of certificates.k8s.io/v1.
type signing struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name         string `json:"name,omitempty"`
		GenerateName string `json:"generateName,omitempty"`
	} `json:"metadata"`
	Spec struct {
		Request    []byte   `json:"request"` // PEM
		SignerName string   `json:"signerName"`
		Usages     []string `json:"usages"`
	} `json:"spec"`
	Status struct {
		Certificate []byte      `json:"certificate,omitempty"` // PEM
		Conditions  []condition `json:"conditions,omitempty"`
	} `json:"status,omitzero"`
}

// Request asks for a kubelet's client certificate and returns the request's name.
func (c *Client) Request(ctx context.Context, node string, key crypto.Signer) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: NodeUser(node), Organization: []string{nodesGroup}}}, key)
	if err != nil {
		return "", err
	}
	s := signing{APIVersion: "certificates.k8s.io/v1", Kind: "CertificateSigningRequest"}
	s.Metadata.GenerateName = "slipway-" + node + "-"
	s.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	s.Spec.SignerName = kubeletSigner
	s.Spec.Usages = []string{"digital signature", "client auth"}
	raw, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	if raw, err = c.do(ctx, http.MethodPost, requests, "application/json", raw); err != nil {
		return "", err
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fmt.Errorf("POST %s: %w", requests, err)
	}
	return s.Metadata.Name, nil
}

// DeniedError is the end of a request that was not approved.
type DeniedError struct{ Name, Why string }

func (e *DeniedError) Error() string { return fmt.Sprintf("certificate request %q: %s", e.Name, e.Why) }

// Signed returns the certificate of a request in PEM, nil while there is none.
func (c *Client) Signed(ctx context.Context, name string) ([]byte, error) {
	var s signing
	if err := c.get(ctx, requests+"/"+url.PathEscape(name), &s); err != nil {
		return nil, err
	}
	for _, d := range s.Status.Conditions {
		if d.Type == "Denied" || d.Type == "Failed" {
			return nil, &DeniedError{name, brief(d.Type+" "+d.Reason, d.Message)}
		}
	}
	return s.Status.Certificate, nil
}
