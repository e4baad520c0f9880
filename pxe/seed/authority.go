package seed

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
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

// token is an order's, in hex. On disk is only what proves it: after a restart of
// the seed the node is told another one. s.mu is held.
func (s *Seed) token(order string) (string, error) {
	if t := s.tokens[order]; t != "" {
		return t, nil
	}
	b, err := random()
	if err != nil {
		return "", err
	}
	s.tokens[order] = hex.EncodeToString(b)
	return s.tokens[order], nil
}

func hashed(token string) string {
	h := sha256.Sum256([]byte("slipway reimage\x00" + token))
	return hex.EncodeToString(h[:])
}

// vouch takes the token of an order to reimage the machine. It is good until a
// config was taken with it: a machine that loses power before that comes again,
// and gets in when its earlier start has gone silent (supersede).
func (c *change) vouch(e *enrolment, f *handoff.Facts, token string) error {
	if token == "" {
		return nil
	}
	sum := []byte(hashed(token))
	if e.Token != "" && subtle.ConstantTimeCompare([]byte(e.Token), sum) == 1 { // the answer was lost
		return nil
	}
	id := c.identify(*f)
	r := c.peekMachine(id)
	if r != nil && r.Facts != nil && r.Facts.Serial != f.Serial && !blank(r.Facts.Serial) { // its card in another machine
		return refusal(codeToken, "it goes on without it and waits for approval: slipway nodes", "%s has the serial number %q, the order is for %q", id, f.Serial, r.Facts.Serial)
	}
	if r == nil || !r.reimaging() || r.Token == "" || subtle.ConstantTimeCompare([]byte(r.Token), sum) != 1 {
		return refusal(codeToken, "it goes on without it and waits for approval: slipway nodes", "%s shows a token that is not, or no more, that of an order to reimage it", id)
	}
	e.Token = string(sum)
	return nil
}

// doubt shows the operator that a machine's token was refused, once until it says
// something else.
func (s *Seed) doubt(f *handoff.Facts, err error) {
	r, ok := errors.AsType[*handoff.Refusal](err)
	if !ok || r.Code != codeToken {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &change{s: s}
	if m := s.machines[c.identify(*f)]; m != nil && m.Step.Code != codeToken {
		s.note(Step{Machine: m.ID, Stage: StageEnrol, State: string(handoff.Failed), Text: r.Text, Code: r.Code, Hint: r.Hint}, s.now())
	}
}

// vouched says that an enrolment shows the unused token of its machine's order.
func (r *record) vouched(e *enrolment) bool {
	return e.Token != "" && r.reimaging() && r.Token != "" && subtle.ConstantTimeCompare([]byte(r.Token), []byte(e.Token)) == 1
}
