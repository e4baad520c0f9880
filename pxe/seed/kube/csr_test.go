package kube

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"testing"

	"slipway.dev/slipway/configs/handoff"
)

// request is what a kubelet asks for, before a test spoils it.
type request struct {
	template x509.CertificateRequest
	signer   string
	usages   []string
	mangle   func([]byte) []byte
	key      *ecdsa.PrivateKey // nil: the enrolled one
}

func newKey(t testing.TB) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, handoff.KeyID(der)
}

func ordinary(node string) request {
	return request{signer: kubeletSigner, usages: []string{"digital signature", "client auth"},
		template: x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}}}
}

func (r request) pem(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	if r.key != nil {
		key = r.key
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &r.template, key)
	if err != nil {
		t.Fatal(err)
	}
	raw := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	if r.mangle != nil {
		raw = r.mangle(raw)
	}
	return raw
}

type spoiling struct {
	name  string
	spoil func(*request)
	want  string // in the reason
}

// spoilings are requests that are not the enrolled kubelet's.
func spoilings(t testing.TB) []spoiling {
	other, _ := newKey(t)
	return []spoiling{
		{"another node's name", func(r *request) { r.template.Subject.CommonName = "system:node:w9" }, `common name "system:node:w9", want "system:node:w1"`},
		{"an administrator", func(r *request) {
			r.template.Subject = pkix.Name{CommonName: "system:node:w1", Organization: []string{"system:masters"}}
		}, `organization ["system:masters"]`},
		{"two groups", func(r *request) { r.template.Subject.Organization = []string{"system:nodes", "system:masters"} }, `organization ["system:nodes" "system:masters"]`},
		{"a hidden name", func(r *request) {
			cn := asn1.ObjectIdentifier{2, 5, 4, 3}
			r.template.Subject = pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{{Type: cn, Value: "system:node:w9"},
				{Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: "system:nodes"}, {Type: cn, Value: "system:node:w1"}}}
		}, "more than a common name and an organization"},
		{"another key", func(r *request) { r.key = other }, "public key is not the enrolled one"},
		{"a DNS name", func(r *request) { r.template.DNSNames = []string{"kubernetes"} }, "alternative names"},
		{"an address", func(r *request) { r.template.IPAddresses = []net.IP{net.IPv4(10, 96, 0, 1)} }, "alternative names"},
		{"a URI", func(r *request) { r.template.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }, "alternative names"},
		{"a CA", func(r *request) {
			r.template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}
		}, "asks for extension 2.5.29.19"},
		{"a server's certificate", func(r *request) { r.usages = append(r.usages, "server auth") }, "usages"},
		{"no usage of a client", func(r *request) { r.usages = []string{"digital signature"} }, "usages"},
		{"another signer", func(r *request) { r.signer = "kubernetes.io/kube-apiserver-client" }, "signer"},
		{"two requests", func(r *request) { r.mangle = func(b []byte) []byte { return append(b, b...) } }, "not one PEM block"},
		{"a broken signature", func(r *request) { r.mangle = flip }, "request: "},
	}
}

// flip changes the last bit of the signature.
func flip(raw []byte) []byte {
	b, _ := pem.Decode(raw)
	b.Bytes[len(b.Bytes)-1] ^= 1
	return pem.EncodeToMemory(b)
}

func TestOnlyTheEnrolledRequestPasses(t *testing.T) {
	key, hash := newKey(t)
	e := enrolment{Node: "w1", Token: "abcdef", Key: hash}
	check := func(r request) error {
		var c csr
		c.Spec.SignerName, c.Spec.Usages, c.Spec.Request = r.signer, r.usages, r.pem(t, key)
		return c.refuse(e)
	}
	good := ordinary("w1")
	if err := check(good); err != nil {
		t.Errorf("kubelet's own request: %v", err)
	}
	good.usages = []string{"key encipherment", "digital signature", "client auth"}
	if err := check(good); err != nil {
		t.Errorf("with an RSA key's usages: %v", err)
	}
	for _, s := range spoilings(t) {
		r := ordinary("w1")
		s.spoil(&r)
		if err := check(r); err == nil || !strings.Contains(err.Error(), s.want) {
			t.Errorf("%s: %v, want %q", s.name, err, s.want)
		}
	}
}

func TestApprovalsOfOthersAreAnAlarm(t *testing.T) {
	var told []string
	n := newNodes(func(_ string, _ bool, text string) { told = append(told, text) })
	q := &requests{nodes: n, log: slog.New(slog.DiscardHandler), told: map[string]bool{}}
	object := func(user, reason string) json.RawMessage {
		return json.RawMessage(`{"metadata":{"name":"csr-1","uid":"1"},"spec":{"username":"` + user + `"},"status":{"conditions":[{"type":"Approved","status":"True","reason":"` + reason + `"}]}}`)
	}
	for _, o := range []json.RawMessage{object("system:bootstrap:abcdef", reasonOurs), object("system:node:w1", "AutoApproved")} {
		if err := q.changed(context.Background(), "ADDED", o); err != nil || len(told) != 0 {
			t.Fatalf("%s: %q, %v", o, told, err)
		}
	}
	for range 2 { // a new list brings it again
		if err := q.all(context.Background(), []json.RawMessage{object("system:bootstrap:abcdef", "AutoApproved")}); err != nil {
			t.Fatal(err)
		}
	}
	if len(told) != 1 || !strings.HasPrefix(told[0], `ALARM: certificate request "csr-1" of token "abcdef" was approved by somebody else: AutoApproved`) {
		t.Errorf("%q", told)
	}
}

func TestNodesAreToldOnChange(t *testing.T) {
	var told []string
	n := newNodes(func(name string, ready bool, text string) {
		word := map[bool]string{true: "+", false: "-"}[ready]
		told = append(told, word+name+" "+text)
	})
	object := func(name, status, reason string) json.RawMessage {
		return json.RawMessage(`{"metadata":{"name":"` + name + `"},"status":{"conditions":[{"type":"Ready","status":"` + status + `","reason":"` + reason + `","message":"m"}]}}`)
	}
	ctx := context.Background()
	n.all(ctx, []json.RawMessage{object("a", "False", "KubeletNotReady"), json.RawMessage(`{"metadata":{"name":"b"}}`)})
	n.changed(ctx, "MODIFIED", object("a", "False", "KubeletNotReady"))
	n.changed(ctx, "MODIFIED", object("a", "True", "KubeletReady"))
	n.say("a", "something")
	n.changed(ctx, "MODIFIED", object("a", "Unknown", "NodeStatusUnknown"))
	n.all(ctx, []json.RawMessage{object("a", "True", "KubeletReady")})
	n.changed(ctx, "DELETED", object("a", "True", "KubeletReady"))
	want := "-a KubeletNotReady: m|-b kubelet has not reported yet|+a Ready|+a something|-a NodeStatusUnknown: m|+a Ready|-b the Node was deleted from the cluster|-a the Node was deleted from the cluster"
	if got := strings.Join(told, "|"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
