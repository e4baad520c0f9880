package enrol

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"slipway.dev/slipway/configs/handoff"
)

// Kept is what a node that has a disk keeps of its enrolment there, so that it
// is the same machine to its seed after a restart: approved once. It holds the
// node's private key.
type Kept struct {
	Seed string `json:"seed"` // https URL
	CA   []byte `json:"ca"`   // DER of the seed's CA certificate
	Key  []byte `json:"key"`  // SEC 1 DER
	Cert []byte `json:"cert"` // DER
}

// Pin is the seed's, as slipway.pin= has it.
func (k Kept) Pin() string { return handoff.KeyID(k.CA) }

// Keep returns what Resume needs. Before the seed has answered once there is nothing to keep.
func (c *Client) Keep() (Kept, error) {
	c.mu.Lock()
	ca := c.ca
	c.mu.Unlock()
	key, ok := c.id.cert.PrivateKey.(*ecdsa.PrivateKey)
	if ca == nil || !ok {
		return Kept{}, errors.New("no seed has answered yet")
	}
	der, err := x509.MarshalECPrivateKey(key)
	return Kept{Seed: c.base, CA: ca, Key: der, Cert: c.id.cert.Certificate[0]}, err
}

// Resume goes on with a conversation of an earlier power-on.
func Resume(k Kept, tell func(handoff.Event)) (*Client, error) {
	key, err := x509.ParseECPrivateKey(k.Key)
	if err != nil {
		return nil, fmt.Errorf("kept enrolment: key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("kept enrolment: key: %w", err)
	}
	id := identity{tls.Certificate{Certificate: [][]byte{k.Cert}, PrivateKey: key}, public}
	c, err := newClient(k.Seed, k.Pin(), id, tell)
	if err != nil {
		return nil, err
	}
	c.ca = k.CA
	return c, nil
}
