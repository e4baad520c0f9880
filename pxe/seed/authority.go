package seed

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"slipway.dev/slipway/configs/handoff"
)

// authority is the seed's own CA. Nodes know it by the digest of its
// certificate, which they were told or which the operator compared.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// storedAuthority is how it lies in the state file.
type storedAuthority struct {
	Cert []byte `json:"cert"` // DER
	Key  []byte `json:"key"`  // PKCS #8
}

// Certificates hold whatever a wrong clock says: a node's may show the year of
// its mainboard, a seed's 2038. What ends trust is the pin.
var (
	notBefore = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)
)

// authorityOf is before the cluster's name in the CA's.
const authorityOf = "slipway seed of "

// loadAuthority reads the CA, or makes it in a new state file.
func loadAuthority(db *bolt.DB, cluster string) (*authority, error) {
	var a *authority
	err := db.Update(func(tx *bolt.Tx) error {
		raw := tx.Bucket(bucketMeta).Get([]byte(metaAuthority))
		if raw != nil {
			var err error
			if a, err = parseAuthority(raw); err != nil {
				return err
			}
			// Its machines are another cluster's, and so is the API server that nodes would join.
			if of := a.cert.Subject.CommonName; of != authorityOf+cluster {
				return fmt.Errorf("made for cluster %q, and cluster.yaml is of %q: give this one a directory of its own (--state DIR)", strings.TrimPrefix(of, authorityOf), cluster)
			}
			return nil
		}
		var err error
		if a, err = newAuthority(cluster); err != nil {
			return err
		}
		der, err := x509.MarshalPKCS8PrivateKey(a.key)
		if err != nil {
			return err
		}
		return putJSON(tx, bucketMeta, []byte(metaAuthority), storedAuthority{a.cert.Raw, der})
	})
	if err != nil {
		return nil, fmt.Errorf("the seed's CA: %w", err)
	}
	return a, nil
}

func parseAuthority(raw []byte) (*authority, error) {
	var st storedAuthority
	if err := json.Unmarshal(raw, &st); err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(st.Cert)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(st.Key)
	if err != nil {
		return nil, err
	}
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok || !k.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("key and certificate do not belong together")
	}
	return &authority{cert, k}, nil
}

func newAuthority(cluster string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t, err := template(authorityOf + cluster)
	if err != nil {
		return nil, err
	}
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, err
}

func template(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: notBefore, NotAfter: notAfter}, nil
}

// server makes a certificate for an address, with a key of its own.
func (a *authority) server(host netip.Addr) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t, err := template("slipway seed")
	if err != nil {
		return tls.Certificate{}, err
	}
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	t.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	if host.IsValid() {
		t.IPAddresses = append(t.IPAddresses, host.AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}, nil
}

// Pin is the hex of the SHA-256 of the seed's CA certificate (DER).
func (s *Seed) Pin() string { return handoff.KeyID(s.ca.cert.Raw) }

// TLS is for the server of Node at an address: TLS 1.3, the seed's certificate
// with its CA behind it, and some certificate of the client, whose key is all
// that counts of it.
func (s *Seed) TLS(host netip.Addr) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
		NextProtos: []string{"http/1.1"}} // a request of 20 s each: no use for streams
	cert, err := s.ca.server(host.Unmap())
	if err != nil { // only a broken source of randomness; every handshake says so
		c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, err }
		return c
	}
	c.Certificates = []tls.Certificate{cert}
	return c
}
