package kube

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
)

const (
	pathCSR       = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	kubeletSigner = "kubernetes.io/kube-apiserver-client-kubelet"
	reasonOurs    = "SlipwayEnrolled" // of our approvals
	reasonDenied  = "SlipwayNotEnrolled"
)

// csr is a CertificateSigningRequest as far as a decision needs it.
type csr struct {
	Metadata metadata `json:"metadata"`
	Spec     struct {
		Request    []byte   `json:"request"`
		SignerName string   `json:"signerName"`
		Username   string   `json:"username"`
		Usages     []string `json:"usages"`
	} `json:"spec"`
	Status struct {
		Conditions []csrCondition `json:"conditions"`
	} `json:"status"`
}

type csrCondition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// token is the id of the bootstrap token that made the request.
func (r *csr) token() (id string, ok bool) { return strings.CutPrefix(r.Spec.Username, tokenUser) }

// decided returns who approved or denied the request.
func (r *csr) decided() (csrCondition, bool) {
	i := slices.IndexFunc(r.Status.Conditions, func(c csrCondition) bool { return c.Type == "Approved" || c.Type == "Denied" })
	if i < 0 {
		return csrCondition{}, false
	}
	return r.Status.Conditions[i], true
}

// refuse says why a request is not the one that the enrolled node makes; nil
// means it is.
func (r *csr) refuse(e enrolment) error {
	if r.Spec.SignerName != kubeletSigner {
		return fmt.Errorf("signer %q, want %q", r.Spec.SignerName, kubeletSigner)
	}
	// kubelet asks for key encipherment with an RSA key only
	// (k8s.io/kubernetes/pkg/apis/certificates, ValidateKubeletClientCSR).
	usages := slices.Sorted(slices.Values(r.Spec.Usages))
	if !slices.Equal(usages, []string{"client auth", "digital signature"}) && !slices.Equal(usages, []string{"client auth", "digital signature", "key encipherment"}) {
		return fmt.Errorf("usages %q are not those of a kubelet's client certificate", usages)
	}
	x, err := parse(r.Spec.Request)
	if err != nil {
		return err
	}
	if want := "system:node:" + e.Node; x.Subject.CommonName != want {
		return fmt.Errorf("common name %q, want %q", x.Subject.CommonName, want)
	}
	if !slices.Equal(x.Subject.Organization, []string{"system:nodes"}) {
		return fmt.Errorf("organization %q, want [\"system:nodes\"]", x.Subject.Organization)
	}
	if len(x.Subject.Names) != 2 { // one CN, one O: a second CN would be hidden by the last
		return fmt.Errorf("subject %q has more than a common name and an organization", x.Subject)
	}
	if len(x.DNSNames)+len(x.IPAddresses)+len(x.URIs)+len(x.EmailAddresses) > 0 {
		return errors.New("it asks for alternative names")
	}
	if len(x.Extensions) > 0 {
		return fmt.Errorf("it asks for extension %s", x.Extensions[0].Id)
	}
	if got := handoff.KeyID(x.RawSubjectPublicKeyInfo); got != e.Key {
		return fmt.Errorf("its public key is not the enrolled one: got %s, want %s", got, e.Key)
	}
	return nil
}

// parse reads exactly one PKCS #10 request whose signature proves the key.
func parse(raw []byte) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("request is not one PEM block of type CERTIFICATE REQUEST")
	}
	x, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if err := x.CheckSignature(); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	return x, nil
}

// requests decides on certificate requests. One goroutine uses it.
type requests struct {
	api   *api
	nodes *nodes
	log   *slog.Logger
	told  map[string]bool // UIDs of alarms
}

func (q *requests) all(ctx context.Context, items []json.RawMessage) error {
	var err error // one request must not keep the others waiting
	for _, i := range items {
		err = errors.Join(err, q.changed(ctx, "ADDED", i))
	}
	return err
}

func (q *requests) changed(ctx context.Context, kind string, object json.RawMessage) error {
	var r csr
	if err := json.Unmarshal(object, &r); err != nil {
		return fmt.Errorf("certificate request: %w", err)
	}
	if kind == "DELETED" {
		delete(q.told, r.Metadata.UID)
		return nil
	}
	id, ok := r.token()
	if !ok {
		return nil
	}
	if c, ok := r.decided(); ok {
		q.foreign(r, c)
		return nil
	}
	e, ours, err := q.api.lookup(ctx, id)
	if err != nil {
		return fmt.Errorf("certificate request %q: %w", r.Metadata.Name, err)
	}
	bad := errors.New("its token is not one of the seed's, or has ended")
	if ours {
		bad = r.refuse(e)
	}
	err = q.decide(ctx, object, r, e, bad)
	var refused *statusError
	if errors.As(err, &refused) && (refused.code == http.StatusBadRequest || refused.code == http.StatusUnprocessableEntity) {
		q.alarm(r, e.Node, fmt.Sprintf(seed.Alarm+"certificate request %q stays undecided: %v", r.Metadata.Name, err)) // asking again cannot help
		return nil
	}
	if err != nil {
		return fmt.Errorf("certificate request %q: %w", r.Metadata.Name, err)
	}
	return nil
}

// decide writes the decision down and tells it.
func (q *requests) decide(ctx context.Context, object json.RawMessage, r csr, e enrolment, bad error) error {
	c := csrCondition{Type: "Approved", Status: "True", Reason: reasonOurs, Message: fmt.Sprintf("node %q with the key it enrolled", e.Node)}
	if bad != nil {
		c.Type, c.Reason, c.Message = "Denied", reasonDenied, bad.Error()
	}
	var whole map[string]any // sent back as it came, with one condition more
	if err := json.Unmarshal(object, &whole); err != nil {
		return err
	}
	whole["apiVersion"], whole["kind"] = "certificates.k8s.io/v1", "CertificateSigningRequest" // items of a list come without
	status, _ := whole["status"].(map[string]any)
	if status == nil {
		status = map[string]any{}
		whole["status"] = status
	}
	had, _ := status["conditions"].([]any)
	status["conditions"] = append(had, c)
	_, err := q.api.do(ctx, http.MethodPut, pathCSR+"/"+url.PathEscape(r.Metadata.Name)+"/approval", whole, nil)
	var refused *statusError
	if errors.As(err, &refused) && (refused.code == http.StatusConflict || refused.code == http.StatusNotFound) {
		return nil // it changed: the watch brings it again, or it is gone
	}
	if err != nil {
		return err
	}
	if bad == nil {
		q.log.Info("certificate request approved", "request", r.Metadata.Name, "node", e.Node)
		q.nodes.say(e.Node, "its certificate request is approved")
		return nil
	}
	q.alarm(r, e.Node, fmt.Sprintf(seed.Alarm+"certificate request %q of token %q denied: %v", r.Metadata.Name, strings.TrimPrefix(r.Spec.Username, tokenUser), bad))
	return nil
}

// foreign tells of a bootstrap token's request that somebody else approved: with
// that anyone who has a token chooses his own name.
func (q *requests) foreign(r csr, c csrCondition) {
	if c.Type == "Approved" && c.Reason != reasonOurs {
		id, _ := r.token()
		q.alarm(r, "", fmt.Sprintf(seed.Alarm+"certificate request %q of token %q was approved by somebody else: %s: %s", r.Metadata.Name, id, c.Reason, c.Message))
	}
}

// alarm tells once of a request. node is the one whose token was used, or empty.
func (q *requests) alarm(r csr, node, text string) {
	if q.told[r.Metadata.UID] {
		return
	}
	q.told[r.Metadata.UID] = true
	q.log.Error(text, "node", node)
	q.nodes.say(node, text)
}

// forget deletes requests that a bootstrap token made for this key.
func (a *api) forget(ctx context.Context, key string) error {
	var list struct {
		Items []csr `json:"items"`
	}
	_, err := a.do(ctx, http.MethodGet, pathCSR, nil, &list)
	for _, r := range list.Items {
		_, token := r.token()
		x, bad := parse(r.Spec.Request)
		if token && bad == nil && handoff.KeyID(x.RawSubjectPublicKeyInfo) == key {
			err = errors.Join(err, a.drop(ctx, pathCSR+"/"+url.PathEscape(r.Metadata.Name)))
		}
	}
	return err
}
