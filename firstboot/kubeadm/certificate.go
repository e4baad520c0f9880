package kubeadm

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/kubeadm/api"
	"slipway.dev/slipway/firstboot/report"
)

// certify gets kubelet's client certificate for a key that is made here, so
// that the key the seed approves is the one it was told of, and writes what
// kubelet starts with. A kubelet that finds a kubeconfig with a certificate that
// holds asks for none itself (pkg/kubelet/certificate/bootstrap, LoadClientConfig).
func (r Runner) certify(ctx context.Context, n Node, m Means) (handoff.Join, *api.Client, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return handoff.Join{}, nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return handoff.Join{}, nil, err
	}
	r.Report(handoff.Event{Step: "join", State: handoff.Started, Text: "asking the seed for the means to join as " + n.Name})
	j, err := m.Ask(ctx, handoff.JoinRequest{Name: n.Name, Key: handoff.KeyID(public)})
	if err != nil {
		return j, nil, err
	}
	r.Report(handoff.Event{Step: "join", State: handoff.Done, Text: "the cluster is at " + j.Server})
	r.Report(handoff.Event{Step: "certificate", State: handoff.Started, Text: "asking " + j.Server + " for kubelet's certificate"})
	server := j.Server
	if r.server != "" {
		server = r.server
	}
	c, err := api.Bootstrap(server, []byte(j.CA), j.Token)
	if err != nil {
		return j, nil, report.Fail("SW-JOIN-MEANS", "Look at the seed: it does not know the cluster's CA.", err)
	}
	chain, err := r.signed(ctx, n, c, key)
	if err == nil {
		err = r.keep(n, j, key, chain)
	}
	if err != nil {
		r.Report(handoff.Event{Step: "certificate", State: handoff.Failed, Text: err.Error()})
		return j, nil, report.Fail("SW-JOIN-CERTIFICATE", "Look at the seed's events: it approves certificates of enrolled nodes alone. The node tries again.", fmt.Errorf("kubelet's certificate: %w", err))
	}
	r.Report(handoff.Event{Step: "certificate", State: handoff.Done, Text: "approved for " + api.NodeUser(n.Name)})
	return j, c, nil
}

// signed makes the request and waits until it is approved and signed.
func (r Runner) signed(ctx context.Context, n Node, c *api.Client, key *ecdsa.PrivateKey) (chain []byte, err error) {
	s := r.session(n)
	s.api, s.Patience = c, min(r.Patience, 5*time.Minute) // the token lives for fifteen
	name := ""
	err = s.until(ctx, "certificate", func(c *api.Client) (string, error) {
		if name == "" {
			if name, err = c.Request(ctx, n.Name, key); err != nil {
				return "", err
			}
		}
		chain, err = c.Signed(ctx, name)
		if err == nil && chain == nil {
			return "waiting for the seed to approve " + name, nil
		}
		return "", err
	})
	return chain, err
}

// keep writes the certificate the way kubelet does (client-go
// util/certificate/certificate_store.go: a file with a date and a link to it),
// then the kubeconfig that names it.
func (r Runner) keep(n Node, j handoff.Join, key *ecdsa.PrivateKey, chain []byte) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	pair := append(append([]byte{}, chain...), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})...)
	if err := issued(n, []byte(j.CA), pair); err != nil {
		return err
	}
	if err := r.write(pkiDir+"/ca.crt", 0o644, []byte(j.CA)); err != nil {
		return err
	}
	dated := filepath.Join(filepath.Dir(kubeletClient), "kubelet-client-"+time.Now().UTC().Format("2006-01-02-15-04-05")+".pem")
	if err := r.write(dated, 0o600, pair); err != nil {
		return err
	}
	link := r.at(kubeletClient + ".slipway")
	if err := os.Remove(link); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Symlink(filepath.Base(dated), link); err != nil {
		return err
	}
	if err := os.Rename(link, r.at(kubeletClient)); err != nil {
		return err
	}
	conf, err := yaml.Marshal(kubeconfig(j.Server, []byte(j.CA), map[string]any{"client-certificate": kubeletClient, "client-key": kubeletClient}))
	if err != nil {
		return err
	}
	return r.write(kubeletKubeconfig, 0o600, conf)
}

// issued checks what came back: this key, this name, this CA.
func issued(n Node, ca, pair []byte) error {
	p, err := tls.X509KeyPair(pair, pair)
	if err != nil {
		return err
	}
	if got, want := p.Leaf.Subject.CommonName, api.NodeUser(n.Name); got != want {
		return fmt.Errorf("issued to %q, want %q", got, want)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	_, err = p.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: p.Leaf.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// renewClient gets another certificate when kubelet's has ended: a worker that
// was off for a year cannot ask the API server for one with the old.
func (r Runner) renewClient(ctx context.Context, n Node, m Means) error {
	raw, err := os.ReadFile(r.at(kubeletClient))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if p, err := tls.X509KeyPair(raw, raw); err == nil && time.Now().Before(p.Leaf.NotAfter) {
		return nil
	}
	if _, _, err := r.certify(ctx, n, m); err != nil {
		return err
	}
	m.Done()
	return nil
}
