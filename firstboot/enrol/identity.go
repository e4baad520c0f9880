package enrol

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/report"
)

// identity is the key that a node has for one power-on.
type identity struct {
	cert   tls.Certificate
	public []byte // PKIX DER
}

// newIdentity makes a key and a certificate that holds whatever the clock says.
func newIdentity() (identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return identity{}, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return identity{}, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "slipway node"},
		NotBefore: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), crypto.Signer(key))
	if err != nil {
		return identity{}, err
	}
	return identity{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, public}, nil
}

// verify takes the last certificate of the chain for the seed's CA: it must be
// the pinned one, or the one seen before. It signs seeds' certificates and
// nothing else, so that the name in them says nothing more. Times only have to
// overlap: the clock of a machine may say 2001 or 2038.
func (c *Client) verify(s tls.ConnectionState) error {
	chain := s.PeerCertificates
	if len(chain) < 2 {
		return pinned(fmt.Errorf("%d certificate, want the server's and its CA's", len(chain)))
	}
	ca := chain[len(chain)-1]
	c.mu.Lock()
	defer c.mu.Unlock()
	if got := handoff.KeyID(ca.Raw); c.pin != "" && got != c.pin {
		return pinned(fmt.Errorf("CA certificate %s, want %s", got, c.pin))
	}
	if c.ca != nil && !bytes.Equal(ca.Raw, c.ca) {
		return pinned(fmt.Errorf("CA certificate %s, want %s, which was seen first", handoff.KeyID(ca.Raw), handoff.KeyID(c.ca)))
	}
	if !ca.IsCA || !ca.BasicConstraintsValid {
		return pinned(errors.New("the last certificate of the chain is not a CA's"))
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(ca)
	at := ca.NotBefore
	for _, x := range chain[:len(chain)-1] {
		between.AddCert(x)
		if x.NotBefore.After(at) {
			at = x.NotBefore
		}
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return pinned(err)
	}
	c.ca = ca.Raw
	return nil
}

func pinned(err error) error {
	return report.Fail("SW-ENROL-PIN", "another machine answers at slipway.seed=, or the boot entry is of another seed: compare slipway.pin= with what the seed shows",
		fmt.Errorf("this is not the seed: %w", err))
}

func isDigest(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32
}
