package kubeapi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
)

// authority is a cluster's CA; it writes NAME.crt and NAME.key into dir.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB, dir string) *authority {
	t.Helper()
	a := &authority{dir: dir}
	template := x509.Certificate{Subject: pkix.Name{CommonName: "kubernetes"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	a.cert, a.key = a.sign(t, "ca", &template)
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	return a
}

// issue makes a certificate for a server on loopback or a client.
func (a *authority) issue(t testing.TB, file, name string, groups []string) {
	t.Helper()
	a.sign(t, file, &x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: groups}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
}

func (a *authority) sign(t testing.TB, file string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{file + ".crt": {Type: "CERTIFICATE", Bytes: der}, file + ".key": {Type: "EC PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(filepath.Join(a.dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// Kubeconfig is that of a new client certificate, as kubeadm writes it.
func (s *Server) Kubeconfig(t testing.TB, user, group string) string {
	t.Helper()
	s.ca.issue(t, user, user, []string{group})
	return s.kubeconfig(t, user)
}

// Ended is the cluster with an admin's certificate that has ended.
func (s *Server) Ended(t testing.TB) handoff.Cluster {
	t.Helper()
	s.ca.sign(t, "ended", &x509.Certificate{Subject: pkix.Name{CommonName: "ended", Organization: []string{"kubeadm:cluster-admins"}}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
	return handoff.Cluster{Server: s.URL, CA: s.CA, Kubeconfig: s.kubeconfig(t, "ended")}
}

func (s *Server) kubeconfig(t testing.TB, user string) string {
	t.Helper()
	read := func(name string) string {
		raw, err := os.ReadFile(s.file(name))
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(raw)
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: kubernetes, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: %[3]s, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: it, context: {cluster: kubernetes, user: %[3]s}}]
current-context: it
`, s.URL, read("ca.crt"), user, read(user+".crt"), read(user+".key"))
}
